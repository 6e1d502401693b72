#!/bin/sh
# Creates an OCI image of this host's distribution with network clients: `oci:DIR:clients`.
# Needs root, debootstrap, busybox-static and umoci.
#
#   clients-image.sh DIR          DIR must not exist
#
# It has apt, curl, git, ping, openssl, Python with pip, and busybox beside them. It is one layer, without
# documentation, and without the parts of Perl that only git's rarer commands use.
set -eu
directory=$(realpath -m "$1")
[ "$(id -u)" = 0 ] || { echo "clients-image: needs root" >&2; exit 1; }
busybox=$(command -v busybox) || { echo "clients-image: busybox is not installed" >&2; exit 1; }
. /etc/os-release

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

root=$work/root
components=main
[ "$ID" != ubuntu ] || components=main,universe
debootstrap --variant=minbase --components=$components \
    --include=ca-certificates,curl,git,iputils-ping,openssl,python3-pip \
    "$VERSION_CODENAME" "$root" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
install -m 755 "$busybox" "$root/bin/busybox"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/etc/apt/sources.list* \
    "$root"/usr/share/doc "$root"/usr/share/locale "$root"/usr/share/man "$root"/usr/share/info \
    "$root"/usr/share/perl "$root"/usr/lib/*/perl "$root"/usr/lib/*/perl5

tar -C "$root" --one-file-system --numeric-owner -cf "$work/layer.tar" .
umoci init --layout "$directory"
umoci new --image "$directory:clients"
umoci raw add-layer --image "$directory:clients" "$work/layer.tar"
umoci config --image "$directory:clients" --architecture amd64 --os linux --config.cmd /bin/bash \
    --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umoci gc --layout "$directory"
