//! What holds for every command.

use std::path::{Path, PathBuf};

use microagent_pipeline::Registries;

use crate::args::{EngineArg, GlobalArgs};
use crate::failure::Failure;
use crate::output::Output;

/// The variable that names the file about registries.
const REGISTRIES: &str = "MICROAGENT_REGISTRIES";

/// What holds for every command, resolved.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything is kept; absolute.
    pub state_dir: PathBuf,
    /// The engine that was asked for.
    pub engine: EngineArg,
    /// What is printed, and how.
    pub output: Output,
}

impl Settings {
    /// Resolves the global flags.
    ///
    /// # Errors
    /// When there is no state directory to be found.
    pub fn resolve(args: &GlobalArgs) -> Result<Settings, Failure> {
        let given = args.state_dir.clone();
        let home = || std::env::home_dir().map(|home| home.join(".microagent"));
        let state_dir = given
            .or_else(home)
            .filter(|path| !path.as_os_str().is_empty())
            .and_then(|path| std::path::absolute(path).ok())
            .ok_or_else(|| {
                Failure::usage("there is no home directory to keep state in")
                    .remediation("set $HOME, or say where with --state-dir DIR")
            })?;
        Ok(Settings {
            state_dir,
            engine: args.engine,
            output: Output::from_args(args),
        })
    }

    /// The content-addressed store.
    pub fn store_dir(&self) -> PathBuf {
        self.state_dir.join("cas")
    }

    /// What is known of registries: from the file that the variable names, else from
    /// `registries.json` in the state directory, which may be absent.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn registries(&self) -> Result<Registries, Failure> {
        let named = std::env::var_os(REGISTRIES).filter(|path| !path.is_empty());
        let read = match named {
            Some(path) => Registries::read(Path::new(&path)),
            None => Registries::read_if_present(&self.state_dir.join("registries.json")),
        };
        Ok(read.map_err(microagent_pipeline::Error::from)?)
    }

    /// What is remembered of this host, and the deltas of running VMs.
    pub fn host_dir(&self) -> PathBuf {
        self.state_dir.join("run")
    }

    /// A kept workspace.
    pub fn workspace_dir(&self, name: &str) -> PathBuf {
        self.state_dir.join("workspaces").join(name)
    }
}

/// Makes a directory of the state directory, for its owner only.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}
