//! Unpacks a kernel's source from a `.deb` or a tar into a directory.
//!
//! Building a source runs code from it: makefiles are programs. This module only ensures that
//! unpacking does not write outside of the directory, and that a wrong file is reported.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use super::error::{KernelBuildError, KernelBuildFailure};
use crate::kernel::package;
use crate::kernel::tool::Tool;

/// Maximum unpacked size of a source in bytes. Linux 6.1 has 1.3 GB.
const MAX_UNPACKED: u64 = 8 << 30;

/// Maximum number of entries of a source. Linux 6.1 has 83 000.
const MAX_ENTRIES: usize = 1_000_000;

/// Memory limit for decompressing, in KiB. kernel.org uses `xz -9`, which needs 64 MiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// Files in every source of Linux for x86.
const LANDMARKS: &[&str] = &["Makefile", "Kconfig", "arch/x86/Kconfig", "scripts/kconfig"];

/// Number of bytes from the start of a file that identify its format.
const HEAD: u64 = 512;

/// Unpacks the source in `file` below `directory` and returns its top-level directory. `advance` is
/// called with the number of bytes of each read from `file`.
pub(crate) fn unpack(
    name: &str,
    mut file: File,
    directory: &Path,
    advance: impl FnMut(u64),
) -> Result<PathBuf, KernelBuildFailure> {
    let unreadable = |error: io::Error| bad(name, error);
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    (&file)
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(unreadable)?;
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    if package::is_package(&head) {
        return unpack_package(name, file, directory, advance);
    }
    let reader = ProgressReader {
        inner: file,
        advance,
    };
    Ok(unpack_tar(name, decompressed(&head, reader), directory)?)
}

/// `usr/src/linux-source-*.tar.xz` in Debian's package.
fn unpack_package(
    name: &str,
    file: File,
    directory: &Path,
    advance: impl FnMut(u64),
) -> Result<PathBuf, KernelBuildFailure> {
    let (running, stdout) = Tool::new("dpkg-deb", &["--fsys-tarfile"])
        .args(["/dev/stdin"])
        .stdin(file)
        .start()?;
    let mut archive = tar::Archive::new(ProgressReader {
        inner: stdout,
        advance,
    });
    let found = (|| {
        for entry in archive.entries().map_err(|error| bad(name, error))? {
            let mut entry = entry.map_err(|error| bad(name, error))?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let is_source = path
                .trim_start_matches("./")
                .starts_with("usr/src/linux-source-")
                && path.contains(".tar");
            if is_source && entry.header().entry_type() == tar::EntryType::Regular {
                let mut head = Vec::new();
                (&mut entry)
                    .take(HEAD)
                    .read_to_end(&mut head)
                    .map_err(|error| bad(name, error))?;
                let whole = io::Cursor::new(head.clone()).chain(entry);
                return unpack_tar(name, decompressed(&head, whole), directory).map(Some);
            }
        }
        Ok(None)
    })();
    // Drain the stream, so that dpkg-deb reports a damaged package.
    let _ = io::copy(&mut archive.into_inner(), &mut io::sink());
    running.finish()?;
    found?.ok_or_else(|| bad(name, "it contains no usr/src/linux-source-*.tar").into())
}

fn decompressed<'a>(head: &[u8], reader: impl Read + 'a) -> Box<dyn Read + 'a> {
    match head {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(lzma_rust2::XzReader::new_mem_limit(
            reader,
            true,
            XZ_MEMORY_KIB,
        )),
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        _ => Box::new(reader),
    }
}

fn unpack_tar(
    name: &str,
    reader: impl Read,
    directory: &Path,
) -> Result<PathBuf, KernelBuildError> {
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(false);
    let mut top: Option<PathBuf> = None;
    let mut unpacked = 0_u64;
    for (count, entry) in archive
        .entries()
        .map_err(|error| bad(name, error))?
        .enumerate()
    {
        let mut entry = entry.map_err(|error| bad(name, error))?;
        unpacked = unpacked.saturating_add(entry.size());
        if count >= MAX_ENTRIES || unpacked > MAX_UNPACKED {
            return Err(bad(name, "it exceeds the size limit of a kernel source"));
        }
        let kind = entry.header().entry_type();
        if !matches!(
            kind,
            tar::EntryType::Regular | tar::EntryType::Directory | tar::EntryType::Symlink
        ) {
            continue;
        }
        let path = entry.path().map_err(|error| bad(name, error))?.into_owned();
        let shown = path.display();
        let link = entry.link_name().map_err(|error| bad(name, error))?;
        if !stays_inside(&path, link.as_deref()) {
            return Err(bad(name, format!("{shown} points outside of it")));
        }
        // Some archives begin with an entry for `./`.
        let Some(Component::Normal(first)) = path
            .components()
            .find(|component| matches!(component, Component::Normal(_)))
        else {
            continue;
        };
        match &top {
            None => top = Some(first.into()),
            Some(top) if top.as_os_str() == first => {}
            Some(_) => {
                return Err(bad(
                    name,
                    format!("{shown} is outside of its top-level directory"),
                ));
            }
        }
        match entry.unpack_in(directory) {
            Ok(true) => {}
            Ok(false) => return Err(bad(name, format!("{shown} points outside of it"))),
            Err(source) if is_host_error(&source) => {
                return Err(KernelBuildError::File {
                    action: "write",
                    path: directory.join(&path),
                    source,
                });
            }
            Err(error) => return Err(bad(name, error)),
        }
    }
    let tree = top.map(|top| directory.join(top));
    let tree = tree.ok_or_else(|| bad(name, "it contains no files"))?;
    for landmark in LANDMARKS {
        if fs::symlink_metadata(tree.join(landmark)).is_err() {
            return Err(bad(name, format!("it does not contain {landmark}")));
        }
    }
    Ok(tree)
}

/// Whether an entry and its link target are below the top-level directory, judged by their names
/// alone.
fn stays_inside(path: &Path, link: Option<&Path>) -> bool {
    let mut depth = 0_usize;
    for component in path.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            _ => return false,
        }
    }
    // Relative to the directory of the link, and never above the top-level one.
    let mut depth = depth.saturating_sub(1);
    for component in link.into_iter().flat_map(Path::components) {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 1 => depth -= 1,
            _ => return false,
        }
    }
    true
}

/// Whether the host, not the archive, is the cause.
fn is_host_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn bad(name: &str, why: impl ToString) -> KernelBuildError {
    KernelBuildError::BadSource {
        name: name.to_owned(),
        why: why.to_string(),
    }
}

/// A reader that reports the number of bytes of each read.
struct ProgressReader<R, F> {
    inner: R,
    advance: F,
}

impl<R: Read, F: FnMut(u64)> Read for ProgressReader<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        (self.advance)(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_links_must_stay_below_the_top_level_directory() {
        let inside =
            |path: &str, link: Option<&str>| stays_inside(Path::new(path), link.map(Path::new));
        for (path, link) in [
            ("linux/a", None),
            ("./linux/a", None),
            ("linux/a/b", Some("../c")),
            (
                "linux/scripts/dtc/include-prefixes/arm",
                Some("../../../arch/arm/boot/dts"),
            ),
        ] {
            assert!(inside(path, link), "{path} {link:?}");
        }
        for (path, link) in [
            ("/etc/passwd", None),
            ("linux/../../x", None),
            ("../x", None),
            ("linux/a", Some("/etc")),
            ("linux/a", Some("../etc")),
            ("linux/a/b", Some("../../x")),
        ] {
            assert!(!inside(path, link), "{path} {link:?}");
        }
    }
}
