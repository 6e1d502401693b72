#!/bin/busybox sh
# The guest's PID 1: modules, then the test's own script.
/bin/busybox mkdir -p /dev /proc /sys /tmp /mnt
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
/bin/busybox --install -s /bin
while read module; do insmod "/modules/$module.ko" || echo "FAILED insmod $module"; done < /modules.load
. /script
poweroff -f
