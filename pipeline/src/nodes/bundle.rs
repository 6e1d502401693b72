//! The `bundle` node: a tar on this host as one ext4 file system, to be mounted at a certain place
//! of a guest.
//!
//! Key: the digest of the file as it is (plain, gzip or zstd), the volume label, the mount point,
//! the room for writing, and the writer with its version. The output depends on the tar that is
//! in the file, not on its compression: the same tar compressed anew gives the same disk.
//!
//! - The tree is what `tar -x` makes of the tar, as root and with extended attributes. A bundle is
//!   no layer: names that begin with `.wh.` are kept as they are. A member that reaches out of the
//!   bundle is refused as it is in a layer ([`crate::tree::merge`]).
//! - The label is the bundle's name; of a longer name than a label can be, its first 16 bytes.
//! - The mount point is recorded as the file system's "last mounted on", cut at 63 bytes.
//! - A disk that is only read is as large as its content; one that is written has [`HEADROOM_MIB`]
//!   free.
//!
//! The file is read once: hashed, decompressed into a scratch file and indexed in one pass; then
//! the file system is written from the scratch file. What was read must have the digest that the
//! node is named by, so that a file that changes meanwhile is never recorded as another.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use microagent_cas::{Digest, Hasher, Output, StoreError};

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::disk::ext4::{self, Identity, LABEL_BYTES, MIB, Size, WriteError};
use crate::engine::node::NodeSpec;
use crate::engine::progress::{Event, Stage};
use crate::error::Error;
use crate::nodes::rootfs::{HEADROOM_MIB, RootfsError};
use crate::pipeline::Pipeline;
use crate::tar::decompress::Compression;
use crate::tar::reader::TarError;
use crate::tar::stream::{MAX_UNPACKED, Meter, UnpackError, unpack};
use crate::tree::Tree;
use crate::tree::merge::{MergeError, MergeProblem, Merger};

/// The operation, and its output.
const OP: &str = "bundle";

/// Rises whenever the bytes of a disk could change for the same key.
const OP_VERSION: u32 = 1;

/// How much of the file is read at once.
const CHUNK: usize = 256 << 10;

/// What shall become a disk, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleOptions {
    /// The tar.
    pub path: PathBuf,
    /// The disk's name; the volume label is made of it.
    pub name: String,
    /// Where it belongs in the guest: an absolute path.
    pub mount: String,
    /// Whether it shall have room for writing.
    pub writable: bool,
}

/// A disk made from a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Its name: the digest of its chunk map ([`microagent_cas::ChunkMap`]).
    pub digest: Digest,
    /// The file in the store: read-only, and to be left so.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
}

/// Why a tar cannot become a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the message of each says it
pub enum BundleError {
    #[error("the bundle {} cannot be read", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the bundle {} is no file", path.display())]
    NoFile { path: PathBuf },
    #[error("the bundle {} is empty", path.display())]
    Empty { path: PathBuf },
    #[error("the bundle {} is compressed with {compression}", path.display())]
    Compression {
        path: PathBuf,
        compression: &'static str,
    },
    #[error("the bundle {} cannot be decompressed", path.display())]
    Decompress {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the bundle {} is no tar that can be read", path.display())]
    Tar {
        path: PathBuf,
        #[source]
        source: TarError,
    },
    #[error("the bundle {} unpacks to more than {} GiB", path.display(), MAX_UNPACKED >> 30)]
    Bomb { path: PathBuf },
    #[error("the bundle {} has a member that cannot be unpacked, {entry:?}", path.display())]
    Member {
        path: PathBuf,
        entry: String,
        #[source]
        problem: MergeProblem,
    },
    #[error("the bundle {} cannot become a file system", path.display())]
    FileSystem {
        path: PathBuf,
        #[source]
        source: RootfsError,
    },
    #[error("the bundle {} was changed while it was read", path.display())]
    Changed { path: PathBuf },
}

impl Diagnosis for BundleError {
    fn kind(&self) -> ErrorKind {
        match self {
            BundleError::Open { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                _ => ErrorKind::Host,
            },
            BundleError::NoFile { .. } | BundleError::Compression { .. } => ErrorKind::Unsupported,
            BundleError::FileSystem { source, .. } => source.kind(),
            BundleError::Changed { .. } => ErrorKind::Conflict,
            _ => ErrorKind::Corrupt,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            BundleError::Open { .. } => return None,
            BundleError::NoFile { .. } => {
                "pack a directory with tar, as in: tar -C DIRECTORY -cf FILE .".into()
            }
            BundleError::Compression { .. } => {
                "use a tar that is compressed with gzip or zstd, or not at all".into()
            }
            BundleError::FileSystem { .. } | BundleError::Bomb { .. } => {
                "leave out of the tar what the message names".into()
            }
            BundleError::Changed { .. } => "try again when nothing writes to it".into(),
            _ => "the tar is damaged or hostile: do not use it, or pack it anew".into(),
        })
    }

    fn retryable(&self) -> bool {
        matches!(self, BundleError::Changed { .. })
    }
}

impl Pipeline {
    /// The disk that a tar becomes.
    ///
    /// # Errors
    /// [`BundleError`], and what the store says.
    pub fn bundle(&self, options: &BundleOptions) -> Result<Bundle, Error> {
        let digest = self.bundle_digest(&options.path)?;
        let node = self.node(spec(options, digest), || {
            let (stage, detail) = (Stage::Bundle, options.name.clone());
            self.tell(Event::StageStarted {
                stage,
                detail: detail.clone(),
                total_bytes: None,
            });
            let output = self.make_bundle(options, digest)?;
            self.tell(Event::StageDone { stage, detail });
            Ok([(OP.to_owned(), output)].into())
        })?;
        if let Some(path) = std::path::absolute(&options.path)
            .ok()
            .as_deref()
            .and_then(Path::to_str)
        {
            self.store().set_subject(path, &node.record)?;
        }
        self.record_local_file(&options.path, &digest)?;
        let output = node.output(OP)?;
        Ok(Bundle {
            digest: output.digest(),
            path: self.store().output_path(&output),
            size: node.record.size,
        })
    }

    fn bundle_digest(&self, path: &Path) -> Result<Digest, Error> {
        // Before it is opened, which waits for ever for some that are no files.
        let metadata = std::fs::metadata(path).map_err(|source| BundleError::Open {
            path: path.to_owned(),
            source,
        })?;
        let path = path.to_owned();
        if !metadata.is_file() {
            return Err(BundleError::NoFile { path }.into());
        }
        if metadata.len() == 0 {
            return Err(BundleError::Empty { path }.into());
        }
        Ok(self.store().digest_known(&path)?.0)
    }

    fn make_bundle(&self, options: &BundleOptions, digest: Digest) -> Result<Output, Error> {
        let store = self.store();
        let tar = store.scratch()?;
        let (tree, content) = self.read_bundle(options, digest, tar.file())?;
        let label = label(&options.name);
        let seed = seed(options, &content);
        let identity = Identity { seed: &seed, label };
        let size = Size::Headroom(headroom_mib(options) * MIB);
        let failed = |source| BundleError::FileSystem {
            path: options.path.clone(),
            source,
        };
        let planned = ext4::plan_as(&tree, identity, size).map_err(failed)?;
        let scratch = store.scratch()?;
        let image = |error| Error::from(StoreError::io("write an image in", store.root(), error));
        let tars = [tar.file().try_clone().map_err(image)?];
        planned
            .write(&tars, scratch.file(), &mut |_| {})
            .map_err(|error| match error {
                WriteError::Image(error) => image(error),
                // The scratch file is ours alone.
                WriteError::Layer(_) => image(io::ErrorKind::UnexpectedEof.into()),
                WriteError::Name(directory) => failed(RootfsError::Name { directory }).into(),
                WriteError::Writer(source) => failed(RootfsError::Layout { source }).into(),
            })?;
        ext4::set_last_mounted(scratch.file(), &options.mount).map_err(image)?;
        Ok(scratch.commit_sparse()?.0)
    }

    /// Reads the bundle whose digest is `digest` into `tar`; gives its tree, and the digest of the
    /// tar in it.
    fn read_bundle(
        &self,
        options: &BundleOptions,
        digest: Digest,
        tar: &File,
    ) -> Result<(Tree, Digest), Error> {
        let path = || options.path.clone();
        let file = File::open(&options.path).map_err(|source| BundleError::Open {
            path: path(),
            source,
        })?;
        let mut input = BufReader::with_capacity(CHUNK, Hashed::new(file));
        let mut merger = Merger::without_whiteouts();
        merger.begin_layer(0, &options.name);
        let tell = |bytes| {
            self.tell(Event::Advanced {
                stage: Stage::Bundle,
                detail: options.name.clone(),
                bytes,
            });
        };
        let meter = Meter {
            total: &AtomicU64::new(0),
            advance: &tell,
        };
        let keep = |compression| {
            Ok(Some(Kept {
                file: tar,
                // The file's own digest says it.
                hasher: (compression != Compression::None).then(Hasher::new),
            }))
        };
        let member = |entry| {
            merger.add(entry).map_err(|error| {
                let MergeError { entry, problem, .. } = error;
                let path = path();
                BundleError::Member {
                    path,
                    entry,
                    problem,
                }
                .into()
            })
        };
        let unpacked = unpack(&mut input, &meter, keep, member);
        let actual = io::copy(&mut input, &mut io::sink())
            .map(|_| input.into_inner().hasher.finish())
            .map_err(|source| BundleError::Open {
                path: path(),
                source,
            })?;
        if actual != digest {
            return Err(BundleError::Changed { path: path() }.into());
        }
        let kept = unpacked.map_err(|error| self.explained(error, path()))?;
        let content = kept.and_then(|kept| kept.hasher).map(Hasher::finish);
        Ok((merger.finish(), content.unwrap_or(digest)))
    }

    fn explained(&self, error: UnpackError<Error>, path: PathBuf) -> Error {
        match error {
            UnpackError::Compression(compression) => BundleError::Compression { path, compression },
            UnpackError::Input(source) => BundleError::Decompress { path, source },
            UnpackError::Tar(source) => BundleError::Tar { path, source },
            UnpackError::TooLarge => BundleError::Bomb { path },
            UnpackError::Output(error) => {
                return StoreError::io("write a file in", self.store().root(), error).into();
            }
            UnpackError::Caller(error) => return error,
        }
        .into()
    }
}

/// What a disk depends on.
fn spec(options: &BundleOptions, digest: Digest) -> NodeSpec {
    NodeSpec {
        op: OP,
        op_version: OP_VERSION,
        params: serde_json::json!({
            "writer": ext4::WRITER,
            "label": label(&options.name),
            "mount": options.mount,
            "headroomMiB": headroom_mib(options),
        }),
        inputs: vec![("tar".to_owned(), digest)],
        platform: None,
    }
}

/// What the file system's UUID is made of.
fn seed(options: &BundleOptions, content: &Digest) -> Digest {
    let parts = serde_json::json!([
        OP,
        OP_VERSION,
        label(&options.name),
        options.mount,
        headroom_mib(options),
        content.to_string(),
    ]);
    Digest::of(parts.to_string().as_bytes())
}

fn headroom_mib(options: &BundleOptions) -> u64 {
    match options.writable {
        true => HEADROOM_MIB,
        false => 0,
    }
}

/// As much of the name as a volume label can be.
fn label(name: &str) -> &str {
    let fits = |end: &usize| *end <= LABEL_BYTES;
    let ends = name.char_indices().map(|(at, c)| at + c.len_utf8());
    &name[..ends.take_while(fits).last().unwrap_or(0)]
}

/// A file that is hashed as it is read.
struct Hashed {
    file: File,
    hasher: Hasher,
}

impl Hashed {
    fn new(file: File) -> Hashed {
        let hasher = Hasher::new();
        Hashed { file, hasher }
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Where the tar in a bundle goes.
struct Kept<'a> {
    file: &'a File,
    hasher: Option<Hasher>,
}

impl Write for Kept<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..written]);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_as_much_of_the_name_as_fits() {
        assert_eq!(label("data"), "data");
        assert_eq!(label("sixteen-bytes-ab"), "sixteen-bytes-ab");
        assert_eq!(label("sixteen-bytes-abc"), "sixteen-bytes-ab");
        assert_eq!(label("fifteen-bytes-\u{e9}"), "fifteen-bytes-\u{e9}");
        assert_eq!(label("fifteen-bytes-a\u{e9}"), "fifteen-bytes-a");
        assert_eq!(label(""), "");
    }
}
