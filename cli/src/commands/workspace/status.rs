//! `microagent status`, `list` and `ps`.

use std::path::PathBuf;

use microagent_cas::Store;
use microagent_proto::control::Refused;
use microagent_proto::error_chain;
use microagent_workspace::client::Client;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::event::Event;
use microagent_workspace::network::refusals::{counts, describe};
use microagent_workspace::quarantine::{Capture, captures};
use microagent_workspace::readiness::{Readiness, readiness};
use microagent_workspace::result::WorkloadResult;
use microagent_workspace::spec::{
    Access, Disk, Forward, Mediation, NetworkMode, OutputPath, RecordedImage, Restart, Spec,
};
use microagent_workspace::start::role;
use microagent_workspace::state::State;
use microagent_workspace::verification::{Current, Divergence, Verification, verify};
use serde::Serialize;

use super::{get, state_of, workspaces};
use crate::args::StatusArgs;
use crate::commands::pipeline;
use crate::failure::Failure;
use crate::request::reference;
use crate::settings::Settings;
use crate::table::table;
use crate::termination::Termination;

/// How many kinds of refusals the text lists; the document has more.
const SHOWN_REFUSALS: usize = 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    workspace: String,
    state: State,
    state_dir: PathBuf,
    runtime_id: Option<String>,
    created_at: Option<String>,
    image: Option<Image>,
    /// The file of the user that it was made from instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<PathBuf>,
    event: Option<Event>,
    result: Option<WorkloadResult>,
    artifacts: Artifacts,
    mediation: Option<Mediation>,
    network: Network,
    /// What was captured each time that it was quarantined, oldest first.
    quarantine: Vec<Capture>,
    verification: Option<Verification>,
    readiness: Readiness,
}

/// What goes into the workspace, and what it makes.
#[derive(Serialize)]
struct Artifacts {
    inputs: Vec<Input>,
    outputs: Vec<OutputPath>,
}

/// A disk.
#[derive(Serialize)]
struct Input {
    name: String,
    /// `disk` or `bundle`.
    r#type: &'static str,
    /// The file of the host.
    path: PathBuf,
    mountpoint: String,
    mode: Access,
    /// What a bundle was built into.
    digest: Option<String>,
}

impl Artifacts {
    fn of(spec: &Spec) -> Artifacts {
        let input = |disk: &Disk, kind, digest: Option<&String>| Input {
            name: disk.name.clone(),
            r#type: kind,
            path: disk.path.clone(),
            mountpoint: disk.mountpoint.clone(),
            mode: disk.mode,
            digest: digest.cloned(),
        };
        let built = spec.recorded.iter().flat_map(|recorded| &recorded.bundles);
        let mut built = built.fuse();
        let disks = spec.disks.iter().map(|disk| input(disk, "disk", None));
        let bundles = (spec.bundles.iter()).map(|bundle| input(bundle, "bundle", built.next()));
        Artifacts {
            inputs: disks.chain(bundles).collect(),
            outputs: spec.outputs.clone(),
        }
    }
}

#[derive(Serialize)]
struct Network {
    mode: NetworkMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    /// The first of the guest's addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// All of them, with their prefixes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    /// Why it does not work at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    down: Option<String>,
    /// What the rules refused: frames, then names.
    #[serde(flatten)]
    refused: Refused,
    publishes: Vec<Forward>,
}

impl Network {
    /// That of the specification, or of the VM that runs.
    fn of(spec: &Spec, directory: &WorkspaceDir, state: State) -> Network {
        let of_spec = spec.network.clone().unwrap_or_default();
        let mut network = Network {
            mode: of_spec.mode,
            interface: of_spec.interface,
            address: None,
            addresses: Vec::new(),
            down: None,
            refused: Refused::default(),
            publishes: of_spec.forwards,
        };
        if !state.is_live() {
            return network;
        }
        let Ok(client) = Client::new(directory) else {
            return network;
        };
        let Ok(status) = client.status() else {
            return network;
        };
        // The supervisor counts frames. One that hangs does not hide the rest.
        if of_spec.egress.is_some()
            && let Ok(stats) = client.prompt_stats()
        {
            network.refused = stats.vm.net.unwrap_or_default().refused;
        }
        network.refused.add(status.refused_names());
        let address = status.addresses.first();
        network.address = (address.and_then(|own| own.split('/').next())).map(str::to_owned);
        network.addresses = status.addresses;
        network.down = status.network_down;
        network.publishes = status.published;
        network
    }

    /// The rows of the text.
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        if !self.addresses.is_empty() {
            rows.push(("address", self.addresses.join(", ")));
        }
        let listed = self.refused.refused.iter().take(SHOWN_REFUSALS);
        rows.extend(listed.map(|refusal| {
            let times = refusal["count"].as_u64().unwrap_or(1);
            ("refused", format!("{} ({times})", describe(refusal)))
        }));
        if !self.refused.refused_counts.is_empty() {
            rows.push(("refused in all", counts(&self.refused)));
        }
        rows
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Image {
    reference: String,
    resolved: String,
    digest: String,
}

impl Image {
    fn new(image: &RecordedImage) -> Image {
        Image {
            reference: image.reference.clone(),
            resolved: image.resolved.clone(),
            digest: image.digest.clone(),
        }
    }
}

/// Prints the state of a workspace. Exits with 0 whatever it is.
pub fn status(
    args: &StatusArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    let spec = directory.known_spec()?;
    let (state, event) = state_of(&directory)?;
    let recorded = spec.recorded.as_ref();
    let image = recorded.and_then(|recorded| recorded.image.as_ref());
    let current = match image {
        Some(image) if args.refresh => Some(current(image, settings, termination)?),
        _ => None,
    };
    let verification = recorded
        .map(|recorded| {
            let store = Store::open(&settings.store_dir())?;
            verify(&store, &spec, recorded, current)
        })
        .transpose()?;
    let document = Document {
        workspace: args.name.clone(),
        state,
        state_dir: settings.state_dir.clone(),
        runtime_id: recorded.map(|recorded| recorded.runtime_id.clone()),
        created_at: recorded.map(|recorded| recorded.created_at.clone()),
        image: image.map(Image::new),
        rootfs: spec.rootfs.clone(),
        event,
        result: WorkloadResult::read(&directory.result()).unwrap_or_default(),
        artifacts: Artifacts::of(&spec),
        mediation: spec.mediation.clone(),
        network: Network::of(&spec, &directory, state),
        // A damaged capture does not hide the rest.
        quarantine: captures(&directory).unwrap_or_default(),
        verification,
        readiness: readiness(&directory, &spec, state),
    };
    if settings.output.json {
        settings.output.document(&document)?;
    } else {
        settings.output.text(&text(&document))?;
    }
    Ok(0)
}

/// What the reference of an image names now. A registry that cannot be asked is not an error.
fn current(
    image: &RecordedImage,
    settings: &Settings,
    termination: &Termination,
) -> Result<Current, Failure> {
    let reference = reference(&image.reference)?;
    let pipeline = pipeline::open(settings, termination)?;
    Ok(match pipeline.current_root(&reference) {
        Ok(Some(digest)) => Current::Digest(digest),
        Ok(None) => Current::Gone,
        Err(error) => {
            let why = error_chain(&error);
            settings
                .output
                .notice(&format!("cannot ask for {}: {why}", image.reference));
            Current::Unknown
        }
    })
}

fn text(document: &Document) -> String {
    let mut rows = vec![("workspace", document.workspace.clone())];
    rows.push(("state", document.state.to_string()));
    if let Some(event) = &document.event {
        rows.push(("since", event.observed_at.clone()));
        rows.extend(event.detail.clone().map(|detail| ("detail", detail)));
    }
    if let Some(image) = &document.image {
        rows.push(("image", image.resolved.clone()));
    }
    let rootfs = document.rootfs.as_ref();
    rows.extend(rootfs.map(|rootfs| ("rootfs", rootfs.display().to_string())));
    rows.extend((document.created_at.clone()).map(|created| ("created", created)));
    if let Some(code) = document.result.as_ref().and_then(|result| result.exit_code) {
        rows.push(("exit code", code.to_string()));
    }
    rows.extend(document.network.rows());
    for capture in &document.quarantine {
        rows.push(("captured", capture.path.display().to_string()));
    }
    let verification = document.verification.as_ref();
    for differs in verification.iter().flat_map(|all| &all.divergence) {
        let Divergence {
            artifact,
            field,
            expected,
            actual,
        } = differs;
        let text = format!("{artifact}: {field} is {actual}, recorded {expected}");
        rows.push(("differs", text));
    }
    if let Some(current) = verification.and_then(|all| all.image.as_ref()?.current.clone()) {
        rows.push(("current", current));
    }
    if document.state == State::Running {
        let readiness = &document.readiness;
        let probes = [
            ("guest", &readiness.guest_ready),
            ("shell", &readiness.shell_ready),
        ];
        for (what, probe) in probes {
            if let Some(why) = &probe.detail {
                rows.push(("not ready", format!("{what}: {why}")));
            }
        }
    }
    let cells = |(name, value): &(&str, String)| vec![(*name).to_owned(), value.clone()];
    table(&rows.iter().map(cells).collect::<Vec<_>>())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    workspace: String,
    state: State,
    /// When it came into this state.
    since: Option<String>,
    runtime_id: Option<String>,
    role: String,
    engine: Option<String>,
    #[serde(rename = "memoryMiB")]
    memory_mib: Option<u64>,
    cpu_count: Option<u32>,
    restart: Restart,
    /// How its workload ended.
    exit_code: Option<i32>,
    signal: Option<i32>,
    image: Option<String>,
    /// The file of the user that it was made from instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<PathBuf>,
    created_at: Option<String>,
}

/// Lists all workspaces, or only those that run. None is asked: the lock says whether it lives.
pub fn list(only_live: bool, settings: &Settings) -> Result<u8, Failure> {
    let mut rows = Vec::new();
    for name in workspaces(settings).names()? {
        // Deleted meanwhile.
        let Ok(directory) = workspaces(settings).get(&name) else {
            continue;
        };
        let (state, event) = match state_of(&directory) {
            Ok(found) => found,
            // A damaged one does not hide the others.
            Err(_) if directory.path().exists() => (State::Failed, None),
            Err(_) => continue,
        };
        if only_live && !state.is_live() {
            continue;
        }
        let spec = directory.known_spec().unwrap_or_default();
        let recorded = spec.recorded.as_ref();
        let result = WorkloadResult::read(&directory.result()).unwrap_or_default();
        rows.push(Row {
            workspace: name,
            state,
            since: event.as_ref().map(|event| event.observed_at.clone()),
            runtime_id: recorded.map(|recorded| recorded.runtime_id.clone()),
            role: role(&spec).to_owned(),
            engine: event.and_then(|event| event.engine),
            memory_mib: recorded.map(|recorded| recorded.memory_mib),
            cpu_count: recorded.map(|recorded| recorded.cpu_count),
            restart: spec.restart.unwrap_or_default(),
            exit_code: result.as_ref().and_then(|result| result.exit_code),
            signal: result.as_ref().and_then(|result| result.signal),
            image: (recorded.and_then(|recorded| recorded.image.as_ref()))
                .map(|image| image.reference.clone()),
            rootfs: spec.rootfs,
            created_at: recorded.map(|recorded| recorded.created_at.clone()),
        });
    }
    if settings.output.json {
        settings.output.document(&rows)?;
        return Ok(0);
    }
    let mut lines = vec![
        ["NAME", "STATE", "EXIT", "SINCE", "IMAGE", "CREATED"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        let exit = match (row.exit_code, row.signal) {
            (Some(code), _) => code.to_string(),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => String::new(),
        };
        lines.push(vec![
            row.workspace,
            row.state.to_string(),
            exit,
            row.since.unwrap_or_default(),
            row.image.unwrap_or_else(|| {
                row.rootfs
                    .map_or_else(String::new, |rootfs| rootfs.display().to_string())
            }),
            row.created_at.unwrap_or_default(),
        ]);
    }
    settings.output.text(&table(&lines))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn network(refused: Vec<serde_json::Value>) -> Network {
        Network {
            mode: NetworkMode::User,
            interface: None,
            address: Some("10.0.2.15".into()),
            addresses: vec!["10.0.2.15/24".into(), "fd00::15/64".into()],
            down: None,
            refused: Refused {
                refused,
                refused_counts: [("noRule".to_owned(), 30), ("mood".to_owned(), 1)].into(),
            },
            publishes: Vec::new(),
        }
    }

    #[test]
    fn the_text_has_the_first_refusals_and_all_counts() {
        let tcp = json!({
            "reason": "noRule", "protocol": "tcp", "address": "192.0.2.1", "port": 80, "count": 29,
        });
        let shown = |text: &str| ("refused", text.to_owned());
        let refused = network(vec![tcp.clone(), json!({ "reason": "mood", "feeling": 1 })]);
        assert_eq!(
            refused.rows(),
            [
                ("address", "10.0.2.15/24, fd00::15/64".to_owned()),
                shown("TCP to 192.0.2.1:80: not allowed by a rule (29)"),
                shown("mood (1)"),
                (
                    "refused in all",
                    "mood (1), not allowed by a rule (30)".to_owned()
                ),
            ]
        );
        assert_eq!(network(vec![tcp; 100]).rows().len(), SHOWN_REFUSALS + 2);
        let document = serde_json::to_value(refused).unwrap();
        assert_eq!(
            document["refusedCounts"],
            json!({ "mood": 1, "noRule": 30 })
        );
        assert_eq!(document["refused"][1]["feeling"], 1);
        assert_eq!(document["address"], "10.0.2.15");
    }
}
