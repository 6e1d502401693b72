//! The `bundle` node: a local tar as an ext4 file system, to be mounted at a given path in a guest.
//!
//! Key: the digest of the file as it is, compressed or not, the volume label, the mount point, the
//! free space, the versions of unpacking and merging, and the writer with its version. The output
//! depends on the tar in the file, not on its compression: the same tar, compressed again, gives
//! the same disk.
//!
//! - The tree is the one that `tar -x` would create as root, with extended attributes. A bundle is
//!   not a layer: names that begin with `.wh.` are ordinary names. A member that escapes from the
//!   bundle is rejected, as in a layer ([`crate::tree::merge`]).
//! - The label is the bundle's name, truncated to 16 bytes.
//! - The mount point is recorded as the file system's "last mounted on", truncated to 63 bytes.
//! - A read-only disk is as large as its content; a writable one has [`HEADROOM_MIB`] of free
//!   space.
//!
//! The file is read once: hashed, decompressed into a scratch file and indexed in one pass; then
//! the file system is written from the scratch file. The data read must have the digest in the
//! node's key, so a file that changes meanwhile is never recorded under the wrong key.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use microagent_cas::{Digest, Hasher, Output, Store, StoreError};

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::disk::error::{DiskError, WriteError};
use crate::disk::ext4::{self, Identity, LABEL_BYTES};
use crate::disk::{HEADROOM_MIB, MIB, Size};
use crate::engine::Engine;
use crate::engine::node::NodeSpec;
use crate::engine::progress::Stage;
use crate::nodes::local_file;
use crate::tar::decompress::Compression;
use crate::tar::decompress::needs_too_much_memory;
use crate::tar::reader::READER_VERSION;
use crate::tar::reader::TarError;
use crate::tar::stream::{MAX_UNPACKED, Meter, UnpackError, unpack};
use crate::tree::Tree;
use crate::tree::merge::{MERGE_VERSION, MergeError, MergeProblem, Merger};

/// The operation, and its output.
const OP: &str = "bundle";

/// Must rise whenever the bytes of a disk could change for the same key.
const OP_VERSION: u32 = 2;

/// The size of a read from the file, in bytes.
const CHUNK: usize = 256 << 10;

/// The disk to build from a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleOptions {
    /// The tar.
    pub path: PathBuf,
    /// The disk's name, and its volume label.
    pub name: String,
    /// The mount point in the guest: an absolute path.
    pub mount: String,
    /// Whether the disk has free space for writing.
    pub writable: bool,
}

/// A disk built from a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The digest of its chunk map ([`microagent_cas::ChunkMap`]).
    pub digest: Digest,
    /// The file in the store. It is read-only and must not be changed.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// Why a tar cannot be converted to a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message documents its variant
pub enum BundleError {
    #[error("the bundle {} cannot be read", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the bundle {} is not a regular file", path.display())]
    NoFile { path: PathBuf },
    #[error("the bundle {} is empty", path.display())]
    Empty { path: PathBuf },
    #[error("the bundle {} has an unsupported compression: {compression}", path.display())]
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
    #[error("the bundle {} is not a readable tar", path.display())]
    Tar {
        path: PathBuf,
        #[source]
        source: TarError,
    },
    #[error("the bundle {} unpacks to more than {} GiB", path.display(), MAX_UNPACKED >> 30)]
    Bomb { path: PathBuf },
    #[error("the bundle {} has a member that cannot be unpacked: {entry:?}", path.display())]
    Member {
        path: PathBuf,
        entry: String,
        #[source]
        problem: MergeProblem,
    },
    #[error("the bundle {} cannot be converted to a file system", path.display())]
    FileSystem {
        path: PathBuf,
        #[source]
        source: DiskError,
    },
    #[error("the bundle {} changed while it was read", path.display())]
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
            BundleError::Tar {
                source: TarError::Type { .. },
                ..
            }
            | BundleError::Member {
                problem: MergeProblem::Attribute { .. } | MergeProblem::Attributes,
                ..
            } => ErrorKind::Unsupported,
            BundleError::Decompress { source, .. } if needs_too_much_memory(source) => {
                ErrorKind::Unsupported
            }
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
                "use a tar that is compressed with gzip or zstd, or uncompressed".into()
            }
            BundleError::Decompress { source, .. } if needs_too_much_memory(source) => {
                "compress it with a window of at most 128 MiB (`zstd --long=27`)".into()
            }
            BundleError::Tar {
                source: TarError::Type { .. },
                ..
            } => "create the tar without it, or in another format (`tar --format=pax`)".into(),
            BundleError::Member {
                problem: MergeProblem::Attribute { .. } | MergeProblem::Attributes,
                ..
            } => "create the tar without the attribute".into(),
            BundleError::FileSystem { .. } => "remove the named files from the tar".into(),
            BundleError::Bomb { .. } => "use a smaller tar".into(),
            BundleError::Changed { .. } => "try again when nothing writes to it".into(),
            _ => "the tar is damaged or hostile: do not use it, or create it again".into(),
        })
    }

    fn retryable(&self) -> bool {
        matches!(self, BundleError::Changed { .. })
    }
}

/// Why a bundle could not be built.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum BundleFailure {
    Store(#[from] StoreError),
    Bundle(#[from] BundleError),
}

/// Builds the disk of a tar, or finds it in the store.
///
/// # Errors
/// [`BundleError`], and those of the store.
pub(crate) fn bundle(engine: &Engine, options: &BundleOptions) -> Result<Bundle, BundleFailure> {
    let store = engine.store();
    let digest = file_digest(store, &options.path)?;
    let node = engine.node(spec(options, digest), || {
        let output = engine.stage(Stage::Bundle, &options.name, None, |advance| {
            build(store, options, digest, advance)
        })?;
        Ok::<_, BundleFailure>([(OP.to_owned(), output)].into())
    })?;
    if let Some(path) = std::path::absolute(&options.path)
        .ok()
        .as_deref()
        .and_then(Path::to_str)
    {
        store.set_subject(path, &node.record)?;
    }
    local_file::record(engine, &options.path, &digest)?;
    let output = node.output(OP)?;
    Ok(Bundle {
        digest: output.digest(),
        path: store.output_path(&output),
        size: node.record.size,
    })
}

fn file_digest(store: &Store, path: &Path) -> Result<Digest, BundleFailure> {
    // Checked before opening, which would block on a FIFO.
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
    Ok(store.digest_known(&path)?.0)
}

fn build(
    store: &Store,
    options: &BundleOptions,
    digest: Digest,
    advance: &dyn Fn(u64),
) -> Result<Output, BundleFailure> {
    let tar = store.scratch()?;
    let (tree, content) = read(store, options, digest, tar.file(), advance)?;
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
    let image =
        |error| BundleFailure::from(StoreError::io("write an image in", store.root(), error));
    let tars = [tar.file().try_clone().map_err(image)?];
    planned
        .write(&tars, scratch.file(), &mut |_| {})
        .map_err(|error| match error {
            WriteError::Image(error) => image(error),
            // The tar is this function's own scratch file.
            WriteError::Layer(_) => image(io::ErrorKind::UnexpectedEof.into()),
            WriteError::Disk(error) => failed(error).into(),
        })?;
    ext4::set_last_mounted(scratch.file(), &options.mount).map_err(image)?;
    Ok(scratch.commit_sparse()?.0)
}

/// Reads the bundle, which must have the digest `digest`, into `tar`; returns its tree and the
/// digest of the uncompressed tar.
fn read(
    store: &Store,
    options: &BundleOptions,
    digest: Digest,
    tar: &File,
    advance: &dyn Fn(u64),
) -> Result<(Tree, Digest), BundleFailure> {
    let path = || options.path.clone();
    let file = File::open(&options.path).map_err(|source| BundleError::Open {
        path: path(),
        source,
    })?;
    let mut input = BufReader::with_capacity(CHUNK, Hashed::new(file));
    let mut merger = Merger::without_whiteouts();
    merger.begin_layer(0, &options.name);
    let meter = Meter {
        total: &AtomicU64::new(0),
        advance,
    };
    let open = |compression| {
        Ok(Some(HashedTar {
            file: tar,
            // The digest of an uncompressed file is already known.
            hasher: (compression != Compression::None).then(Hasher::new),
        }))
    };
    let member = |entry| {
        merger.add(entry).map_err(|error| {
            let MergeError { entry, problem, .. } = error;
            BundleFailure::from(BundleError::Member {
                path: path(),
                entry,
                problem,
            })
        })
    };
    let unpacked = unpack(&mut input, &meter, open, member);
    let actual = io::copy(&mut input, &mut io::sink())
        .map(|_| input.into_inner().hasher.finish())
        .map_err(|source| BundleError::Open {
            path: path(),
            source,
        })?;
    if actual != digest {
        return Err(BundleError::Changed { path: path() }.into());
    }
    let written = unpacked.map_err(|error| unpack_failure(store, error, path()))?;
    let content = written.and_then(|tar| tar.hasher).map(Hasher::finish);
    Ok((merger.finish(), content.unwrap_or(digest)))
}

fn unpack_failure(
    store: &Store,
    error: UnpackError<BundleFailure>,
    path: PathBuf,
) -> BundleFailure {
    match error {
        UnpackError::Compression(compression) => BundleError::Compression { path, compression },
        UnpackError::Input(source) => BundleError::Decompress { path, source },
        UnpackError::Tar(source) => BundleError::Tar { path, source },
        UnpackError::TooLarge => BundleError::Bomb { path },
        UnpackError::Output(error) => {
            return StoreError::io("write a file in", store.root(), error).into();
        }
        UnpackError::Caller(error) => return error,
    }
    .into()
}

/// The `bundle` node.
fn spec(options: &BundleOptions, digest: Digest) -> NodeSpec {
    NodeSpec {
        op: OP,
        op_version: OP_VERSION,
        params: serde_json::json!({
            "writer": ext4::WRITER,
            "reader": READER_VERSION,
            "merge": MERGE_VERSION,
            "label": label(&options.name),
            "mount": options.mount,
            "headroomMiB": headroom_mib(options),
        }),
        inputs: vec![("tar".to_owned(), digest)],
        platform: None,
    }
}

/// The seed of the file system's UUID.
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

/// The longest prefix of the name that fits a volume label.
fn label(name: &str) -> &str {
    let fits = |end: &usize| *end <= LABEL_BYTES;
    let ends = name.char_indices().map(|(at, c)| at + c.len_utf8());
    &name[..ends.take_while(fits).last().unwrap_or(0)]
}

/// Hashes a file while it is read.
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

/// Writes the uncompressed tar, and hashes it if its digest is not known yet.
struct HashedTar<'a> {
    file: &'a File,
    hasher: Option<Hasher>,
}

impl Write for HashedTar<'_> {
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
    fn a_label_is_the_longest_prefix_of_the_name_that_fits() {
        assert_eq!(label("data"), "data");
        assert_eq!(label("sixteen-bytes-ab"), "sixteen-bytes-ab");
        assert_eq!(label("sixteen-bytes-abc"), "sixteen-bytes-ab");
        assert_eq!(label("fifteen-bytes-\u{e9}"), "fifteen-bytes-\u{e9}");
        assert_eq!(label("fifteen-bytes-a\u{e9}"), "fifteen-bytes-a");
        assert_eq!(label(""), "");
    }
}
