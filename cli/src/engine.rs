//! Which engine runs a VM.
//!
//! `auto` takes KVM where it can run a guest kernel. To know that, guest instructions are run
//! ([`microagent_vmm::probe`]), which costs more than the rest of a short run; so the answer is
//! kept in `<state-dir>/run/engine.json` for as long as nothing it depends on has changed: this
//! boot of the host, its kernel, `/dev/kvm` itself, the user and this program.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use microagent_pipeline::ErrorKind;
use microagent_proto::control::Engine;
use microagent_vmm::probe::{self, KvmProbe};
use serde::{Deserialize, Serialize};

use crate::args::EngineArg;
use crate::failure::Failure;
use crate::settings::Settings;

/// The command that installs QEMU.
pub const INSTALL_QEMU: &str = "sudo apt-get install --yes qemu-system-x86";

/// The program that runs CPUs without KVM.
const QEMU: &str = "qemu-system-x86_64";

/// What KVM can do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum Kvm {
    /// It runs guest kernels.
    Usable,
    /// There is no `/dev/kvm`.
    Absent,
    /// This user may not use it.
    Forbidden,
    /// It is there and cannot run a guest kernel.
    Incapable {
        /// What failed.
        why: String,
    },
}

impl Kvm {
    /// Why it cannot be used, as the end of a sentence; `None` when it can.
    pub fn problem(&self) -> Option<String> {
        match self {
            Kvm::Usable => None,
            Kvm::Absent => Some("there is no /dev/kvm".into()),
            Kvm::Forbidden => Some("this user may not open /dev/kvm".into()),
            Kvm::Incapable { why } => Some(format!("/dev/kvm cannot run a guest kernel: {why}")),
        }
    }

    /// What would help; `None` when nothing is known to.
    pub fn remediation(&self) -> Option<&'static str> {
        match self {
            Kvm::Usable | Kvm::Incapable { .. } => None,
            Kvm::Absent => Some(
                "on hardware: enable virtualisation in the firmware, then sudo modprobe kvm_intel \
                 or kvm_amd; in a VM: enable nested virtualisation",
            ),
            Kvm::Forbidden => {
                Some("sudo usermod --append --groups kvm \"$USER\", then log in again")
            }
        }
    }
}

/// An engine, and why it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The engine.
    pub engine: Engine,
    /// Why it is not KVM, when `auto` fell back.
    pub fallback: Option<String>,
}

/// Chooses the engine that was asked for.
///
/// # Errors
/// When this host has none that works.
pub fn choose(settings: &Settings) -> Result<Choice, Failure> {
    match settings.engine {
        EngineArg::Kvm => match cached_kvm(&settings.host_dir()) {
            // Asked for by name, it is tried even where the probe says no: the probe asks for
            // what distribution kernels need.
            Kvm::Usable | Kvm::Incapable { .. } => Ok(Choice {
                engine: Engine::Kvm,
                fallback: None,
            }),
            missing => Err(no_engine(&missing, missing.remediation())),
        },
        EngineArg::Qemu => {
            if !has_qemu() {
                return Err(no_engine(&Kvm::Usable, Some(INSTALL_QEMU)));
            }
            Ok(Choice {
                engine: Engine::Qemu,
                fallback: None,
            })
        }
        EngineArg::Auto => auto(cached_kvm(&settings.host_dir()), has_qemu()),
    }
}

/// Chooses the engine that was asked for, and says so where that is not the first choice.
///
/// # Errors
/// As [`choose`].
pub fn choose_with_notice(settings: &Settings) -> Result<Choice, Failure> {
    let choice = choose(settings)?;
    if let Some(why) = &choice.fallback {
        settings.output.notice(&format!("using engine qemu: {why}"));
    }
    Ok(choice)
}

/// What `auto` takes.
///
/// # Errors
/// When neither engine works.
pub fn auto(kvm: Kvm, qemu: bool) -> Result<Choice, Failure> {
    match (kvm.problem(), qemu) {
        (None, _) => Ok(Choice {
            engine: Engine::Kvm,
            fallback: None,
        }),
        (Some(problem), true) => Ok(Choice {
            engine: Engine::Qemu,
            fallback: Some(problem),
        }),
        (Some(_), false) => Err(no_engine(&kvm, Some(INSTALL_QEMU))),
    }
}

fn no_engine(kvm: &Kvm, remediation: Option<&str>) -> Failure {
    let message = match kvm.problem() {
        Some(problem) if remediation == Some(INSTALL_QEMU) => {
            format!("this host can run no VM: {problem}, and {QEMU} is not installed")
        }
        Some(problem) => format!("engine kvm: {problem}"),
        None => format!("engine qemu: {QEMU} is not installed"),
    };
    Failure::new(ErrorKind::Host, message).maybe_remediation(remediation.map(str::to_owned))
}

/// Whether QEMU is in the path. What it can do is looked at by `doctor` only: that starts it.
fn has_qemu() -> bool {
    probe::find_qemu().is_ok()
}

/// What KVM can do here, from memory or by trying.
pub fn cached_kvm(cache_dir: &Path) -> Kvm {
    let Some(identity) = HostIdentity::now() else {
        // Without a device there is nothing to try and nothing to remember.
        return probe_kvm();
    };
    let file = cache_dir.join("engine.json");
    if let Ok(text) = fs::read(&file)
        && let Ok(known) = serde_json::from_slice::<CachedProbe>(&text)
        && known.identity == identity
    {
        return known.kvm;
    }
    let known = CachedProbe {
        identity,
        kvm: probe_kvm(),
    };
    // What cannot be kept is tried again.
    if let Err(error) = store(&file, &known) {
        tracing::debug!(%error, "the probe's result is not kept");
    }
    known.kvm
}

/// What KVM can do here, tried now.
pub fn probe_kvm() -> Kvm {
    match probe::kvm() {
        KvmProbe::Usable { .. } => Kvm::Usable,
        KvmProbe::Absent => Kvm::Absent,
        KvmProbe::Forbidden => Kvm::Forbidden,
        KvmProbe::Incapable { why } => Kvm::Incapable { why },
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CachedProbe {
    identity: HostIdentity,
    kvm: Kvm,
}

/// All that the answer depends on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HostIdentity {
    version: String,
    boot_id: String,
    release: String,
    uid: u32,
    groups: Vec<u32>,
    /// Device, inode, device number, mode, owner, group, time of change.
    node: (u64, u64, u64, u32, u32, u32, i64),
}

impl HostIdentity {
    fn now() -> Option<HostIdentity> {
        let node = fs::metadata("/dev/kvm").ok()?;
        let read = |path| fs::read_to_string(path).map(|text| text.trim().to_owned());
        Some(HostIdentity {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id").ok()?,
            release: read("/proc/sys/kernel/osrelease").ok()?,
            uid: rustix::process::geteuid().as_raw(),
            groups: rustix::process::getgroups()
                .ok()?
                .into_iter()
                .map(rustix::process::Gid::as_raw)
                .collect(),
            node: (
                node.dev(),
                node.ino(),
                node.rdev(),
                node.mode(),
                node.uid(),
                node.gid(),
                node.ctime(),
            ),
        })
    }
}

fn store(file: &Path, known: &CachedProbe) -> std::io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    crate::settings::make_private_dir(directory)?;
    let temporary = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(temporary.as_file(), known)?;
    temporary.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_kvm_where_it_works_and_falls_back_with_a_reason() {
        let kvm = |fallback: Option<&str>, engine| Choice {
            engine,
            fallback: fallback.map(str::to_owned),
        };
        assert_eq!(auto(Kvm::Usable, false), Ok(kvm(None, Engine::Kvm)));
        let why = "the instruction xorps does not run".to_owned();
        assert_eq!(
            auto(Kvm::Incapable { why }, true),
            Ok(kvm(
                Some("/dev/kvm cannot run a guest kernel: the instruction xorps does not run"),
                Engine::Qemu
            ))
        );
    }

    #[test]
    fn without_any_engine_both_are_named_with_the_command_that_helps() {
        let failure = auto(Kvm::Absent, false).unwrap_err();
        assert_eq!(
            failure,
            Failure::new(
                ErrorKind::Host,
                "this host can run no VM: there is no /dev/kvm, and qemu-system-x86_64 is not \
                 installed"
            )
            .remediation("sudo apt-get install --yes qemu-system-x86")
        );
    }

    #[test]
    fn a_kept_answer_is_used_until_what_it_depends_on_changes() {
        let Some(identity) = HostIdentity::now() else {
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("engine.json");
        let mut known = CachedProbe {
            identity,
            kvm: Kvm::Incapable { why: "kept".into() },
        };
        store(&file, &known).unwrap();
        assert_eq!(cached_kvm(directory.path()), known.kvm);
        known.identity.boot_id.push('x');
        store(&file, &known).unwrap();
        assert_ne!(cached_kvm(directory.path()), known.kvm);
    }
}
