//! The `initramfs` node: the guest agent as `/init`, and the kernel's modules.
//!
//! A newc cpio (Documentation/driver-api/early-userspace/buffer-format.rst), not compressed:
//! decompression costs boot time, and the file is mapped rather than transferred. In this order:
//! ```text
//! /dev /proc /sys /newroot /modules    directories, 0755
//! /dev/console                         character device 5:1, 0600
//! /init                                the agent, a static executable, 0755
//! /modules/<name>.ko                   uncompressed, 0644
//! /modules.load                        their absolute paths in load order, one per line
//! ```
//! Owner 0:0, times 0, inode numbers from 1 in this order: the same inputs give the same bytes.

mod agent;
mod archive;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use microagent_cas::{Digest, Store, StoreError};

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::engine::Engine;
use crate::engine::node::NodeSpec;
use crate::engine::progress::Stage;
use crate::kernel::Kernel;

/// Must rise whenever the same inputs could give other bytes.
const OP_VERSION: u32 = 1;

/// The maximum size of a module, in bytes.
const MAX_MODULE: u64 = 256 << 20;
/// The maximum size of all modules together in bytes.
const MAX_MODULES: u64 = 1 << 30;

/// An initramfs in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initramfs {
    /// Its digest.
    pub digest: Digest,
    /// The file in the store.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// Why an initramfs could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitramfsError {
    /// The agent cannot be read.
    #[error("cannot read the guest agent {}", .path.display())]
    Unreadable {
        /// The agent's path.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file cannot run as PID 1 of a guest that has no other file.
    #[error("the guest agent {} cannot run in a guest: {why}", .path.display())]
    UnfitAgent {
        /// The agent's path.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The modules are not in the form that the kernel node stores.
    #[error("the modules {digest} of the kernel cannot be used: {why}")]
    BadModules {
        /// The modules' digest.
        digest: Digest,
        /// The reason.
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
            InitramfsError::Unreadable { source, .. }
                if source.kind() != io::ErrorKind::NotFound =>
            {
                None
            }
            InitramfsError::Unreadable { .. } | InitramfsError::UnfitAgent { .. } => {
                Some("use the microagent-guest of the same installation as microagent".to_owned())
            }
            InitramfsError::BadModules { .. } => {
                Some("install the kernel again: microagent kernel install".to_owned())
            }
        }
    }
}

/// Why the initramfs node failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum InitramfsFailure {
    Store(#[from] StoreError),
    Initramfs(#[from] InitramfsError),
}

/// Packs the agent at `agent` and the kernel's modules, or finds the result in the store.
///
/// # Errors
/// [`InitramfsError`] when the agent is not a static x86-64 executable or the modules are damaged,
/// and those of the store.
pub(crate) fn initramfs(
    engine: &Engine,
    agent: &Path,
    kernel: &Kernel,
) -> Result<Initramfs, InitramfsFailure> {
    let store = engine.store();
    agent::open(agent)?;
    // From the store's cache: hashing the agent would dominate a cached run.
    let (digest, _) = store.digest_known(agent)?;
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
    let outcome = engine.node(spec, || {
        let bytes = agent::read(agent, &digest)?;
        let detail = agent.display().to_string();
        let digest = engine.stage(Stage::Initramfs, &detail, None, |_| {
            let modules = match &kernel.modules {
                Some(digest) => read_modules(store, digest)?,
                None => Vec::new(),
            };
            let mut writer = store.writer()?;
            archive::pack(&mut writer, &bytes, &modules)
                .map_err(|error| StoreError::io("write an initramfs to", store.root(), error))?;
            Ok::<_, InitramfsFailure>(writer.commit(None)?.0)
        })?;
        Ok::<_, InitramfsFailure>([("initramfs".to_owned(), digest.into())].into())
    })?;
    let digest = outcome.output("initramfs")?.digest();
    Ok(Initramfs {
        digest,
        path: store.blob_path(&digest),
        size: outcome.record.size,
    })
}

/// The modules by name in load order, from the tar of the kernel node.
fn read_modules(
    store: &Store,
    digest: &Digest,
) -> Result<Vec<(String, Vec<u8>)>, InitramfsFailure> {
    let bad = |why: String| InitramfsError::BadModules {
        digest: *digest,
        why,
    };
    let bytes = store
        .read_blob(digest, MAX_MODULES)?
        .ok_or_else(|| bad("they are missing or damaged".to_owned()))?;
    let mut archive = tar::Archive::new(&bytes[..]);
    let mut modules = Vec::new();
    for entry in archive.entries().map_err(|error| bad(error.to_string()))? {
        let entry = entry.map_err(|error| bad(error.to_string()))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if name.contains('/') || !name.ends_with(".ko") || entry.size() > MAX_MODULE {
            return Err(bad(format!("{name:?} is not a kernel module")).into());
        }
        let mut bytes = Vec::new();
        let size = entry.size();
        let read = { entry }
            .read_to_end(&mut bytes)
            .map_err(|error| bad(error.to_string()))?;
        if read as u64 != size {
            return Err(bad("they are truncated".to_owned()).into());
        }
        modules.push((name, bytes));
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::engine::for_test;

    fn kernel(modules: Option<Digest>) -> Kernel {
        Kernel {
            digest: Digest::of(b"kernel"),
            path: PathBuf::new(),
            modules,
            modules_disk: None,
            version: None,
            source: "test".into(),
        }
    }

    /// A tar in the form of the kernel node, made by GNU tar.
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
    fn gnu_cpio_reads_the_archive_as_specified() {
        let (dir, engine) = for_test();
        let digest = engine.store().put_bytes(&modules(dir.path())).unwrap();
        let packed = initramfs(&engine, Path::new(STATIC), &kernel(Some(digest))).unwrap();
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
    fn equal_inputs_give_equal_bytes_and_other_inputs_another_node() {
        let (_one, first) = for_test();
        let (dir, second) = for_test();
        let agent = Path::new(STATIC);
        let packed = initramfs(&first, agent, &kernel(None)).unwrap();
        assert_eq!(
            packed.digest,
            initramfs(&second, agent, &kernel(None)).unwrap().digest
        );
        initramfs(&first, agent, &kernel(None)).unwrap();
        let modules = first.store().put_bytes(&modules(dir.path())).unwrap();
        initramfs(&first, agent, &kernel(Some(modules))).unwrap();
        let changed = dir.path().join("agent");
        let mut bytes = std::fs::read(STATIC).unwrap();
        bytes.push(0);
        std::fs::write(&changed, bytes).unwrap();
        initramfs(&first, &changed, &kernel(None)).unwrap();
        let hits: Vec<_> = first.reports().iter().map(|report| report.hit).collect();
        assert_eq!(hits, [false, true, false, false]);
    }

    #[test]
    fn an_agent_that_cannot_be_pid_1_is_refused_with_the_reason() {
        let (dir, engine) = for_test();
        let why = |path: &Path| {
            initramfs(&engine, path, &kernel(None))
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
        assert_eq!(why(&script), named("it is not an ELF executable"));
        let dynamic = std::env::current_exe().unwrap();
        assert!(
            why(&dynamic).ends_with("it is dynamically linked, and the guest has no libraries")
        );
        assert!(why(dir.path()).ends_with("it is not a regular file"));
        let absent = dir.path().join("absent");
        assert_eq!(
            why(&absent),
            format!("cannot read the guest agent {}", absent.display())
        );
    }

    #[test]
    fn damaged_modules_are_named() {
        let (dir, engine) = for_test();
        let mut tar = modules(dir.path());
        tar.truncate(1100);
        let digest = engine.store().put_bytes(&tar).unwrap();
        let error = initramfs(&engine, Path::new(STATIC), &kernel(Some(digest))).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("the modules {digest} of the kernel cannot")),
            "{error}"
        );
    }
}
