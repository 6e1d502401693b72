//! A real registry (`distribution`, Debian's `docker-registry`) on the loopback interface.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::scoped_process::ScopedProcess;
use crate::{Error, tool};

/// Time limit for the registry to start listening.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The user name and password that [`Registry::with_password`] requires.
pub const CREDENTIALS: (&str, &str) = ("tester", "open sesame");

/// The issuer of the tokens that a registry accepts.
pub const TOKEN_ISSUER: &str = "the token server";
/// The service (audience) of the tokens that a registry accepts.
pub const TOKEN_SERVICE: &str = "the registry";

/// [`CREDENTIALS`] as `htpasswd -nbB` writes them.
const HTPASSWD: &str = "tester:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

/// A running registry, initially empty. Dropping it stops it and deletes its content.
#[derive(Debug)]
pub struct Registry {
    address: String,
    // Declared before the storage, so that it is dropped first.
    _process: ScopedProcess,
    storage: TempDir,
}

/// The configuration of a registry.
#[derive(Debug, Default)]
pub struct Setup<'a> {
    /// Require [`CREDENTIALS`].
    pub password: bool,
    /// Serve HTTPS only, with this certificate and key (PEM files).
    pub tls: Option<(&'a Path, &'a Path)>,
    /// Redirect requests for blobs to this address (`http://…`), where a server serves
    /// [`Registry::storage`].
    pub blob_redirect: Option<&'a str>,
    /// Require tokens from the server at this address, signed with the key of this certificate
    /// (PEM), with [`TOKEN_ISSUER`] and [`TOKEN_SERVICE`].
    pub tokens: Option<(&'a str, &'a Path)>,
    /// Accept manifests of Docker's schema 1.
    pub schema_1: bool,
}

impl Registry {
    /// Starts a registry without authentication.
    pub fn start() -> Result<Registry, Error> {
        Registry::with_setup(&Setup::default())
    }

    /// Starts a registry that requires [`CREDENTIALS`].
    pub fn with_password() -> Result<Registry, Error> {
        Registry::with_setup(&Setup {
            password: true,
            ..Setup::default()
        })
    }

    /// Starts a registry that serves HTTPS only, with this certificate and key (PEM files).
    pub fn with_certificate(certificate: &Path, key: &Path) -> Result<Registry, Error> {
        Registry::with_setup(&Setup {
            tls: Some((certificate, key)),
            ..Setup::default()
        })
    }

    /// Starts a registry with this configuration and an empty storage directory.
    pub fn with_setup(setup: &Setup<'_>) -> Result<Registry, Error> {
        let storage = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        start(setup, storage)
    }

    /// The root directory of its filesystem storage driver.
    pub fn storage(&self) -> PathBuf {
        self.storage.path().join("storage")
    }

    /// Its address: `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Pushes an image, given in skopeo's syntax (`oci:DIR:TAG`), to `name` (`repository:tag`).
    pub fn push(&self, image: &str, name: &str) -> Result<(), Error> {
        let (user, password) = CREDENTIALS;
        let credentials = format!("{user}:{password}");
        let destination = format!("docker://{}/{name}", self.address);
        tool::run(
            "skopeo",
            [
                "copy",
                "--quiet",
                "--insecure-policy",
                "--dest-tls-verify=false",
                "--dest-creds",
                &credentials,
                image,
                &destination,
            ],
        )
        .map(drop)
    }
}

fn start(setup: &Setup<'_>, storage: TempDir) -> Result<Registry, Error> {
    let program = tool::find("docker-registry")?;
    let directory = storage.path();
    let htpasswd = directory.join("htpasswd");
    fs::write(&htpasswd, HTPASSWD).map_err(Error::file(&htpasswd))?;
    let auth = if let Some((realm, certificate)) = setup.tokens {
        format!(
            "auth:\n  token: {{realm: '{realm}', service: {TOKEN_SERVICE}, issuer: {TOKEN_ISSUER}, \
             rootcertbundle: {}}}\n",
            certificate.display()
        )
    } else if setup.password {
        format!(
            "auth:\n  htpasswd: {{realm: test, path: {}}}\n",
            htpasswd.display()
        )
    } else {
        String::new()
    };
    let tls = setup.tls.map_or_else(String::new, |(certificate, key)| {
        let (certificate, key) = (certificate.display(), key.display());
        format!(", tls: {{certificate: {certificate}, key: {key}}}")
    });
    let redirect = setup.blob_redirect.map_or_else(String::new, |address| {
        format!("middleware:\n  storage: [{{name: redirect, options: {{baseurl: '{address}'}}}}]\n")
    });
    let schema_1 = setup.schema_1;
    // With port 0 the kernel chooses a free port, which the log reports.
    let configuration = format!(
        "version: 0.1\n\
         log: {{level: info, formatter: text, accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: {}}}\n\
         http: {{addr: '127.0.0.1:0', secret: test{tls}}}\n\
         validation: {{manifests: {{urls: {{allow: ['^http']}}}}}}\n\
         compatibility: {{schema1: {{enabled: {schema_1}}}}}\n{redirect}{auth}",
        directory.join("storage").display()
    );
    let file = directory.join("config.yml");
    fs::write(&file, configuration).map_err(Error::file(&file))?;

    let mut command = Command::new(program);
    command.arg("serve").arg(&file);
    let mut process = ScopedProcess::start(&command, Stdio::null(), Stdio::piped())?;
    let Some(log) = process.stderr() else {
        unreachable!("stderr is piped");
    };
    let (found, address) = mpsc::channel();
    thread::spawn(move || {
        let mut seen = String::new();
        let mut lines = BufReader::new(log).lines().map_while(Result::ok);
        for line in lines.by_ref() {
            if let Some(address) = listening_address(&line) {
                let _ = found.send(Ok(address));
                break;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        // The end of the log without an address; ignored if the address was sent.
        let _ = found.send(Err(seen));
        // A full pipe would block the registry.
        lines.for_each(drop);
    });
    let late = |seen: String| Error::Timeout {
        what: "the registry to listen".to_owned(),
        limit: START_LIMIT,
        seen,
    };
    let address = address
        .recv_timeout(START_LIMIT)
        .map_err(|_| late(String::new()))?
        .map_err(late)?;
    Ok(Registry {
        address,
        _process: process,
        storage,
    })
}

/// Parses `… level=info msg="listening on 127.0.0.1:40001" …`.
fn listening_address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("listening on ")?;
    let address = rest.split(['"', ' ', ',']).next()?;
    address.starts_with("127.").then(|| address.to_owned())
}
