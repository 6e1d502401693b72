//! What a workspace is made of, compared with what `create` recorded.
//!
//! An object that was not written to since it was published is not read (`cas/src/file/seal.rs`);
//! any other is hashed. What the guest wrote has no expected digest.

use microagent_cas::{Digest, Output, Store, StoreError};
use serde::Serialize;

use crate::spec::{Recorded, RecordedImage, Spec};

/// The comparison of everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Whether nothing differs.
    pub ok: bool,
    /// The image, if it was made from one.
    pub image: Option<Image>,
    /// The kernel.
    pub kernel: Artifact,
    /// The root file system below what the guest writes.
    pub rootfs: Artifact,
    /// The initramfs.
    pub init: Artifact,
    /// The other disks.
    pub disks: Vec<Artifact>,
    /// What differs.
    pub divergence: Vec<Divergence>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The reference.
    pub reference: String,
    /// The same, pinned by digest.
    pub resolved: String,
    /// What it named at `create`.
    pub recorded: String,
    /// What it names now, `gone`, or `unknown` if that is not known. Absent if it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// The name of a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was recorded. `None` for a disk of the user, which may change.
    pub digest: Option<String>,
    /// Whether it is that.
    pub ok: bool,
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Divergence {
    /// What differs: `kernel`, `rootfs`, `init`, `image`, or `disk NAME`.
    pub artifact: String,
    /// Which property: `digest`, `path` or `reference`.
    pub field: &'static str,
    /// What was recorded.
    pub expected: String,
    /// What there is; `absent` if there is nothing.
    pub actual: String,
}

/// What an image reference names now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Current {
    /// This digest.
    Digest(Digest),
    /// Nothing.
    Gone,
    /// Its registry cannot be asked.
    Unknown,
}

/// Compares the workspace with its manifest.
///
/// # Errors
/// When an object cannot be read.
pub fn verify(
    store: &Store,
    spec: &Spec,
    recorded: &Recorded,
    current: Option<Current>,
) -> Result<Verification, StoreError> {
    let mut divergence = Vec::new();
    let mut compare = |artifact: String, name: Option<&str>, digest: &str, sparse: bool| {
        let expected: Result<Digest, _> = digest.parse();
        let actual = match expected {
            Ok(expected) if sparse => store.actual_digest(&Output::Sparse(expected))?,
            Ok(expected) => store.actual_digest(&Output::Blob(expected))?,
            Err(_) => None,
        };
        let actual = actual.map_or("absent".to_owned(), |actual| actual.to_string());
        let ok = actual == digest;
        if !ok {
            divergence.push(Divergence {
                artifact,
                field: "digest",
                expected: digest.to_owned(),
                actual,
            });
        }
        Ok::<_, StoreError>(Artifact {
            name: name.map(str::to_owned),
            digest: Some(digest.to_owned()),
            ok,
        })
    };
    let kernel = compare("kernel".into(), None, &recorded.kernel.digest, false)?;
    let rootfs = compare("rootfs".into(), None, &recorded.rootfs, true)?;
    let init = compare("init".into(), None, &recorded.initramfs, false)?;
    let mut disks = Vec::new();
    for (disk, digest) in spec.bundles.iter().zip(&recorded.bundles) {
        let artifact = format!("disk {}", disk.name);
        disks.push(compare(artifact, Some(&disk.name), digest, true)?);
    }
    if let Some(digest) = &recorded.kernel.modules_disk {
        let artifact = "disk modules".to_owned();
        disks.push(compare(artifact, Some("modules"), digest, true)?);
    }
    for disk in &spec.disks {
        let ok = disk.path.exists();
        disks.push(Artifact {
            name: Some(disk.name.clone()),
            digest: None,
            ok,
        });
        if !ok {
            divergence.push(Divergence {
                artifact: format!("disk {}", disk.name),
                field: "path",
                expected: disk.path.display().to_string(),
                actual: "absent".to_owned(),
            });
        }
    }
    let image = (recorded.image.as_ref()).map(|recorded| {
        let (image, moved) = image(recorded, current);
        divergence.extend(moved);
        image
    });
    Ok(Verification {
        ok: divergence.is_empty(),
        image,
        kernel,
        rootfs,
        init,
        disks,
        divergence,
    })
}

fn image(recorded: &RecordedImage, current: Option<Current>) -> (Image, Option<Divergence>) {
    // The digest of what the reference names, which may be an index.
    let pinned = recorded.resolved.rsplit_once('@').map(|(_, digest)| digest);
    let expected = pinned.unwrap_or(&recorded.digest).to_owned();
    let actual = current.map(|current| match current {
        Current::Digest(digest) => digest.to_string(),
        Current::Gone => "gone".to_owned(),
        Current::Unknown => "unknown".to_owned(),
    });
    let differs = (actual.clone()).filter(|actual| *actual != expected && actual != "unknown");
    let moved = differs.map(|actual| Divergence {
        artifact: "image".to_owned(),
        field: "reference",
        expected: expected.clone(),
        actual,
    });
    let image = Image {
        reference: recorded.reference.clone(),
        resolved: recorded.resolved.clone(),
        recorded: expected,
        current: actual,
    };
    (image, moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_diverges_if_its_tag_moved_or_is_gone_and_not_if_nobody_knows() {
        let digest = |byte: &str| format!("sha256:{}", byte.repeat(64));
        let recorded = RecordedImage {
            reference: "registry.example/a:1".into(),
            resolved: format!("registry.example/a@{}", digest("a")),
            digest: digest("b"),
            env: Vec::new(),
            working_dir: String::new(),
            user: String::new(),
            stop_signal: None,
        };
        let parsed = |byte: &str| Current::Digest(digest(byte).parse().unwrap());
        for (current, shown, differs) in [
            (None, None, false),
            (Some(parsed("a")), Some(digest("a")), false),
            (Some(Current::Unknown), Some("unknown".to_owned()), false),
            (Some(parsed("b")), Some(digest("b")), true),
            (Some(Current::Gone), Some("gone".to_owned()), true),
        ] {
            let (image, moved) = image(&recorded, current);
            assert_eq!(image.recorded, digest("a"));
            assert_eq!(image.current, shown);
            let actual = moved.map(|moved| moved.actual);
            assert_eq!(actual, shown.filter(|_| differs));
        }
    }
}
