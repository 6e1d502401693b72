//! The store.

use super::remedy::Remedy;

/// What was found damaged, missing or unknown. `$LAYOUT` has been built, and a kernel is installed.
pub const STORE: &[Remedy] = &[
    Remedy {
        given: "rm -rf $STATE",
        command: "microagent cache explain $IMAGE",
        says: "resolve it first: microagent image resolve {}",
        follow: "${SAID#resolve it first: }",
        ..Remedy::NEW
    },
    Remedy {
        given: "rm -rf $STATE",
        command: "microagent cache export $IMAGE --out archive",
        says: "build it first: microagent rootfs build --allow-mutable --image {}",
        follow: "${SAID#build it first: }",
        ..Remedy::NEW
    },
    Remedy {
        given: "build $LAYOUT; echo '{' >$STATE/cas/store.json",
        command: "microagent cache ls",
        says: "delete {} and retry; it will be written again",
        follow: "rm \"$1\"",
        works: "microagent cache ls && microagent cache verify",
        ..Remedy::NEW
    },
    Remedy {
        given: "sed -i 's/\"version\": *[0-9]*/\"version\":99/; s/\"format\": *[0-9]*/\"format\":99/' $STATE/cas/store.json",
        command: "microagent cache ls",
        says: "use the newer version, or another directory with --state-dir",
        works: "microagent --state-dir other-state cache ls; rm $STATE/cas/store.json",
        ..Remedy::NEW
    },
    Remedy {
        given: "echo '{' >$STATE/cas/index.json",
        command: "microagent cache gc",
        says: "repair the store with: microagent cache verify --repair",
        follow: "${SAID#repair the store with: }",
        works: "microagent cache gc && build $LAYOUT",
        ..Remedy::NEW
    },
    Remedy {
        given: "microagent kernel install --from $DEB; echo '{' >$STATE/cas/roots/default-kernel.json",
        command: "microagent cache ls",
        says: "repair the store with: microagent cache verify --repair",
        follow: "${SAID#repair the store with: }",
        ..Remedy::NEW
    },
    Remedy {
        given: "for f in $STATE/cas/blobs/sha256/*; do chmod u+w $f; printf X | dd of=$f bs=1 conv=notrunc status=none; done",
        command: "microagent cache verify",
        says: "repair it with: microagent cache verify --repair",
        follow: "${SAID#repair it with: }",
        works: "microagent cache verify && build $LAYOUT",
        ..Remedy::NEW
    },
];
