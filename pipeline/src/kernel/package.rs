//! Kernel packages (`.deb`): extracts the kernel and the modules a microVM requires, without
//! installing the package and without creating files under names from the package.
//!
//! `dpkg-deb` decompresses the package; the relevant parts of its tar stream are spooled into one
//! unnamed file and addressed by offset. The modules are stored as a deterministic tar:
//! uncompressed, in load order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use microagent_cas::{Digest, Scratch, Store, StoreError};

use super::error::{KernelError, KernelFailure};
use super::module::{self, SelectError};
use super::tool::Tool;

/// Maximum size in bytes of a kernel or module in a package.
const MAX_PART: u64 = 256 << 20;

/// Maximum size of the spool in bytes. A distribution's generic kernel with all modules is below
/// 1 GiB.
const MAX_SPOOL: u64 = 4 << 30;

/// Maximum number of entries of a package; generic kernels have about 8000.
const MAX_ENTRIES: usize = 200_000;

/// Memory limit for decompressing an xz module, in KiB. The kernel's build uses dictionaries of
/// 2 MiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// A package file.
#[derive(Debug)]
pub(crate) struct Package {
    /// Its name in messages.
    pub(crate) name: String,
    /// The package, open for reading.
    pub(crate) file: File,
}

/// A file in the spool.
#[derive(Debug, Clone)]
struct Part {
    path: String,
    offset: u64,
    size: u64,
}

/// The unpacked content of packages. Only one reader at a time, because the spool has a single file
/// position.
#[derive(Debug)]
pub(crate) struct Unpacked {
    name: String,
    spool: Scratch,
    end: u64,
    kernels: Vec<Part>,
    modules: BTreeMap<String, Part>,
    lists: Lists,
}

/// The files of a package that are about its modules.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    /// `modules.order`: paths of modules, one a line.
    pub(crate) order: Vec<u8>,
    /// `modules.builtin`: the same for the modules that are built in.
    pub(crate) builtin: Vec<u8>,
    /// `modules.builtin.modinfo`: what those say about themselves.
    pub(crate) builtin_info: Vec<u8>,
}

/// Whether a file begins like a `.deb` (deb(5): an ar archive).
pub(crate) fn is_package(head: &[u8]) -> bool {
    head.starts_with(b"!<arch>\ndebian-binary")
}

impl Unpacked {
    /// Unpacks the packages.
    pub(crate) fn read(store: &Store, packages: Vec<Package>) -> Result<Unpacked, KernelFailure> {
        let names: Vec<_> = packages
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        let mut unpacked = Unpacked {
            name: names.join(" and "),
            spool: store.scratch()?,
            end: 0,
            kernels: Vec::new(),
            modules: BTreeMap::new(),
            lists: Lists::default(),
        };
        for package in packages {
            unpacked.add(package)?;
        }
        Ok(unpacked)
    }

    fn add(&mut self, mut package: Package) -> Result<(), KernelFailure> {
        let rewound = package
            .file
            .seek(SeekFrom::Start(0))
            .and_then(|_| package.file.try_clone());
        let stdin = rewound.map_err(|error| bad(&package.name, error))?;
        let (running, mut stdout) = Tool::new("dpkg-deb", &["--fsys-tarfile"])
            .args(["/dev/stdin"])
            .stdin(stdin)
            .start()?;
        let read = self.spool_entries(&mut stdout, &package.name);
        if matches!(read, Ok(()) | Err(SpoolError::Tar(_))) {
            // Drain the stream: the error of dpkg-deb is more useful than the offset at which the
            // tar ends.
            let _ = io::copy(&mut stdout, &mut io::sink());
            drop(stdout);
            running.finish()?;
        }
        match read {
            Ok(()) => Ok(()),
            Err(SpoolError::Tar(error)) => Err(bad(&package.name, error).into()),
            Err(SpoolError::Limit(why)) => Err(bad(&package.name, why).into()),
            Err(SpoolError::Store(error)) => Err(error.into()),
        }
    }

    fn spool_entries(&mut self, stream: impl Read, package: &str) -> Result<(), SpoolError> {
        let mut archive = tar::Archive::new(stream);
        for (count, entry) in archive.entries().map_err(SpoolError::Tar)?.enumerate() {
            let mut entry = entry.map_err(SpoolError::Tar)?;
            if count >= MAX_ENTRIES {
                return Err(SpoolError::Limit(format!(
                    "it has more than {MAX_ENTRIES} entries"
                )));
            }
            if entry.header().entry_type() != tar::EntryType::Regular {
                continue;
            }
            // None of the relevant files has a non-UTF-8 name.
            let Ok(path) = String::from_utf8(entry.path_bytes().into_owned()) else {
                continue;
            };
            match role(&path) {
                Role::Kernel => {
                    let part = self.spool(&mut entry, path)?;
                    self.kernels.push(part);
                }
                Role::Module(name) => {
                    let part = self.spool(&mut entry, path)?;
                    self.modules.entry(name).or_insert(part);
                }
                Role::List(list) => {
                    let part = self.spool(&mut entry, path)?;
                    let mut content = self.read_part(&part).map_err(SpoolError::Tar)?;
                    list(&mut self.lists).append(&mut content);
                }
                Role::Other => {}
            }
        }
        tracing::debug!(package, modules = self.modules.len(), "kernel package read");
        Ok(())
    }

    fn spool(&mut self, from: &mut impl Read, path: String) -> Result<Part, SpoolError> {
        let offset = self.end;
        let mut from = from.take(MAX_PART + 1);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = from.read(&mut buffer).map_err(SpoolError::Tar)?;
            if count == 0 {
                break;
            }
            let written = self.spool.file().write_all_at(&buffer[..count], self.end);
            written.map_err(|error| SpoolError::Store(self.spool_failed("write to", error)))?;
            self.end += count as u64;
        }
        let size = self.end - offset;
        if size > MAX_PART || self.end > MAX_SPOOL {
            return Err(SpoolError::Limit(format!(
                "{path} is too large for a kernel or module"
            )));
        }
        Ok(Part { path, offset, size })
    }

    fn spool_failed(&self, action: &'static str, error: io::Error) -> StoreError {
        StoreError::io(action, self.spool.path(), error)
    }

    fn read_part(&self, part: &Part) -> io::Result<Vec<u8>> {
        let size = usize::try_from(part.size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; size];
        self.spool.file().read_exact_at(&mut bytes, part.offset)?;
        Ok(bytes)
    }

    /// The kernel image: its path in the package, and a reader.
    pub(crate) fn kernel(&self) -> Result<(String, impl Read + '_), KernelFailure> {
        let [part] = self.kernels.as_slice() else {
            let why = match self.kernels.len() {
                0 => "it contains no boot/vmlinuz-*".to_owned(),
                count => format!("it contains {count} kernels"),
            };
            return Err(bad(&self.name, why).into());
        };
        let mut file = self.spool.file();
        let sought = file.seek(SeekFrom::Start(part.offset));
        sought.map_err(|error| self.spool_failed("read", error))?;
        Ok((part.path.clone(), file.take(part.size)))
    }

    /// Stores the modules that a microVM requires: a tar of `<name>.ko` files in load order. `None`
    /// if all are built in. `built_in` are the required ones that were found in the image; the
    /// package's list of built-in modules may be in another package that was not given.
    pub(crate) fn store_modules(
        &self,
        store: &Store,
        built_in: &[&str],
    ) -> Result<Option<Digest>, KernelFailure> {
        let mut files = BTreeMap::new();
        let listed = String::from_utf8_lossy(&self.lists.builtin);
        let listed = listed.lines().filter_map(module::module_name);
        let known = built_in.iter().map(|name| (*name).to_owned());
        let builtin: BTreeSet<String> = listed.chain(known).collect();
        let order = module::select(&self.modules, &builtin, |name, part| {
            let bytes = self.module(part)?;
            let info = module::info(&bytes)
                .map_err(|why| bad(&self.name, format!("{}: {why}", part.path)))?;
            files.insert(name.to_owned(), bytes);
            Ok::<_, KernelFailure>(info.depends)
        });
        let order = order.map_err(|error| match error {
            SelectError::Load(error) => error,
            SelectError::Missing(module) => KernelError::MissingModule {
                kernel: self.name.clone(),
                module,
            }
            .into(),
        })?;
        if order.is_empty() {
            return Ok(None);
        }
        let mut archive = tar::Builder::new(store.writer()?);
        for name in &order {
            let bytes = files.get(name).map(Vec::as_slice).unwrap_or_default();
            append(&mut archive, name, bytes).map_err(|error| self.spool_failed("pack", error))?;
        }
        let writer = archive
            .into_inner()
            .map_err(|error| self.spool_failed("pack", error))?;
        Ok(Some(writer.commit(None)?.0))
    }

    /// Whether there are modules.
    pub(crate) fn has_modules(&self) -> bool {
        !self.modules.is_empty()
    }

    /// The files that are about the modules.
    pub(crate) fn lists(&self) -> &Lists {
        &self.lists
    }

    /// Calls `with` with each module, uncompressed: its release, its path below the directory of
    /// the release, and its content.
    pub(crate) fn each_module(
        &self,
        mut with: impl FnMut(&str, &str, &[u8]) -> Result<(), KernelFailure>,
    ) -> Result<(), KernelFailure> {
        for part in self.modules.values() {
            let Some((release, file)) = below_modules(&part.path) else {
                continue;
            };
            let end = file.rfind(".ko").map_or(file.len(), |at| at + 3);
            let bytes = self.module(part)?;
            with(release, &file[..end], &bytes)?;
        }
        Ok(())
    }

    /// An error about the packages.
    pub(crate) fn bad(&self, why: impl ToString) -> KernelError {
        bad(&self.name, why)
    }

    /// Reads and decompresses a module.
    fn module(&self, part: &Part) -> Result<Vec<u8>, KernelFailure> {
        let raw = self
            .read_part(part)
            .map_err(|error| self.spool_failed("read", error))?;
        let damaged = |error| bad(&self.name, format!("{}: {error}", part.path)).into();
        decompress(&part.path, raw).map_err(damaged)
    }
}

/// An error while filling the spool.
#[derive(Debug)]
enum SpoolError {
    /// The package's tar is damaged or truncated.
    Tar(io::Error),
    /// A limit is exceeded.
    Limit(String),
    /// The spool cannot be written.
    Store(StoreError),
}

/// The role of a file in a package.
enum Role {
    Kernel,
    Module(String),
    List(fn(&mut Lists) -> &mut Vec<u8>),
    Other,
}

fn role(path: &str) -> Role {
    if let Some(name) = installed(path).strip_prefix("boot/") {
        let kernel = name.starts_with("vmlinuz") && !name.contains('/');
        return if kernel { Role::Kernel } else { Role::Other };
    }
    let Some((_, file)) = below_modules(path) else {
        return Role::Other;
    };
    match (file, module::module_name(file)) {
        ("modules.order", _) => Role::List(|lists| &mut lists.order),
        ("modules.builtin", _) => Role::List(|lists| &mut lists.builtin),
        ("modules.builtin.modinfo", _) => Role::List(|lists| &mut lists.builtin_info),
        ("vmlinuz", _) => Role::Kernel,
        (_, Some(name)) => Role::Module(name),
        _ => Role::Other,
    }
}

/// A path without what differs between distributions with and without a merged `/usr`.
fn installed(path: &str) -> &str {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    path.strip_prefix("usr/").unwrap_or(path)
}

/// The release and the path below its directory, `lib/modules/<release>/`.
fn below_modules(path: &str) -> Option<(&str, &str)> {
    installed(path)
        .strip_prefix("lib/modules/")?
        .split_once('/')
}

fn decompress(path: &str, raw: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut reader: Box<dyn Read + '_> = match path.rsplit_once('.').map(|(_, end)| end) {
        Some("zst") => Box::new(zstd::Decoder::new(raw.as_slice())?),
        Some("xz") => Box::new(lzma_rust2::XzReader::new_mem_limit(
            raw.as_slice(),
            true,
            XZ_MEMORY_KIB,
        )),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(raw.as_slice())),
        _ => return Ok(raw),
    };
    let mut bytes = Vec::new();
    reader.by_ref().take(MAX_PART + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PART {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "too large for a module",
        ));
    }
    Ok(bytes)
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, format!("{name}.ko"), bytes)
}

fn bad(name: &str, why: impl ToString) -> KernelError {
    KernelError::BadPackage {
        name: name.to_owned(),
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_of_a_file_is_determined_by_its_path() {
        assert!(matches!(role("./boot/vmlinuz-6.1.0"), Role::Kernel));
        assert!(matches!(role("usr/lib/modules/6.12/vmlinuz"), Role::Kernel));
        let listed = |path| match role(path) {
            Role::List(list) => {
                let mut lists = Lists::default();
                list(&mut lists).push(1);
                [lists.order, lists.builtin, lists.builtin_info].map(|list| list.len())
            }
            _ => [9; 3],
        };
        assert_eq!(listed("./lib/modules/6.1/modules.order"), [1, 0, 0]);
        assert_eq!(listed("./lib/modules/6.1/modules.builtin"), [0, 1, 0]);
        assert_eq!(
            listed("./usr/lib/modules/6.1/modules.builtin.modinfo"),
            [0, 0, 1]
        );
        assert!(
            matches!(role("lib/modules/6.1/kernel/x/virtio-rng.ko.xz"), Role::Module(name) if name == "virtio_rng")
        );
        for other in [
            "boot/System.map-6.1",
            "boot/x/vmlinuz",
            "lib/firmware/a.ko",
            "a.ko",
        ] {
            assert!(matches!(role(other), Role::Other), "{other}");
        }
    }

    #[test]
    fn compressed_modules_are_decompressed() {
        let bytes: Vec<u8> = (0..100_000_u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("m.ko");
        std::fs::write(&plain, &bytes).unwrap();
        // The real programs with the options of the kernel (scripts/Makefile.modinst).
        for (program, args, end) in [
            (
                "xz",
                &["--check=crc32", "--lzma2=dict=1MiB", "-kf"][..],
                "xz",
            ),
            ("gzip", &["-kf"], "gz"),
        ] {
            let status = std::process::Command::new(program)
                .args(args)
                .arg(&plain)
                .status();
            assert!(status.unwrap().success(), "{program}");
            let name = format!("m.ko.{end}");
            let raw = std::fs::read(dir.path().join(&name)).unwrap();
            assert!(decompress(&name, raw).unwrap() == bytes, "{program}");
        }
        let raw = zstd::encode_all(bytes.as_slice(), 3).unwrap();
        assert!(decompress("m.ko.zst", raw).unwrap() == bytes);
        assert!(decompress("m.ko.xz", b"nonsense".to_vec()).is_err());
    }
}
