//! The size flags, and other flags that are numbers.

use microagent_workspace::plan::resources::{
    CPUS, MEMORY, SIZE, resolve as resolve_sizes, whole_number,
};
pub use microagent_workspace::plan::resources::{Resources, host_cpus, profiles};
use microagent_workspace::spec::Resources as Sizes;

use crate::failure::Failure;

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

impl ResourceArgs<'_> {
    /// The numbers.
    ///
    /// # Errors
    /// A value out of range.
    pub fn sizes(&self) -> Result<Sizes, Failure> {
        let number = |flag, text: Option<&str>, range, unit| {
            text.map(|text| whole_number(flag, text, range, unit))
                .transpose()
        };
        Ok(Sizes {
            memory_mib: number("--memory", self.memory, MEMORY, "MiB")?,
            // The maximum fits.
            cpu_count: number("--cpus", self.cpus, CPUS, "")?.map(|count| count as u32),
            size_mib: number("--size-mib", self.size_mib, SIZE, "MiB")?,
        })
    }
}

/// Resolves `args` for a host with `host_cpus` CPUs.
///
/// # Errors
/// An unknown profile, or a value out of range.
pub fn resolve(args: &ResourceArgs<'_>, host_cpus: u32) -> Result<Resources, Failure> {
    // The profile first.
    resolve_sizes(args.profile, &Sizes::default(), host_cpus)?;
    Ok(resolve_sizes(args.profile, &args.sizes()?, host_cpus)?)
}

/// Parses `--size-mib`.
///
/// # Errors
/// A value out of range.
pub fn size_mib(text: &str) -> Result<u64, Failure> {
    Ok(whole_number("--size-mib", text, SIZE, "MiB")?)
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
    Ok(whole_number(
        flag,
        text,
        (1, u64::from(u32::MAX)),
        "second",
    )?)
}

/// Parses `--max-restarts`.
///
/// # Errors
/// A value out of range.
pub fn max_restarts(text: &str) -> Result<u32, Failure> {
    // The maximum fits.
    Ok(whole_number("--max-restarts", text, (0, 1_000_000), "")? as u32)
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
