//! `microagent create`.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use microagent_cas::Store;
use microagent_pipeline::{ErrorKind, Pipeline};
use microagent_proto::agent::{Output, Place};
use microagent_proto::error_chain;
use microagent_workspace::command::shell;
use microagent_workspace::creation::{self, Creation, CreationError};
use microagent_workspace::passed::Passed;
use microagent_workspace::plan;
use microagent_workspace::prepare::{BootPlan, RootPlan, check_disk, root};
use microagent_workspace::provision::{self, Provision, ProvisionError, ProvisionErrorKind};
use microagent_workspace::spec::{Field, MAX_DOCUMENT, NetworkMode, Recorded, Spec};
use microagent_workspace::start;
use microagent_workspace::state::State;
use serde::Serialize;

use super::alike::make_copy;
use super::saved_as::Snapshot;
use super::short_boot;
use crate::args::CreateArgs;
use crate::commands::pipeline;
use crate::document::{ImageDocument, KernelDocument, NodeDocument, nodes};
use crate::engine::{self, Choice};
use crate::failure::{Failure, kind_of};
use crate::install;
use crate::request::create::CreateRequest;
use crate::request::exec_size;
use crate::request::resources::{self, Resources};
use crate::request::spec_file::SpecFile;
use crate::request::{Variables, checked_name};
use crate::run::artifacts::{self, check_memory};
use crate::run::disks;
use crate::run::kept::check_manifest;
use crate::run::network::{asked_or_default, check_host};
use crate::run::passed;
use crate::run::phases::Phases;
use crate::run::variables;
use crate::run::vm;
use crate::settings::Settings;
use crate::termination::Termination;

/// The specification files that are read if they exist.
const DEFAULT_FILES: [&str; 2] = ["microagent.yaml", "microagent.yml"];

/// The field of a document that is `--memory`.
const MEMORY_FIELD: &str = "resources.memoryMiB";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    workspace: String,
    state_dir: PathBuf,
    state: State,
    /// Absent if it was made from a file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<PathBuf>,
    resources: Resources,
    kernel: KernelDocument,
    nodes: Vec<NodeDocument>,
}

/// Creates a workspace as a snapshot has saved another one.
fn create_from(
    snapshot: &str,
    args: &CreateArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let name = [&args.positional, &args.name, &args.id];
    let mut names = name.into_iter().flatten();
    let (Some(name), None) = (names.next(), names.next()) else {
        return Err(
            Failure::usage("--from-snapshot needs one name").remediation(format!(
                "use microagent create NAME --from-snapshot {snapshot}"
            )),
        );
    };
    let name = checked_name(name)?;
    let snapshot = Snapshot::find(settings, snapshot)?;
    let store = Store::open(&settings.store_dir())?;
    let disks = snapshot.disks()?;
    make_copy(&name, snapshot.spec, &disks, &store, settings, termination)
}

/// Creates a workspace.
pub fn create(
    args: CreateArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    if let Some(snapshot) = &args.from_snapshot {
        return create_from(snapshot, &args, settings, termination);
    }
    let dry_run = args.dry_run;
    let document = document(&args, settings)?;
    let variables = variables::read(&args.environment)?;
    let mut request = CreateRequest::check(
        args,
        variables,
        &document,
        resources::host_cpus(),
        settings.network,
    )?;
    let files = provision::check(&request.plan.spec.files);
    let files = files.map_err(|error| {
        // Only a document can have some.
        let field = Field::new("files").index(error.index);
        document.failure(&field, error.into())
    })?;
    let choice = engine::choose_with_notice(settings)?;
    if let RootPlan::Disk(plan) = &request.plan.root {
        check_disk(plan)?;
    }
    let supervisor = (request.supervisor.as_ref())
        .map(|path| install::check_program("--supervisor", path))
        .transpose()?;
    let network = request
        .plan
        .spec
        .network
        .get_or_insert_with(|| asked_or_default(None, settings));
    let networked = network.mode != NetworkMode::Isolated;
    check_host(network.mode)?;
    let passed = read_passed(&request.plan.spec, &request.unset_env, settings)?;
    disks::inspect(&request.plan.disks, choice.engine, networked)?;
    if dry_run {
        settings.output.text(&request.plan.complete().to_json())?;
        return Ok(0);
    }
    let agent = install::find(install::AGENT)?;
    let pipeline = pipeline::open(settings, termination)?;
    let store = pipeline.store();
    let new = creation::begin(&super::workspaces(settings), store, &request.plan.name)?;
    for path in new.leftovers() {
        termination.remove_on_exit(path);
    }
    let mut phases = Phases::default();
    let artifacts = artifacts::prepare(
        &pipeline,
        &BootPlan {
            kernel: request.plan.spec.kernel.clone(),
            bundles: disks::bundles(&request.plan.disks),
            agent,
        },
        settings.output,
        &mut phases,
        termination,
        |times| root(&pipeline, &request.plan.root, times),
    )?;
    let memory = Field::new(MEMORY_FIELD);
    let memory = document
        .find(&memory, &request.plan.spec)
        .filter(|found| *found == memory);
    check_memory(
        &artifacts.kernel.path,
        &artifacts.initramfs.path,
        request.plan.resources.memory_mib,
        request.plan.resources.cpu_count,
        memory.as_ref().map_or("--memory", |_| MEMORY_FIELD),
    )
    .map_err(|failure| match &memory {
        Some(field) => document.failure(field, failure),
        None => failure,
    })?;
    let mut recorded = creation::recorded(
        &request.plan.resources,
        &artifacts.root,
        &artifacts,
        &request.unset_env,
    )?;
    recorded.supervisor = supervisor;
    passed.record(&mut recorded, &request.unset_env);
    let mut creation = Creation::new(store, new, request.plan.spec.clone(), recorded.clone());
    check_sizes(creation.spec(), &recorded)?;
    let root_file = creation.root_file()?;
    termination.remove_on_exit(&root_file);
    creation.hold()?;
    set_up(&creation, &files, &pipeline, &choice, settings, termination)?;
    creation.complete()?;
    termination.keep(&root_file);
    if !settings.output.json {
        settings.output.text(&format!("{}\n", request.plan.name))?;
        return Ok(0);
    }
    settings.output.document(&Document {
        workspace: request.plan.name,
        state_dir: settings.state_dir.clone(),
        state: State::Prepared,
        image: artifacts.root.image.as_ref().map(ImageDocument::new),
        rootfs: request.plan.spec.rootfs,
        resources: request.plan.resources,
        kernel: KernelDocument::new(&artifacts.kernel, request.plan.spec.kernel),
        nodes: nodes(&pipeline),
    })?;
    Ok(0)
}

/// What the host passes to a workspace whose network is known, and which does not get the variables
/// `unset`.
pub(super) fn read_passed(
    spec: &Spec,
    unset: &[String],
    settings: &Settings,
) -> Result<Passed, Failure> {
    plan::proxy::check(spec)?;
    let given = Variables {
        set: spec.env.clone().into_iter().collect(),
        unset: unset.to_vec(),
    };
    let proxy = spec.proxy.as_deref();
    passed::read(proxy, &spec.ca_certs, &given, settings.output)
}

pub(super) fn internal(error: &dyn std::error::Error) -> Failure {
    Failure::caused(ErrorKind::Internal, error)
}

/// The document to start from.
fn document(args: &CreateArgs, settings: &Settings) -> Result<SpecFile, Failure> {
    let here = || std::path::absolute(".").map_err(|error| internal(&error));
    if let Some(path) = &args.request {
        if path == Path::new("-") {
            let text = read(&mut io::stdin().lock(), "standard input")?;
            let path = Path::new("standard input");
            return SpecFile::parse(path, here()?, text);
        }
        return read_file(path);
    }
    if let Some(path) = &args.file {
        return read_file(path);
    }
    let found = DEFAULT_FILES
        .iter()
        .map(Path::new)
        .find(|path| path.is_file());
    match found {
        Some(path) => {
            let notice = format!("reading {}", path.display());
            settings.output.notice(&notice);
            read_file(path)
        }
        None => Ok(SpecFile::default()),
    }
}

impl From<CreationError> for Failure {
    fn from(error: CreationError) -> Failure {
        match error {
            CreationError::Dir(error) => error.into(),
            CreationError::Store(error) => error.into(),
            CreationError::Manifest(error) => error.into(),
            CreationError::Event(ref source) => Failure::new(kind_of(source), error.to_string()),
            CreationError::Random(source) => Failure::caused(ErrorKind::Host, &source),
            error => internal(&error),
        }
    }
}

impl From<ProvisionError> for Failure {
    fn from(error: ProvisionError) -> Failure {
        let message = error_chain(&error);
        let kind = match error.source {
            ProvisionErrorKind::Read { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => kind_of(&source),
            },
            ProvisionErrorKind::Write { source, .. } => {
                let failure = Failure::from(source);
                return Failure { message, ..failure };
            }
            _ => return Failure::usage(message),
        };
        Failure::new(kind, message)
    }
}

pub(super) fn read_file(path: &Path) -> Result<SpecFile, Failure> {
    let shown = path.display().to_string();
    let mut file = fs::File::open(path).map_err(|error| unreadable(&shown, &error))?;
    let text = read(&mut file, &shown)?;
    let path_here = std::path::absolute(path).map_err(|error| internal(&error))?;
    let base = path_here.parent().unwrap_or(Path::new("/")).to_owned();
    SpecFile::parse(path, base, text)
}

fn unreadable(shown: &str, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => kind_of(error),
    };
    Failure::new(kind, format!("cannot read {shown}: {error}"))
}

/// Reads a document, but not more than one may have.
fn read(from: &mut dyn Read, shown: &str) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(MAX_DOCUMENT as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(shown, &error))?;
    Ok(text)
}

/// Refuses commands that Linux cannot execute, and a manifest that cannot be read again.
pub(super) fn check_sizes(spec: &Spec, recorded: &Recorded) -> Result<(), Failure> {
    let env: Vec<_> = spec.env.clone().into_iter().collect();
    let setup = spec.setup.iter().map(|line| shell(line));
    let workload = Some(recorded.argv.clone()).filter(|argv| !argv.is_empty());
    for argv in setup.chain(workload) {
        exec_size::check(&start::exec(spec, recorded, argv, Place::Beside), &env)?;
    }
    check_manifest(spec)
}

/// Copies files and runs the setup commands in a VM of their own. What they write is in the
/// workspace's delta.
fn set_up(
    creation: &Creation,
    files: &[Provision<'_>],
    pipeline: &Pipeline,
    choice: &Choice,
    settings: &Settings,
    termination: &Termination,
) -> Result<(), Failure> {
    let spec = creation.spec();
    if spec.setup.is_empty() && files.is_empty() {
        return Ok(());
    }
    let recorded = start::recorded(spec)?;
    let commands = spec.setup.iter().map(|line| {
        let mut exec = start::exec(spec, recorded, shell(line), Place::Beside);
        exec.output = Output::Merged;
        (line.clone(), exec)
    });
    let booted = short_boot::start(
        creation.directory(),
        spec,
        (pipeline.store(), true),
        choice,
        settings,
        termination,
    )?;
    let memory_mib = booted.memory_mib();
    let mut skipped = 0;
    for file in files {
        skipped += file.copy(booted.connect()?)?;
    }
    if skipped > 0 {
        let message = format!("{skipped} device files and sockets were not copied");
        settings.output.notice(&message);
    }
    vm::set_up(
        booted.supervisor(),
        commands.collect(),
        settings.output,
        memory_mib,
    )?;
    booted.finish().map_err(|error| {
        let failure = Failure::from(error);
        Failure {
            message: format!("the setup: {}", failure.message),
            ..failure
        }
    })
}
