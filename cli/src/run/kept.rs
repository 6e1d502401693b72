//! A run with `--keep`: a workspace whose first start is the run.
//!
//! It is made as by `create`, under a hidden name and held by the store, and gets its name when the
//! command has ended. A run that is killed, or whose command never started, leaves none. It has no
//! workload: `start` boots it to idle, ready for `exec`.

use std::io::Write;
use std::path::{Path, PathBuf};

use microagent_cas::Store;
use microagent_pipeline::ErrorKind;
use microagent_proto::agent::Exited;
use microagent_proto::control::DiskConfig;
use microagent_workspace::creation::{self, Creation};
use microagent_workspace::dir::{NewWorkspace, Workspaces};
use microagent_workspace::plan::disks::DiskSource;
use microagent_workspace::prepare::{ImageRoot, Prepared, Root};
use microagent_workspace::result::WorkloadResult;
use microagent_workspace::spec::{Access, Disk, MAX_DOCUMENT, Resources, Spec};
use microagent_workspace::start;
use microagent_workspace::state::State;

use super::document::RunDocument;
use super::network::asked_or_default;
use crate::failure::Failure;
use crate::out_file::OutFile;
use crate::request::RunRequest;
use crate::settings::Settings;
use crate::termination::Termination;

/// The document of the run, in the directory of its workspace.
const DOCUMENT: &str = "run.json";

/// A name that is taken, for a workspace of which nothing is known yet. Dropping it frees the name.
#[derive(Debug)]
pub struct Reserved {
    new: NewWorkspace,
    termination: Termination,
}

/// The workspace of a run. Dropping it removes it.
#[derive(Debug)]
pub struct KeptRun {
    creation: Creation,
    root_file: PathBuf,
    engine: &'static str,
    termination: Termination,
}

impl Reserved {
    /// Takes a name.
    ///
    /// # Errors
    /// When a workspace has it, or another command is making one.
    pub fn new(
        settings: &Settings,
        store: &Store,
        name: &str,
        termination: &Termination,
    ) -> Result<Reserved, Failure> {
        let new = creation::begin(&Workspaces::of(&settings.state_dir), store, name)?;
        for path in new.leftovers() {
            termination.remove_on_exit(path);
        }
        Ok(Reserved {
            new,
            termination: termination.clone(),
        })
    }

    /// Makes the workspace of `request`, which boots `artifacts`; its VM can be started.
    ///
    /// # Errors
    /// Those of the file system and the store, and a manifest that is too large.
    pub fn make(
        self,
        request: &RunRequest,
        name: &str,
        artifacts: &Prepared<ImageRoot>,
        engine: &'static str,
        store: &Store,
        settings: &Settings,
    ) -> Result<KeptRun, Failure> {
        let root = Root {
            image: Some(artifacts.root.image.clone()),
            argv: Vec::new(),
            rootfs: artifacts.root.rootfs.digest,
        };
        let mut recorded =
            creation::recorded(&request.resources, &root, artifacts, &request.unset_env)?;
        recorded.supervisor = request.supervisor.as_deref().map(absolute).transpose()?;
        let passed = request.passed.clone();
        passed.record(&mut recorded, &request.unset_env);
        let spec = spec(request, name, settings)?;
        let mut creation = Creation::new(store, self.new, spec, recorded);
        check_manifest(creation.spec())?;
        let root_file = creation.root_file()?;
        self.termination.remove_on_exit(&root_file);
        creation.hold()?;
        creation.record(State::Prepared, None, None)?;
        creation.record(State::Running, Some(engine), None)?;
        Ok(KeptRun {
            creation,
            root_file,
            engine,
            termination: self.termination,
        })
    }
}

impl KeptRun {
    /// The root disk, then the additional disks: what the guest writes is kept.
    ///
    /// # Errors
    /// Those of a damaged manifest.
    pub fn disks(&self, store: &Store) -> Result<Vec<DiskConfig>, Failure> {
        let spec = self.creation.spec();
        let recorded = start::recorded(spec)?;
        let disks = start::disks(self.creation.directory(), spec, recorded, store)?;
        Ok(disks.into_iter().map(|(config, _)| config).collect())
    }

    /// Keeps the workspace in the state in which the run has left it, with the result of its command
    /// and the document of the run. If there is no space for these, it is kept nevertheless: its disk
    /// has what the command wrote.
    ///
    /// # Errors
    /// When it cannot be kept, or only without what is to be written.
    pub fn keep(mut self, exited: Option<Exited>, document: &RunDocument) -> Result<(), Failure> {
        let written = self.write(exited, document);
        self.creation.complete()?;
        self.termination.keep(&self.root_file);
        written
    }

    fn write(&mut self, exited: Option<Exited>, document: &RunDocument) -> Result<(), Failure> {
        // First, because what follows needs more space.
        let detail = document.error.as_ref().map(|error| error.message.clone());
        self.creation
            .record(document.final_state, Some(self.engine), detail)?;
        let times = (
            document.result.started_at.clone(),
            document.result.completed_at.clone(),
        );
        let directory = self.creation.directory();
        if let (Some(exited), (Some(started_at), Some(completed_at))) = (exited, times) {
            let result = WorkloadResult::new(started_at, completed_at, exited);
            let path = directory.result();
            let written = result.write(&path);
            written.map_err(|error| cannot_write(&path, &error))?;
        }
        let path = directory.path().join(DOCUMENT);
        let text = serde_json::to_vec_pretty(document)
            .map_err(|error| Failure::caused(ErrorKind::Internal, &error))?;
        let file = OutFile::create(&path, &self.termination)?;
        let written = file.file().write_all(&text);
        written.map_err(|error| file.error(error))?;
        Ok(file.commit()?)
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let message = format!("cannot write {}: {error}", path.display());
    Failure::new(crate::failure::kind_of(error), message)
}

/// Refuses a manifest that could not be read again.
///
/// # Errors
/// When it is too large.
pub fn check_manifest(spec: &Spec) -> Result<(), Failure> {
    if spec.to_json().len() > MAX_DOCUMENT {
        let limit = MAX_DOCUMENT >> 20;
        return Err(Failure::usage(format!(
            "the specification has more than {limit} MiB with the image's variables"
        )));
    }
    Ok(())
}

/// What the workspace is from its next start on.
fn spec(request: &RunRequest, name: &str, settings: &Settings) -> Result<Spec, Failure> {
    let (mut disks, mut bundles) = (Vec::new(), Vec::new());
    for disk in &request.disks {
        let (list, path) = match &disk.source {
            DiskSource::Image(path) => (&mut disks, path),
            DiskSource::Bundle(path) => (&mut bundles, path),
        };
        list.push(Disk {
            name: disk.name.clone(),
            // Absolute already.
            path: path.clone(),
            mountpoint: disk.mount.clone(),
            mode: match disk.read_only {
                true => Access::Ro,
                false => Access::Rw,
            },
        });
    }
    Ok(Spec {
        name: Some(name.to_owned()),
        image: Some(request.reference.to_string()),
        kernel: request.kernel.as_deref().map(absolute).transpose()?,
        profile: request.resources.profile.clone(),
        resources: Resources {
            memory_mib: Some(request.resources.memory_mib),
            cpu_count: Some(request.resources.cpu_count),
            size_mib: request.resources.size_mib,
        },
        shell: request.shell.clone(),
        hostname: request.hostname.clone(),
        setup: request.setup.clone(),
        // The last value of a variable is the one that counts.
        env: request.env.iter().cloned().collect(),
        network: Some(asked_or_default(request.network.as_ref(), settings)),
        proxy: request.proxy.clone(),
        ca_certs: (request.ca_certs.iter().map(|path| absolute(path))).collect::<Result<_, _>>()?,
        disks,
        bundles,
        outputs: request.outputs.clone(),
        mediation: request.mediation.clone(),
        ..Spec::default()
    })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::caused(ErrorKind::Host, &error))
}
