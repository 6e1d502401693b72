//! Unpacks an image with `umoci`.

use std::path::Path;
use std::process::Command;

use crate::directory;
use crate::tree::Tree;

/// Unpacks the image `latest` of a layout.
///
/// # Errors
/// umoci's standard error if it fails.
pub fn unpacked(layout: &Path) -> Result<Tree, String> {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
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
