#!/bin/busybox sh
# PID 1 of the lab. src/lab/protocol.rs documents its protocol on the second serial port.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root MICROAGENT_NETWORK=isolated MICROAGENT_SNAPSHOT=off
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
ln -sf /proc/self/fd /dev/fd
# kvm is loaded before Linux has refined its TSC calibration, and takes the rate of that moment. If
# the two differ by more than 250 ppm, which happens when the host preempts QEMU meanwhile, it tries
# to scale the TSC of its guests, which the emulated processor cannot, and their timers fire late by
# half a minute. Linux refines by less than 1 %.
for module in $(cat /lab/modules/order); do
    case $module in
        kvm.ko) parameter=tsc_tolerance_ppm=10000 ;;
        *) parameter= ;;
    esac
    insmod /lab/modules/$module $parameter || echo "lab: cannot load $module" >/dev/console
done
ip link set lo up

stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1
echo LAB >&3
# Absent with the deterministic clock, where only the steps run.
if [ -e /lab/beats ]; then
    # Waits for input that never comes: a sleep would be a process that comes and goes, and some
    # steps count processes.
    mkfifo /run/never
    while :; do echo >/dev/ttyS2; read -r -t 1 _ <&4; done 3>&- 4<>/run/never &
    echo $! >/run/beat
fi
limit=65536
for step in /lab/steps/*; do
    [ -d "$step" ] || continue
    mkdir -p /tmp/work && cd /tmp/work
    read -r before rest </proc/uptime
    timeout -s KILL "$(cat "$step/seconds")" sh "$step/script" \
        </dev/null >/run/stdout 2>/run/stderr
    code=$?
    read -r after rest </proc/uptime
    cd /
    rm -rf /tmp/work
    out=$(stat -c %s /run/stdout); [ "$out" -le $limit ] || out=$limit
    err=$(stat -c %s /run/stderr); [ "$err" -le $limit ] || err=$limit
    echo "STEP $code $before $after $out $err" >&3
    head -c "$out" /run/stdout >&3
    head -c "$err" /run/stderr >&3
done
echo END >&3
exec 3>&-
poweroff -f
