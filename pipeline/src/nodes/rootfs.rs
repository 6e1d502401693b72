//! The `rootfs` node: an image's layers as one ext4 file system.
//!
//! Key: the layers' diff ids from the bottom up, the size that was asked for,
//! and the writer with its version. The compressed layers are not part of it:
//! the same tars shipped in another compression give the same image.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;

use microagent_cas::{Digest, Output, StoreError};

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::disk::ext4::{self, MIB, Size, WriteError};
use crate::disk::mke2fs::Mke2fs;
use crate::engine::node::NodeSpec;
use crate::engine::progress::{Event, Stage};
use crate::error::Error;
use crate::nodes::layer::Unpacked;
use crate::nodes::resolve::Image;
use crate::pipeline::Pipeline;
use crate::tar::index::IndexReader;
use crate::tree::Tree;
use crate::tree::merge::Merger;

/// The operation, and its output.
pub(crate) const OP: &str = "rootfs";

/// Rises whenever the bytes of an image could change for the same key.
const OP_VERSION: u32 = 2;

/// What is free in a root file system whose size nobody asked for.
pub const HEADROOM_MIB: u64 = 512;

/// How a root file system shall be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsOptions {
    /// Its size in MiB; as the content needs plus [`HEADROOM_MIB`] when `None`.
    pub size_mib: Option<u64>,
    /// A `mke2fs` to make it with instead of our own writer; `debugfs` is
    /// taken from the same directory.
    pub mke2fs: Option<PathBuf>,
}

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// Its name: the digest of its chunk map ([`microagent_cas::ChunkMap`]).
    pub digest: Digest,
    /// The file in the store: read-only, and to be left so.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
}

/// Why a tree cannot become a file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the message of each says it
pub enum RootfsError {
    #[error("{asked_mib} MiB are too small for the image: it needs {least_mib} MiB")]
    TooSmall { asked_mib: u64, least_mib: u64 },
    #[error("the image is too large: a root file system has at most {most_mib} MiB")]
    TooLarge { most_mib: u64 },
    #[error("a name in {directory:?} is not UTF-8 and has no place in our ext4 writer's directory")]
    Name { directory: String },
    #[error("the image has files in /lost+found, which is the file system's own")]
    LostFound,
    #[error("the extended attributes of {path:?} do not fit an ext4 file system")]
    Attributes { path: String },
    #[error("the file {path:?} is larger than an ext4 file can be")]
    FileTooLarge { path: String },
    #[error("{path:?} cannot be stored in an ext4 file system")]
    Inode {
        path: String,
        #[source]
        source: mkext4::Error,
    },
    #[error("the root file system cannot be laid out")]
    Layout {
        #[source]
        source: mkext4::Error,
    },
    #[error("the index of layer {layer} is damaged")]
    Index {
        layer: Digest,
        #[source]
        source: io::Error,
    },
    #[error("the tar of layer {layer} in the store does not fit its index")]
    Tar { layer: Digest },
}

impl Diagnosis for RootfsError {
    fn kind(&self) -> ErrorKind {
        match self {
            RootfsError::TooSmall { .. } => ErrorKind::TooSmall,
            RootfsError::Index { .. } | RootfsError::Tar { .. } => ErrorKind::Corrupt,
            RootfsError::Layout { .. } => ErrorKind::Internal,
            _ => ErrorKind::Unsupported,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            RootfsError::TooSmall { least_mib, .. } => {
                format!("use --size-mib {least_mib} or more, or leave it out")
            }
            RootfsError::Name { .. } => {
                "use --mke2fs with the path of your system's mke2fs, such as /usr/sbin/mke2fs"
                    .into()
            }
            RootfsError::Index { .. } | RootfsError::Tar { .. } => {
                "delete the state directory's cas/nodes directory and try again".into()
            }
            _ => return None,
        })
    }
}

impl Pipeline {
    /// The root file system of an image. Its key is made of what the layers unpack to, which the
    /// image's configuration says: a file system that is here already needs no layer. For one
    /// that is not, the layers are fetched and unpacked as far as they are not here.
    ///
    /// # Errors
    /// Whatever fetching, unpacking and merging say, and [`RootfsError`].
    pub fn rootfs(&self, image: &Image, options: &RootfsOptions) -> Result<Rootfs, Error> {
        let tool = match &options.mke2fs {
            Some(path) => Some(Mke2fs::find(self.store(), path)?),
            None => None,
        };
        let spec = spec(image, options, tool.as_ref());
        // Before the node is begun, so that it does not count as its work.
        let layers = match self.store().node(&spec.key())? {
            Some(_) => None,
            None => Some(self.layers(image)?),
        };
        let node = self.node(spec, || {
            let layers = match layers {
                Some(layers) => layers,
                None => self.layers(image)?,
            };
            let (stage, detail) = (Stage::Rootfs, image.reference.clone());
            self.tell(Event::StageStarted {
                stage,
                detail: detail.clone(),
                total_bytes: None,
            });
            let size = match options.size_mib {
                Some(mib) => Size::Exact(mib.saturating_mul(MIB)),
                None => Size::Headroom(HEADROOM_MIB * MIB),
            };
            let seed = seed(&layers, options.size_mib);
            let output = self.build(&layers, &seed, size, tool.as_ref(), &detail)?;
            self.tell(Event::StageDone { stage, detail });
            Ok([(OP.to_owned(), output)].into())
        })?;
        if self.store().set_subject(&image.reference, &node.record)? || !node.hit {
            self.tag_image(image)?;
        }
        let output = node.output(OP)?;
        Ok(Rootfs {
            digest: output.digest(),
            path: self.store().output_path(&output),
            size: node.record.size,
        })
    }

    fn build(
        &self,
        layers: &[Unpacked],
        seed: &Digest,
        size: Size,
        tool: Option<&Mke2fs>,
        detail: &str,
    ) -> Result<Output, Error> {
        let tree = self.merge(layers)?;
        let mut tars = Vec::new();
        for layer in layers {
            tars.push(self.open(&layer.tar)?);
        }
        let mut progress = |bytes| {
            self.tell(Event::Advanced {
                stage: Stage::Rootfs,
                detail: detail.to_owned(),
                bytes,
            });
        };
        let planned = match (tool, size) {
            (Some(tool), _) => return tool.build(self.store(), &tree, layers, &tars, seed, size),
            (None, size) => ext4::plan(&tree, seed, size)?,
        };
        let scratch = self.store().scratch()?;
        planned
            .write(&tars, scratch.file(), &mut progress)
            .map_err(|error| write_error(error, layers, self.store().root()))?;
        Ok(scratch.commit_sparse()?.0)
    }

    /// The tree that the layers add up to.
    fn merge(&self, layers: &[Unpacked]) -> Result<Tree, Error> {
        let mut merger = Merger::new();
        for (number, layer) in layers.iter().enumerate() {
            merger.begin_layer(number, &layer.layer.to_string());
            let damaged = |source| RootfsError::Index {
                layer: layer.layer,
                source,
            };
            let file = self.open(&layer.index)?;
            let mut index = IndexReader::new(BufReader::new(file)).map_err(damaged)?;
            while let Some(entry) = index.next_entry().map_err(damaged)? {
                merger.add(entry)?;
            }
        }
        Ok(merger.finish())
    }

    /// A blob that a node record has promised.
    pub(crate) fn open(&self, digest: &Digest) -> Result<File, Error> {
        match self.store().open_blob(digest)? {
            Some(blob) => Ok(blob.file),
            None => Err(StoreError::io(
                "open",
                &self.store().blob_path(digest),
                io::Error::from(io::ErrorKind::NotFound),
            )
            .into()),
        }
    }
}

/// What a root file system depends on.
pub(crate) fn spec(image: &Image, options: &RootfsOptions, tool: Option<&Mke2fs>) -> NodeSpec {
    let layer = |diff_id| ("layer".to_owned(), diff_id);
    let mut inputs: Vec<_> = (image.layers.iter())
        .map(|descriptor| layer(descriptor.diff_id))
        .collect();
    inputs.extend(tool.into_iter().flat_map(Mke2fs::inputs));
    NodeSpec {
        op: OP,
        op_version: OP_VERSION,
        params: serde_json::json!({
            "writer": if tool.is_some() { "mke2fs" } else { ext4::WRITER },
            "sizeMiB": options.size_mib,
            "headroomMiB": HEADROOM_MIB,
        }),
        inputs,
        platform: None,
    }
}

/// What the file system's UUID is made of: the same content and size have the
/// same one, wherever they are built.
fn seed(layers: &[Unpacked], size_mib: Option<u64>) -> Digest {
    let mut text = format!("microagent rootfs {OP_VERSION} {size_mib:?}\n");
    for layer in layers {
        text.push_str(&format!("{}\n", layer.tar));
    }
    Digest::of(text.as_bytes())
}

fn write_error(error: WriteError, layers: &[Unpacked], store: &std::path::Path) -> Error {
    match error {
        WriteError::Image(error) => StoreError::io("write an image in", store, error).into(),
        WriteError::Layer(number) => RootfsError::Tar {
            layer: layers.get(number).map_or(Digest::of(b""), |l| l.layer),
        }
        .into(),
        WriteError::Name(directory) => RootfsError::Name { directory }.into(),
        WriteError::Writer(source) => RootfsError::Layout { source }.into(),
    }
}
