#!/bin/sh
# Creates a small OCI image from the host's static busybox: `oci:DIR:TAG`.
#
#   busybox-image.sh DIR [TAG]      DIR must not exist; TAG is "latest"
#
# Needs busybox-static and umoci, but not root. The image is reproducible.
set -eu
directory=$1
tag=${2:-latest}
busybox=$(command -v busybox) || { echo "busybox-image: busybox is not installed" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
root=$work/root
mkdir -p "$root/bin" "$root/sbin" "$root/usr/bin" "$root/usr/sbin" "$root/etc" \
         "$root/root" "$root/home/user" "$root/tmp" "$root/var/tmp"
cp "$busybox" "$root/bin/busybox"
chmod 755 "$root/bin/busybox"
"$busybox" --list-full | while read -r applet; do
    [ -e "$root/$applet" ] || [ "$applet" = bin/busybox ] || ln -s /bin/busybox "$root/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:a user:/home/user:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nuser:x:1000:\nextra:x:2000:user\n' >"$root/etc/group"
chmod 1777 "$root/tmp" "$root/var/tmp"
chmod 700 "$root/root"
chmod -R go-w "$root/etc"

tar -C "$root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --format=pax \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -cf "$work/layer.tar" .
umoci init --layout "$directory"
umoci new --image "$directory:$tag"
umoci raw add-layer --image "$directory:$tag" --history.created 1970-01-01T00:00:00Z \
    --history.created_by busybox "$work/layer.tar"
umoci config --image "$directory:$tag" --no-history --created 1970-01-01T00:00:00Z \
    --architecture amd64 --os linux \
    --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --config.cmd sh
umoci gc --layout "$directory"
