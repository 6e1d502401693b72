//! A proxy that injects faults into the responses of a registry, by rule or randomly.
//!
//! Responses that no [`Rule`] matches pass unchanged. The proxy records its requests, so that a
//! test can check what was *not* fetched or not sent.
//!
//! Random faults are a function of the seed, the path and the number of requests for that path, so
//! they do not depend on time or on the order of concurrent requests.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// Maximum length of a request or response header in bytes.
const HEADER_LIMIT: u64 = 64 << 10;

/// A fault in a response.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Close the connection after this many bytes of the body; the header is unchanged.
    CutAfter(u64),
    /// Flip a bit of the byte at this offset of the body.
    FlipBitAt(u64),
    /// Respond with this status and these header lines without contacting the registry.
    Status(u16, Vec<String>),
    /// Do not respond, and keep the connection open until the client closes it.
    Stall,
    /// Stop after this many bytes of the body and keep the connection open.
    StallAfter(u64),
    /// Close the connection without a response.
    Drop,
    /// Delay the response, otherwise unchanged.
    Delay(Duration),
}

/// Selects the responses for a fault.
#[derive(Debug, Clone)]
pub struct Rule {
    /// A substring of the request's path.
    pub path: String,
    /// The fault.
    pub fault: Fault,
    /// How many times the rule applies; `None` means always.
    pub times: Option<u32>,
}

/// A running proxy, stopped on drop. See the module.
#[derive(Debug)]
pub struct FaultProxy {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    rules: Mutex<Vec<Rule>>,
    random: Mutex<Option<RandomFaults>>,
    requests: Mutex<Vec<String>>,
    heads: Mutex<Vec<String>>,
    request_received: Condvar,
    stopped: AtomicBool,
}

impl FaultProxy {
    /// Starts a proxy in front of the registry at `upstream` (`host:port`).
    pub fn start(upstream: &str, rules: Vec<Rule>) -> Result<FaultProxy, Error> {
        FaultProxy::with(upstream, rules, None)
    }

    /// Starts a proxy that injects random faults into about `percent` of the responses, until
    /// [`FaultProxy::stop_faults`]: dropped and cut connections, delays, flipped bits, and the
    /// statuses 429, 500 and 503.
    pub fn random(upstream: &str, seed: u64, percent: u64) -> Result<FaultProxy, Error> {
        let random = RandomFaults {
            seed,
            percent,
            requests: HashMap::new(),
        };
        FaultProxy::with(upstream, Vec::new(), Some(random))
    }

    fn with(
        upstream: &str,
        rules: Vec<Rule>,
        random: Option<RandomFaults>,
    ) -> Result<FaultProxy, Error> {
        let here = "127.0.0.1:0";
        let listener = TcpListener::bind(here).map_err(Error::file(here))?;
        let address = listener
            .local_addr()
            .map_err(Error::file(here))?
            .to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            rules: Mutex::new(rules),
            random: Mutex::new(random),
            heads: Mutex::default(),
            requests: Mutex::new(Vec::new()),
            request_received: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if serving.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // Errors are ignored: a client may disconnect at any time.
                thread::spawn(move || shared.serve(client));
            }
        });
        Ok(FaultProxy { address, shared })
    }

    /// Its address: `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The requests so far, such as `GET /v2/image/manifests/latest`, followed by ` Range: …` if
    /// the request has a range.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }

    /// The request headers so far, unchanged.
    pub fn heads(&self) -> Vec<String> {
        lock(&self.shared.heads).clone()
    }

    /// Stops injecting faults.
    pub fn stop_faults(&self) {
        lock(&self.shared.rules).clear();
        *lock(&self.shared.random) = None;
    }

    /// Waits for a request whose path contains `path`.
    pub fn wait_for(&self, path: &str, limit: Duration) -> Result<(), Error> {
        let end = Instant::now() + limit;
        let mut requests = lock(&self.shared.requests);
        while !requests.iter().any(|request| request.contains(path)) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout {
                    what: format!("a request for {path}"),
                    limit,
                    seen: requests.join(", "),
                });
            }
            requests = self
                .shared
                .request_received
                .wait_timeout(requests, left)
                .expect("no thread panics with the lock")
                .0;
        }
        Ok(())
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        // Requests that only read have no body.
        let request = read_header(&mut reader)?;
        let Some(first) = request.lines().next() else {
            return Ok(());
        };
        let mut words = first.split(' ');
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let range = header(&request, "range").map(|range| format!(" Range: {range}"));
        lock(&self.requests).push(format!("{method} {path}{}", range.unwrap_or_default()));
        lock(&self.heads).push(request.clone());
        self.request_received.notify_all();
        let fault = self.fault_for(path);

        let mut client = client;
        match &fault {
            Some(Fault::Status(status, lines)) => {
                let mut answer = format!("HTTP/1.1 {status} Injected\r\nContent-Length: 0\r\n");
                for line in lines {
                    answer.push_str(&format!("{line}\r\n"));
                }
                answer.push_str("Connection: close\r\n\r\n");
                return client.write_all(answer.as_bytes());
            }
            Some(Fault::Stall) => return wait_for_end(&mut reader),
            Some(Fault::Drop) => return client.shutdown(Shutdown::Both),
            Some(Fault::Delay(delay)) => thread::sleep(*delay),
            _ => {}
        }

        let mut upstream = TcpStream::connect(&self.upstream)?;
        upstream.write_all(one_shot(&request).as_bytes())?;
        let mut answer = BufReader::new(upstream);
        let head = read_header(&mut answer)?;
        client.write_all(one_shot(&head).as_bytes())?;
        match fault {
            Some(Fault::CutAfter(bytes)) => {
                io::copy(&mut answer.take(bytes), &mut client)?;
            }
            Some(Fault::StallAfter(bytes)) => {
                io::copy(&mut answer.take(bytes), &mut client)?;
                return wait_for_end(&mut reader);
            }
            Some(Fault::FlipBitAt(offset)) => {
                io::copy(&mut answer.by_ref().take(offset), &mut client)?;
                let mut byte = [0];
                if answer.read(&mut byte)? == 1 {
                    client.write_all(&[byte[0] ^ 1])?;
                }
                io::copy(&mut answer, &mut client)?;
            }
            _ => {
                io::copy(&mut answer, &mut client)?;
            }
        }
        client.shutdown(Shutdown::Both)
    }

    /// The fault for a request of this path; counts one use of its rule.
    fn fault_for(&self, path: &str) -> Option<Fault> {
        if let Some(random) = &mut *lock(&self.random) {
            return random.fault_for(path);
        }
        let mut rules = lock(&self.rules);
        let rule = rules
            .iter_mut()
            .find(|rule| path.contains(&rule.path) && rule.times != Some(0))?;
        if let Some(times) = &mut rule.times {
            *times -= 1;
        }
        Some(rule.fault.clone())
    }
}

/// Random faults.
#[derive(Debug)]
struct RandomFaults {
    seed: u64,
    percent: u64,
    /// The number of requests for each path.
    requests: HashMap<String, u64>,
}

impl RandomFaults {
    fn fault_for(&mut self, path: &str) -> Option<Fault> {
        let count = self.requests.entry(path.to_owned()).or_default();
        *count += 1;
        let mut state = path.bytes().fold(self.seed ^ *count, |hash, byte| {
            mixed(hash ^ u64::from(byte))
        });
        let mut next = |below: u64| {
            state = mixed(state);
            state % below
        };
        if next(100) >= self.percent {
            return None;
        }
        // Within a document, or anywhere in a layer.
        let offset = if next(2) == 0 {
            next(1000)
        } else {
            next(4 << 20)
        };
        let busy = [429, 500, 503];
        Some(match next(10) {
            0 => Fault::FlipBitAt(offset),
            1..=3 => Fault::CutAfter(offset),
            4 => Fault::Drop,
            5 => Fault::Delay(Duration::from_millis(next(300))),
            6 => Fault::Status(429, vec!["Retry-After: 1".to_owned()]),
            _ => Fault::Status(busy[next(3) as usize], Vec::new()),
        })
    }
}

/// One step of the generator `splitmix64`.
fn mixed(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics with the lock")
}

/// Reads up to and including the empty line.
fn read_header(reader: &mut impl BufRead) -> io::Result<String> {
    let mut header = String::new();
    let mut reader = reader.take(HEADER_LIMIT);
    while reader.read_line(&mut header)? > 2 {}
    Ok(header)
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

/// Replaces the header's `Connection` with `close`.
fn one_shot(head: &str) -> String {
    let mut lines: Vec<&str> = head
        .lines()
        .filter(|line| !line.is_empty())
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .collect();
    lines.push("Connection: close");
    lines.join("\r\n") + "\r\n\r\n"
}

/// Waits until the client closes the connection.
fn wait_for_end(client: &mut impl Read) -> io::Result<()> {
    io::copy(client, &mut io::sink()).map(drop)
}
