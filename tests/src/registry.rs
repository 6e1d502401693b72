//! A real registry (`distribution`, Debian's `docker-registry`) on the loopback interface.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::watched::Watched;
use crate::{Error, tool};

/// How long the registry may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The name and the password that [`Registry::with_password`] asks for.
pub const CREDENTIALS: (&str, &str) = ("tester", "open sesame");

/// Whose tokens a registry believes, and what it is called in them.
pub const TOKEN_ISSUER: &str = "the token server";
/// See [`TOKEN_ISSUER`].
pub const TOKEN_SERVICE: &str = "the registry";

/// [`CREDENTIALS`] as `htpasswd -nbB` writes them.
const HTPASSWD: &str = "tester:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

/// A registry that is empty at first and gone, with all it holds, when this value is.
#[derive(Debug)]
pub struct Registry {
    address: String,
    // Declared before its storage: dropped before it.
    _process: Watched,
    storage: TempDir,
}

/// What a registry is like.
#[derive(Debug, Default)]
pub struct Setup<'a> {
    /// It wants [`CREDENTIALS`].
    pub password: bool,
    /// It speaks HTTPS only, with this certificate and key (PEM files).
    pub tls: Option<(&'a Path, &'a Path)>,
    /// It redirects who asks for a blob to a server of [`Registry::storage`] with this address
    /// (`http://…`).
    pub blobs_at: Option<&'a str>,
    /// It wants tokens of the server at this address, signed with the key of this certificate
    /// (PEM), by [`TOKEN_ISSUER`] for [`TOKEN_SERVICE`].
    pub tokens: Option<(&'a str, &'a Path)>,
    /// It takes manifests of Docker's schema 1.
    pub schema_1: bool,
}

impl Registry {
    /// A registry for everybody.
    pub fn start() -> Result<Registry, Error> {
        Registry::like(&Setup::default())
    }

    /// A registry that wants [`CREDENTIALS`].
    pub fn with_password() -> Result<Registry, Error> {
        Registry::like(&Setup {
            password: true,
            ..Setup::default()
        })
    }

    /// A registry that speaks HTTPS only, with this certificate and key (PEM files).
    pub fn with_certificate(certificate: &Path, key: &Path) -> Result<Registry, Error> {
        Registry::like(&Setup {
            tls: Some((certificate, key)),
            ..Setup::default()
        })
    }

    /// A registry with its storage in a directory of its own.
    pub fn like(setup: &Setup<'_>) -> Result<Registry, Error> {
        let storage = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        start(setup, storage)
    }

    /// The directory it keeps everything in, as its filesystem driver does.
    pub fn storage(&self) -> PathBuf {
        self.storage.path().join("storage")
    }

    /// Where it listens: `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Pushes an image, named as skopeo names it (`oci:DIR:TAG`), to `name` (`repository:tag`).
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
    let redirect = setup.blobs_at.map_or_else(String::new, |address| {
        format!("middleware:\n  storage: [{{name: redirect, options: {{baseurl: '{address}'}}}}]\n")
    });
    let schema_1 = setup.schema_1;
    // Port 0: the kernel chooses a free one, and the log says which.
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
    let mut process = Watched::start(&command, Stdio::null(), Stdio::piped())?;
    let Some(log) = process.stderr() else {
        unreachable!("it was asked for");
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
        // Sent after an address it goes nowhere; without one it is the end of the log.
        let _ = found.send(Err(seen));
        // A full pipe would stop the registry.
        lines.for_each(drop);
    });
    let late = |seen: String| Error::Late {
        what: "the registry listens".to_owned(),
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

/// From `… level=info msg="listening on 127.0.0.1:40001" …`.
fn listening_address(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("listening on ")?;
    let address = rest.split(['"', ' ', ',']).next()?;
    address.starts_with("127.").then(|| address.to_owned())
}
