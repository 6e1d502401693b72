//! Files to copy into a workspace.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use schemars::JsonSchema;
use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::FileMode;

/// The longest list. Each of them is a session with the guest's agent.
const MAX_FILES: usize = 1000;

/// Kernel file systems of the guest: what is written there is not in its root.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A file to write into the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileCopy {
    /// The host's file or directory. Relative to the document. A symbolic link is followed.
    pub src: PathBuf,
    /// An absolute path in the guest: that of the file, or of the directory that gets what is in
    /// `src`.
    #[serde(deserialize_with = "destination")]
    #[schemars(with = "String")]
    pub dst: String,
    /// Its permissions in octal digits, as in `"0644"`; default those of the host's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
}

impl FileCopy {
    /// The destination without superfluous slashes.
    fn normal(&self) -> PathBuf {
        Path::new(&self.dst).components().collect()
    }
}

fn destination<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Destination;

    impl Visitor<'_> for Destination {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(
                "a dst: an absolute path in the guest without .., outside of /proc, /sys and /dev",
            )
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            let path = Path::new(text);
            let parts = path.components();
            let valid = text.starts_with('/')
                && !text.contains('\0')
                && !parts.into_iter().any(|part| part == Component::ParentDir)
                && !KERNEL.iter().any(|kernel| path.starts_with(kernel));
            match valid {
                true => Ok(text.to_owned()),
                false => Err(E::invalid_value(Unexpected::Str(text), &self)),
            }
        }
    }

    deserializer.deserialize_str(Destination)
}

/// Reads the list: each destination is in it once.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FileCopy>, D::Error> {
    struct List;

    impl<'de> Visitor<'de> for List {
        type Value = Vec<FileCopy>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of files")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut files: Vec<FileCopy> = Vec::new();
            while let Some(file) = list.next_element::<FileCopy>()? {
                let same = files
                    .iter()
                    .position(|other| other.normal() == file.normal());
                if let Some(same) = same {
                    let (number, dst) = (files.len(), &file.dst);
                    return Err(A::Error::custom(format!(
                        "files[{number}] has the dst {dst:?} of files[{same}]"
                    )));
                }
                if files.len() == MAX_FILES {
                    let message = format!("files has more than {MAX_FILES} entries");
                    return Err(A::Error::custom(message));
                }
                files.push(file);
            }
            Ok(files)
        }
    }

    deserializer.deserialize_seq(List)
}

#[cfg(test)]
mod tests {
    use super::super::Spec;
    use super::*;

    #[test]
    fn mistakes_name_line_and_field() {
        let not = "a string is not a dst: an absolute path in the guest without .., outside of /proc, /sys and /dev";
        let dst = |dst: &str| format!("name: a\nfiles:\n  - src: a\n    dst: {dst}\n");
        for (text, expected) in [
            (
                "files:\n  - dst: /a\n".to_owned(),
                "2: field src is missing".to_owned(),
            ),
            (
                "files:\n  - src: a\n".to_owned(),
                "2: field dst is missing".to_owned(),
            ),
            (dst("etc/x"), format!("4: {not}")),
            (dst("/etc/../x"), format!("4: {not}")),
            (dst("/proc/x"), format!("4: {not}")),
            (dst("''"), format!("4: {not}")),
            (
                "files:\n  - {src: a, dst: /a/b}\n  - {src: b, dst: //a/./b/}\n".to_owned(),
                // That of the list.
                "2: files[1] has the dst \"//a/./b/\" of files[0]".to_owned(),
            ),
            (
                "files:\n  - src: a\n    dst: /a\n    mode: 0o644\n".to_owned(),
                "4: integer `420` is not three or four octal digits in quotes, as in \"0644\""
                    .to_owned(),
            ),
            (
                "files:\n  - {src: a, dst: /a, owner: root}\n".to_owned(),
                "2: unknown field \"owner\"; use one of src, dst, mode".to_owned(),
            ),
        ] {
            assert_eq!(
                Spec::from_yaml(&text).unwrap_err().to_string(),
                expected,
                "{text}"
            );
        }
        let json = "{\"files\": [\n{\"src\": \"a\", \"dst\": \"x\"}]}";
        assert_eq!(
            Spec::from_json(json).unwrap_err().to_string(),
            format!("2: {not}")
        );
        let list = format!(
            "files: [{}]",
            (0..=MAX_FILES)
                .map(|number| format!("{{src: a, dst: /{number}}}, "))
                .collect::<String>()
        );
        let error = Spec::from_yaml(&list).unwrap_err().to_string();
        assert_eq!(error, "1: files has more than 1000 entries");
    }
}
