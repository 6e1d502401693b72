//! What the host lacks. Programs and files are missing in a mount namespace of a command only.

use super::remedy::Remedy;

/// `missing SCRIPT` runs a script with a `/dev` in which a KVM, if there is one, belongs to the
/// group `kvm`, with the copy `etc` of `/etc`, and as a root without privileges that has just
/// logged in. `doctor` without a usable engine fails.
pub const FUNCTIONS: &str = r#"
missing() {
    unshare --mount sh -c "mount --bind etc /etc && mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 &&
        mknod -m 666 /dev/urandom c 1 9 && mknod -m 660 /dev/kvm c 10 232 && chown 65534:kvm /dev/kvm &&
        exec setpriv --reuid root --init-groups --bounding-set=-all --inh-caps=-all sh -c '$1'"
}
# A user without an entry in the list of users, who can only execute a copy.
homeless() {
    cp $(command -v microagent) $directory && chmod 755 $directory/microagent && chown 54321 $directory &&
        (cd / && setpriv --reuid 54321 --clear-groups env -u HOME -u MICROAGENT_STATE_DIR "$@")
}
# Installed packages stay as they are.
apt_get() { shift; command apt-get --no-upgrade "$@" >&2; }
"#;

/// Errors of the host.
pub const HOST: &[Remedy] = &[
    Remedy {
        command: "PATH=$(dirname $(command -v microagent)) microagent doctor; true",
        code: 0,
        says: "sudo apt-get install --yes qemu-system-x86",
        follow: "sudo() { apt_get \"$@\"; }; eval \"$SAID\"",
        works: "microagent doctor | grep '^qemu  */.*version'",
        ..Remedy::NEW
    },
    Remedy {
        command: "PATH=$(dirname $(command -v microagent)) microagent doctor; true",
        code: 0,
        says: "sudo apt-get install --yes passt",
        follow: "sudo() { apt_get \"$@\"; }; eval \"$SAID\"",
        works: "microagent doctor | grep '^passt  */'",
        ..Remedy::NEW
    },
    Remedy {
        command: "PATH=$(dirname $(command -v microagent)) vm $IMAGE true",
        code: 125,
        says: "sudo apt-get install --yes qemu-system-x86",
        follow: "sudo() { apt_get \"$@\"; }; eval \"$SAID\"",
        // It starts the VM.
        works: "! vm --supervisor /bin/false --kernel $DEB $IMAGE true 2>&1 | grep 'is not installed'",
        ..Remedy::NEW
    },
    // One that answers as an older version does.
    Remedy {
        given: "mkdir -p bin && printf '#!/bin/sh\\necho %s\\n' \"'{\\\"QMP\\\":{\\\"version\\\":{\\\"qemu\\\":{\\\"micro\\\":0,\\\"minor\\\":2,\\\"major\\\":5}}}}'\" \
                >bin/qemu-system-x86_64 && chmod 755 bin/qemu-system-x86_64",
        command: "PATH=$PWD/bin:$PATH microagent doctor; true",
        code: 0,
        says: "install QEMU 7.2 or newer",
        works: "! microagent doctor | grep 'install QEMU' && microagent doctor | grep '^qemu  */.*version'",
        ..Remedy::NEW
    },
    Remedy {
        given: "cp -a /etc etc; grep -q ^kvm: etc/group || echo kvm:x:106: >>etc/group; \
                sed -i 's/^\\(kvm:.*:\\).*/\\1/' etc/group; sed -i 's/^\\(kvm:.*:\\).*/\\1/' etc/gshadow",
        command: "missing 'microagent doctor; true'",
        code: 0,
        says: "sudo usermod --append --groups kvm \"$USER\", then log in again",
        follow: "export USER=root; echo \"sudo() { \\\"\\$@\\\"; }; ${SAID%, then*}\" >script; \
                 unshare --mount sh -c 'mount --bind etc /etc && . ./script'",
        works: "missing 'microagent doctor; true' >found; ! grep 'no permission' found && grep '^kvm' found",
    },
    Remedy {
        given: "mkdir -m 755 theirs; mkdir theirs/microagent; chown 65534 theirs/microagent",
        command: "export XDG_RUNTIME_DIR=$PWD/theirs; vm --kernel $DEB $IMAGE true",
        code: 125,
        says: "remove it: sudo rm -r {}",
        follow: "eval \"${SAID#remove it: }\"",
        works: "! XDG_RUNTIME_DIR=$PWD/theirs vm --supervisor /bin/false --kernel $DEB $IMAGE true 2>&1 | grep 'another user'; \
                test -d theirs",
    },
    // A user without an entry in the list of users has no home directory.
    Remedy {
        given: "mktemp -d /tmp/ma-homeless-XXXXXX >where",
        command: "directory=$(cat where); homeless $directory/microagent cache ls",
        code: 2,
        says: "set $HOME, or use --state-dir DIR",
        follow: "directory=$(cat where); trap 'rm -r $directory' EXIT",
        works: "homeless $directory/microagent --state-dir $directory/state cache ls
                homeless HOME=$directory $directory/microagent cache ls",
    },
    // All in one namespace, in which the file system is.
    Remedy {
        given: "mkdir -p small",
        command: "unshare --mount sh -c 'mount -t tmpfs -o size=1M small small && microagent --state-dir small/state rootfs build \
                  --allow-mutable --image $IMAGE; code=$?; cp -a small copy 2>/dev/null; exit $code'",
        says: "free space on the file system of {}",
        works: "unshare --mount sh -c 'mount -t tmpfs -o size=100M small small && cp -a copy/. small && \
                microagent --state-dir small/state rootfs build --allow-mutable --image $IMAGE'",
        ..Remedy::NEW
    },
    Remedy {
        given: "build $IMAGE",
        command: "unshare --mount sh -c 'mount --bind $STATE $STATE && mount -o remount,bind,ro $STATE && \
                  microagent cache gc'",
        says: "choose a writable directory with --state-dir",
        works: "unshare --mount sh -c 'mount --bind $STATE $STATE && mount -o remount,bind,ro $STATE && \
                microagent --state-dir writable cache gc'",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p tools && for tool in sh make gcc ld bison bc perl awk gzip; do ln -sf $(command -v $tool) tools; done; \
                mkdir -p linux && touch linux/Makefile && tar -cf linux.tar linux",
        command: "PATH=tools $(command -v microagent) kernel build --source linux.tar",
        says: "apt-get install {}",
        follow: "apt_get apt-get install --yes \"$1\"; test \"$SAID\" = \"apt-get install $1\"; ln -s $(command -v $1) tools",
        // The next thing that is wrong is the source.
        works: "! PATH=tools $(command -v microagent) kernel build --source linux.tar 2>errors; grep 'as a kernel source' errors",
        ..Remedy::NEW
    },
];
