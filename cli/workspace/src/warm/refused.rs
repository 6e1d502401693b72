//! Which snapshots are not tried for a while, and why.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use microagent_proto::control::VmConfig;

use super::{PAGES, Programs, inputs};

/// The names of the files begin with this.
const REFUSED: &str = "snapshot-";

/// How long a snapshot that could not be used or taken is not tried again.
const RETRY: Duration = Duration::from_secs(3600);

/// Why snapshots were not used: a file for each, in a directory of facts about the host.
#[derive(Debug, Clone)]
pub struct Refused {
    directory: PathBuf,
}

impl Refused {
    /// In this directory, which exists.
    pub fn new(directory: PathBuf) -> Refused {
        Refused { directory }
    }

    fn path(&self, programs: &Programs, config: &VmConfig) -> PathBuf {
        let key = inputs(programs, config).key();
        self.directory
            .join(format!("{REFUSED}{}", key.digest().hex()))
    }

    /// Why the snapshot for such a VM could recently not be taken or used, if so.
    pub fn why(&self, programs: &Programs, config: &VmConfig) -> Option<String> {
        let path = self.path(programs, config);
        let written = fs::metadata(&path).and_then(|file| file.modified()).ok()?;
        match is_recent(written) {
            true => fs::read_to_string(&path).ok(),
            false => None,
        }
    }

    /// Records why it could not be taken or used.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&self, programs: &Programs, config: &VmConfig, why: &str) -> io::Result<()> {
        fs::write(self.path(programs, config), why)
    }

    /// Removes what is about snapshots that are not in the store, and what is too old to matter. Errors are
    /// ignored: the next call does the rest.
    pub fn clean(&self, store: &Path) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let written = || entry.metadata().and_then(|file| file.modified()).ok();
            let stale = match (name.strip_prefix(PAGES), name.strip_prefix(REFUSED)) {
                (Some(file), _) => !store.join("sparse").join(file).exists(),
                (_, Some(_)) => written().is_some_and(|time| !is_recent(time)),
                _ => false,
            };
            if stale {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Forgets it.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn forget(&self, programs: &Programs, config: &VmConfig) -> io::Result<()> {
        match fs::remove_file(self.path(programs, config)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether it is less than [`RETRY`] ago. A time in the future is not.
fn is_recent(time: SystemTime) -> bool {
    let age = SystemTime::now().duration_since(time);
    age.is_ok_and(|age| age < RETRY)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::tests::{config, programs};
    use super::*;

    #[test]
    fn what_was_refused_is_not_tried_again_soon() {
        let directory = tempfile::tempdir().unwrap();
        let refused = Refused::new(directory.path().to_owned());
        assert_eq!(refused.why(&programs(), &config()), None);
        refused.record(&programs(), &config(), "no").unwrap();
        assert_eq!(refused.why(&programs(), &config()).unwrap(), "no");
        let other = VmConfig {
            cpus: 2,
            ..config()
        };
        assert_eq!(refused.why(&programs(), &other), None);
        let path = refused.path(&programs(), &config());
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - RETRY).unwrap();
        assert_eq!(refused.why(&programs(), &config()), None);
        let pages = |name: &str| directory.path().join(format!("{PAGES}{name}"));
        let store = directory.path().join("store");
        fs::create_dir_all(store.join("sparse")).unwrap();
        for path in [pages("here"), pages("gone"), store.join("sparse/here")] {
            File::create(path).unwrap();
        }
        refused.clean(&store);
        assert!(pages("here").exists() && !pages("gone").exists() && !path.exists());
        refused.record(&programs(), &config(), "again").unwrap();
        refused.clean(&store);
        assert!(path.exists());
        refused.forget(&programs(), &config()).unwrap();
        refused.forget(&programs(), &config()).unwrap();
        assert_eq!(refused.why(&programs(), &config()), None);
    }
}
