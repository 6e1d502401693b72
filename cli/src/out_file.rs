//! A file whose path the user gave, such as `--out PATH`.
//!
//! | PATH | |
//! |---|---|
//! | absent, or a regular file | a new file without a name, which gets the name once it is complete; a killed process leaves nothing, and an existing file is replaced atomically |
//! | a symbolic link | what it points to, also when that is absent |
//! | a block device that is not in use | written in place |
//! | a FIFO with a reader, a character device, `/dev/stdout`, `/dev/fd/N` | written in sequence |
//! | a directory, a socket | refused |

use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use microagent_pipeline::ErrorKind;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use crate::failure::{Failure, kind_of};
use crate::termination::Termination;

/// Linux follows at most this many symbolic links in a path.
const MAX_LINKS: usize = 40;
/// The permissions of a new file, before the umask.
const MODE: u32 = 0o644;

/// A file to be written. Dropped before [`OutFile::commit`], it leaves a regular file unchanged.
#[derive(Debug)]
pub struct OutFile {
    path: PathBuf,
    place: Place,
    termination: Termination,
}

#[derive(Debug)]
enum Place {
    /// Gets the name `target` at the end.
    Unnamed { file: File, target: PathBuf },
    /// Is renamed to `target` at the end, where the file system has no unnamed files.
    Named {
        file: NamedTempFile,
        target: PathBuf,
    },
    /// A block device.
    Device { file: File },
    /// Written in sequence.
    Stream { file: File, is_stdout: bool },
}

/// How a file must be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A regular file, empty.
    Fresh,
    /// A device of this many bytes, with old content.
    Device(u64),
    /// From begin to end, without seeking.
    Sequential,
}

/// The file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", .path.display())]
pub struct OutError {
    path: PathBuf,
    source: io::Error,
}

impl OutError {
    fn new(path: &Path, source: io::Error) -> OutError {
        OutError {
            path: path.to_owned(),
            source,
        }
    }
}

impl From<OutError> for Failure {
    fn from(error: OutError) -> Failure {
        let kind = match error.source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => kind_of(&error.source),
        };
        Failure::caused(kind, &error)
    }
}

impl OutFile {
    /// Prepares the file at `path`. Nothing that exists is changed yet.
    ///
    /// # Errors
    /// When `path` is a directory, a socket, a FIFO without a reader or a device in use, or cannot
    /// be written.
    pub fn create(path: &Path, termination: &Termination) -> Result<OutFile, OutError> {
        let place = place(path, termination).map_err(|source| OutError::new(path, source))?;
        Ok(OutFile {
            path: path.to_owned(),
            place,
            termination: termination.clone(),
        })
    }

    /// The path that the user gave.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &File {
        match &self.place {
            Place::Named { file, .. } => file.as_file(),
            Place::Unnamed { file, .. } | Place::Device { file } | Place::Stream { file, .. } => {
                file
            }
        }
    }

    /// How it must be written.
    ///
    /// # Errors
    /// When the size of a device cannot be determined.
    pub fn access(&self) -> io::Result<Access> {
        Ok(match &self.place {
            Place::Unnamed { .. } | Place::Named { .. } => Access::Fresh,
            Place::Stream { .. } => Access::Sequential,
            Place::Device { file } => {
                let mut file: &File = file;
                let size = file.seek(SeekFrom::End(0))?;
                file.rewind()?;
                Access::Device(size)
            }
        })
    }

    /// Whether what is written appears on this process's standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(
            self.place,
            Place::Stream {
                is_stdout: true,
                ..
            }
        )
    }

    /// Whether a regular file will be at the path.
    pub fn is_regular(&self) -> bool {
        matches!(self.place, Place::Unnamed { .. } | Place::Named { .. })
    }

    /// An error of a write to this file.
    pub fn error(&self, source: io::Error) -> OutError {
        OutError::new(&self.path, source)
    }

    /// Makes what was written durable, and visible at the path.
    ///
    /// # Errors
    /// When that fails; an existing file is then unchanged.
    pub fn commit(self) -> Result<(), OutError> {
        let OutFile {
            path,
            place,
            termination,
        } = self;
        let result = match place {
            Place::Unnamed { file, target } => file
                .sync_all()
                .and_then(|()| publish(&file, &target, &termination)),
            Place::Named { file, target } => {
                (file.as_file().sync_all()).and_then(|()| replace(file, &target, &termination))
            }
            Place::Device { file } => file.sync_all(),
            Place::Stream { .. } => Ok(()),
        };
        result.map_err(|source| OutError::new(&path, source))
    }
}

fn place(path: &Path, termination: &Termination) -> io::Result<Place> {
    let target = resolve(path)?;
    let metadata = match fs::metadata(&target) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return new_file(target, termination);
        }
        Err(error) => return Err(error),
    };
    let kind = metadata.file_type();
    if is_stdout(&metadata) && (is_magic(&target) || !kind.is_file()) {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        return Ok(Place::Stream {
            file,
            is_stdout: true,
        });
    }
    let refused = |why: &str| Err(io::Error::other(why.to_owned()));
    let open = |flags: OFlags| {
        let flags = flags.bits().cast_signed();
        (File::options().write(true).custom_flags(flags)).open(&target)
    };
    if kind.is_dir() {
        refused("it is a directory")
    } else if kind.is_socket() {
        refused("it is a socket")
    } else if kind.is_block_device() {
        match open(OFlags::EXCL) {
            // open(2), O_EXCL: the device is in use by the system, for example mounted.
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                refused("it is in use, for example mounted")
            }
            file => Ok(Place::Device { file: file? }),
        }
    } else if kind.is_fifo() {
        match open(OFlags::NONBLOCK) {
            // Without O_NONBLOCK, open(2) would wait for a reader for ever.
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                refused("no process has opened this FIFO for reading")
            }
            file => {
                let file = file?;
                let flags = rustix::fs::fcntl_getfl(&file)?;
                rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
                Ok(Place::Stream {
                    file,
                    is_stdout: false,
                })
            }
        }
    } else if kind.is_file() && !is_magic(&target) {
        new_file(target, termination)
    } else {
        Ok(Place::Stream {
            file: open(OFlags::NOCTTY)?,
            is_stdout: false,
        })
    }
}

/// Follows symbolic links at the end of the path, up to one that does not exist or is no link, or
/// to a link in /proc that stands for an open file.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let is_link = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink());
        if !is_link || is_magic(&path) {
            return Ok(path);
        }
        let link = fs::read_link(&path)?;
        path = parent(&path).join(link);
    }
    Err(Errno::LOOP.into())
}

/// Whether a path is one of `/proc/PID/fd/N`, by any name.
fn is_magic(path: &Path) -> bool {
    let directory = fs::canonicalize(parent(path)).unwrap_or_default();
    directory.starts_with("/proc") && directory.ends_with("fd")
}

fn is_stdout(metadata: &Metadata) -> bool {
    rustix::fs::fstat(io::stdout())
        .is_ok_and(|stdout| (stdout.st_dev, stdout.st_ino) == (metadata.dev(), metadata.ino()))
}

fn new_file(target: PathBuf, termination: &Termination) -> io::Result<Place> {
    let directory = parent(&target);
    // The link to the name needs /proc.
    if fs::exists("/proc/self/fd").unwrap_or(false) {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags, Mode::from_raw_mode(MODE)) {
            Ok(fd) => {
                return Ok(Place::Unnamed {
                    file: fd.into(),
                    target,
                });
            }
            // open(2): the file system or the kernel does not support O_TMPFILE.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let file = temporary()
        .permissions(fs::Permissions::from_mode(MODE))
        .tempfile_in(directory)
        // The error's own text names the temporary file, which means nothing to the user.
        .map_err(|error| io::Error::from(error.kind()))?;
    termination.remove_on_exit(file.path());
    Ok(Place::Named { file, target })
}

/// Gives an unnamed file its name.
fn publish(file: &File, target: &Path, termination: &Termination) -> io::Result<()> {
    let magic = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link =
        |name: &Path| rustix::fs::linkat(CWD, magic.as_str(), CWD, name, AtFlags::SYMLINK_FOLLOW);
    match link(target) {
        // linkat(2) cannot replace, and rename(2) needs a name.
        Err(Errno::EXIST) => {
            let named = temporary().make_in(parent(target), |name| {
                termination.remove_on_exit(name);
                link(name).map_err(|error| {
                    termination.keep(name);
                    io::Error::from(error)
                })
            })?;
            replace(named, target, termination)
        }
        result => {
            result?;
            sync_directory(target)
        }
    }
}

/// Renames a temporary file to `target`.
fn replace<F>(file: NamedTempFile<F>, target: &Path, termination: &Termination) -> io::Result<()> {
    let name = file.path().to_owned();
    file.persist(target).map_err(|error| error.error)?;
    termination.keep(&name);
    sync_directory(target)
}

/// The names of temporary files, beside the file that they become.
fn temporary() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".microagent-");
    builder
}

fn sync_directory(target: &Path) -> io::Result<()> {
    File::open(parent(target))?.sync_all()
}

/// The directory of a path.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn write(path: &Path, bytes: &[u8]) -> Result<(), OutError> {
        let out = OutFile::create(path, &Termination::for_test())?;
        out.file().write_all(bytes).unwrap();
        out.commit()
    }

    fn refusal(path: &Path) -> String {
        let error = OutFile::create(path, &Termination::for_test()).unwrap_err();
        microagent_proto::error_chain(&error)
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_regular_file_appears_or_is_replaced_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        for (before, content) in [(None, "first"), (Some("first"), "second")] {
            let out = OutFile::create(&path, &Termination::for_test()).unwrap();
            out.file().write_all(content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), before);
            assert_eq!(names(directory.path()).len(), usize::from(before.is_some()));
            out.commit().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(names(directory.path()), ["out"]);
        }
        drop(OutFile::create(&path, &Termination::for_test()).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
    }

    #[test]
    fn a_symbolic_link_is_followed_even_where_nothing_is() {
        let directory = tempfile::tempdir().unwrap();
        let (other, link) = (
            directory.path().join("other"),
            directory.path().join("link"),
        );
        fs::create_dir(&other).unwrap();
        symlink("hop", &link).unwrap();
        symlink("other/target", directory.path().join("hop")).unwrap();
        for content in ["new", "replaced"] {
            write(&link, content.as_bytes()).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(other.join("target")).unwrap(), content);
        }
        symlink("loop", directory.path().join("loop")).unwrap();
        assert!(refusal(&directory.path().join("loop")).contains("Too many levels"));
    }

    #[test]
    fn devices_are_written_to_and_never_replaced() {
        write(Path::new("/dev/null"), b"gone").unwrap();
        assert!(
            fs::metadata("/dev/null")
                .unwrap()
                .file_type()
                .is_char_device()
        );
        let full = OutFile::create(Path::new("/dev/full"), &Termination::for_test()).unwrap();
        assert_eq!(full.access().unwrap(), Access::Sequential);
        assert_eq!(
            full.file().write_all(b"x").unwrap_err().raw_os_error(),
            Some(28)
        );
    }

    #[test]
    fn a_fifo_needs_a_reader() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        assert!(refusal(&path).ends_with("no process has opened this FIFO for reading"));
        let reading = path.clone();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            File::open(reading)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            text
        });
        while write(&path, b"through").is_err() {
            std::thread::yield_now();
        }
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    }

    #[test]
    fn directories_and_sockets_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let given = directory.path().display();
        assert_eq!(
            refusal(directory.path()),
            format!("cannot write {given}: it is a directory")
        );
        let socket = directory.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(refusal(&socket).ends_with("it is a socket"));
        let missing = directory.path().join("missing/out");
        assert!(refusal(&missing).contains("No such file"));
    }

    /// A name for an open file is not followed to the file, which would be replaced.
    #[test]
    fn an_open_file_is_written_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("open");
        let open = File::create(&path).unwrap();
        let inode = open.metadata().unwrap().ino();
        let descriptor = open.as_raw_fd();
        for name in ["/proc/self/fd", "/dev/fd"] {
            write(&Path::new(name).join(descriptor.to_string()), b"in place").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"in place");
            assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        }
    }
}
