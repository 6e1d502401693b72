//! One workspace, and what its guest has flushed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The directory of the files in the guest.
pub const DIRECTORY: &str = "/chaos";

/// What is known of a workspace that exists.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    /// The files that were flushed, with their checksums.
    pub files: BTreeMap<String, String>,
    /// The files whose removal was flushed.
    pub removed: BTreeSet<String>,
    /// The file system of the root may be read from outside: the last end was a shutdown.
    pub clean: bool,
    /// The directories of the sockets of its supervisors, present and past.
    pub run_dirs: BTreeSet<PathBuf>,
}

impl Workspace {
    /// A file is written again: until that is flushed, it has any content.
    pub fn forget(&mut self, name: &str) {
        self.files.remove(name);
        self.removed.remove(name);
    }

    /// What is wrong with the files that were found, if anything.
    pub fn difference(&self, found: &BTreeMap<String, String>) -> Option<String> {
        let mut wrong = Vec::new();
        for (name, sum) in &self.files {
            match found.get(name) {
                Some(other) if other == sum => {}
                Some(other) => wrong.push(format!("{name}: {other} instead of {sum}")),
                None => wrong.push(format!("{name} is missing")),
            }
        }
        for name in &self.removed {
            if found.contains_key(name) {
                wrong.push(format!("{name} was removed"));
            }
        }
        (!wrong.is_empty()).then(|| wrong.join(", "))
    }
}

/// The lines of `sha256sum`: name and checksum.
pub fn checksums(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_changed_and_resurrected_files_are_named() {
        let mut workspace = Workspace {
            files: checksums("1  a\n2  b\n3  c\n"),
            ..Workspace::default()
        };
        workspace.removed.insert("d".into());
        let same = checksums("1  a\n2  b\n3  c\n4  other\n");
        assert_eq!(workspace.difference(&same), None);
        let found = checksums("1  a\n9  b\n4  d\n");
        assert_eq!(
            workspace.difference(&found).as_deref(),
            Some("b: 9 instead of 2, c is missing, d was removed")
        );
        workspace.forget("b");
        workspace.forget("d");
        assert_eq!(
            workspace.difference(&found).as_deref(),
            Some("c is missing")
        );
    }
}
