//! `microagent doctor`: checks what this host can run and what is missing.

mod vm_creation;

use std::fmt::Write;
use std::path::PathBuf;

use microagent_cas::Store;
use microagent_pipeline::{Kernel, Pipeline, Silent};
use microagent_proto::control::Engine;
use microagent_vmm::probe::{self, QemuProbe};
use microagent_workspace::network;
use serde::Serialize;

use self::vm_creation::VmCreation;
use super::format;
use crate::engine::{self, INSTALL_QEMU, Kvm};
use crate::failure::Failure;
use crate::install;
use crate::settings::Settings;

/// The findings.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Whether a VM can be run.
    ok: bool,
    engine: EngineReport,
    kvm: KvmReport,
    /// `None` unless KVM is usable.
    vm_creation: Option<VmCreation>,
    qemu: Finding,
    /// The program of network mode `user`.
    passt: Finding,
    agent: Finding,
    supervisor: Finding,
    kernel: KernelReport,
    state_dir: PathBuf,
}

/// The engine that `auto` selects.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EngineReport {
    auto: Option<&'static str>,
    why: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KvmReport {
    #[serde(flatten)]
    kvm: Kvm,
    remediation: Option<&'static str>,
}

/// An installed or missing program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    problem: Option<String>,
    remediation: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct KernelReport {
    installed: Option<Kernel>,
    problem: Option<String>,
    remediation: Option<String>,
}

/// Prints the findings. Exits with 0 if a VM can be run, otherwise with 1.
pub fn doctor(settings: &Settings) -> Result<u8, Failure> {
    let kvm = engine::probe_kvm();
    let qemu = qemu();
    let choice = engine::auto(kvm.clone(), qemu.problem.is_none());
    let agent = Finding::program(install::AGENT);
    let supervisor = Finding::program(install::SUPERVISOR);
    let report = Report {
        ok: choice.is_ok() && agent.path.is_some() && supervisor.path.is_some(),
        engine: match choice {
            Ok(choice) => EngineReport {
                auto: Some(choice.engine.name()),
                why: choice.fallback.unwrap_or_else(|| match choice.engine {
                    Engine::Kvm => "guest instructions run on /dev/kvm".into(),
                    Engine::Qemu => "QEMU is installed".into(),
                }),
            },
            Err(failure) => EngineReport {
                auto: None,
                why: failure.message,
            },
        },
        vm_creation: (kvm == Kvm::Usable).then(VmCreation::measure).flatten(),
        kvm: KvmReport {
            remediation: kvm.remediation(),
            kvm,
        },
        qemu,
        passt: passt(),
        agent,
        supervisor,
        kernel: kernel(settings),
        state_dir: settings.state_dir.clone(),
    };
    if settings.output.json {
        settings.output.document(&report)?;
    } else {
        settings.output.text(&report.text())?;
    }
    Ok(if report.ok { 0 } else { 1 })
}

fn qemu() -> Finding {
    match probe::qemu() {
        Ok(QemuProbe {
            path,
            version,
            missing,
        }) => {
            let problem = (!missing.is_empty())
                .then(|| format!("QEMU {version} lacks {}", missing.join(", ")));
            Finding {
                path: Some(path),
                version: Some(version),
                remediation: problem
                    .is_some()
                    .then(|| "install QEMU 7.2 or newer".into()),
                problem,
            }
        }
        Err(error) => Finding {
            path: probe::find_qemu().ok(),
            version: None,
            problem: Some(error.to_string()),
            remediation: Some(INSTALL_QEMU.into()),
        },
    }
}

fn passt() -> Finding {
    let path = network::locate_passt();
    let problem = (path.is_none()).then(|| "passt is not installed: guests have no network".into());
    Finding {
        version: None,
        remediation: problem.is_some().then(|| network::INSTALL_PASST.into()),
        problem,
        path,
    }
}

/// The default kernel; does not create a store if there is none.
fn kernel(settings: &Settings) -> KernelReport {
    let root = settings.store_dir();
    let found = if root.is_dir() {
        Store::open(&root).map_err(Failure::from).and_then(|store| {
            let pipeline = Pipeline::new(store, std::sync::Arc::new(Silent));
            Ok(pipeline.default_kernel()?)
        })
    } else {
        Ok(None)
    };
    match found {
        Ok(Some(kernel)) => KernelReport {
            installed: Some(kernel),
            problem: None,
            remediation: None,
        },
        Ok(None) => KernelReport {
            installed: None,
            problem: Some("not installed; the first run installs one".into()),
            remediation: Some("microagent kernel install".into()),
        },
        Err(failure) => KernelReport {
            installed: None,
            problem: Some(failure.message),
            remediation: failure.remediation,
        },
    }
}

impl Finding {
    fn program(name: &str) -> Finding {
        match install::find(name) {
            Ok(path) => Finding {
                path: Some(path),
                version: None,
                problem: None,
                remediation: None,
            },
            Err(failure) => Finding {
                path: None,
                version: None,
                problem: Some(failure.message),
                remediation: failure.remediation,
            },
        }
    }

    fn summary(&self) -> String {
        let version = self
            .version
            .as_ref()
            .map(|version| format!(" (version {version})"));
        let path = self
            .path
            .as_ref()
            .map(|path| format!("{}{}", path.display(), version.unwrap_or_default()));
        self.problem.clone().or(path).unwrap_or_default()
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, finding: &str, remediation: Option<&str>| {
            let _ = writeln!(text, "{name:<12}{finding}");
            if let Some(remediation) = remediation {
                let _ = writeln!(text, "{:<12}-> {remediation}", "");
            }
        };
        let auto = match self.engine.auto {
            Some(engine) => format!("{engine}: {}", self.engine.why),
            None => format!("none: {}", self.engine.why),
        };
        line("engine", &auto, None);
        let kvm = self.kvm.kvm.problem();
        line(
            "kvm",
            kvm.as_deref().unwrap_or("usable"),
            self.kvm.remediation,
        );
        if let Some(creation) = &self.vm_creation {
            let remediation = creation.remediation.as_deref();
            line("vm creation", &creation.summary(), remediation);
        }
        line(
            "qemu",
            &self.qemu.summary(),
            self.qemu.remediation.as_deref(),
        );
        line(
            "passt",
            &self.passt.summary(),
            self.passt.remediation.as_deref(),
        );
        line(
            "agent",
            &self.agent.summary(),
            self.agent.remediation.as_deref(),
        );
        line(
            "supervisor",
            &self.supervisor.summary(),
            self.supervisor.remediation.as_deref(),
        );
        let kernel = self.kernel.installed.as_ref().map(format::kernel);
        let kernel = kernel
            .or_else(|| self.kernel.problem.clone())
            .unwrap_or_default();
        line("kernel", &kernel, self.kernel.remediation.as_deref());
        line("state", &self.state_dir.display().to_string(), None);
        text
    }
}
