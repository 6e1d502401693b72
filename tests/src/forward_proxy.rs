//! An HTTP forward proxy with authentication (`tinyproxy`) on the loopback interface.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::scoped_process::ScopedProcess;
use crate::{Error, tool};

/// Time limit for the proxy to start listening.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The user name and password that the proxy requires.
pub const CREDENTIALS: (&str, &str) = ("proxied", "pass-word");

/// A running proxy, stopped on drop.
#[derive(Debug)]
pub struct ForwardProxy {
    address: String,
    log: Arc<Mutex<Vec<String>>>,
    _process: ScopedProcess,
    _directory: TempDir,
}

impl ForwardProxy {
    /// Starts a proxy that requires [`CREDENTIALS`] and resolves the host names `names` to
    /// 127.0.0.1. Needs root.
    pub fn start(names: &str) -> Result<ForwardProxy, Error> {
        ForwardProxy::with(names, "")
    }

    /// Like [`ForwardProxy::start`], but tunnels are allowed to port 443 only, as most proxies are
    /// configured.
    pub fn strict(names: &str) -> Result<ForwardProxy, Error> {
        ForwardProxy::with(names, "ConnectPort 443\n")
    }

    fn with(names: &str, directives: &str) -> Result<ForwardProxy, Error> {
        let program = tool::find("tinyproxy")?;
        let directory = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let file = |name: &str, text: String| {
            let path = directory.path().join(name);
            fs::write(&path, text).map_err(Error::file(&path))?;
            Ok(path)
        };
        // tinyproxy does not accept port 0. If another program binds this port before it does, it
        // fails to start.
        let here = "127.0.0.1:0";
        let free = TcpListener::bind(here).map_err(Error::file(here))?;
        let address = free.local_addr().map_err(Error::file(here))?;
        drop(free);
        let (user, password) = CREDENTIALS;
        let configuration = file(
            "tinyproxy.conf",
            format!(
                "Port {}\nListen 127.0.0.1\nTimeout 60\nLogLevel Info\nBasicAuth {user} {password}\n{directives}",
                address.port()
            ),
        )?;
        let hosts = file("hosts", format!("127.0.0.1 localhost {names}\n"))?;
        let mut command = Command::new(tool::find("unshare")?);
        command
            .args(["--mount", "sh", "-c"])
            .arg(r#"mount --bind "$1" /etc/hosts && exec "$2" -d -c "$3""#)
            .arg("proxy")
            .args([hosts, program, configuration]);
        let mut process = ScopedProcess::start(&command, Stdio::piped(), Stdio::null())?;
        let Some(output) = process.stdout() else {
            unreachable!("stdout is piped");
        };
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line.contains("Accepting connections") {
                    let _ = ready.send(());
                }
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
            }
        });
        let proxy = ForwardProxy {
            address: address.to_string(),
            log,
            _process: process,
            _directory: directory,
        };
        match is_ready.recv_timeout(START_LIMIT) {
            Ok(()) => Ok(proxy),
            Err(_) => Err(Error::Timeout {
                what: "the proxy to listen".to_owned(),
                limit: START_LIMIT,
                seen: proxy.log().join("\n"),
            }),
        }
    }

    /// Its address: `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The lines of its log so far.
    pub fn log(&self) -> Vec<String> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }
}
