//! Publishing, and the time of `run`: whole commands. `microagent` is in `$PATH`, and its state
//! directory and engine are in the environment.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use microagent_tests::tool;
use serde::{Deserialize, Serialize};

use super::client;
use super::figures::{Amounts, Figures};
use crate::Error;

/// The published port of this host, and the guest's.
const PORTS: &str = "8080:9000";

/// Where the published port is.
const PUBLISHED: [&str; 2] = ["127.0.0.1", "8080"];

/// What was measured with the product's commands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commands {
    /// Through a published port, of each round: `up` is to the guest.
    pub published: Vec<Figures>,
    /// Of each round, the milliseconds of `run` with `--network isolated` and with `user`.
    pub run: Vec<[f64; 2]>,
}

/// Measures `rounds` rounds with the measuring `program` and guests of `image`.
///
/// # Errors
/// When a tool is missing or a command fails.
pub fn measure(
    program: &Path,
    image: &str,
    amounts: Amounts,
    rounds: u32,
) -> Result<Commands, Error> {
    let mut commands = Commands {
        published: published(program, image, amounts, rounds)?,
        run: Vec::new(),
    };
    let run = |network: &str| -> Result<f64, Error> {
        let begun = Instant::now();
        microagent(&[
            "--quiet",
            "run",
            "--network",
            network,
            "--image",
            image,
            "--exec",
            "true",
        ])?;
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    };
    // The caches are warm from now on.
    run("user")?;
    for round in 0..rounds {
        commands.run.push(match round % 2 {
            0 => [run("isolated")?, run("user")?],
            _ => {
                let user = run("user")?;
                [run("isolated")?, user]
            }
        });
    }
    Ok(commands)
}

fn published(
    program: &Path,
    image: &str,
    amounts: Amounts,
    rounds: u32,
) -> Result<Vec<Figures>, Error> {
    microagent(&[
        "--quiet",
        "create",
        "web",
        "--image",
        image,
        "--network",
        "user",
        "--publish",
        PORTS,
    ])?;
    microagent(&["--quiet", "start", "web"])?;
    microagent(&["--quiet", "cp", &program.display().to_string(), "web:/net"])?;
    let mut serving = serve()?;
    // A first connection that is not counted.
    client::measure(program, PUBLISHED, &[("trips", 1)])?;
    let measure = |_| Figures::parse(&client::measure(program, PUBLISHED, &amounts.work())?);
    let figures = (0..rounds).map(measure).collect();
    microagent(&["--quiet", "delete", "--force", "web"])?;
    // It has failed, because its workspace is gone.
    let _ = serving.wait();
    figures
}

/// Starts the server in the guest.
fn serve() -> Result<Child, Error> {
    let words = ["exec", "web", "/net", "serve", "127.0.0.1", "9000"];
    let failed = |source| Error::Start {
        command: format!("microagent {}", words.join(" ")),
        source,
    };
    let mut command = Command::new("microagent");
    command.args(words).stdin(Stdio::null());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(failed)?;
    }
    match line.trim() {
        "serving" => Ok(child),
        _ => Err(Error::Invalid {
            what: "net",
            why: format!("the guest's server said {line:?}"),
        }),
    }
}

fn microagent(words: &[&str]) -> Result<(), Error> {
    tool::run("microagent", words)?;
    Ok(())
}
