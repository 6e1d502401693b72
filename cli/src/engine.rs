//! Engine selection.
//!
//! `auto` selects KVM if it can run a guest kernel. The probe runs guest instructions
//! ([`microagent_vmm::probe`]), which costs more than the rest of a short run, so its result is
//! cached in `<state-dir>/run/engine.json` until something it depends on changes: the boot of the
//! host, its kernel, `/dev/kvm`, the user, or this program.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use microagent_pipeline::{CpuLevel, ErrorKind, GuestCpu};
use microagent_proto::control::Engine;
use microagent_vmm::probe::{self, KvmProbe};
use serde::{Deserialize, Serialize};

use crate::args::EngineArg;
use crate::failure::Failure;
use crate::settings::Settings;

pub use microagent_vmm::probe::INSTALL_QEMU;

/// The file with the reason for the last notice, in the directory of facts about this host.
const TOLD: &str = "qemu-notice";

/// The QEMU program.
const QEMU: &str = "qemu-system-x86_64";

/// The state of KVM on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum Kvm {
    /// It can run a guest kernel.
    Usable,
    /// `/dev/kvm` does not exist.
    Absent,
    /// This user has no permission to open it.
    Forbidden,
    /// It exists but cannot run a guest kernel.
    Incapable {
        /// The probe that failed.
        why: String,
    },
}

impl Kvm {
    /// Why it cannot be used; `None` if it can.
    pub fn problem(&self) -> Option<String> {
        match self {
            Kvm::Usable => None,
            Kvm::Absent => Some("/dev/kvm does not exist".into()),
            Kvm::Forbidden => Some("no permission to open /dev/kvm".into()),
            Kvm::Incapable { why } => Some(format!("/dev/kvm cannot run a guest kernel: {why}")),
        }
    }

    /// How to make it usable; `None` if no remediation is known.
    pub fn remediation(&self) -> Option<&'static str> {
        match self {
            Kvm::Usable | Kvm::Incapable { .. } => None,
            Kvm::Absent => Some(
                "on hardware: enable virtualization in the firmware, then sudo modprobe kvm_intel \
                 or kvm_amd; in a VM: enable nested virtualization",
            ),
            Kvm::Forbidden => {
                Some("sudo usermod --append --groups kvm \"$USER\", then log in again")
            }
        }
    }
}

/// The selected engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The engine.
    pub engine: Engine,
    /// Why KVM is not usable, if `auto` fell back to QEMU.
    pub fallback: Option<String>,
}

/// Selects the engine for `settings`.
///
/// # Errors
/// When the requested engine is not usable, or with `auto`, when none is.
pub fn choose(settings: &Settings) -> Result<Choice, Failure> {
    match settings.engine {
        EngineArg::Kvm => match cached_kvm(&settings.host_dir()) {
            // Requested by name, KVM is used even if the probe failed: the probe tests what
            // distribution kernels need, which other kernels may not.
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

/// Selects the engine like [`choose`], and prints a notice if `auto` fell back to QEMU: at the
/// first time for this state directory and reason, and always with `-v`.
///
/// # Errors
/// As [`choose`].
pub fn choose_with_notice(settings: &Settings) -> Result<Choice, Failure> {
    let choice = choose(settings)?;
    if let Some(why) = &choice.fallback {
        let told = settings.host_dir().join(TOLD);
        let is_told = fs::read_to_string(&told).is_ok_and(|told| told == *why);
        if !is_told || settings.output.verbose > 0 {
            let notice = format!("using QEMU, which is slow: {why} (see: microagent doctor)");
            settings.output.notice(&notice);
        }
        if !is_told && let Err(error) = replace(&told, why.as_bytes()) {
            tracing::debug!(%error, "cannot record that the notice was printed");
        }
    }
    Ok(choice)
}

/// The engine that `auto` selects.
///
/// # Errors
/// When neither engine is usable.
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
            format!("no usable engine: {problem}, and {QEMU} is not installed")
        }
        Some(problem) => format!("engine kvm: {problem}"),
        None => format!("engine qemu: {QEMU} is not installed"),
    };
    Failure::new(ErrorKind::Host, message).maybe_remediation(remediation.map(str::to_owned))
}

/// Whether QEMU is in `$PATH`. Only `doctor` checks its features, because that starts it.
fn has_qemu() -> bool {
    probe::find_qemu().is_ok()
}

/// The processor of the guests. With KVM they get what KVM reports, which may be less than this
/// machine's processor has. QEMU emulates one without KVM (`-cpu max`): since version 7.2 with
/// AVX2, never with AVX-512, whatever this machine has.
pub fn guest_cpu(settings: &Settings) -> GuestCpu {
    let settings = settings.clone();
    let level = OnceLock::new();
    GuestCpu::new(move || {
        *level.get_or_init(|| match choose(&settings).map(|choice| choice.engine) {
            Ok(Engine::Qemu) => {
                emulated_level(probe::qemu().ok().as_ref().map(|qemu| &*qemu.version))
            }
            Ok(Engine::Kvm) => {
                let cpuid = probe::kvm_guest_cpuid().unwrap_or_default();
                CpuLevel::of_cpuid(cpuid.leaf1_ecx, cpuid.leaf7_ebx, cpuid.extended1_ecx)
            }
            // Without an engine, images are only built.
            Err(_) => CpuLevel::of_host(),
        })
    })
}

/// The level of QEMU's own processor in this version.
fn emulated_level(version: Option<&str>) -> CpuLevel {
    let mut numbers = (version.into_iter().flat_map(|version| version.split('.')))
        .map(|number| number.parse::<u32>().unwrap_or(0));
    match (numbers.next(), numbers.next()) >= (Some(7), Some(2)) {
        true => CpuLevel::V3,
        false => CpuLevel::V2,
    }
}

/// The state of KVM, from the cache file in `cache_dir` or else by probing.
pub fn cached_kvm(cache_dir: &Path) -> Kvm {
    let Some(identity) = HostIdentity::now() else {
        // Without the device there is nothing to cache.
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
    // If the result cannot be cached, the next run probes again.
    if let Err(error) = store(&file, &known) {
        tracing::debug!(%error, "cannot cache the KVM probe result");
    }
    known.kvm
}

/// The state of KVM, probed now.
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

/// Everything the result of the probe depends on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HostIdentity {
    version: String,
    boot_id: String,
    release: String,
    uid: u32,
    groups: Vec<u32>,
    /// `st_dev`, `st_ino`, `st_rdev`, `st_mode`, `st_uid`, `st_gid` and `st_ctime` of `/dev/kvm`.
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

fn store(file: &Path, known: &CachedProbe) -> io::Result<()> {
    replace(file, &serde_json::to_vec(known)?)
}

/// Replaces a small file atomically; creates its directory.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    crate::settings::make_private_dir(directory)?;
    let temporary = tempfile::NamedTempFile::new_in(directory)?;
    temporary.as_file().write_all(bytes)?;
    temporary.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_selects_kvm_if_usable_and_falls_back_with_a_reason() {
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
    fn the_emulated_processor_has_avx2_since_qemu_7_2() {
        for (version, level) in [
            (Some("7.2.22"), CpuLevel::V3),
            (Some("10.0.2"), CpuLevel::V3),
            (Some("7.1.0"), CpuLevel::V2),
            (Some("6.2.0"), CpuLevel::V2),
            (Some(""), CpuLevel::V2),
            (None, CpuLevel::V2),
        ] {
            assert_eq!(emulated_level(version), level, "{version:?}");
        }
    }

    #[test]
    fn without_any_engine_the_error_names_both_and_the_remediation() {
        let failure = auto(Kvm::Absent, false).unwrap_err();
        assert_eq!(
            failure,
            Failure::new(
                ErrorKind::Host,
                "no usable engine: /dev/kvm does not exist, and qemu-system-x86_64 is not installed"
            )
            .remediation("sudo apt-get install --yes qemu-system-x86")
        );
    }

    #[test]
    fn a_cached_probe_result_is_used_until_its_dependencies_change() {
        let Some(identity) = HostIdentity::now() else {
            return;
        };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("engine.json");
        let mut known = CachedProbe {
            identity,
            kvm: Kvm::Incapable {
                why: "cached".into(),
            },
        };
        store(&file, &known).unwrap();
        assert_eq!(cached_kvm(directory.path()), known.kvm);
        known.identity.boot_id.push('x');
        store(&file, &known).unwrap();
        assert_ne!(cached_kvm(directory.path()), known.kvm);
    }
}
