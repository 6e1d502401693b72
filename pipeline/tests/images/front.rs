//! A server that answers as a test says, one request a connection, and writes
//! down what it was asked: what stands before a real registry when a test is
//! about who asks whom for what.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request, as far as tests look at it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
    pub body: String,
}

pub struct Front {
    pub address: String,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Front {
    /// `answer` is given the server's own address and the request.
    pub fn start(answer: impl Fn(&str, &Asked) -> String + Send + 'static) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let front = Front {
            address: listener.local_addr().unwrap().to_string(),
            seen: Arc::default(),
        };
        let (address, seen) = (front.address.clone(), Arc::clone(&front.seen));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if let Some(asked) = read(&stream) {
                    seen.lock().unwrap().push(asked.clone());
                    let _ = (&stream).write_all(answer(&address, &asked).as_bytes());
                }
            }
        });
        front
    }

    pub fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests whose path begins so.
    pub fn seen_at(&self, path: &str) -> Vec<Asked> {
        let mut seen = self.seen();
        seen.retain(|asked| asked.path.starts_with(path));
        seen
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
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
    Some(Asked {
        method: words.next()?,
        path: words.next()?,
        authorization: header("authorization"),
        body,
    })
}

/// An answer with header lines and a body.
pub fn answer(status: u16, headers: &[&str], body: &str) -> String {
    let length = body.len();
    let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "HTTP/1.1 {status} Said\r\n{lines}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A redirect to the same path of another server.
pub fn redirect(to: &str, path: &str) -> String {
    answer(307, &[&format!("Location: http://{to}{path}")], "")
}
