//! Test directories, builds, and comparison of file trees.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use microagent_cas::{Digest, Store};
use microagent_pipeline::{Error, Pipeline, Reference, Rootfs, RootfsOptions, Silent};
pub use microagent_tests::error_chain as chain;
use microagent_tests::registry::Registry;
use microagent_tests::tree;

/// A temporary directory with a store. Dropping it deletes the directory.
pub struct TestDir {
    directory: tempfile::TempDir,
}

impl TestDir {
    pub fn new() -> TestDir {
        TestDir {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub fn store(&self) -> PathBuf {
        self.directory.path().join("cas")
    }

    /// A path for files of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A new pipeline on the store, as each process has one.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::new(Store::open(&self.store()).unwrap(), Arc::new(Silent))
    }
}

/// Runs a shell script in an empty directory and packs the result with GNU tar.
pub fn layer(script: &str, options: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let made = Command::new("sh")
        .args(["-ec", script])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let packed = Command::new("tar")
        .args(["-cf", "-", "--format=pax", "--numeric-owner", "--sort=name"])
        .args(["--xattrs", "--xattrs-include=*", "--no-acls"])
        .args(options)
        .arg("-C")
        .arg(directory.path())
        .arg(".")
        .output()
        .unwrap();
    assert!(packed.status.success());
    packed.stdout
}

const MOUNTED: &str = "MICROAGENT_TEST_MOUNTED";
const LISTING: &str = "MICROAGENT_TEST_LISTING";

/// Lists the tree in an ext4 image as the kernel sees it. A child process,
/// `lister` of this test binary, mounts the image in its own mount namespace,
/// which disappears with the process.
pub fn list_image(image: &Path) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mounted = dir.path().join("mounted");
    let listing = dir.path().join("listing");
    std::fs::create_dir(&mounted).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(r#"mount -t ext4 -o ro,loop,noload "$1" "$2" && exec "$3" --exact support::lister --ignored"#)
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

/// The child process of [`list_image`].
#[test]
#[ignore = "a part of other tests"]
fn lister() {
    let (Some(mounted), Some(listing)) = (std::env::var_os(MOUNTED), std::env::var_os(LISTING))
    else {
        return;
    };
    let lines = tree::list(Path::new(&mounted)).unwrap();
    std::fs::write(listing, lines.join("\n")).unwrap();
}

/// Pushes an index of images that the registry already has; `parts` are their tags
/// and architectures. Returns its digest.
pub fn push_index(
    registry: &Registry,
    repository: &str,
    parts: &[(&str, &str)],
    tag: &str,
) -> Digest {
    let base = format!("http://{}/v2/{repository}/manifests", registry.address());
    let mut manifests = Vec::new();
    for (part, architecture) in parts.iter().rev() {
        let mut response = ureq::get(format!("{base}/{part}"))
            .header("Accept", "application/vnd.oci.image.manifest.v1+json")
            .call()
            .unwrap();
        let bytes = response.body_mut().read_to_vec().unwrap();
        manifests.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(&bytes).to_string(), "size": bytes.len(),
            "platform": { "os": "linux", "architecture": architecture },
        }));
    }
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    })
    .to_string();
    ureq::put(format!("{base}/{tag}"))
        .header("Content-Type", "application/vnd.oci.image.index.v1+json")
        .send(&index)
        .unwrap();
    Digest::of(index.as_bytes())
}

/// Resolves and builds.
pub fn build(dir: &TestDir, reference: &str) -> Result<Rootfs, Error> {
    let pipeline = dir.pipeline();
    build_with(&pipeline, reference, &RootfsOptions::default())
}

pub fn build_with(
    pipeline: &Pipeline,
    reference: &str,
    options: &RootfsOptions,
) -> Result<Rootfs, Error> {
    let reference: Reference = reference.parse()?;
    let image = pipeline.resolve(&reference)?;
    pipeline.rootfs(&image, options)
}

/// Unpacks an image of a layout with umoci and lists the tree.
pub fn unpacked(layout: &Path, tag: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle");
    let output = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:{tag}", layout.display()))
        .arg(&bundle)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    tree::list(&bundle.join("rootfs")).unwrap()
}

#[track_caller]
pub fn assert_same(image: &Path, expected: &[String]) {
    let ours = list_image(image);
    assert!(
        ours == expected,
        "- umoci, + ours:\n{}",
        tree::difference(expected, &ours)
    );
}

#[track_caller]
pub fn assert_clean(image: &Path) {
    let check = Command::new("e2fsck")
        .arg("-fn")
        .arg(image)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{stdout}");
}
