//! What an error tells the user to do is done, and then the command works.

use microagent_tests::image::{Layout, Tar};
use microagent_tests::microagent::Host;
use microagent_tests::or_skip;
use microagent_tests::registry::Registry;

/// An error and the way out that it names. In the scripts `$IMAGE` is a tag in a registry,
/// `$PINNED` the same image by digest, `$LAYOUT` a layout on disk and `$STATE` the state directory.
struct Remedy {
    /// The command that fails, after what makes it fail.
    provoke: &'static str,
    code: i32,
    /// The remediation, with the same variables.
    says: &'static str,
    /// What it says, as a script.
    follow: &'static str,
    /// The command that works now; its output does not matter.
    works: &'static str,
}

const REMEDIES: &[Remedy] = &[
    Remedy {
        provoke: "microagent rootfs build --image $IMAGE",
        code: 2,
        says: "pin it by digest, as in NAME@sha256:… (microagent image resolve prints it), or use \
               --allow-mutable",
        follow: "microagent image resolve $IMAGE | grep -o '[^ ]*@sha256:[0-9a-f]*' | head -n 1 >pinned",
        works: "microagent rootfs build --image \"$(cat pinned)\" && \
                microagent rootfs build --image $IMAGE --allow-mutable",
    },
    Remedy {
        provoke: "rm -rf $STATE; microagent cache explain $IMAGE",
        code: 1,
        says: "resolve it first: microagent image resolve $IMAGE",
        follow: "microagent image resolve $IMAGE",
        works: "microagent cache explain $IMAGE",
    },
    Remedy {
        provoke: "rm -rf $STATE; microagent cache export $IMAGE --out archive",
        code: 1,
        says: "build it first: microagent rootfs build --allow-mutable --image $IMAGE",
        follow: "microagent rootfs build --allow-mutable --image $IMAGE",
        works: "microagent cache export $IMAGE --out archive",
    },
    Remedy {
        provoke: "microagent --json cache export $IMAGE --out /dev/stdout",
        code: 2,
        says: "leave out --json, or write to a file",
        follow: ":",
        works: "microagent cache export $IMAGE --out /dev/stdout && \
                microagent --json cache export $IMAGE --out archive",
    },
    Remedy {
        provoke: "microagent rootfs build --allow-mutable --image $LAYOUT --size-mib 1",
        code: 1,
        says: "use --size-mib ",
        follow: "sed -n 's/.*use --size-mib \\([0-9]*\\) or more.*/\\1/p' errors >size",
        works: "microagent rootfs build --allow-mutable --image $LAYOUT --size-mib \"$(cat size)\"",
    },
    Remedy {
        provoke: "echo { >$STATE/cas/store.json; microagent cache ls",
        code: 1,
        says: "delete $STATE/cas/store.json and retry; it will be written again",
        follow: "rm $STATE/cas/store.json",
        works: "microagent cache ls && microagent cache verify",
    },
    Remedy {
        provoke: "echo { >$STATE/cas/index.json; microagent cache gc",
        code: 1,
        says: "repair the store with: microagent cache verify --repair",
        follow: "microagent cache verify --repair",
        works: "microagent cache gc && microagent rootfs build --allow-mutable --image $LAYOUT",
    },
    Remedy {
        provoke: "echo { >$STATE/cas/roots/default-kernel.json; microagent cache ls",
        code: 1,
        says: "repair the store with: microagent cache verify --repair",
        follow: "microagent cache verify --repair",
        works: "microagent cache ls",
    },
    Remedy {
        provoke: "for f in $STATE/cas/blobs/sha256/*; do chmod u+w $f; printf X | dd of=$f bs=1 \
                  conv=notrunc status=none; done; microagent cache verify",
        code: 1,
        says: "",
        follow: "microagent cache verify --repair",
        works: "microagent cache verify && microagent rootfs build --allow-mutable --image $LAYOUT",
    },
    Remedy {
        provoke: "mkdir -p locked; microagent --state-dir /proc/locked cache ls",
        code: 1,
        says: "choose a writable directory with --state-dir",
        follow: ":",
        works: "microagent --state-dir locked/state cache ls",
    },
    Remedy {
        provoke: "microagent cahce ls",
        code: 2,
        says: "did you mean cache?",
        follow: ":",
        works: "microagent cache ls",
    },
    Remedy {
        provoke: "microagent cache verify --repare",
        code: 2,
        says: "did you mean --repair?",
        follow: ":",
        works: "microagent cache verify --repair",
    },
    Remedy {
        provoke: "mkfifo fifo; microagent rootfs build --allow-mutable --image $LAYOUT --nothing",
        code: 2,
        says: "see: microagent rootfs build --help",
        follow: ":",
        works: "microagent rootfs build --help",
    },
    Remedy {
        provoke: "microagent kernel install --url http://127.0.0.1:1/k --sha256 abc",
        code: 2,
        says: "use the 64 hexadecimal digits that sha256sum prints",
        follow: "sha256sum errors | cut -d ' ' -f 1 >sum",
        // The server does not exist: the checksum is accepted.
        works: "! microagent kernel install --url http://127.0.0.1:1/k --sha256 \"$(cat sum)\" \
                2>&1 | grep -q SHA-256",
    },
];

#[test]
fn a_remediation_that_is_followed_helps() {
    let layout = or_skip!(Layout::busybox());
    let tar = Tar::new().file("content", b"content").finish();
    layout.add_layer("latest", &tar).unwrap();
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let host = or_skip!(Host::new());
    let state = host.state().display().to_string();
    let image = format!("{}/app:1", registry.address());
    let layout = layout.reference("latest");
    let script = |text: &str| {
        host.shell(text)
            .variable("IMAGE", &image)
            .variable("LAYOUT", &layout)
            .variable("STATE", &state)
            .finish()
    };
    script("microagent rootfs build --allow-mutable --image $IMAGE").expect_code(0);
    for remedy in REMEDIES {
        let provoked = script(&format!("{{ {}; }} 2>errors", remedy.provoke));
        let errors = script("cat errors").text();
        let says = remedy
            .says
            .replace("$IMAGE", &image)
            .replace("$STATE", &state);
        assert_eq!(
            provoked.code,
            Some(remedy.code),
            "{}: {errors}",
            remedy.provoke
        );
        assert!(errors.contains(&says), "{}: {errors}", remedy.provoke);
        let followed = script(&format!("set -e; {}; {}", remedy.follow, remedy.works));
        assert_eq!(
            followed.code,
            Some(0),
            "{}, then {}: {}",
            remedy.follow,
            remedy.works,
            followed.errors()
        );
    }
}
