//! This host, whatever engine it has. Its clock is that of the host, which other work disturbs.

use std::path::Path;
use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;

use super::inside::Measured;
use crate::Error;
use crate::machine::Machine;

/// What heads the tables of a measurement on `machine`.
pub fn heading(machine: &Machine) -> String {
    format!(
        "On {} cores of {}, Linux {}; load before it {:.1}",
        machine.cores, machine.processor, machine.kernel, machine.load_before
    )
}

/// Measures with the kernel installed on `host`, by another process in its environment.
///
/// # Errors
/// When a command fails, or prints something else than documented.
pub fn measure(host: &Host, rounds: u32) -> Result<Measured, Error> {
    let layout = Layout::busybox()?;
    let itself = std::env::current_exe().map_err(Error::file("this program"))?;
    let finished = host
        .program(Path::new("/bin/sh"))
        .argument("-c")
        .argument(r#"exec "$BENCH" --inside --rounds "$ROUNDS" --image "$IMAGE" --state "$MICROAGENT_STATE_DIR""#)
        .variable("BENCH", itself)
        .variable("ROUNDS", rounds.to_string())
        .variable("IMAGE", layout.reference("latest"))
        .deadline(Duration::from_secs(120 + 120 * u64::from(rounds)))
        .finish();
    let text = finished.text();
    serde_json::from_str(&text).map_err(|_| Error::Invalid {
        what: "workspace-bench --inside",
        why: finished.errors(),
    })
}
