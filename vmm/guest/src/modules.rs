//! The kernel modules of the initramfs.
//!
//! `/modules.load` lists them in dependency order, one path per line. It is missing or empty for
//! kernels that have all drivers built in.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::io::Errno;

const LIST: &str = "/modules.load";
const DIRECTORY: &str = "/modules";

/// Why modules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The list exists but cannot be read.
    #[error("cannot read {LIST}")]
    List(#[source] io::Error),
    /// A module is missing, or the kernel refuses it.
    #[error("cannot load the kernel module {path}")]
    Load {
        /// Its path in the initramfs.
        path: String,
        /// The error from the kernel.
        source: io::Error,
    },
}

/// Loads all modules, then deletes their files to free the memory.
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

/// Loads the module in a file.
pub fn load(path: &Path) -> io::Result<()> {
    match rustix::system::finit_module(File::open(path)?, c"", 0) {
        // EEXIST: the module is built in or already loaded.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
