//! Certificates created with `openssl`.

use std::path::{Path, PathBuf};

use crate::{Error, tool};

/// Creates a self-signed certificate for the host `name`, which is not a certificate authority, and
/// its key: two PEM files in `directory`.
pub fn self_signed(directory: &Path, name: &str) -> Result<(PathBuf, PathBuf), Error> {
    make(directory, name, "basicConstraints=critical,CA:FALSE")
}

/// Like [`self_signed`], as `openssl req -x509` makes it without further arguments: the certificate
/// is an authority, too.
pub fn self_signed_authority(directory: &Path, name: &str) -> Result<(PathBuf, PathBuf), Error> {
    make(directory, name, "keyUsage=digitalSignature,keyCertSign")
}

fn make(directory: &Path, name: &str, extension: &str) -> Result<(PathBuf, PathBuf), Error> {
    let (certificate, key) = (directory.join("certificate.pem"), directory.join("key.pem"));
    let subject = format!("/CN={name}");
    let names = format!("subjectAltName=DNS:{name}");
    let paths = [certificate.display().to_string(), key.display().to_string()];
    #[rustfmt::skip]
    let arguments = [
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-subj", &subject, "-addext", &names,
        "-addext", extension, "-out", &paths[0], "-keyout", &paths[1],
    ];
    tool::run("openssl", arguments)?;
    Ok((certificate, key))
}
