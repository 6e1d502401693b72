//! Checks an image with `e2fsck` and lists it through the kernel.

use std::path::Path;
use std::process::Command;

use crate::directory;
use crate::tree::Times;

const MOUNTED: &str = "MICROAGENT_TEST_MOUNTED";
const LISTING: &str = "MICROAGENT_TEST_LISTING";

/// Returns the output of `e2fsck` if it finds an error.
pub fn faults(image: &Path) -> Option<String> {
    let check = Command::new("e2fsck").arg("-fn").arg(image).output();
    let check = check.unwrap();
    let report = String::from_utf8_lossy(&check.stdout).into_owned();
    (!check.status.success()).then_some(report)
}

/// Lists the tree in an image as the kernel sees it. A child process, [`lister`]
/// of this test binary, mounts the image in its own mount namespace, which
/// disappears with the process.
pub fn lines(image: &Path) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mounted = dir.path().join("mounted");
    let listing = dir.path().join("listing");
    std::fs::create_dir(&mounted).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(r#"mount -t ext4 -o ro,loop,noload "$1" "$2" && exec "$3" --exact kernel::lister --ignored"#)
        .arg("list")
        .args([image, &mounted, &std::env::current_exe().unwrap()])
        .env(MOUNTED, &mounted)
        .env(LISTING, &listing)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let listing = std::fs::read_to_string(listing).unwrap();
    listing.lines().map(str::to_owned).collect()
}

/// The child process of [`lines`].
#[test]
#[ignore = "a part of other tests"]
fn lister() {
    let (Some(mounted), Some(listing)) = (std::env::var_os(MOUNTED), std::env::var_os(LISTING))
    else {
        return;
    };
    let tree = directory::read(Path::new(&mounted)).unwrap();
    std::fs::write(listing, tree.lines(Times::All).join("\n")).unwrap();
}
