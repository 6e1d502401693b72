//! `microagent stats`.

use std::time::Duration;

use microagent_proto::control::NetStats;
use microagent_workspace::client::{Client, ClientError};
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::shim::protocol::Stats;
use microagent_workspace::start::{disk_names, recorded};
use microagent_workspace::state::State;
use serde::Serialize;

use super::{client, client_failure, get, state_of, workspaces};
use crate::args::StatsArgs;
use crate::commands::format;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::table::table;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    workspace: String,
    state: State,
    uptime_millis: u64,
    /// The processor time of the VM's processes, in microseconds.
    cpu_micros: u64,
    /// The memory of the VM's processes.
    memory_bytes: u64,
    /// What the guest may use.
    #[serde(rename = "memoryMiB")]
    memory_mib: Option<u64>,
    read_bytes: u64,
    written_bytes: u64,
    disks: Vec<Disk>,
    /// What passed its network interface, and what its rules refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetStats>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Disk {
    name: String,
    read_bytes: u64,
    written_bytes: u64,
}

/// Prints one sample of the named workspaces, or of all that run.
pub fn stats(args: &StatsArgs, settings: &Settings) -> Result<u8, Failure> {
    let mut documents = Vec::new();
    for name in &args.names {
        let directory = get(settings, name)?;
        let stats = client(&directory, name)?.stats();
        let stats = stats.map_err(|error| client_failure(error, name))?;
        documents.push(document(name, &directory, stats)?);
    }
    if args.names.is_empty() {
        for name in workspaces(settings).names()? {
            let Ok(directory) = workspaces(settings).get(&name) else {
                continue;
            };
            match Client::new(&directory).and_then(|client| client.stats()) {
                Ok(stats) => match document(&name, &directory, stats) {
                    Ok(document) => documents.push(document),
                    // It was deleted meanwhile.
                    Err(_) if !directory.path().exists() => {}
                    Err(failure) => settings.output.notice(&failure.message),
                },
                Err(ClientError::NotRunning) => {}
                // One that hangs does not hide the others.
                Err(error) => {
                    let failure = client_failure(error, &name);
                    settings.output.notice(&failure.message);
                }
            }
        }
    }
    if settings.output.json {
        settings.output.document(&documents)?;
        return Ok(0);
    }
    let head = [
        "NAME", "STATE", "UPTIME", "CPU", "MEMORY", "READ", "WRITTEN",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for document in documents {
        let uptime = Duration::from_millis(document.uptime_millis);
        let cpu = Duration::from_micros(document.cpu_micros);
        rows.push(vec![
            document.workspace,
            document.state.to_string(),
            humantime::format_duration(Duration::from_secs(uptime.as_secs())).to_string(),
            format!("{:.2} s", cpu.as_secs_f64()),
            format::bytes(document.memory_bytes),
            format::bytes(document.read_bytes),
            format::bytes(document.written_bytes),
        ]);
    }
    settings.output.text(&table(&rows))?;
    Ok(0)
}

fn document(name: &str, directory: &WorkspaceDir, stats: Stats) -> Result<Document, Failure> {
    let (state, _) = state_of(directory)?;
    let spec = directory.known_spec()?;
    let names = disk_names(&spec);
    let disks = stats.vm.disks;
    let network = stats.vm.net;
    Ok(Document {
        workspace: name.to_owned(),
        state,
        uptime_millis: stats.uptime_millis,
        cpu_micros: stats.vm.cpu_micros,
        memory_bytes: stats.vm.memory_bytes,
        network,
        memory_mib: recorded(&spec).ok().map(|recorded| recorded.memory_mib),
        read_bytes: disks.iter().map(|disk| disk.read_bytes).sum(),
        written_bytes: disks.iter().map(|disk| disk.written_bytes).sum(),
        disks: (names.into_iter().zip(disks))
            .map(|(name, disk)| Disk {
                name,
                read_bytes: disk.read_bytes,
                written_bytes: disk.written_bytes,
            })
            .collect(),
    })
}
