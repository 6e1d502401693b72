//! Measures `microagent rootfs build`.

use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_tests::binaries;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::measured::{self, Cost};

/// A node of a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The operation.
    pub op: String,
    /// Whether it was cached.
    pub hit: bool,
    /// The time to look it up or compute it, in milliseconds.
    pub millis: f64,
}

/// A measured build.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Build {
    /// The cost of the process.
    #[serde(flatten)]
    pub cost: Cost,
    /// The digest of the root file system.
    pub digest: String,
    /// The size of the root file system in bytes.
    pub size: u64,
    /// The nodes, in order of completion.
    pub nodes: Vec<Node>,
}

impl Build {
    /// The total time of the nodes of an operation, in milliseconds.
    pub fn millis(&self, op: &str) -> f64 {
        let of_op = self.nodes.iter().filter(|node| node.op == op);
        of_op.map(|node| node.millis).sum()
    }

    /// The number of nodes of an operation that were cached (`hit`) or computed.
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

/// The `microagent` program, run with a private home directory, so that the user's registries and
/// credentials have no effect.
#[derive(Debug, Clone)]
pub struct Microagent {
    program: PathBuf,
    home: PathBuf,
}

impl Microagent {
    /// The program under test (see `microagent_tests::binaries`), with `home` as its home.
    pub fn new(home: &Path) -> Microagent {
        Microagent {
            program: binaries::microagent(),
            home: home.to_owned(),
        }
    }

    /// Measures `microagent version`, the minimum cost of a process.
    ///
    /// # Errors
    /// When the program fails.
    pub fn version(&self) -> Result<Cost, Error> {
        Ok(measured::run(self.command().arg("version"))?.0)
    }

    /// Builds a root file system. Also returns the image's reference pinned by digest.
    ///
    /// # Errors
    /// When the build fails.
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
            serde_json::from_slice(&output).map_err(|source| Error::Parse {
                what: "the output of microagent rootfs build".into(),
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
