//! `microagent rootfs build`, measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_tests::binaries;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::measured::{self, Cost};

/// A node that a build asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its operation.
    pub op: String,
    /// Whether it was there already.
    pub hit: bool,
    /// How long the answer took, in milliseconds.
    pub millis: f64,
}

/// A build.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// What the process cost.
    #[serde(flatten)]
    pub cost: Cost,
    /// What the file system is called.
    pub digest: String,
    /// The length of the file system in bytes.
    pub size: u64,
    /// What was asked for, in the order in which it was answered.
    pub nodes: Vec<Node>,
}

impl Build {
    /// The time of all nodes of an operation together, in milliseconds.
    pub fn millis(&self, op: &str) -> f64 {
        let of_op = self.nodes.iter().filter(|node| node.op == op);
        of_op.map(|node| node.millis).sum()
    }

    /// How many nodes of an operation were answered so.
    pub fn count(&self, op: &str, hit: bool) -> usize {
        let of_op = self.nodes.iter().filter(|node| node.op == op);
        of_op.filter(|node| node.hit == hit).count()
    }
}

#[derive(Deserialize)]
struct Document {
    image: ImageDocument,
    rootfs: RootfsDocument,
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct ImageDocument {
    resolved: String,
}

#[derive(Deserialize)]
struct RootfsDocument {
    digest: String,
    size: u64,
}

/// The command line, with a home of its own, so that nobody's registries and credentials matter.
#[derive(Debug, Clone)]
pub struct Microagent {
    program: PathBuf,
    home: PathBuf,
}

impl Microagent {
    /// The one that was built, with `home` as its home.
    pub fn new(home: &Path) -> Microagent {
        Microagent {
            program: binaries::microagent(),
            home: home.to_owned(),
        }
    }

    /// The least that a process of it costs: `microagent version`.
    ///
    /// # Errors
    /// When it fails.
    pub fn version(&self) -> Result<Cost, Error> {
        Ok(measured::run(self.command().arg("version"))?.0)
    }

    /// Builds a root file system, and the image's reference pinned by digest.
    ///
    /// # Errors
    /// When it fails.
    pub fn build(
        &self,
        state: &Path,
        image: &str,
        out: Option<&Path>,
    ) -> Result<(Build, String), Error> {
        let mut command = self.command();
        command.args(["--json", "--state-dir"]).arg(state);
        command.args(["rootfs", "build", "--allow-mutable", "--image", image]);
        if let Some(out) = out {
            command.arg("--out").arg(out);
        }
        let (cost, output) = measured::run(&mut command)?;
        let document: Document =
            serde_json::from_slice(&output).map_err(|source| Error::Answer {
                command: "microagent rootfs build".into(),
                source,
            })?;
        let build = Build {
            cost,
            digest: document.rootfs.digest,
            size: document.rootfs.size,
            nodes: document.nodes,
        };
        Ok((build, document.image.resolved))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("XDG_RUNTIME_DIR", &self.home)
            .env("TMPDIR", std::env::temp_dir())
            .current_dir(&self.home);
        command
    }
}
