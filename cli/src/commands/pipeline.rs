//! Opens the pipeline for commands.

use std::sync::Arc;

use microagent_cas::Store;
use microagent_pipeline::Pipeline;

use crate::engine;
use crate::failure::Failure;
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
