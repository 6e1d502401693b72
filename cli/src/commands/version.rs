//! `microagent version`.

use serde::Serialize;

use crate::failure::Failure;
use crate::settings::Settings;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    /// The commit it was built from, if the build set `$MICROAGENT_COMMIT`.
    commit: Option<&'static str>,
    /// Version of the protocol between microagent's processes.
    protocol: u32,
}

/// Prints the version.
pub fn version(settings: &Settings) -> Result<u8, Failure> {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("MICROAGENT_COMMIT").filter(|commit| !commit.is_empty()),
        protocol: microagent_proto::VERSION,
    };
    if settings.output.json {
        settings.output.document(&version)?;
    } else {
        let commit = version
            .commit
            .map(|commit| format!(" ({commit})"))
            .unwrap_or_default();
        settings.output.text(&format!(
            "microagent {}{commit}, protocol {}\n",
            version.version, version.protocol
        ))?;
    }
    Ok(0)
}
