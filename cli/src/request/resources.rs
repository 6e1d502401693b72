//! How large a VM is: profiles, single values over them, and their limits.

use serde::Serialize;

use crate::failure::Failure;

/// Memory without a profile, in MiB.
const DEFAULT_MEMORY: u64 = 512;
/// CPUs without a profile, where the host has as many.
const DEFAULT_CPUS: u32 = 2;
/// Least and most memory, in MiB.
const MEMORY: (u64, u64) = (32, 1 << 20);
/// Least and most CPUs.
const CPUS: (u64, u64) = (1, 64);
/// Least and most size of the root disk, in MiB: up to ext4's 16 TiB.
const SIZE: (u64, u64) = (1, 16 << 20);

/// Name, memory in MiB, CPUs, disk in MiB.
const PROFILES: [(&str, u64, u32, u64); 4] = [
    ("tiny", 256, 1, 512),
    ("small", 512, 2, 1024),
    ("medium", 2048, 2, 8192),
    ("large", 4096, 4, 16384),
];

/// How large a VM is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// Number of CPUs.
    pub cpu_count: u32,
    /// Size of the root disk in MiB; the content and headroom when not given.
    #[serde(rename = "sizeMiB")]
    pub size_mib: Option<u64>,
    /// The profile's name, kept when single values override it.
    pub profile: Option<String>,
}

/// What was typed.
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

/// Resolves what was typed; `host_cpus` is how many the host has.
///
/// # Errors
/// An unknown profile, or a value outside of its limits.
pub fn resolve(wanted: &ResourceArgs<'_>, host_cpus: u32) -> Result<Resources, Failure> {
    let mut resources = Resources {
        memory_mib: DEFAULT_MEMORY,
        cpu_count: DEFAULT_CPUS.min(host_cpus.max(1)),
        size_mib: None,
        profile: wanted.profile.map(str::to_owned),
    };
    if let Some(name) = wanted.profile {
        let Some((_, memory, cpus, size)) = PROFILES.iter().find(|profile| profile.0 == name)
        else {
            return Err(Failure::usage(format!("there is no profile {name:?}"))
                .remediation("the profiles are tiny, small, medium and large"));
        };
        resources.memory_mib = *memory;
        resources.cpu_count = *cpus;
        resources.size_mib = Some(*size);
    }
    if let Some(text) = wanted.memory {
        resources.memory_mib = parse_in_range("--memory", text, MEMORY, " MiB")?;
    }
    if let Some(text) = wanted.cpus {
        // The limit fits.
        resources.cpu_count = parse_in_range("--cpus", text, CPUS, "")? as u32;
    }
    if let Some(text) = wanted.size_mib {
        resources.size_mib = Some(size_mib(text)?);
    }
    Ok(resources)
}

/// `--size-mib` alone.
///
/// # Errors
/// A value outside of its limits.
pub fn size_mib(text: &str) -> Result<u64, Failure> {
    parse_in_range("--size-mib", text, SIZE, " MiB")
}

/// `--timeout`, in seconds.
///
/// # Errors
/// Anything but a whole number of seconds, at least one.
pub fn timeout(text: &str) -> Result<u64, Failure> {
    parse_in_range("--timeout", text, (1, u64::from(u32::MAX)), " seconds")
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
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(
            Failure::usage(format!("{flag} {text:?} is not a whole number"))
                .remediation(remediation),
        );
    }
    // Digits that do not fit are a number that is too large.
    match text.parse().unwrap_or(u64::MAX) {
        value if value < min => Err(Failure::usage(format!(
            "{flag} {text} is too little: the least is {min}{unit}"
        ))
        .remediation(remediation)),
        value if value > max => Err(Failure::usage(format!(
            "{flag} {text} is too much: the most is {max}{unit}"
        ))
        .remediation(remediation)),
        value => Ok(value),
    }
}

fn example(flag: &str) -> &'static str {
    match flag {
        "--memory" => "512",
        "--cpus" => "2",
        "--size-mib" => "1024",
        _ => "60",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(
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
    fn profiles_and_single_values_resolve_as_the_contract_says() {
        for (typed, host, expected) in [
            (wanted("", "", "", ""), 8, (512, 2, None, None)),
            (wanted("", "", "", ""), 1, (512, 1, None, None)),
            (
                wanted("tiny", "", "", ""),
                8,
                (256, 1, Some(512), Some("tiny")),
            ),
            (
                wanted("small", "", "", ""),
                8,
                (512, 2, Some(1024), Some("small")),
            ),
            (
                wanted("medium", "", "", ""),
                8,
                (2048, 2, Some(8192), Some("medium")),
            ),
            (
                wanted("large", "", "", ""),
                1,
                (4096, 4, Some(16384), Some("large")),
            ),
            (
                wanted("tiny", "300", "3", "900"),
                8,
                (300, 3, Some(900), Some("tiny")),
            ),
            (wanted("", "32", "64", "1"), 8, (32, 64, Some(1), None)),
        ] {
            let found = resolve(&typed, host).unwrap();
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
    fn values_outside_of_their_limits_are_named_with_the_way_out() {
        for (typed, message, remediation) in [
            (
                wanted("", "0", "", ""),
                "--memory 0 is too little: the least is 32 MiB",
                "use a whole number from 32 to 1048576, as in --memory 512",
            ),
            (
                wanted("", "", "65", ""),
                "--cpus 65 is too much: the most is 64",
                "use a whole number from 1 to 64, as in --cpus 2",
            ),
            (
                wanted("", "99999999999999999999999", "", ""),
                "--memory 99999999999999999999999 is too much: the most is 1048576 MiB",
                "use a whole number from 32 to 1048576, as in --memory 512",
            ),
            (
                wanted("", "1.5", "", ""),
                "--memory \"1.5\" is not a whole number",
                "use a whole number from 32 to 1048576, as in --memory 512",
            ),
            (
                wanted("", "", "-1", ""),
                "--cpus \"-1\" is not a whole number",
                "use a whole number from 1 to 64, as in --cpus 2",
            ),
            (
                wanted("", "", "", "0"),
                "--size-mib 0 is too little: the least is 1 MiB",
                "use a whole number from 1 to 16777216, as in --size-mib 1024",
            ),
            (
                wanted("huge", "", "", ""),
                "there is no profile \"huge\"",
                "the profiles are tiny, small, medium and large",
            ),
        ] {
            let failure = resolve(&typed, 2).unwrap_err();
            assert_eq!(failure, Failure::usage(message).remediation(remediation));
            assert_eq!(failure.exit_code(125), 2);
        }
    }

    #[test]
    fn a_timeout_is_at_least_a_second() {
        assert_eq!(timeout("1"), Ok(1));
        assert_eq!(
            timeout("0").unwrap_err().message,
            "--timeout 0 is too little: the least is 1 seconds"
        );
    }
}
