//! Usage errors.

use super::remedy::Remedy;

/// Errors of commands other than `run`.
pub const COMMANDS: &[Remedy] = &[
    Remedy {
        command: "microagent cahce ls",
        code: 2,
        says: "did you mean {}?",
        works: "microagent $1 ls",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent cache verify --repare",
        code: 2,
        says: "did you mean {}?",
        works: "microagent cache verify $1",
        ..Remedy::NEW
    },
    Remedy {
        command: "build $LAYOUT --nothing",
        code: 2,
        says: "see: {} --help",
        works: "$1 --help",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent --quiet cache ls -v",
        code: 2,
        says: "use one of them",
        works: "microagent --quiet cache ls && microagent -v cache ls",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent cache gc --max-size big",
        code: 2,
        says: "use a number with a unit, such as 20GiB, 500MB or 0",
        works: "for size in 20GiB 500MB; do microagent cache gc --dry-run --max-size $size; done",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent cache gc --older-than yesterday",
        code: 2,
        says: "use a number with a unit, such as 30min, 12h or 7d",
        works: "for age in 30min 12h 7d; do microagent cache gc --dry-run --older-than $age; done",
        ..Remedy::NEW
    },
    Remedy {
        given: "build $IMAGE",
        command: "microagent --json cache export $IMAGE --out /dev/stdout",
        code: 2,
        says: "leave out --json, or write to a file",
        works: "microagent cache export $IMAGE --out /dev/stdout && \
                microagent --json cache export $IMAGE --out archive",
        ..Remedy::NEW
    },
    Remedy {
        command: "build $IMAGE --size-mib many",
        code: 2,
        says: "use a whole number from {} to {}, as in {} {}",
        works: "build $IMAGE $3 $4",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent rootfs build --image $IMAGE",
        code: 2,
        says: "pin it by digest, as in NAME@sha256:… (microagent image resolve prints it), or use \
               --allow-mutable",
        follow: "microagent image resolve $IMAGE | grep -o '[^ ]*@sha256:[0-9a-f]*' | head -n 1 >pinned",
        works: "microagent rootfs build --image \"$(cat pinned)\" && \
                microagent rootfs build --image $IMAGE --allow-mutable",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve $REGISTRY/app@sha256:12",
        says: "a digest is sha256: and 64 hexadecimal digits, as in busybox@sha256:9ae9…",
        works: "resolve \"$(cat pinned)\"",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve $REGISTRY/App:1",
        says: "write it in lower case: {}",
        works: "resolve $1",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve oci:",
        says: "write {}PATH or {}PATH:TAG",
        works: "resolve $1$DIRECTORY && resolve $2$DIRECTORY:latest",
        ..Remedy::NEW
    },
    Remedy {
        given: "skopeo_copy $LAYOUT oci-archive:good.oci && skopeo_copy $LAYOUT docker-archive:good.docker",
        command: "resolve 'a b'",
        says: "write it like docker.io/library/busybox:1.36, localhost:5000/app@sha256:…, oci:DIR:tag, \
               oci-archive:FILE or docker-archive:FILE",
        works: "resolve $IMAGE && resolve \"$(cat pinned)\" && resolve oci:$DIRECTORY:latest && \
                resolve oci-archive:good.oci && resolve docker-archive:good.docker",
        ..Remedy::NEW
    },
    Remedy {
        command: "microagent --state-dir \"$(printf 'a\\377')\" cache ls",
        code: 2,
        says: "use another --state-dir DIR",
        works: "microagent --state-dir a cache ls",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p locked",
        command: "microagent --state-dir /proc/locked cache ls",
        says: "choose a writable directory with --state-dir",
        works: "microagent --state-dir locked/state cache ls",
        ..Remedy::NEW
    },
    Remedy {
        given: "mkdir -p registries.d && echo '{\"registries\":{}}' >registries.d/good",
        command: "MICROAGENT_REGISTRIES=registries.d/absent resolve $IMAGE",
        says: "check the path and its permissions, or unset MICROAGENT_REGISTRIES",
        works: "MICROAGENT_REGISTRIES=registries.d/good resolve $IMAGE && resolve $IMAGE",
        ..Remedy::NEW
    },
    Remedy {
        given: "echo '{\"registries\":[]}' >registries.json",
        command: "MICROAGENT_REGISTRIES=registries.json resolve mirrored.test/app:1",
        says: "the format is {\"registries\":{\"NAME\":{\"mirrors\":[\"HOST[:PORT][/PATH]\"],\"insecure\":false}}}",
        // The format itself, with a name and an address in it.
        follow: "echo \"${SAID#the format is }\" | sed \"s|NAME|mirrored.test|; s|HOST.*PATH]|$REGISTRY|\" >registries.json",
        ..Remedy::NEW
    },
];
