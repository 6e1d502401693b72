//! Files over plain HTTP: what registries keep their blobs in. `busybox httpd`, one process for
//! each connection, behind a port that is known before there is anything to serve.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::{Error, tool};

/// A server that has nothing to serve yet.
#[derive(Debug)]
pub struct FileServer {
    address: String,
    listener: TcpListener,
}

/// A server; it is gone when this value is.
#[derive(Debug)]
pub struct Serving {
    address: String,
    over: Arc<AtomicBool>,
}

impl FileServer {
    /// A port of the loopback interface.
    pub fn bind() -> Result<FileServer, Error> {
        let here = "127.0.0.1:0";
        let listener = TcpListener::bind(here).map_err(Error::file(here))?;
        let address = listener.local_addr().map_err(Error::file(here))?;
        Ok(FileServer {
            address: address.to_string(),
            listener,
        })
    }

    /// Where it listens: `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves `directory` from now on.
    pub fn serve(self, directory: &Path) -> Result<Serving, Error> {
        let busybox = tool::find("busybox")?;
        let over = Arc::new(AtomicBool::new(false));
        let serving = Serving {
            address: self.address,
            over: Arc::clone(&over),
        };
        let directory = directory.to_owned();
        thread::spawn(move || {
            for client in self.listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(output) = client.try_clone() else {
                    return;
                };
                let child = Command::new(&busybox)
                    .args(["httpd", "-i", "-h"])
                    .arg(&directory)
                    .stdin(Stdio::from(OwnedFd::from(client)))
                    .stdout(Stdio::from(OwnedFd::from(output)))
                    .spawn();
                thread::spawn(move || child.map(|mut child| child.wait()));
            }
        });
        Ok(serving)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = std::net::TcpStream::connect(&self.address);
    }
}
