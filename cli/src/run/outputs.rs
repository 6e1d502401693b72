//! The declared outputs of a run.

use std::fs;
use std::path::{Path, PathBuf};

use microagent_pipeline::ErrorKind;
use microagent_proto::agent::AGENT_PORT;
use microagent_proto::tree::ReadTree;
use microagent_workspace::machine::files::read_tree;
use microagent_workspace::machine::supervisor::Supervisor;
use microagent_workspace::spec::OutputPath;

use crate::document::OutputDocument;
use crate::failure::{Failure, kind_of};
use crate::host_files;
use crate::output::Output;
use crate::termination::Termination;

/// What is copied out of the guest when the command has ended.
#[derive(Debug, Clone)]
pub struct Outputs {
    outputs: Vec<OutputPath>,
    directory: PathBuf,
    termination: Termination,
}

impl Outputs {
    /// The outputs of the run `name`, for `directory` or the default one.
    ///
    /// # Errors
    /// When a directory is where one of them goes: it is neither merged nor replaced.
    pub fn new(
        outputs: &[OutputPath],
        directory: Option<&Path>,
        name: &str,
        termination: &Termination,
    ) -> Result<Outputs, Failure> {
        let directory = match directory {
            Some(directory) => directory.to_owned(),
            None => PathBuf::from(format!("{name}-outputs")),
        };
        for output in outputs {
            let path = directory.join(&output.name);
            if path.is_dir() {
                return Err(Failure::new(
                    ErrorKind::Conflict,
                    format!("{} is a directory that exists already", path.display()),
                )
                .remediation("remove it, or use another directory: --output-dir DIR"));
            }
        }
        Ok(Outputs {
            outputs: outputs.to_vec(),
            directory,
            termination: termination.clone(),
        })
    }

    /// Copies them. The first that fails is the failure, which is returned beside what was copied.
    pub fn collect(
        &self,
        supervisor: &Supervisor,
        output: Output,
    ) -> (Vec<OutputDocument>, Option<Failure>) {
        let mut copied = Vec::new();
        let mut failed: Option<Failure> = None;
        for declared in &self.outputs {
            match self.copy(declared, supervisor, output) {
                Ok(document) => copied.push(document),
                Err(failure) => {
                    let message = format!("output {}: {}", declared.name, failure.message);
                    let failure = Failure { message, ..failure };
                    match &failed {
                        Some(_) => output.notice(&failure.message),
                        None => failed = Some(failure),
                    }
                }
            }
        }
        (copied, failed)
    }

    fn copy(
        &self,
        declared: &OutputPath,
        supervisor: &Supervisor,
        output: Output,
    ) -> Result<OutputDocument, Failure> {
        fs::create_dir_all(&self.directory).map_err(|error| {
            let path = self.directory.display();
            Failure::new(kind_of(&error), format!("cannot create {path}: {error}"))
        })?;
        let to = self.directory.join(&declared.name);
        host_files::copy_output(declared, &to, output, &self.termination, |sink| {
            let request = ReadTree {
                path: declared.path.clone().into_bytes(),
                follow: true,
            };
            let stream = supervisor.connect(AGENT_PORT)?;
            Ok(read_tree(stream, request, sink)?)
        })
    }
}
