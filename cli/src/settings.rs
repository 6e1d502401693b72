//! The resolved global flags.

use std::path::{Path, PathBuf};

use microagent_pipeline::Registries;
use microagent_workspace::spec::NetworkMode;

use crate::args::{EngineArg, GlobalArgs};
use crate::failure::{Failure, kind_of};
use crate::output::Output;

/// The environment variable that names the registries file.
const REGISTRIES: &str = "MICROAGENT_REGISTRIES";

/// The environment variable that names the default network mode.
const NETWORK: &str = "MICROAGENT_NETWORK";

/// The environment variable that switches snapshots off.
const SNAPSHOT: &str = "MICROAGENT_SNAPSHOT";

/// The resolved global flags.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The state directory; absolute.
    pub state_dir: PathBuf,
    /// The requested engine.
    pub engine: EngineArg,
    /// The network mode of VMs about which nothing else is said.
    pub network: Option<NetworkMode>,
    /// Whether VMs are restored from snapshots.
    pub snapshots: bool,
    /// Output options.
    pub output: Output,
}

/// Whether the environment switches snapshots off.
fn snapshots() -> Result<bool, Failure> {
    let value = std::env::var_os(SNAPSHOT).unwrap_or_default();
    match value.to_str() {
        Some("" | "on") => Ok(true),
        Some("off") => Ok(false),
        _ => Err(Failure::usage(format!(
            "${SNAPSHOT} is {:?}, neither on nor off",
            value.to_string_lossy()
        ))
        .remediation("unset it, or set it to off")),
    }
}

/// The network mode that the environment names.
fn default_network() -> Result<Option<NetworkMode>, Failure> {
    let Some(name) = std::env::var_os(NETWORK).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let name = name.to_string_lossy();
    match NetworkMode::from_name(&name) {
        Some(mode @ (NetworkMode::User | NetworkMode::Nat | NetworkMode::Isolated)) => {
            Ok(Some(mode))
        }
        _ => Err(Failure::usage(format!(
            "${NETWORK} is {name:?}, which is no default network mode"
        ))
        .remediation("the modes are user, nat and isolated")),
    }
}

impl Settings {
    /// Resolves the global flags.
    ///
    /// # Errors
    /// When neither `--state-dir` nor a home directory gives a state directory.
    pub fn resolve(args: &GlobalArgs) -> Result<Settings, Failure> {
        let given = args.state_dir.clone();
        let home = || std::env::home_dir().map(|home| home.join(".microagent"));
        let state_dir = given
            .or_else(home)
            .filter(|path| !path.as_os_str().is_empty())
            .and_then(|path| std::path::absolute(path).ok())
            .ok_or_else(|| {
                Failure::usage("cannot determine the state directory: no home directory")
                    .remediation("set $HOME, or use --state-dir DIR")
            })?;
        // It is in messages to the supervisor and in documents, which are JSON.
        if state_dir.to_str().is_none() {
            let shown = state_dir.display();
            return Err(
                Failure::usage(format!("the state directory {shown} is not UTF-8"))
                    .remediation("use another --state-dir DIR"),
            );
        }
        Ok(Settings {
            state_dir,
            engine: args.engine,
            network: default_network()?,
            snapshots: snapshots()?,
            output: Output::from_args(args),
        })
    }

    /// Creates the state directory, for its owner only. One that exists keeps its permissions, as
    /// with docker(1)'s and gpg(1)'s directories: its owner may share it on purpose.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn make_state_dir(&self) -> Result<(), Failure> {
        let path = &self.state_dir;
        make_private_dir(path).map_err(|error| {
            let message = format!("cannot create {}: {error}", path.display());
            Failure::new(kind_of(&error), message)
                .remediation("choose a writable directory with --state-dir")
        })
    }

    /// The content-addressed store.
    pub fn store_dir(&self) -> PathBuf {
        self.state_dir.join("cas")
    }

    /// The registries configuration: the file that `$MICROAGENT_REGISTRIES` names, otherwise
    /// `registries.json` in the state directory if it exists.
    ///
    /// # Errors
    /// When the file cannot be read or is invalid.
    pub fn registries(&self) -> Result<Registries, Failure> {
        let named = std::env::var_os(REGISTRIES).filter(|path| !path.is_empty());
        let read = match named {
            Some(path) => Registries::read(Path::new(&path)),
            None => Registries::read_if_present(&self.state_dir.join("registries.json")),
        };
        Ok(read.map_err(microagent_pipeline::Error::from)?)
    }

    /// Cached facts about this host, and the disk deltas of running VMs.
    pub fn host_dir(&self) -> PathBuf {
        self.state_dir.join("run")
    }
}

/// Creates a directory and its parents, accessible by the owner only.
///
/// # Errors
/// When it cannot be created.
pub fn make_private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}
