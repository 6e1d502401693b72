//! VM sizes: profiles, single values that override them, and limits.

use serde::Serialize;

use crate::failure::Failure;

/// Default memory in MiB.
const DEFAULT_MEMORY: u64 = 512;
/// Default number of CPUs, if the host has as many.
const DEFAULT_CPUS: u32 = 2;
/// Minimum and maximum memory in MiB.
const MEMORY: (u64, u64) = (32, 1 << 20);
/// Minimum and maximum number of CPUs.
const CPUS: (u64, u64) = (1, 64);
/// Minimum and maximum size of the root disk in MiB; 16 TiB is ext4's limit.
const SIZE: (u64, u64) = (1, 16 << 20);

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

/// The size flags as given.
#[derive(Debug, Default)]
pub struct ResourceArgs<'a> {
    /// `--profile`
    pub profile: Option<&'a str>,
    /// `--memory`
    pub memory: Option<&'a str>,
    /// `--cpus`
    pub cpus: Option<&'a str>,
    /// `--size-mib`
    pub size_mib: Option<&'a str>,
}

/// How many CPUs this process may use.
pub fn host_cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get().try_into().unwrap_or(1))
}

/// Resolves `args` for a host with `host_cpus` CPUs.
///
/// # Errors
/// An unknown profile, or a value out of range.
pub fn resolve(args: &ResourceArgs<'_>, host_cpus: u32) -> Result<Resources, Failure> {
    let mut resources = Resources {
        memory_mib: DEFAULT_MEMORY,
        cpu_count: DEFAULT_CPUS.min(host_cpus.max(1)),
        size_mib: None,
        profile: args.profile.map(str::to_owned),
    };
    if let Some(name) = args.profile {
        let Some((_, memory, cpus, size)) = PROFILES.iter().find(|profile| profile.0 == name)
        else {
            return Err(Failure::usage(format!("unknown profile {name:?}"))
                .remediation("the profiles are tiny, small, medium and large"));
        };
        resources.memory_mib = *memory;
        resources.cpu_count = *cpus;
        resources.size_mib = Some(*size);
    }
    if let Some(text) = args.memory {
        resources.memory_mib = parse_in_range("--memory", text, MEMORY, "MiB")?;
    }
    if let Some(text) = args.cpus {
        // The maximum fits.
        resources.cpu_count = parse_in_range("--cpus", text, CPUS, "")? as u32;
    }
    if let Some(text) = args.size_mib {
        resources.size_mib = Some(size_mib(text)?);
    }
    Ok(resources)
}

/// Parses `--size-mib`.
///
/// # Errors
/// A value out of range.
pub fn size_mib(text: &str) -> Result<u64, Failure> {
    parse_in_range("--size-mib", text, SIZE, "MiB")
}

/// Parses `--timeout`, in seconds.
///
/// # Errors
/// A value out of range.
pub fn timeout(text: &str) -> Result<u64, Failure> {
    seconds("--timeout", text)
}

/// Parses the value of `flag`, a time limit in seconds.
///
/// # Errors
/// A value out of range.
pub fn seconds(flag: &str, text: &str) -> Result<u64, Failure> {
    parse_in_range(flag, text, (1, u64::from(u32::MAX)), "second")
}

/// Parses `--max-restarts`.
///
/// # Errors
/// A value out of range.
pub fn max_restarts(text: &str) -> Result<u32, Failure> {
    // The maximum fits.
    Ok(parse_in_range("--max-restarts", text, (0, 1_000_000), "")? as u32)
}

fn parse_in_range(
    flag: &str,
    text: &str,
    (min, max): (u64, u64),
    unit: &str,
) -> Result<u64, Failure> {
    let remediation = format!(
        "use a whole number from {min} to {max}, as in {flag} {}",
        example(flag)
    );
    let invalid = |message: String| Failure::usage(message).remediation(&*remediation);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn args<'a>(
        profile: &'a str,
        memory: &'a str,
        cpus: &'a str,
        size: &'a str,
    ) -> ResourceArgs<'a> {
        let some = |text: &'a str| (!text.is_empty()).then_some(text);
        ResourceArgs {
            profile: some(profile),
            memory: some(memory),
            cpus: some(cpus),
            size_mib: some(size),
        }
    }

    #[test]
    fn single_values_override_profiles_and_profiles_override_defaults() {
        for (flags, host, expected) in [
            (args("", "", "", ""), 8, (512, 2, None, None)),
            (args("", "", "", ""), 1, (512, 1, None, None)),
            (
                args("tiny", "", "", ""),
                8,
                (256, 1, Some(512), Some("tiny")),
            ),
            (
                args("small", "", "", ""),
                8,
                (512, 2, Some(1024), Some("small")),
            ),
            (
                args("medium", "", "", ""),
                8,
                (2048, 2, Some(8192), Some("medium")),
            ),
            (
                args("large", "", "", ""),
                1,
                (4096, 4, Some(16384), Some("large")),
            ),
            (
                args("tiny", "300", "3", "900"),
                8,
                (300, 3, Some(900), Some("tiny")),
            ),
            (args("", "32", "64", "1"), 8, (32, 64, Some(1), None)),
        ] {
            let found = resolve(&flags, host).unwrap();
            let (memory_mib, cpu_count, size_mib, profile) = expected;
            let profile = profile.map(str::to_owned);
            assert_eq!(
                found,
                Resources {
                    memory_mib,
                    cpu_count,
                    size_mib,
                    profile
                }
            );
        }
    }

    #[test]
    fn values_out_of_range_are_named_with_a_remediation() {
        for (flags, message, remediation) in [
            (
                args("", "0", "", ""),
                "--memory 0 is below the minimum of 32 MiB",
                "use a whole number from 32 to 1048576, as in --memory 512",
            ),
            (
                args("", "", "65", ""),
                "--cpus 65 is above the maximum of 64",
                "use a whole number from 1 to 64, as in --cpus 2",
            ),
            (
                args("", "99999999999999999999999", "", ""),
                "--memory 99999999999999999999999 is above the maximum of 1048576 MiB",
                "use a whole number from 32 to 1048576, as in --memory 512",
            ),
            (
                args("", "1.5", "", ""),
                "--memory \"1.5\" is not a whole number",
                "use a whole number from 32 to 1048576, as in --memory 512",
            ),
            (
                args("", "", "-1", ""),
                "--cpus \"-1\" is not a whole number",
                "use a whole number from 1 to 64, as in --cpus 2",
            ),
            (
                args("", "", "", "0"),
                "--size-mib 0 is below the minimum of 1 MiB",
                "use a whole number from 1 to 16777216, as in --size-mib 1024",
            ),
            (
                args("huge", "", "", ""),
                "unknown profile \"huge\"",
                "the profiles are tiny, small, medium and large",
            ),
        ] {
            let failure = resolve(&flags, 2).unwrap_err();
            assert_eq!(failure, Failure::usage(message).remediation(remediation));
            assert_eq!(failure.exit_code(125), 2);
        }
    }

    #[test]
    fn a_timeout_is_at_least_a_second() {
        assert_eq!(timeout("1"), Ok(1));
        assert_eq!(
            timeout("0").unwrap_err().message,
            "--timeout 0 is below the minimum of 1 second"
        );
    }
}
