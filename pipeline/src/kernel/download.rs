//! Downloads a kernel from a URL and verifies its digest.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use microagent_cas::{Digest, Hasher, Scratch, StoreError};

use super::MAX_KERNEL;
use super::error::{KernelError, KernelFailure};
use crate::engine::Engine;
use crate::engine::progress::{Event, Stage};

/// Time limit for the connection and for the response header.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit for the whole transfer.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Downloads `url` into a scratch file and verifies its digest.
pub(crate) fn download(
    engine: &Engine,
    url: &str,
    expected: &Digest,
) -> Result<Scratch, KernelFailure> {
    let scratch = engine.store().scratch()?;
    let transfer = |detail: String| KernelError::Transfer {
        url: url.to_owned(),
        detail,
    };
    let mut response = agent().get(url).call().map_err(|error| match error {
        ureq::Error::StatusCode(status) => KernelError::Status {
            url: url.to_owned(),
            status,
        },
        ureq::Error::BadUri(_) => KernelError::BadUrl {
            url: url.to_owned(),
        },
        other => transfer(other.to_string()),
    })?;
    let total = response.body().content_length();
    let too_large = || KernelError::TooLarge {
        name: url.to_owned(),
        limit: MAX_KERNEL,
    };
    if total.is_some_and(|total| total > MAX_KERNEL) {
        return Err(too_large().into());
    }
    let detail = url.to_owned();
    engine.emit(Event::StageStarted {
        stage: Stage::Kernel,
        detail: detail.clone(),
        total_bytes: total,
    });
    let mut body = response.body_mut().as_reader();
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let count = body
            .read(&mut buffer)
            .map_err(|error| transfer(error.to_string()))?;
        if count == 0 {
            break;
        }
        let chunk = &buffer[..count];
        let written = scratch.file().write_all_at(chunk, size);
        written.map_err(|error| StoreError::io("write to", scratch.path(), error))?;
        hasher.update(chunk);
        size += count as u64;
        if size > MAX_KERNEL {
            return Err(too_large().into());
        }
        let detail = detail.clone();
        engine.emit(Event::Advanced {
            stage: Stage::Kernel,
            detail,
            bytes: count as u64,
        });
    }
    if let Some(total) = total
        && total != size
    {
        return Err(transfer(format!("the transfer ended after {size} of {total} bytes")).into());
    }
    let actual = hasher.finish();
    if actual != *expected {
        let name = url.to_owned();
        return Err(KernelError::WrongDigest {
            name,
            expected: *expected,
            actual,
        }
        .into());
    }
    engine.emit(Event::StageDone {
        stage: Stage::Kernel,
        detail,
    });
    Ok(scratch)
}

/// Checks that a URL is http or https and has a host.
pub(crate) fn check_url(url: &str) -> Result<(), KernelError> {
    let lower = url.to_ascii_lowercase();
    let rest = lower
        .strip_prefix("https://")
        .or_else(|| lower.strip_prefix("http://"));
    match rest {
        Some(host) if !host.is_empty() && !host.starts_with('/') => Ok(()),
        _ => Err(KernelError::BadUrl {
            url: url.chars().take(200).collect(),
        }),
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_connect(Some(RESPONSE_TIMEOUT))
        .timeout_recv_response(Some(RESPONSE_TIMEOUT))
        .timeout_global(Some(DEADLINE))
        .build()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_are_accepted() {
        for good in ["http://127.0.0.1:8/x", "HTTPS://example.org/vmlinux"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "file:///etc/passwd",
            "ftp://x/y",
            "http://",
            "https:///x",
            "/boot/vmlinuz",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
