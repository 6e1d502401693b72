//! VM sizes: profiles, single values that override them, and limits.

use serde::Serialize;

use super::PlanError;
use crate::spec::{self, Field};

/// Default memory in MiB.
const DEFAULT_MEMORY: u64 = 512;
/// Default number of CPUs, if the host has as many.
const DEFAULT_CPUS: u32 = 2;
/// Minimum and maximum memory in MiB.
pub const MEMORY: (u64, u64) = (32, 1 << 20);
/// Minimum and maximum number of CPUs.
pub const CPUS: (u64, u64) = (1, 64);
/// Minimum and maximum size of the root disk in MiB; 16 TiB is ext4's limit.
pub const SIZE: (u64, u64) = (1, 16 << 20);

/// Name, memory in MiB, CPUs, disk in MiB.
const PROFILES: [(&str, u64, u32, u64); 4] = [
    ("tiny", 256, 1, 512),
    ("small", 512, 2, 1024),
    ("medium", 2048, 2, 8192),
    ("large", 4096, 4, 16384),
];

/// The size of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// Number of CPUs.
    pub cpu_count: u32,
    /// Size of the root disk in MiB; if absent, content plus headroom.
    #[serde(rename = "sizeMiB")]
    pub size_mib: Option<u64>,
    /// The profile, even if single values override it.
    pub profile: Option<String>,
}

/// All profiles.
pub fn profiles() -> Vec<Resources> {
    let resources = |&(name, memory_mib, cpu_count, size)| Resources {
        memory_mib,
        cpu_count,
        size_mib: Some(size),
        profile: Some(str::to_owned(name)),
    };
    PROFILES.iter().map(resources).collect()
}

/// How many CPUs this process may use.
pub fn host_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get().try_into().unwrap_or(1))
}

/// Resolves a profile, and single values that override it, for a host with `host_cpus` CPUs.
///
/// # Errors
/// An unknown profile, or a value out of range.
pub fn resolve(
    profile: Option<&str>,
    sizes: &spec::Resources,
    host_cpus: u32,
) -> Result<Resources, PlanError> {
    let mut resources = Resources {
        memory_mib: DEFAULT_MEMORY,
        cpu_count: DEFAULT_CPUS.min(host_cpus.max(1)),
        size_mib: None,
        profile: profile.map(str::to_owned),
    };
    if let Some(name) = profile {
        let Some((_, memory, cpus, size)) = PROFILES.iter().find(|profile| profile.0 == name)
        else {
            return Err(PlanError::invalid(format!("unknown profile {name:?}"))
                .at(Field::new("profile"))
                .remediation("the profiles are tiny, small, medium and large"));
        };
        resources.memory_mib = *memory;
        resources.cpu_count = *cpus;
        resources.size_mib = Some(*size);
    }
    if let Some(memory) = sizes.memory_mib {
        resources.memory_mib = in_range("resources.memoryMiB", memory, MEMORY, "MiB")?;
    }
    if let Some(cpus) = sizes.cpu_count {
        in_range("resources.cpuCount", u64::from(cpus), CPUS, "")?;
        resources.cpu_count = cpus;
    }
    if let Some(size) = sizes.size_mib {
        resources.size_mib = Some(in_range("resources.sizeMiB", size, SIZE, "MiB")?);
    }
    Ok(resources)
}

fn in_range(field: &str, value: u64, range: (u64, u64), unit: &str) -> Result<u64, PlanError> {
    let (min, max) = range;
    whole_number(field, &value.to_string(), range, unit).map_err(|error| {
        error
            .at(Field::new(field))
            .remediation(format!("use a whole number from {min} to {max}"))
    })
}

/// Parses the value of `flag`, a number of `unit`s from `min` to `max`.
///
/// # Errors
/// When it is not one.
pub fn whole_number(
    flag: &str,
    text: &str,
    (min, max): (u64, u64),
    unit: &str,
) -> Result<u64, PlanError> {
    let remediation = format!(
        "use a whole number from {min} to {max}, as in {flag} {}",
        example(flag)
    );
    let invalid = |message: String| PlanError::invalid(message).remediation(&*remediation);
    let limit = |value: u64| match (unit, value) {
        ("", _) => value.to_string(),
        ("second", 2..) => format!("{value} seconds"),
        _ => format!("{value} {unit}"),
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(invalid(format!("{flag} {text:?} is not a whole number")));
    }
    // Digits that do not fit in a u64 are above every maximum.
    match text.parse().unwrap_or(u64::MAX) {
        value if value < min => Err(invalid(format!(
            "{flag} {text} is below the minimum of {}",
            limit(min)
        ))),
        value if value > max => Err(invalid(format!(
            "{flag} {text} is above the maximum of {}",
            limit(max)
        ))),
        value => Ok(value),
    }
}

fn example(flag: &str) -> &'static str {
    match flag {
        "--memory" => "512",
        "--cpus" => "2",
        "--max-restarts" => "5",
        "--size-mib" => "1024",
        _ => "60",
    }
}
