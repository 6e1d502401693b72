#!/bin/sh
# Creates an OCI image of several layers from a debootstrap tree: `oci:DIR:debian`.
# Needs root, debootstrap, umoci, attr and libcap2-bin.
#
#   debian-image.sh DIR           DIR must not exist
#
# The layers above the distribution contain edge cases of file systems, archives
# and layers: removals, directories replaced by files and files by directories,
# hard links broken and extended across layers, owners, special bits, devices,
# attributes, capabilities, unusual names.
set -eu
directory=$(realpath -m "$1")
[ "$(id -u)" = 0 ] || { echo "debian-image: needs root" >&2; exit 1; }
. /etc/os-release
suite=$VERSION_CODENAME
image=$directory:debian

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

umoci init --layout "$directory"
umoci new --image "$image"

# Each layer holds the changes in the bundle since the previous one.
first() { umoci unpack --image "$image" "$work/bundle"; root=$work/bundle/rootfs; }
layer() { umoci repack --refresh-bundle --image "$image" "$work/bundle"; }

first
debootstrap --variant=minbase --include=python3-minimal "$suite" "$root" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; exit 1; }
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/usr/share/locale "$root"/usr/share/man "$root"/usr/share/info
layer

mkdir -p "$root/odd/deep/a/b/c" "$root/odd/empty" "$root/odd/opaque" "$root/odd/was-directory/below"
cd "$root/odd"
echo one >hard-1; ln hard-1 hard-2; ln hard-1 deep/hard-3
echo two >broken-1; ln broken-1 broken-2
ln -s ../../etc/passwd relative; ln -s /odd/hard-1 absolute; ln -s /nowhere dangling
ln -s "$(head -c 200 /dev/zero | tr '\0' x)" long-target
echo owned >owned; chown 1234:5678 owned; chmod 4751 owned
echo far >far; chown 3000000:4000000 far
echo group >group; chmod 2755 group; chmod 1777 empty
echo closed >closed; chmod 000 closed
mknod character c 1 3; mknod block b 7 99; mkfifo pipe; chmod 640 character
echo attributes >attributes
setfattr -n user.plain -v value attributes
setfattr -n user.binary -v 0x00ff0a attributes
setfattr -n trusted.kept -v yes attributes
setfattr -n user.directory -v yes deep
cp /bin/true capable; setcap cap_net_raw,cap_net_bind_service+ep capable
echo back >'back\slash'; echo blank >' blank '; echo new >"new
line"; echo latin >"$(printf 'latin-\344')"; echo unicode >'ünïcode-文字'
echo long >"$(head -c 255 /dev/zero | tr '\0' n)"
truncate -s 20M sparse; printf end >>sparse
touch -d 1969-12-31T00:00:00Z before-epoch; touch -d 2040-01-01T00:00:00Z after-2038
echo lower >opaque/lower; echo lower >deep/a/b/c/file; echo lower >was-directory/below/file
echo file >was-file; echo removed >removed
cd /
layer

cd "$root/odd"
rm removed deep/a/b/c/file
rm -r was-directory; echo file >was-directory
rm was-file; mkdir was-file; echo inside >was-file/inside
rm broken-2; echo other >broken-2
ln hard-1 hard-4
chmod 700 owned
rm -r "$root/usr/share/doc"; mkdir "$root/usr/share/doc"; echo again >"$root/usr/share/doc/README"
cd /
layer

# An opaque whiteout after a file of its own layer, which it must not hide, as
# other builders write it.
mkdir -p "$work/raw/odd/opaque"
echo upper >"$work/raw/odd/opaque/upper"
touch "$work/raw/odd/opaque/.wh..wh..opq" "$work/raw/odd/.wh.closed"
tar -C "$work/raw" --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$work/raw.tar" \
    ./odd/opaque/upper ./odd/opaque/.wh..wh..opq ./odd/.wh.closed
umoci raw add-layer --image "$image" "$work/raw.tar"

umoci config --image "$image" --architecture amd64 --os linux --config.cmd /bin/bash \
    --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umoci gc --layout "$directory"
