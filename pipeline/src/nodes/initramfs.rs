//! The initramfs: the guest agent as `/init`, and the kernel's modules.
//!
//! A newc cpio (Documentation/driver-api/early-userspace/buffer-format.rst), not compressed:
//! unpacking costs boot time and the file is mapped, not sent. In this order:
//! ```text
//! /dev /proc /sys /newroot /modules    directories, 0755
//! /dev/console                         character device 5:1, 0600
//! /init                                the agent, a static executable, 0755
//! /modules/<name>.ko                   uncompressed, 0644
//! /modules.load                        their absolute paths in load order, one a line
//! ```
//! Owner 0:0, times 0, inode numbers from 1 in this order: the same inputs give the same bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cpio::newc;
use elf::endian::LittleEndian;
use elf::{ElfBytes, abi};
use microagent_cas::{Digest, Store, StoreError};

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::engine::node::NodeSpec;
use crate::engine::progress::{Event, Stage};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::pipeline::Pipeline;

/// Rises whenever other bytes come out of the same inputs.
const OP_VERSION: u32 = 1;

/// The largest agent that is packed, in bytes. A release build has 2 MiB, a debug build 60.
const MAX_AGENT: u64 = 512 << 20;

/// The largest module, in bytes.
const MAX_MODULE: u64 = 256 << 20;

/// Type bits of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;
const REGULAR: u32 = 0o100_000;

/// An initramfs in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initramfs {
    /// Its digest.
    pub digest: Digest,
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// Why an initramfs could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitramfsError {
    /// The agent cannot be read.
    #[error("cannot read the guest agent {}", .path.display())]
    Unreadable {
        /// The agent's path.
        path: PathBuf,
        /// What the operating system answered.
        #[source]
        source: io::Error,
    },
    /// The file cannot be PID 1 of a guest that has no other file.
    #[error("the guest agent {} cannot run in a guest: {why}", .path.display())]
    UnfitAgent {
        /// The agent's path.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel's modules are not as the kernel node leaves them.
    #[error("the modules {digest} of the kernel cannot be used: {why}")]
    BadModules {
        /// The modules' digest.
        digest: Digest,
        /// What is wrong.
        why: String,
    },
}

impl Diagnosis for InitramfsError {
    fn kind(&self) -> ErrorKind {
        match self {
            InitramfsError::Unreadable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                _ => ErrorKind::Host,
            },
            InitramfsError::UnfitAgent { .. } => ErrorKind::Unsupported,
            InitramfsError::BadModules { .. } => ErrorKind::Corrupt,
        }
    }

    fn remediation(&self) -> Option<String> {
        match self {
            InitramfsError::Unreadable { .. } | InitramfsError::UnfitAgent { .. } => {
                Some("build the agent as a static executable: make build".to_owned())
            }
            InitramfsError::BadModules { .. } => {
                Some("install the kernel again: microagent kernel install".to_owned())
            }
        }
    }
}

impl Pipeline {
    /// Packs the agent at `agent` and the kernel's modules, or finds that packed.
    ///
    /// # Errors
    /// [`Error::Initramfs`] when the agent is no static x86-64 executable or the modules are
    /// damaged; [`Error::Store`].
    pub fn initramfs(&self, agent: &Path, kernel: &Kernel) -> Result<Initramfs, Error> {
        open_agent(agent)?;
        // Remembered: hashing it would be most of what a cached run does before its VM.
        let (digest, _) = self.store().digest_known(agent)?;
        let mut inputs = vec![("agent".to_owned(), digest)];
        inputs.extend(
            kernel
                .modules
                .map(|modules| ("modules".to_owned(), modules)),
        );
        let spec = NodeSpec {
            op: "initramfs",
            op_version: OP_VERSION,
            params: serde_json::json!({}),
            inputs,
            platform: None,
        };
        let outcome = self.node(spec, || {
            let bytes = read_agent(agent, &digest)?;
            check_agent(&bytes).map_err(|why| InitramfsError::UnfitAgent {
                path: agent.to_owned(),
                why,
            })?;
            let stage = Stage::Initramfs;
            let detail = agent.display().to_string();
            self.tell(Event::StageStarted {
                stage,
                detail: detail.clone(),
                total_bytes: None,
            });
            let modules = match &kernel.modules {
                Some(digest) => read_modules(self.store(), digest)?,
                None => Vec::new(),
            };
            let mut writer = self.store().writer()?;
            pack(&mut writer, &bytes, &modules).map_err(|error| {
                StoreError::io("write an initramfs to", self.store().root(), error)
            })?;
            let (digest, _) = writer.commit(None)?;
            self.tell(Event::StageDone { stage, detail });
            Ok([("initramfs".to_owned(), digest.into())].into())
        })?;
        let digest = outcome.output("initramfs")?.digest();
        Ok(Initramfs {
            digest,
            path: self.store().blob_path(&digest),
            size: outcome.record.size,
        })
    }
}

/// The agent whose digest was taken.
fn read_agent(path: &Path, digest: &Digest) -> Result<Vec<u8>, InitramfsError> {
    let unreadable = |source| InitramfsError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    open_agent(path)?
        .take(MAX_AGENT)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    match Digest::of(&bytes) == *digest {
        true => Ok(bytes),
        false => Err(unfit(path, "it was replaced while it was read")),
    }
}

fn unfit(path: &Path, why: &str) -> InitramfsError {
    InitramfsError::UnfitAgent {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

fn open_agent(path: &Path) -> Result<File, InitramfsError> {
    let unreadable = |source| InitramfsError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    match metadata.is_file() {
        false => Err(unfit(path, "it is no regular file")),
        true if metadata.len() > MAX_AGENT => Err(unfit(path, "it is larger than 512 MiB")),
        true => Ok(file),
    }
}

/// A guest without any other file can run it: x86-64, executable, no interpreter.
fn check_agent(bytes: &[u8]) -> Result<(), String> {
    let no_elf = |_| "it is no ELF executable".to_owned();
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(no_elf)?;
    if file.ehdr.class != elf::file::Class::ELF64 || file.ehdr.e_machine != abi::EM_X86_64 {
        return Err("it is not for x86-64".to_owned());
    }
    if !matches!(file.ehdr.e_type, abi::ET_EXEC | abi::ET_DYN) || file.ehdr.e_entry == 0 {
        return Err("it is no executable".to_owned());
    }
    let mut segments = file.segments().into_iter().flatten();
    if segments.any(|segment| segment.p_type == abi::PT_INTERP) {
        return Err("it is dynamically linked, and the guest has no libraries".to_owned());
    }
    Ok(())
}

/// The modules in load order, by name, from the tar that the kernel node left.
fn read_modules(store: &Store, digest: &Digest) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let bad = |why: String| InitramfsError::BadModules {
        digest: *digest,
        why,
    };
    let blob = store
        .open_blob(digest)?
        .ok_or_else(|| bad("they are missing".to_owned()))?;
    let mut archive = tar::Archive::new(blob.file);
    let mut modules = Vec::new();
    for entry in archive.entries().map_err(|error| bad(error.to_string()))? {
        let entry = entry.map_err(|error| bad(error.to_string()))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if name.contains('/') || !name.ends_with(".ko") || entry.size() > MAX_MODULE {
            return Err(bad(format!("{name:?} is no module of a kernel node")).into());
        }
        let mut bytes = Vec::new();
        let size = entry.size();
        let read = { entry }
            .read_to_end(&mut bytes)
            .map_err(|error| bad(error.to_string()))?;
        if read as u64 != size {
            return Err(bad("they are cut short".to_owned()).into());
        }
        modules.push((name, bytes));
    }
    Ok(modules)
}

/// Writes the archive.
fn pack(out: impl Write, agent: &[u8], modules: &[(String, Vec<u8>)]) -> io::Result<()> {
    let mut archive = Archive { out, inode: 0 };
    for directory in ["dev", "proc", "sys", "newroot", "modules"] {
        archive.add(directory, DIRECTORY | 0o755, None, &[])?;
    }
    archive.add("dev/console", CHARACTER | 0o600, Some((5, 1)), &[])?;
    archive.add("init", REGULAR | 0o755, None, agent)?;
    let mut load = String::new();
    for (name, bytes) in modules {
        let path = format!("modules/{name}");
        archive.add(&path, REGULAR | 0o644, None, bytes)?;
        load.push_str(&format!("/{path}\n"));
    }
    archive.add("modules.load", REGULAR | 0o644, None, load.as_bytes())?;
    newc::trailer(archive.out)?.flush()
}

struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    fn add(
        &mut self,
        name: &str,
        mode: u32,
        device: Option<(u32, u32)>,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.inode += 1;
        let (major, minor) = device.unwrap_or_default();
        let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let entry = newc::Builder::new(name)
            .ino(self.inode)
            .mode(mode)
            .nlink(if mode & DIRECTORY == DIRECTORY { 2 } else { 1 })
            .rdev_major(major)
            .rdev_minor(minor);
        let mut writer = entry.write(&mut self.out, size);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::engine::progress::Silent;

    fn pipeline() -> (tempfile::TempDir, Pipeline) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        (dir, Pipeline::new(store, Arc::new(Silent)))
    }

    fn kernel(modules: Option<Digest>) -> Kernel {
        Kernel {
            digest: Digest::of(b"kernel"),
            path: PathBuf::new(),
            modules,
            version: None,
            source: "test".into(),
        }
    }

    /// A tar as the kernel node leaves it, made by GNU tar.
    fn modules(dir: &Path) -> Vec<u8> {
        std::fs::write(dir.join("b.ko"), "module b").unwrap();
        std::fs::write(dir.join("a.ko"), "module a!").unwrap();
        let tar = Command::new("tar")
            .args(["-C"])
            .arg(dir)
            .args(["-c", "b.ko", "a.ko"])
            .output();
        tar.unwrap().stdout
    }

    /// From the package busybox-static, which the host harness installs.
    const STATIC: &str = "/bin/busybox";

    fn cpio(args: &[&str], archive: &Path, dir: &Path) -> String {
        let output = Command::new("cpio")
            .args(args)
            .env("TZ", "UTC")
            .current_dir(dir)
            .stdin(File::open(archive).unwrap())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "cpio {args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn real_cpio_reads_it_back_as_specified() {
        let (dir, pipeline) = pipeline();
        let digest = pipeline.store().put_bytes(&modules(dir.path())).unwrap();
        let packed = pipeline
            .initramfs(Path::new(STATIC), &kernel(Some(digest)))
            .unwrap();
        let size = std::fs::metadata(STATIC).unwrap().len();
        let listing = cpio(
            &["-itv", "--numeric-uid-gid", "--quiet"],
            &packed.path,
            dir.path(),
        );
        let lines: Vec<String> = listing
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 2 0 0 0 Jan 1 1970 dev".to_owned(),
                "drwxr-xr-x 2 0 0 0 Jan 1 1970 proc".to_owned(),
                "drwxr-xr-x 2 0 0 0 Jan 1 1970 sys".to_owned(),
                "drwxr-xr-x 2 0 0 0 Jan 1 1970 newroot".to_owned(),
                "drwxr-xr-x 2 0 0 0 Jan 1 1970 modules".to_owned(),
                "crw------- 1 0 0 5, 1 Jan 1 1970 dev/console".to_owned(),
                format!("-rwxr-xr-x 1 0 0 {size} Jan 1 1970 init"),
                "-rw-r--r-- 1 0 0 8 Jan 1 1970 modules/b.ko".to_owned(),
                "-rw-r--r-- 1 0 0 9 Jan 1 1970 modules/a.ko".to_owned(),
                "-rw-r--r-- 1 0 0 28 Jan 1 1970 modules.load".to_owned(),
            ]
        );
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        cpio(
            &["-id", "--quiet", "init", "modules.load", "modules/*"],
            &packed.path,
            &out,
        );
        let read = |name: &str| std::fs::read(out.join(name)).unwrap();
        assert_eq!(read("modules.load"), b"/modules/b.ko\n/modules/a.ko\n");
        assert_eq!(read("modules/b.ko"), b"module b");
        assert!(read("init") == std::fs::read(STATIC).unwrap());
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes_and_other_inputs_another_node() {
        let (_one, first) = pipeline();
        let (dir, second) = pipeline();
        let agent = Path::new(STATIC);
        let packed = first.initramfs(agent, &kernel(None)).unwrap();
        assert_eq!(
            packed.digest,
            second.initramfs(agent, &kernel(None)).unwrap().digest
        );
        first.initramfs(agent, &kernel(None)).unwrap();
        let modules = first.store().put_bytes(&modules(dir.path())).unwrap();
        first.initramfs(agent, &kernel(Some(modules))).unwrap();
        let changed = dir.path().join("agent");
        let mut bytes = std::fs::read(STATIC).unwrap();
        bytes.push(0);
        std::fs::write(&changed, bytes).unwrap();
        first.initramfs(&changed, &kernel(None)).unwrap();
        let hits: Vec<_> = first.reports().iter().map(|report| report.hit).collect();
        assert_eq!(hits, [false, true, false, false]);
    }

    #[test]
    fn an_agent_that_cannot_be_pid_1_is_refused_with_the_reason() {
        let (dir, pipeline) = pipeline();
        let why = |path: &Path| {
            pipeline
                .initramfs(path, &kernel(None))
                .unwrap_err()
                .to_string()
        };
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let named = |why: &str| {
            format!(
                "the guest agent {} cannot run in a guest: {why}",
                script.display()
            )
        };
        assert_eq!(why(&script), named("it is no ELF executable"));
        let dynamic = std::env::current_exe().unwrap();
        assert!(
            why(&dynamic).ends_with("it is dynamically linked, and the guest has no libraries")
        );
        assert!(why(dir.path()).ends_with("it is no regular file"));
        let absent = dir.path().join("absent");
        assert_eq!(
            why(&absent),
            format!("cannot read the guest agent {}", absent.display())
        );
    }

    #[test]
    fn damaged_modules_are_named() {
        let (dir, pipeline) = pipeline();
        let mut tar = modules(dir.path());
        tar.truncate(1100);
        let digest = pipeline.store().put_bytes(&tar).unwrap();
        let error = pipeline
            .initramfs(Path::new(STATIC), &kernel(Some(digest)))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("the modules {digest} of the kernel cannot")),
            "{error}"
        );
    }
}
