//! `microagent profiles`.

use crate::failure::Failure;
use crate::request::resources::profiles as all;
use crate::settings::Settings;
use crate::table::table;

/// Lists the resource profiles.
pub fn profiles(settings: &Settings) -> Result<u8, Failure> {
    if settings.output.json {
        settings.output.document(&all())?;
        return Ok(0);
    }
    let head = ["PROFILE", "MEMORY MiB", "CPUS", "DISK MiB"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(all().into_iter().map(|profile| {
        let size = profile.size_mib.unwrap_or_default();
        vec![
            profile.profile.unwrap_or_default(),
            profile.memory_mib.to_string(),
            profile.cpu_count.to_string(),
            size.to_string(),
        ]
    }));
    settings.output.text(&table(&rows))?;
    Ok(0)
}
