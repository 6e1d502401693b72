//! `microagent kernel install` and `microagent kernel build`.

use std::num::NonZeroUsize;

use microagent_cas::{Digest, NodeKey};
use microagent_pipeline::{Kernel, KernelBuild, KernelSource};
use serde::Serialize;

use super::{format, pipeline};
use crate::args::{KernelBuildArgs, KernelInstallArgs};
use crate::failure::Failure;
use crate::settings::Settings;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Installed<'a> {
    kernel: &'a Kernel,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Built<'a> {
    kernel: &'a Kernel,
    node: Node,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    key: NodeKey,
    hit: bool,
    millis: f64,
}

/// The build log in the state directory.
const LOG: &str = "kernel-build.log";

/// Builds a kernel, or finds it in the store, and makes it the default kernel.
pub fn build(
    args: &KernelBuildArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let pipeline = pipeline::open(settings, termination)?;
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let built = pipeline.build_kernel(&KernelBuild {
        source: args.source.clone(),
        config: args.config.clone(),
        jobs: args.jobs.map_or_else(cores, NonZeroUsize::get),
        log: settings.state_dir.join(LOG),
    })?;
    pipeline.set_default_kernel(&built.kernel)?;
    if settings.output.json {
        settings.output.document(&Built {
            kernel: &built.kernel,
            node: Node {
                key: built.node.key,
                hit: built.node.hit,
                millis: built.millis,
            },
        })?;
    } else {
        settings
            .output
            .text(&format!("{}\n", format::kernel(&built.kernel)))?;
    }
    Ok(0)
}

/// Installs a kernel in the store and makes it the default kernel.
pub fn install(
    args: &KernelInstallArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let source = source(args)?;
    let pipeline = pipeline::open(settings, termination)?;
    let kernel = pipeline.kernel(&source)?;
    pipeline.set_default_kernel(&kernel)?;
    if settings.output.json {
        settings.output.document(&Installed { kernel: &kernel })?;
    } else {
        settings
            .output
            .text(&format!("{}\n", format::kernel(&kernel)))?;
    }
    Ok(0)
}

fn source(args: &KernelInstallArgs) -> Result<KernelSource, Failure> {
    Ok(match (&args.from, &args.url, &args.sha256) {
        (Some(path), _, _) => KernelSource::Path(path.clone()),
        (None, Some(url), Some(sum)) => KernelSource::Url {
            url: url.clone(),
            sha256: checksum(sum)?,
        },
        _ => KernelSource::Distribution,
    })
}

/// Parses a checksum with or without the prefix `sha256:`.
fn checksum(text: &str) -> Result<Digest, Failure> {
    let hex = text
        .strip_prefix("sha256:")
        .unwrap_or(text)
        .to_ascii_lowercase();
    Digest::from_hex(&hex).map_err(|_| {
        Failure::usage(format!("--sha256 {text:?} is not a SHA-256"))
            .remediation("use the 64 hexadecimal digits that sha256sum prints")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_64_hexadecimal_digits() {
        let hex = "0123456789abcdef".repeat(4);
        let digest = Digest::from_hex(&hex).unwrap();
        assert_eq!(checksum(&hex), Ok(digest));
        assert_eq!(checksum(&format!("sha256:{hex}")), Ok(digest));
        assert_eq!(checksum(&hex.to_uppercase()), Ok(digest));
        assert_eq!(
            checksum("abc").unwrap_err(),
            Failure::usage("--sha256 \"abc\" is not a SHA-256")
                .remediation("use the 64 hexadecimal digits that sha256sum prints")
        );
    }
}
