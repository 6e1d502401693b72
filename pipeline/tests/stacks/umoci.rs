//! What `umoci unpack` makes of an image.

use std::path::Path;
use std::process::Command;

use crate::directory;
use crate::tree::Tree;

/// The tree that the image `latest` of a layout is unpacked to.
///
/// # Errors
/// What umoci says when it refuses.
pub fn unpacked(layout: &Path) -> Result<Tree, String> {
    let place = tempfile::tempdir().unwrap();
    let bundle = place.path().join("bundle");
    let output = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:latest", layout.display()))
        .arg(&bundle)
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(directory::read(&bundle.join("rootfs")).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
