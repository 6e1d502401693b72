//! A file server over plain HTTP, as registries use for their blobs: `busybox httpd`, one process
//! per connection. The port is bound before the directory to serve exists.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::{Error, tool};

/// A bound server that does not serve yet.
#[derive(Debug)]
pub struct FileServer {
    address: String,
    listener: TcpListener,
}

/// A running server, stopped on drop.
#[derive(Debug)]
pub struct Serving {
    address: String,
    stopped: Arc<AtomicBool>,
}

impl FileServer {
    /// Binds a port of the loopback interface.
    pub fn bind() -> Result<FileServer, Error> {
        let here = "127.0.0.1:0";
        let listener = TcpListener::bind(here).map_err(Error::file(here))?;
        let address = listener.local_addr().map_err(Error::file(here))?;
        Ok(FileServer {
            address: address.to_string(),
            listener,
        })
    }

    /// Its address: `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts to serve `directory`.
    pub fn serve(self, directory: &Path) -> Result<Serving, Error> {
        let busybox = tool::find("busybox")?;
        let stopped = Arc::new(AtomicBool::new(false));
        let serving = Serving {
            address: self.address,
            stopped: Arc::clone(&stopped),
        };
        let directory = directory.to_owned();
        thread::spawn(move || {
            for client in self.listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
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
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = std::net::TcpStream::connect(&self.address);
    }
}
