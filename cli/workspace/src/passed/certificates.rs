//! Certificates of authorities, from files in PEM.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::shell::word;

/// The size of all files together, in bytes: five times that of a distribution's bundle.
pub const MAX_BYTES: usize = 1 << 20;

/// The length of a line in PEM.
const LINE: usize = 64;

/// A file does not have certificates that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificatesError {
    /// It cannot be read.
    #[error("cannot read the certificates {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error from the kernel.
        source: io::Error,
    },
    /// It, or it and others, are too large.
    #[error("{} is too large: certificates have at most {} KiB in all", .0.display(), MAX_BYTES >> 10)]
    TooLarge(PathBuf),
    /// It has none.
    #[error("{} has no certificate in PEM form", .0.display())]
    None(PathBuf),
    /// One of them is damaged.
    #[error("{} has a damaged certificate: number {number}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which one, counted from 1.
        number: usize,
    },
}

impl CertificatesError {
    /// What the user can do about it.
    pub fn remediation(&self) -> Option<String> {
        let CertificatesError::None(path) = self else {
            return None;
        };
        let path = word(path);
        Some(format!(
            "convert one in DER form: openssl x509 -inform der -in {path} -out {path}.pem"
        ))
    }
}

/// Reads the certificates of these files, in order, each once.
///
/// # Errors
/// [`CertificatesError`].
pub fn read(paths: &[PathBuf]) -> Result<Vec<String>, CertificatesError> {
    let mut found: Vec<String> = Vec::new();
    let mut left = MAX_BYTES;
    for path in paths {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(left as u64 + 1).read_to_end(&mut bytes))
            .map_err(|source| CertificatesError::Read {
                path: path.clone(),
                source,
            })?;
        left = (left.checked_sub(bytes.len()))
            .ok_or_else(|| CertificatesError::TooLarge(path.clone()))?;
        for certificate in parse(path, &bytes)? {
            if !found.contains(&certificate) {
                found.push(certificate);
            }
        }
    }
    Ok(found)
}

/// The certificates in a PEM file, each in PEM as OpenSSL writes it. What else it has, such as a key,
/// is left out.
///
/// # Errors
/// [`CertificatesError`], which names `path`.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<String>, CertificatesError> {
    let mut found = Vec::new();
    for (der, number) in CertificateDer::pem_slice_iter(bytes).zip(1..) {
        match der {
            Ok(der) if is_sequence(&der) => found.push(pem(&der)),
            _ => {
                return Err(CertificatesError::Damaged {
                    path: path.to_owned(),
                    number,
                });
            }
        }
    }
    match found.is_empty() {
        true => Err(CertificatesError::None(path.to_owned())),
        false => Ok(found),
    }
}

/// Whether it is one SEQUENCE of DER that begins with another one, as a certificate is (RFC 5280,
/// section 4.1). What is in it is for those who verify with it.
fn is_sequence(der: &[u8]) -> bool {
    let content = |der: &[u8]| -> Option<(usize, usize)> {
        let (&tag, &first) = (der.first()?, der.get(1)?);
        let (start, length) = match first {
            0..=0x7f => (2, usize::from(first)),
            0x81..=0x83 => {
                let octets = der.get(2..2 + usize::from(first & 3))?;
                let length = octets
                    .iter()
                    .fold(0, |sum, &octet| (sum << 8) | usize::from(octet));
                (2 + octets.len(), length)
            }
            _ => return None,
        };
        (tag == 0x30).then_some((start, length))
    };
    let Some((start, length)) = content(der) else {
        return false;
    };
    let inner = der.get(start..).and_then(content);
    start + length == der.len() && inner.is_some_and(|(start, inner)| start + inner < length)
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = &text[..];
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A certificate as far as it is looked at, of more than one line.
    fn der() -> Vec<u8> {
        [&[0x30, 0x64, 0x30, 0x10][..], &[7; 0x62]].concat()
    }

    fn parsed(text: &str) -> Result<Vec<String>, String> {
        parse(Path::new("a b.pem"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn certificates_are_found_beside_anything_else_and_are_in_one_form() {
        let certificate = pem(&der());
        assert_eq!(certificate.lines().nth(1).unwrap().len(), 64);
        let body: String = certificate
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect();
        let one_line =
            format!("-----BEGIN CERTIFICATE-----\r\n{body}\r\n-----END CERTIFICATE-----");
        let key = certificate.replace("CERTIFICATE", "PRIVATE KEY");
        for text in [
            certificate.clone(),
            format!("# A comment\n{key}{certificate}and more"),
            one_line,
        ] {
            assert_eq!(parsed(&text), Ok(vec![certificate.clone()]), "{text}");
        }
        let two = format!("{certificate}{certificate}");
        assert_eq!(parsed(&two).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        let certificate = pem(&der());
        let none = "a b.pem has no certificate in PEM form";
        for text in [
            "",
            "hello",
            &certificate.replace("CERTIFICATE", "PRIVATE KEY"),
        ] {
            assert_eq!(parsed(text), Err(none.to_owned()), "{text}");
        }
        let damaged = |number| {
            Err(format!(
                "a b.pem has a damaged certificate: number {number}"
            ))
        };
        let cut = &certificate[..80];
        assert_eq!(parsed(cut), damaged(1));
        assert_eq!(parsed(&format!("{certificate}{cut}")), damaged(2));
        assert_eq!(parsed(&pem(&der()[..90])), damaged(1));
        assert_eq!(parsed(&pem(b"hello")), damaged(1));
        let error = parse(Path::new("a b.pem"), b"").unwrap_err();
        assert_eq!(
            error.remediation().unwrap(),
            "convert one in DER form: openssl x509 -inform der -in 'a b.pem' -out 'a b.pem'.pem"
        );
    }

    #[test]
    fn the_size_of_all_files_is_limited_and_each_certificate_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let (one, large) = (directory.path().join("one"), directory.path().join("large"));
        let certificate = pem(&der());
        std::fs::write(&one, &certificate).unwrap();
        std::fs::write(&large, certificate.repeat(MAX_BYTES / certificate.len())).unwrap();
        assert_eq!(read(&[one.clone(), one.clone()]).unwrap(), [certificate]);
        assert_eq!(read(std::slice::from_ref(&large)).unwrap().len(), 1);
        let error = read(&[large.clone(), one.clone(), one]).unwrap_err();
        assert!(matches!(error, CertificatesError::TooLarge(_)), "{error}");
        let error = read(&[directory.path().join("absent")]).unwrap_err();
        assert!(matches!(error, CertificatesError::Read { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_files_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Path::new("x"), &bytes);
            is_sequence(&bytes);
        }
    }
}
