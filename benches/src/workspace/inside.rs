//! The measurement itself, where the programs are.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::memory;
use crate::Error;

/// Memory of the VMs in MiB.
const MEMORY_MIB: u32 = 128;

/// How often `exec true` is measured in each round.
const EXECS: usize = 3;

/// What each round measured. Times are in milliseconds, of whole processes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// `microagent version`.
    pub version: Vec<f64>,
    /// `create` of an image whose root file system is in the cache.
    pub create: Vec<f64>,
    /// From the start of `run` to the report of the guest's agent.
    pub run_to_agent: Vec<f64>,
    /// `start`, which returns when the guest is ready.
    pub start: Vec<f64>,
    /// `exec NAME true` in a running workspace.
    pub exec: Vec<f64>,
    /// Memory of the process that keeps an idle workspace, in KiB.
    pub shim_kib: Vec<f64>,
    /// Memory of its VM's supervisor, without the guest's, in KiB.
    pub supervisor_kib: Vec<f64>,
}

/// Measures `rounds` rounds with `microagent` and the image.
///
/// # Errors
/// When a command fails, or prints something else than documented.
pub fn measure(image: &str, state_dir: &Path, rounds: u32) -> Result<Measured, Error> {
    let memory = MEMORY_MIB.to_string();
    let create = |name: &str| {
        timed(&[
            "--quiet", "create", name, "--image", image, "--memory", &memory, "--cpus", "1",
        ])
    };
    // Fills the caches of the host's kernel and of the store.
    create("warm")?;
    timed(&["--quiet", "start", "warm"])?;
    timed(&["delete", "--force", "warm"])?;
    let mut measured = Measured::default();
    for round in 0..rounds {
        let name = format!("w{round}");
        measured.version.push(timed(&["version"])?);
        measured.create.push(create(&name)?);
        measured.run_to_agent.push(run_to_agent(image, &memory)?);
        measured.start.push(timed(&["--quiet", "start", &name])?);
        for _ in 0..EXECS {
            measured.exec.push(timed(&["exec", &name, "true"])?);
        }
        let lock = state_dir.join("workspaces").join(&name).join("lock");
        let kept = memory::of_workspace(&lock)?;
        measured.shim_kib.push(kept.shim_kib as f64);
        measured.supervisor_kib.push(kept.supervisor_kib as f64);
        timed(&["delete", "--force", &name])?;
    }
    Ok(measured)
}

/// The time of one command that succeeds.
fn timed(words: &[&str]) -> Result<f64, Error> {
    let begun = Instant::now();
    output(words)?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

fn run_to_agent(image: &str, memory: &str) -> Result<f64, Error> {
    let run = [
        "--json", "run", "--image", image, "--memory", memory, "--cpus", "1", "--exec", "true",
    ];
    let document: Value =
        serde_json::from_slice(&output(&run)?).map_err(|source| Error::Parse {
            what: "the output of microagent run".into(),
            source,
        })?;
    let mark = |name: &str| {
        let marks = document["timeline"].as_array().into_iter().flatten();
        marks
            .filter(|mark| mark["mark"] == name)
            .find_map(|mark| mark["monotonicMicros"].as_f64())
    };
    match (mark("cli"), mark("agent")) {
        (Some(start), Some(agent)) => Ok((agent - start) / 1e3),
        _ => Err(Error::Invalid {
            what: "workspace",
            why: "the timeline of a run is incomplete".into(),
        }),
    }
}

fn output(words: &[&str]) -> Result<Vec<u8>, Error> {
    let command = || format!("microagent {}", words.join(" "));
    let output = Command::new("microagent")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start {
            command: command(),
            source,
        })?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(Error::Ended {
            command: command(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}
