//! `index.json`: image names, for tools that read OCI image layouts.

use std::collections::HashMap;

use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex};
use rustix::fs::FlockOperation;

use crate::error::StoreError;
use crate::file::lock::LockFile;
use crate::file::{read, temporary};
use crate::store::Store;

/// The annotation of an image that the pipeline tagged: a cache entry, which garbage collection
/// removes with its parts. An image that another tool added to the layout is kept.
pub(crate) const CACHED: &str = "microagent.cached";

/// The maximum size of `index.json` in bytes.
const LIMIT: u64 = 16 << 20;

/// The maximum length of a name in bytes. OCI limits tags to 128, but a full reference must fit.
const MAX_TAG: usize = 512;

impl Store {
    /// Names the manifest of `descriptor` in `index.json`, replacing an older entry of that name.
    /// The entry is marked as a cache entry: garbage collection removes it when a part of the
    /// image is missing, but keeps entries of other tools.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`] when `name` violates the grammar of
    /// `org.opencontainers.image.ref.name`; [`StoreError::Corrupt`] when the index is invalid.
    pub fn tag(&self, name: &str, mut descriptor: Descriptor) -> Result<(), StoreError> {
        check_name(name)?;
        let mut annotations = descriptor.annotations().clone().unwrap_or_default();
        annotations.insert(ANNOTATION_REF_NAME.to_owned(), name.to_owned());
        annotations.insert(CACHED.to_owned(), "true".to_owned());
        descriptor.set_annotations(Some(annotations));

        let gate = self.layout().index_gate();
        let _gate = LockFile::gate(gate, FlockOperation::LockExclusive)?;
        let mut index = self.index()?;
        let mut manifests: Vec<Descriptor> = index
            .manifests()
            .iter()
            .filter(|entry| ref_name(entry.annotations()) != Some(name))
            .cloned()
            .collect();
        if manifests.len() + 1 == index.manifests().len() && index.manifests().contains(&descriptor)
        {
            return Ok(()); // The entry exists already.
        }
        manifests.push(descriptor);
        index.set_manifests(manifests);
        self.replace_index(&index)
    }

    /// Removes the cached images whose name is `unwanted` from `index.json`.
    pub(crate) fn untag(&self, unwanted: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        let gate = self.layout().index_gate();
        let _gate = LockFile::gate(gate, FlockOperation::LockExclusive)?;
        let mut index = self.index()?;
        let removed = |entry: &&Descriptor| {
            let annotations = entry.annotations();
            let cached = (annotations.as_ref()).is_some_and(|all| all.contains_key(CACHED));
            cached && ref_name(annotations).is_some_and(&unwanted)
        };
        let manifests = index.manifests().iter().filter(|entry| !removed(entry));
        let manifests: Vec<Descriptor> = manifests.cloned().collect();
        if manifests.len() == index.manifests().len() {
            return Ok(());
        }
        index.set_manifests(manifests);
        self.replace_index(&index)
    }

    /// The caller holds the index lock.
    fn replace_index(&self, index: &ImageIndex) -> Result<(), StoreError> {
        let path = self.layout().index();
        // Via `Value`, whose members are sorted: annotations have a fixed order on disk.
        let document = serde_json::to_value(index).map_err(|error| StoreError::Corrupt {
            path: path.clone(),
            why: error.to_string(),
        })?;
        temporary::replace(self.temporary(), &path, format!("{document}\n").as_bytes())
    }

    /// Reads the index.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is missing or not an image index.
    pub fn index(&self) -> Result<ImageIndex, StoreError> {
        let path = self.layout().index();
        let corrupt = |why: String| StoreError::Corrupt {
            path: path.clone(),
            why,
        };
        let bytes = read::read_small(&path, LIMIT)?.ok_or_else(|| corrupt("missing".to_owned()))?;
        serde_json::from_slice(&bytes)
            .map_err(|error| corrupt(format!("not an image index: {error}")))
    }
}

fn ref_name(annotations: &Option<HashMap<String, String>>) -> Option<&str> {
    annotations
        .as_ref()?
        .get(ANNOTATION_REF_NAME)
        .map(String::as_str)
}

/// Checks the grammar of the OCI image specification, annotations.md: letters and digits joined
/// by one of `-._:@+` or by `--` form a component; components are joined by `/`.
fn check_name(name: &str) -> Result<(), StoreError> {
    let refuse = |why| {
        let name = name.chars().take(MAX_TAG).collect();
        Err(StoreError::InvalidName {
            name,
            what: "image",
            why,
        })
    };
    if name.len() > MAX_TAG {
        return refuse("longer than 512 bytes");
    }
    for component in name.split('/') {
        let parts = component.replace("--", "-");
        for part in parts.split(['-', '.', '_', ':', '@', '+']) {
            if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return refuse("must be letters and digits, separated by one of -._:@+/");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar_of_ref_name() {
        for good in [
            "a",
            "docker.io/library/busybox:1.36",
            "localhost:5000/x@sha256:ab",
            "a--b",
        ] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "a..b",
            "-a",
            "a---b",
            "a b",
            "é",
            "[::1]:5/x",
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
