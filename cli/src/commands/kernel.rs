//! `microagent kernel install`.

use microagent_cas::Digest;
use microagent_pipeline::{Kernel, KernelSource};
use serde::Serialize;

use super::open_pipeline;
use crate::args::KernelInstallArgs;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::settings::Settings;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Installed<'a> {
    kernel: &'a Kernel,
}

/// Brings a kernel into the store and makes it the default.
pub fn install(
    args: &KernelInstallArgs,
    settings: &Settings,
    ending: &Ending,
) -> Result<u8, Failure> {
    let source = source(args)?;
    let pipeline = open_pipeline(settings, ending)?;
    let kernel = pipeline.kernel(&source)?;
    pipeline.set_default_kernel(&kernel)?;
    if settings.output.json {
        settings.output.document(&Installed { kernel: &kernel })?;
    } else {
        settings.output.text(&format!("{}\n", describe(&kernel)))?;
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

/// With or without its `sha256:`, as checksum files and digests have it.
fn checksum(text: &str) -> Result<Digest, Failure> {
    let hex = text
        .strip_prefix("sha256:")
        .unwrap_or(text)
        .to_ascii_lowercase();
    Digest::from_hex(&hex).map_err(|_| {
        Failure::usage(format!("--sha256 {text:?} is no SHA-256"))
            .way_out("give the 64 hexadecimal digits that sha256sum prints")
    })
}

/// A kernel in one line.
pub fn describe(kernel: &Kernel) -> String {
    let version = kernel.version.as_deref().unwrap_or("of unknown version");
    format!(
        "kernel {version} from {} ({})",
        kernel.source, kernel.digest
    )
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
            Failure::usage("--sha256 \"abc\" is no SHA-256")
                .way_out("give the 64 hexadecimal digits that sha256sum prints")
        );
    }
}
