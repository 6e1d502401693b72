//! What the tests of this crate share.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use microagent_cas::{Digest, Store};
use microagent_pipeline::{Error, Pipeline, Reference, Rootfs, RootfsOptions, Silent};
pub use microagent_tests::error_chain as chain;
use microagent_tests::registry::Registry;
use microagent_tests::tree;

/// A store, gone when this value is.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub fn store(&self) -> PathBuf {
        self.directory.path().join("cas")
    }

    /// A path for the test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A pipeline of its own over the place's store, as each process has one.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::new(Store::open(&self.store()).unwrap(), Arc::new(Silent))
    }
}

/// A layer with what a shell script leaves in an empty directory, packed by GNU tar.
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

const IMAGE: &str = "MICROAGENT_TEST_MOUNTED";
const LISTING: &str = "MICROAGENT_TEST_LISTING";

/// The tree in an ext4 image as the kernel sees it. The image is mounted in a
/// namespace that ends with the process that lists it: this test binary's
/// `lister`.
pub fn list_image(image: &Path) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    let mounted = place.path().join("mounted");
    let listing = place.path().join("listing");
    std::fs::create_dir(&mounted).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(r#"mount -t ext4 -o ro,loop,noload "$1" "$2" && exec "$3" --exact support::lister --ignored"#)
        .arg("list")
        .args([image, &mounted, &std::env::current_exe().unwrap()])
        .env(IMAGE, &mounted)
        .env(LISTING, &listing)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let listing = std::fs::read_to_string(listing).unwrap();
    listing.lines().map(str::to_owned).collect()
}

/// The other half of [`list_image`], which runs it in a mount namespace of its own.
#[test]
#[ignore = "a part of other tests"]
fn lister() {
    let (Some(mounted), Some(listing)) = (std::env::var_os(IMAGE), std::env::var_os(LISTING))
    else {
        return;
    };
    let lines = tree::list(Path::new(&mounted)).unwrap();
    std::fs::write(listing, lines.join("\n")).unwrap();
}

/// Puts an index over images that were pushed before; `parts` are tags and
/// architectures. Returns its digest.
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
pub fn build(place: &Place, reference: &str) -> Result<Rootfs, Error> {
    let pipeline = place.pipeline();
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

/// What `umoci unpack` makes of an image of a layout.
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
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{said}");
}
