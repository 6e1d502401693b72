//! An HTTP server that answers as scripted by the test, one request per connection,
//! and records its requests. Tests of authentication and redirects put it in front
//! of a real registry.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The parts of a request that tests check.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
    pub body: String,
}

pub struct ScriptedServer {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl ScriptedServer {
    /// Starts a server. `answer` receives the server's address and the request.
    pub fn start<A: Into<Vec<u8>>>(
        answer: impl Fn(&str, &Request) -> A + Send + 'static,
    ) -> ScriptedServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = ScriptedServer {
            address: listener.local_addr().unwrap().to_string(),
            requests: Arc::default(),
        };
        let (address, requests) = (server.address.clone(), Arc::clone(&server.requests));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if let Some(request) = read(&stream) {
                    requests.lock().unwrap().push(request.clone());
                    let _ = (&stream).write_all(&answer(&address, &request).into());
                }
            }
        });
        server
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests whose path starts with `path`.
    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.path.starts_with(path));
        requests
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let request = lines.next()?;
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |wanted: &str| {
        headers.iter().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case(wanted).then(|| value.to_owned())
        })
    };
    let length = header("content-length").and_then(|length| length.parse().ok());
    let mut body = String::new();
    (reader.take(length.unwrap_or(0)).read_to_string(&mut body)).ok()?;
    let mut words = request.split(' ').map(str::to_owned);
    Some(Request {
        method: words.next()?,
        path: words.next()?,
        range: header("range"),
        authorization: header("authorization"),
        body,
    })
}

/// Formats a response with header lines and a body.
pub fn answer(status: u16, headers: &[&str], body: &str) -> String {
    let length = body.len();
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "HTTP/1.1 {status} Scripted\r\n{lines}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A redirect to the same path on another server.
pub fn redirect(to: &str, path: &str) -> String {
    answer(307, &[&format!("Location: http://{to}{path}")], "")
}
