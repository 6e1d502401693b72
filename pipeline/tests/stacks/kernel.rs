//! What Linux and its tools say about an image.

use std::path::Path;
use std::process::Command;

use crate::directory;
use crate::tree::Times;

const MOUNTED: &str = "MICROAGENT_TEST_MOUNTED";
const LISTING: &str = "MICROAGENT_TEST_LISTING";

/// What `e2fsck` finds fault with; nothing if it is content.
pub fn faults(image: &Path) -> Option<String> {
    let check = Command::new("e2fsck").arg("-fn").arg(image).output();
    let check = check.unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    (!check.status.success()).then_some(said)
}

/// The lines of the tree in an image, mounted in a namespace that ends with
/// the process that lists it: this test binary's [`lister`].
pub fn lines(image: &Path) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    let mounted = place.path().join("mounted");
    let listing = place.path().join("listing");
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
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let listing = std::fs::read_to_string(listing).unwrap();
    listing.lines().map(str::to_owned).collect()
}

/// The other half of [`lines`].
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
