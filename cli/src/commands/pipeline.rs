//! Opens the pipeline and output files for commands.

use std::path::Path;
use std::sync::Arc;

use microagent_cas::Store;
use microagent_pipeline::Pipeline;

use crate::engine;
use crate::failure::Failure;
use crate::out_file::OutFile;
use crate::progress::Reporter;
use crate::settings::Settings;
use crate::termination::Termination;

/// Opens the pipeline on the state directory's store, and removes leftovers of dead processes.
pub fn open(settings: &Settings, termination: &Termination) -> Result<Pipeline, Failure> {
    settings.make_state_dir()?;
    let root = settings.store_dir();
    let store = Store::open(&root)?;
    termination.set_store(&root);
    if let Err(error) = store.sweep() {
        tracing::warn!(%error, "cannot remove leftovers from the store");
    }
    let reporter = Arc::new(Reporter::new(settings.output));
    Ok(Pipeline::new(store, reporter)
        .with_registries(settings.registries()?)
        .with_cpu(engine::guest_cpu(settings)))
}

/// Prepares the output file of a command.
///
/// # Errors
/// As [`OutFile::create`], and if it is standard output, on which `--json` prints.
pub fn out_file(
    path: &Path,
    settings: &Settings,
    termination: &Termination,
) -> Result<OutFile, Failure> {
    let out = OutFile::create(path, termination)?;
    if out.is_stdout() && settings.output.json {
        return Err(Failure::usage(
            "--json prints on standard output, and so does the output file",
        )
        .remediation("leave out --json, or write to a file"));
    }
    Ok(out)
}
