//! Disks that fail on the host while a guest writes: the guest gets an error, the run names the
//! disk and ends with 125. File systems are mounted in a mount namespace of each script.

use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{Error, or_skip, root_or_skip, tool};

/// The start of every script: `small SIZE DIRECTORY` mounts a file system of that size, `run` runs
/// a shell command in a guest with the disk `$disk`.
const PRELUDE: &str = r#"
set -u
small() { mkdir -p "$2" && mount -t tmpfs -o size="$1" small "$2" && chmod 700 "$2"; }
run() { microagent --quiet --engine qemu "$@"; }
"#;

/// An environment and an image.
struct Setup {
    host: Host,
    layout: Layout,
}

impl Setup {
    fn new() -> Result<Setup, Error> {
        tool::find("qemu-system-x86_64")?;
        Ok(Setup {
            host: Host::with_kernel()?,
            layout: Layout::busybox()?,
        })
    }

    /// Runs a script and checks its standard output and that nothing is left behind.
    fn prints(&self, script: &str, expected: &str) {
        let text = format!("{PRELUDE}{script}");
        let finished = (self.host)
            .shell_with_mounts(&text)
            .variable("IMAGE", self.layout.reference("latest"))
            .deadline(Duration::from_secs(300))
            .finish()
            .expect_code(0);
        assert_eq!(finished.text(), expected, "{}", finished.errors());
        self.host.assert_clean();
    }

    /// A JSON document that a script wrote, with `.` for the directory of the script.
    fn document(&self, name: &str) -> serde_json::Value {
        let text = std::fs::read_to_string(self.host.path(name)).unwrap();
        let home = self.host.path("").display().to_string();
        let text = text.replace(home.trim_end_matches('/'), ".");
        serde_json::from_str(&text).unwrap()
    }
}

/// What the guest sees is unchanged: an error of `fsync`, of the write, or of both.
const FILL: &str = "dd if=/dev/zero of=/d/big bs=1M count=24 conv=fsync 2>/dev/null || echo failed";

#[test]
fn a_full_file_system_below_a_disk_is_named_and_the_remediation_works() {
    root_or_skip!();
    let setup = or_skip!(Setup::new());
    let text = format!(
        r#"small 8M small && truncate -s 64M small/disk && mke2fs -q -t ext4 small/disk || exit 99
        disk="d=$PWD/small/disk:/d:rw"
        run run --image "$IMAGE" --disk "$disk" --exec '{FILL}' 2>first; echo "code $?"
        sed "s|$PWD|.|g" first
        run --json run --image "$IMAGE" --disk "$disk" --exec '{FILL}; echo "exits 7"; exit 7' >document 2>errors
        echo "code $?"; grep -c . errors
        # The remediation.
        mount -o remount,size=80M small; command=$(sed -n 's/.*then check the disk: //p' first)
        $command >/dev/null; echo "e2fsck $(($? < 4))"
        run run --image "$IMAGE" --disk "$disk" --exec '{FILL}; echo "exits 7"; exit 7'; echo "code $?"
        e2fsck -fn small/disk >/dev/null 2>&1; echo "e2fsck $?""#
    );
    let lost = "disk d (./small/disk): data that the guest wrote is lost: \
                No space left on device (os error 28)";
    setup.prints(
        &text,
        &format!(
            "failed\ncode 125\nmicroagent: {lost}\n  free space in the file system of \
             ./small/disk, then check the disk: e2fsck -fp ./small/disk\n\
             code 125\n1\ne2fsck 1\nexits 7\ncode 7\ne2fsck 0\n"
        ),
    );
    let error = setup.document("errors");
    assert_eq!(error["error"]["kind"], "noSpace");
    assert_eq!(error["error"]["message"], lost);
    let document = setup.document("document");
    assert_eq!(document["result"]["exitCode"], 7);
    assert_eq!(document["finalState"], "failed");
    assert_eq!(document["result"]["stdout"], "failed\nexits 7\n");
    let warning = serde_json::json!({
        "message": lost,
        "disk": "d",
        "path": "./small/disk",
        "operation": "write",
        "error": "No space left on device (os error 28)",
        "dataLost": true,
    });
    assert_eq!(document["warnings"][0], warning, "{document}");
}

#[test]
fn a_full_scratch_space_is_named() {
    root_or_skip!();
    let setup = or_skip!(Setup::new());
    let fill = FILL.replace("/d/", "/");
    let text = format!(
        r#"small 8M "$MICROAGENT_STATE_DIR/run" || exit 99
        run run --image "$IMAGE" --exec '{fill}' 2>errors; echo "code $?"
        sed "s|$MICROAGENT_STATE_DIR|state|g" errors
        mount -o remount,size=80M "$MICROAGENT_STATE_DIR/run"
        run run --image "$IMAGE" --exec '{fill}'; echo "code $?"
        # A kept run is in the state of its document.
        small 8M "$MICROAGENT_STATE_DIR/workspaces" || exit 98
        run --json run --keep --name kept --image "$IMAGE" --exec '{fill}; exit 0' >document 2>errors; echo "code $?"
        microagent --json status kept | grep '^  "state"'; grep -c '"finalState": "failed"' document
        microagent --quiet delete kept"#
    );
    setup.prints(
        &text,
        "failed\ncode 125\nmicroagent: disk root (scratch space in state/run): data that the guest \
         wrote is lost: No space left on device (os error 28)\n  free space in the file system of \
         state/run\ncode 0\ncode 125\n  \"state\": \"failed\",\n1\nkept\n",
    );
}

/// A loop device over a full file system: writes reach the host's page cache and fail there later,
/// so that only the flush reports them. The guest writes nothing itself before it unmounts.
#[test]
fn an_error_that_only_the_final_flush_finds_is_reported() {
    root_or_skip!();
    let setup = or_skip!(Setup::new());
    let text = r#"small 4M small && truncate -s 64M small/image && mke2fs -q -t ext4 small/image || exit 99
        device=$(losetup --show -f small/image) || exit 98
        run run --image "$IMAGE" --disk "d=$device:/d:rw" \
            --exec 'dd if=/dev/urandom of=/d/big bs=1M count=12 2>/dev/null; echo written' 2>errors
        echo "code $?"; sed "s|$device|LOOP|g" errors
        # The remediation, with space for what it writes.
        mount -o remount,size=80M small; $(sed -n 's/.*check the disk: //p' errors) >/dev/null; echo "e2fsck $(($? < 4))"
        run run --image "$IMAGE" --disk "d=$device:/d:rw" --exec 'echo again >/d/file'; echo "code $?"
        losetup -d "$device""#;
    setup.prints(
        text,
        "written\ncode 125\nmicroagent: disk d (LOOP): data that the guest wrote is lost: \
         Input/output error (os error 5)\n  check the disk: e2fsck -fp LOOP\ne2fsck 1\ncode 0\n",
    );
}

/// The guest fills the file system of the kept workspace, so that `run.json` cannot be written
/// either: the document is still printed, and nothing is left half written.
#[test]
fn a_workspace_on_a_full_file_system_keeps_its_disk_and_prints_the_document() {
    root_or_skip!();
    let setup = or_skip!(Setup::new());
    let fill = FILL.replace("/d/", "/");
    let text = format!(
        r#"small 8M "$MICROAGENT_STATE_DIR/workspaces" || exit 99
        run --json run --keep --name full --image "$IMAGE" --exec '{fill}; exit 7' >document 2>errors
        echo "code $?"; cd "$MICROAGENT_STATE_DIR/workspaces" && ls -A . full"#
    );
    setup.prints(&text, "code 125\n.:\nfull\n\nfull:\nevent.json\nevents.jsonl\nlock\nroot.delta\nroot.presence\nspec.json\n");
    let document = setup.document("document");
    assert_eq!(document["result"]["exitCode"], 7, "{document}");
    assert_eq!(document["warnings"][0]["dataLost"], true, "{document}");
    let error = setup.document("errors");
    assert_eq!(error["error"]["kind"], "noSpace", "{error}");
}
