//! The kernel modules of the initramfs.
//!
//! `/modules.load` names them in the order of their dependencies, one path a line. It is absent or
//! empty for kernels that have everything built in.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::io::Errno;

const LIST: &str = "/modules.load";
const DIRECTORY: &str = "/modules";

/// Why modules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The list exists and cannot be read.
    #[error("cannot read {LIST}")]
    List(#[source] io::Error),
    /// A module is missing or the kernel refuses it.
    #[error("cannot load the kernel module {path}")]
    Load {
        /// Its path in the initramfs.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Loads all of them, then frees the memory their files take.
pub fn load_all() -> Result<(), ModuleError> {
    let list = match std::fs::read_to_string(LIST) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ModuleError::List(error)),
    };
    for path in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        load(Path::new(path)).map_err(|source| ModuleError::Load {
            path: path.to_owned(),
            source,
        })?;
    }
    let _ = std::fs::remove_dir_all(DIRECTORY);
    let _ = std::fs::remove_file(LIST);
    Ok(())
}

fn load(path: &Path) -> io::Result<()> {
    match rustix::system::finit_module(File::open(path)?, c"", 0) {
        // EEXIST: built in or loaded before, as well as a module can be.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
