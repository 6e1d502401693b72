#!/bin/sh
# Installs the Debian or Ubuntu packages that this project uses, without prompts.
#
#   install.sh SET...       sets: build, run, demo, test, kernel, fuzz
#
# Only missing packages are installed; if there are none, neither the network
# nor root is needed. The package lists are downloaded if they are missing or
# outdated. Services in the packages are neither started nor enabled.
set -eu

say() { printf '%s\n' "install: $*" >&2; }
die() { say "$*"; exit 1; }

packages_of() {
    case $1 in
        # A linker and C headers, for rustc and the C code of crates.
        build) echo gcc libc6-dev ca-certificates ;;
        # The qemu engine, network mode user, and certificates for downloads.
        run) echo qemu-system-x86 passt ca-certificates ;;
        # The demo's image, and the tool that formats its result.
        demo) echo busybox-static umoci jq ;;
        # The lab and the independent tools used by the tests.
        test) echo qemu-system-x86 busybox-static umoci skopeo docker-registry tinyproxy-bin \
                   debootstrap e2fsprogs cpio attr libcap2-bin openssl strace lz4 zstd xz-utils acpica-tools \
                   kmod util-linux bsdutils mount passt dnsmasq-base curl git dpkg-dev python3 iproute2 iputils-ping nftables \
                   ca-certificates ;;
        # The build requirements of Linux, for `microagent kernel build`.
        kernel) echo gcc libc6-dev make binutils flex bison bc perl mawk gzip xz-utils libelf-dev ca-certificates ;;
        # libFuzzer is C++; zstd compresses some of the seeds.
        fuzz) echo g++ zstd ;;
        *) die "no such set: $1 (build, run, demo, test, kernel, fuzz)" ;;
    esac
}

[ $# -gt 0 ] || die "usage: install.sh SET... (build, run, demo, test, kernel, fuzz)"
command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 ||
    die "this host is neither Debian nor Ubuntu; install by hand: $(for s; do packages_of "$s"; done | xargs)"

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=
for set in "$@"; do
    packages=$(packages_of "$set") || exit 1
    for package in $packages; do
        case " $missing " in *" $package "*) continue ;; esac
        is_installed "$package" || missing="$missing $package"
    done
done
[ -n "$missing" ] || exit 0
say "installing$missing"

# Other users than root need sudo without a password.
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    die "needs root for:$missing (run it as root, or: sudo apt-get install$missing)"
fi

apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l APT_LISTCHANGES_FRONTEND=none \
        apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# Debian's mechanism to keep packages from starting services
# (/usr/share/doc/init-system-helpers).
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod 755 $policy
    made_policy=yes
fi
log=$(mktemp)
trap '[ -z "$made_policy" ] || $as_root rm -f $policy; rm -f "$log"' EXIT
trap 'exit 130' INT TERM HUP

install_missing() { apt install --no-install-recommends $missing >"$log" 2>&1; }

known=yes
for package in $missing; do
    apt-cache show "$package" >/dev/null 2>&1 || known=
done
if [ -z "$known" ] || ! install_missing; then
    apt update >"$log" 2>&1 || { cat "$log" >&2; die "apt-get update failed"; }
    install_missing || { cat "$log" >&2; die "apt-get install$missing failed"; }
fi

# The unit would start a registry on all interfaces at the next boot.
case " $missing " in
    *" docker-registry "*)
        if command -v systemctl >/dev/null 2>&1; then
            $as_root systemctl disable docker-registry.service >/dev/null 2>&1 || true
        fi ;;
esac
