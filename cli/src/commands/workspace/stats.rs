//! `microagent stats`.

use std::time::Duration;

use microagent_workspace::client::{Client, ClientError};
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
        let client = client(&get(settings, name)?, name)?;
        let stats = client.stats();
        documents.push(document(
            name,
            stats.map_err(|error| client_failure(error, name))?,
            settings,
        )?);
    }
    if args.names.is_empty() {
        for name in workspaces(settings).names()? {
            let Ok(directory) = workspaces(settings).get(&name) else {
                continue;
            };
            match Client::new(&directory).and_then(|client| client.stats()) {
                Ok(stats) => documents.push(document(&name, stats, settings)?),
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

fn document(name: &str, stats: Stats, settings: &Settings) -> Result<Document, Failure> {
    let directory = get(settings, name)?;
    let (state, _) = state_of(&directory)?;
    let spec = directory.spec()?;
    let names = disk_names(&spec);
    let disks = stats.vm.disks;
    Ok(Document {
        workspace: name.to_owned(),
        state,
        uptime_millis: stats.uptime_millis,
        cpu_micros: stats.vm.cpu_micros,
        memory_bytes: stats.vm.memory_bytes,
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
