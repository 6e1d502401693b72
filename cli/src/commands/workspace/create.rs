//! `microagent create`.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use microagent_cas::Store;
use microagent_pipeline::{ErrorKind, Pipeline};
use microagent_proto::agent::{Output, Place};
use microagent_workspace::dir::{NewWorkspace, WorkspaceDir};
use microagent_workspace::event::{Event, now, record};
use microagent_workspace::machine::boot::{
    BOOT_ATTEMPTS, boot, boot_timeout, configure, shut_down,
};
use microagent_workspace::machine::data_loss;
use microagent_workspace::machine::run_dir::RunDir;
use microagent_workspace::machine::supervisor::Supervisor;
use microagent_workspace::spec::{MAX_DOCUMENT, Recorded, RecordedImage, RecordedKernel, Spec};
use microagent_workspace::start::{self, StartOptions};
use microagent_workspace::state::State;
use serde::Serialize;

use super::random_id;
use crate::args::CreateArgs;
use crate::commands::pipeline;
use crate::document::{ImageDocument, KernelDocument, NodeDocument, nodes};
use crate::engine::{self, Choice};
use crate::failure::{Failure, kind_of};
use crate::install;
use crate::request::command::shell;
use crate::request::create::CreateRequest;
use crate::request::resources::{self, Resources};
use crate::request::{RunRequest, exec_size};
use crate::run::artifacts::{self, Artifacts, check_memory};
use crate::run::disks;
use crate::run::phases::Phases;
use crate::run::variables;
use crate::run::vm;
use crate::settings::Settings;
use crate::termination::Termination;

/// The specification files that are read if they exist.
const DEFAULT_FILES: [&str; 2] = ["microagent.yaml", "microagent.yml"];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    workspace: String,
    state_dir: PathBuf,
    state: State,
    image: ImageDocument,
    resources: Resources,
    kernel: KernelDocument,
    nodes: Vec<NodeDocument>,
}

/// Creates a workspace.
pub fn create(
    args: CreateArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let dry_run = args.dry_run;
    let (document, base) = document(&args, settings)?;
    let variables = variables::read(&args.environment)?;
    let request = CreateRequest::check(args, variables, document, &base, resources::host_cpus())?;
    let choice = engine::choose_with_notice(settings)?;
    disks::inspect(&request.run.disks, choice.engine)?;
    let supervisor = (request.run.supervisor.as_ref())
        .map(|path| install::check_program("--supervisor", path))
        .transpose()?;
    if dry_run {
        settings.output.text(&request.spec.to_json())?;
        return Ok(0);
    }
    let agent = install::find(install::AGENT)?;
    let pipeline = pipeline::open(settings, termination)?;
    let store = pipeline.store();
    let new = super::workspaces(settings).begin(&request.name, |spec| {
        if let Err(error) = release(store, spec, None) {
            tracing::warn!(%error.message, "cannot release what a killed command held");
        }
    })?;
    termination.remove_on_exit(new.directory().path());
    let mut phases = Phases::default();
    let artifacts = artifacts::prepare(
        &pipeline,
        &request.run,
        &agent,
        settings.output,
        &mut phases,
        termination,
    )?;
    check_memory(
        &artifacts.kernel.path,
        &artifacts.initramfs.path,
        request.run.resources.memory_mib,
        request.run.resources.cpu_count,
    )?;
    let mut spec = request.spec;
    let recorded = recorded(&request.run, &artifacts, supervisor)?;
    spec.recorded = Some(recorded.clone());
    check_sizes(&spec, &recorded)?;
    new.directory().write_spec(&spec)?;
    let root = root_name(&recorded);
    let objects = start::objects(&recorded).map_err(|error| internal(&error))?;
    let value = serde_json::json!({ OWNER: request.name });
    let root_file = store.root_file(&root)?;
    termination.remove_on_exit(&root_file);
    store.set_root(&root, objects, value)?;
    let made = set_up(&new, &spec, &pipeline, &choice, settings, termination)
        .and_then(|()| record_prepared(new.directory(), &spec, &recorded))
        .and_then(|()| Ok(new.complete()?));
    made.inspect_err(|_| {
        let _ = store.remove_root(&root);
    })?;
    termination.keep(&root_file);
    if !settings.output.json {
        settings.output.text(&format!("{}\n", request.name))?;
        return Ok(0);
    }
    settings.output.document(&Document {
        workspace: request.name,
        state_dir: settings.state_dir.clone(),
        state: State::Prepared,
        image: ImageDocument::new(&artifacts.image),
        resources: request.run.resources,
        kernel: KernelDocument::new(&artifacts.kernel, request.run.kernel),
        nodes: nodes(&pipeline),
    })?;
    Ok(0)
}

/// The name of the store's root for a workspace.
pub(super) fn root_name(recorded: &Recorded) -> String {
    format!("workspace-{}", recorded.runtime_id)
}

/// The field of a root that has the name of its workspace.
pub(super) const OWNER: &str = "workspace";

/// Removes what the store holds for the workspace `name`, or for one that was never complete. That
/// of another one of which this is a copy stays.
pub(super) fn release(store: &Store, spec: &Spec, name: Option<&str>) -> Result<(), Failure> {
    let Some(recorded) = &spec.recorded else {
        return Ok(());
    };
    let root = root_name(recorded);
    let owner = store.get_root(&root)?;
    let owner = owner
        .as_ref()
        .and_then(|record| record.value[OWNER].as_str());
    if owner.is_some() && owner == name.or(spec.name.as_deref()) {
        store.remove_root(&root)?;
    }
    Ok(())
}

pub(super) fn internal(error: &dyn std::error::Error) -> Failure {
    Failure::caused(ErrorKind::Internal, error)
}

/// The document to start from, and the directory of its relative paths.
fn document(args: &CreateArgs, settings: &Settings) -> Result<(Spec, PathBuf), Failure> {
    let here = || std::path::absolute(".").map_err(|error| internal(&error));
    if let Some(path) = &args.request {
        if path == Path::new("-") {
            let text = read(&mut io::stdin().lock(), "standard input")?;
            return Ok((parse(Path::new("standard input"), &text)?, here()?));
        }
        return Ok((read_file(path)?, parent(path)?));
    }
    if let Some(path) = &args.file {
        return Ok((read_file(path)?, parent(path)?));
    }
    let found = DEFAULT_FILES
        .iter()
        .map(Path::new)
        .find(|path| path.is_file());
    match found {
        Some(path) => {
            let notice = format!("reading {}", path.display());
            settings.output.notice(&notice);
            Ok((read_file(path)?, here()?))
        }
        None => Ok((Spec::default(), here()?)),
    }
}

pub(super) fn parent(path: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(path).map_err(|error| internal(&error))?;
    Ok(path.parent().unwrap_or(Path::new("/")).to_owned())
}

pub(super) fn read_file(path: &Path) -> Result<Spec, Failure> {
    let shown = path.display().to_string();
    let mut file = fs::File::open(path).map_err(|error| unreadable(&shown, &error))?;
    parse(path, &read(&mut file, &shown)?)
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

/// Parses a document: JSON if its name or its first character says so, otherwise YAML.
fn parse(path: &Path, text: &str) -> Result<Spec, Failure> {
    let is_json = path
        .extension()
        .is_some_and(|extension| extension == "json")
        || text.trim_start().starts_with('{');
    let parsed = match is_json {
        true => Spec::from_json(text),
        false => Spec::from_yaml(text),
    };
    parsed.map_err(|error| {
        let separator = if error.line == 0 { ": " } else { ":" };
        Failure::usage(format!("{}{separator}{error}", path.display()))
            .remediation("the fields: microagent spec --schema")
    })
}

fn recorded(
    run: &RunRequest,
    artifacts: &Artifacts,
    supervisor: Option<PathBuf>,
) -> Result<Recorded, Failure> {
    let image = &artifacts.image;
    let config = &image.config;
    let (resources, unset_env) = (&run.resources, &run.unset_env);
    Ok(Recorded {
        runtime_id: random_id()?,
        created_at: now(),
        image: RecordedImage {
            reference: image.reference.clone(),
            resolved: image.resolved.clone(),
            digest: image.digest.to_string(),
            env: without(&config.env, unset_env),
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            stop_signal: config.stop_signal.clone(),
        },
        memory_mib: resources.memory_mib,
        cpu_count: resources.cpu_count,
        rootfs: artifacts.rootfs.digest.to_string(),
        kernel: RecordedKernel {
            digest: artifacts.kernel.digest.to_string(),
            modules_disk: artifacts.kernel.modules_disk.map(|disk| disk.to_string()),
        },
        initramfs: artifacts.initramfs.digest.to_string(),
        bundles: (artifacts.bundles.iter())
            .map(|bundle| bundle.digest.to_string())
            .collect(),
        argv: artifacts.argv.clone(),
        supervisor,
    })
}

/// The variables of the image, `NAME=value`, without those that the caller named and does not have.
fn without(image: &[String], unset: &[String]) -> Vec<String> {
    let named = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    (image.iter().filter(|entry| !unset.contains(&named(entry))))
        .cloned()
        .collect()
}

/// Refuses commands that Linux cannot execute, and a manifest that cannot be read again.
pub(super) fn check_sizes(spec: &Spec, recorded: &Recorded) -> Result<(), Failure> {
    let env: Vec<_> = spec.env.clone().into_iter().collect();
    let setup = spec.setup.iter().map(|line| shell(line));
    let workload = Some(recorded.argv.clone()).filter(|argv| !argv.is_empty());
    for argv in setup.chain(workload) {
        exec_size::check(&start::exec(spec, recorded, argv, Place::Beside), &env)?;
    }
    if spec.to_json().len() > MAX_DOCUMENT {
        let limit = MAX_DOCUMENT >> 20;
        return Err(Failure::usage(format!(
            "the specification has more than {limit} MiB with the image's variables"
        )));
    }
    Ok(())
}

pub(super) fn record_prepared(
    directory: &WorkspaceDir,
    spec: &Spec,
    recorded: &Recorded,
) -> Result<(), Failure> {
    let event = Event {
        request_id: random_id()?,
        runtime_id: recorded.runtime_id.clone(),
        role: start::role(spec).to_owned(),
        engine: None,
        state: State::Prepared,
        observed_at: now(),
        detail: None,
    };
    record(directory.path(), event)
        .map_err(|error| Failure::new(kind_of(&error), format!("cannot record the event: {error}")))
}

/// Runs the setup commands in a VM of their own. What they write is in the workspace's delta.
fn set_up(
    new: &NewWorkspace,
    spec: &Spec,
    pipeline: &Pipeline,
    choice: &Choice,
    settings: &Settings,
    termination: &Termination,
) -> Result<(), Failure> {
    if spec.setup.is_empty() {
        return Ok(());
    }
    let options = StartOptions {
        engine: choice.engine,
        supervisor: super::start::supervisor(spec)?,
        request_id: String::new(),
        memory_mib: None,
        cpu_count: None,
        boot: None,
        attempt: BOOT_ATTEMPTS,
    };
    let config = start::shim_config(new.directory(), spec, pipeline.store(), options)
        .map_err(|error| internal(&error))?;
    let recorded = start::recorded(spec).map_err(|error| internal(&error))?;
    let commands = spec.setup.iter().map(|line| {
        let mut exec = start::exec(spec, recorded, shell(line), Place::Beside);
        exec.output = Output::Merged;
        (line.clone(), exec)
    });
    let run_dir = RunDir::create()?;
    termination.remove_on_exit(run_dir.path());
    let verbose = settings.output.verbose > 1;
    let supervisor = Supervisor::spawn(&config.supervisor, choice.engine, verbose)?;
    let memory_mib = config.vm.memory_mib;
    let vm = microagent_proto::control::VmConfig {
        run_dir: run_dir.path().to_owned(),
        console_to_stderr: verbose,
        listen: Vec::new(),
        ..config.vm
    };
    boot(&supervisor, vm, boot_timeout(choice.engine, BOOT_ATTEMPTS))?;
    configure(&supervisor, config.guest, memory_mib)?;
    vm::set_up(&supervisor, commands.collect(), settings.output, memory_mib)?;
    let halted = shut_down(&supervisor);
    let lost = data_loss(&supervisor.warnings());
    supervisor.end(halted);
    match (halted, lost) {
        (true, None) => Ok(()),
        (_, Some(lost)) => Err(Failure::new(ErrorKind::Host, format!("the setup: {lost}"))),
        (false, None) => Err(Failure::new(
            ErrorKind::Guest,
            "the guest did not shut down after its setup",
        )),
    }
}
