//! The certificates that this host trusts, and those that it has for single servers.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// The bundles of trusted certificates of Debian and Fedora.
const CA_BUNDLES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// A certificate or key cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub(crate) struct CertificateError {
    /// The file or directory.
    pub(crate) path: PathBuf,
    /// The reason.
    pub(crate) reason: String,
}

impl CertificateError {
    fn new(path: &Path, reason: impl ToString) -> CertificateError {
        CertificateError {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// The error of a cryptographic provider that lacks what TLS needs, which this program's does
    /// not.
    pub(super) fn of_provider(error: &dyn std::error::Error) -> CertificateError {
        CertificateError::new(Path::new("TLS"), error)
    }
}

/// The directory with certificates for a server (`host` or `host:port`, as in references), as
/// docker and podman have them (containers-certs.d(5)): the first that exists.
pub(crate) fn host_directory(server: &str) -> Option<PathBuf> {
    directory_of(server, |name| std::env::var_os(name))
}

fn directory_of(server: &str, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = variable("HOME").filter(|home| !home.is_empty());
    let own = home.map(|home| Path::new(&home).join(".config/containers/certs.d"));
    let all = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    let directories = own.into_iter().chain(all);
    (directories.map(|directory| directory.join(server))).find(|directory| directory.is_dir())
}

/// The certificates for one server.
#[derive(Debug, Default)]
pub(super) struct HostCertificates {
    /// Authorities that are trusted beside those of the system.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// Keys to introduce ourselves with.
    pub(super) keys: Vec<Arc<CertifiedKey>>,
}

impl HostCertificates {
    /// Reads a directory: `*.crt` are authorities, `NAME.cert` and `NAME.key` belong together.
    /// Other files are ignored.
    ///
    /// # Errors
    /// When a file cannot be read, or half of a pair is missing.
    pub(super) fn read(
        directory: &Path,
        provider: &CryptoProvider,
    ) -> Result<HostCertificates, CertificateError> {
        let failed = |error: io::Error| CertificateError::new(directory, error);
        let mut files: Vec<PathBuf> = fs::read_dir(directory)
            .map_err(failed)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        files.sort();
        let mut found = HostCertificates::default();
        for file in &files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.extend(certificates(file)?),
                Some("cert") => {
                    let key = file.with_extension("key");
                    if !key.exists() {
                        let reason = "its .key is missing (authorities have the extension .crt)";
                        return Err(CertificateError::new(file, reason));
                    }
                    found.keys.push(Arc::new(pair(file, &key, provider)?));
                }
                Some("key") if !file.with_extension("cert").exists() => {
                    return Err(CertificateError::new(file, "its .cert is missing"));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let bytes = fs::read(file).map_err(|error| CertificateError::new(file, error))?;
    Ok(certificates_in(&bytes))
}

/// The certificates in a PEM file; anything else in it is ignored, also a certificate that is cut
/// off.
fn certificates_in(bytes: &[u8]) -> Vec<CertificateDer<'static>> {
    const BEGIN: &[u8] = b"-----BEGIN";
    let is_begin = |at: &usize| bytes[*at..].starts_with(BEGIN);
    let begins: Vec<usize> = (0..bytes.len()).filter(is_begin).collect();
    let ends = begins.iter().skip(1).copied().chain([bytes.len()]);
    (begins.iter().zip(ends))
        .filter_map(|(begin, end)| CertificateDer::from_pem_slice(&bytes[*begin..end]).ok())
        .collect()
}

fn pair(
    file: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CertificateError> {
    let chain = certificates(file)?;
    if chain.is_empty() {
        return Err(CertificateError::new(file, "it has no certificate"));
    }
    let bytes = fs::read(key).map_err(|error| CertificateError::new(key, error))?;
    let der = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| CertificateError::new(key, "it has no private key"))?;
    CertifiedKey::from_der(chain, der, provider).map_err(|error| CertificateError::new(key, error))
}

/// The certificates that this host trusts, so that a server with a private authority works as for
/// other tools: the file `$SSL_CERT_FILE` or else the distribution's, and the files in the
/// directories `$SSL_CERT_DIR`. Unreadable ones are ignored, as by OpenSSL and Go.
pub(super) fn system_authorities() -> Vec<CertificateDer<'static>> {
    authorities(|name| std::env::var_os(name))
}

fn authorities(variable: impl Fn(&str) -> Option<OsString>) -> Vec<CertificateDer<'static>> {
    let get = |name| variable(name).filter(|value: &OsString| !value.is_empty());
    let configured = get("SSL_CERT_FILE").map(PathBuf::from);
    let bundle = (configured.into_iter())
        .chain(CA_BUNDLES.iter().map(Into::into))
        .find_map(|path| fs::read(path).ok());
    let mut found = bundle.map_or_else(Vec::new, |pem| certificates_in(&pem));
    for directory in std::env::split_paths(&get("SSL_CERT_DIR").unwrap_or_default()) {
        let files = fs::read_dir(directory).into_iter().flatten().flatten();
        for file in files {
            found.extend(certificates(&file.path()).unwrap_or_default());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_cut_off_does_not_hide_the_next() {
        let pem = |body: &str| format!("-----BEGIN {body}");
        let good = pem("CERTIFICATE-----\r\nMAA=\r\n-----END CERTIFICATE-----\r\n");
        let cut = pem("CERTIFICATE-----\nMAA\n");
        let key = pem("PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n");
        for (file, count) in [
            (format!("text\n{good}{cut}{good}"), 2),
            (format!("{cut}{key}{good}"), 1),
            (good.replace("\r\n", "\n"), 1),
            (cut, 0),
            (String::new(), 0),
        ] {
            assert_eq!(certificates_in(file.as_bytes()).len(), count, "{file}");
        }
    }

    #[test]
    fn the_first_directory_of_a_server_is_used() {
        let home = tempfile::tempdir().unwrap();
        let variable = |name: &str| (name == "HOME").then(|| home.path().into());
        assert_eq!(directory_of("reg.test:5000", variable), None);
        let own = home.path().join(".config/containers/certs.d/reg.test:5000");
        fs::create_dir_all(&own).unwrap();
        assert_eq!(directory_of("reg.test:5000", variable), Some(own));
        assert_eq!(directory_of("reg.test", variable), None);
    }
}
