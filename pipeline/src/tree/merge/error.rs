//! Why a layer cannot be added to a tree.

use super::budget::{MAX_BLOCKS, MAX_INODES, MAX_MEMORY};
use super::path::{MAX_LINKS, MAX_NAME, MAX_PATH, MAX_STEPS};
use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::tree::xattr::Impossible;

/// Why a layer cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("layer {layer}: cannot unpack {entry:?}: {problem}")]
pub struct MergeError {
    /// The layer's digest.
    pub layer: String,
    /// The member's name in the tar.
    pub entry: String,
    /// The problem.
    pub problem: MergeProblem,
}

/// The problem with a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each message documents its variant
pub enum MergeProblem {
    #[error("its name leaves the root directory")]
    Escape,
    #[error("its link target {0:?} leaves the root directory")]
    LinkEscape(String),
    #[error("it passes through more than {MAX_LINKS} symbolic links")]
    SymlinkLoop,
    #[error("the symbolic links in its path have more than {MAX_STEPS} components together")]
    SymlinkSteps,
    #[error("its link target {0:?} is not in the image")]
    MissingTarget(String),
    #[error("its link target {0:?} is a directory")]
    DirectoryTarget(String),
    #[error("its link target is empty, longer than {MAX_PATH} bytes, or contains a NUL byte")]
    BadTarget,
    #[error(
        "its name contains a NUL byte, or is longer than {MAX_PATH} bytes or {MAX_NAME} bytes per component"
    )]
    BadName,
    #[error("it would replace the root directory")]
    Root,
    #[error("it is a whiteout without a file name")]
    BadWhiteout,
    #[error("its extended attribute {name:?} cannot be set: {reason}")]
    Attribute { name: String, reason: &'static str },
    #[error("its extended attributes cannot be stored in an ext4 file system")]
    Attributes,
    #[error("the image has more than {MAX_INODES} files")]
    TooMany,
    #[error(
        "the image has more than {MAX_BLOCKS} directories, long symbolic links and files with extended attributes"
    )]
    TooManyBlocks,
    #[error("the file tree of the image takes more than {} MiB of memory", MAX_MEMORY >> 20)]
    TooLarge,
}

impl From<Impossible> for MergeProblem {
    fn from(attribute: Impossible) -> MergeProblem {
        MergeProblem::Attribute {
            name: attribute.name,
            reason: attribute.reason,
        }
    }
}

impl Diagnosis for MergeError {
    fn kind(&self) -> ErrorKind {
        match self.problem {
            MergeProblem::Attributes => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self.problem {
            MergeProblem::TooMany | MergeProblem::TooManyBlocks | MergeProblem::TooLarge => {
                "use an image with fewer files".into()
            }
            MergeProblem::Attribute { .. } => "rebuild the image without the attribute".into(),
            MergeProblem::Attributes => {
                "rebuild the image without the attributes: ext4 has 4 KiB for those of a file"
                    .into()
            }
            _ => "the image is malformed or hostile: do not use it, or rebuild it".into(),
        })
    }
}
