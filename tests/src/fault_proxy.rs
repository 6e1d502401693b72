//! A registry that misbehaves: a proxy in front of the real one that spoils chosen answers, or
//! some of them by chance.
//!
//! Everything that no [`Rule`] matches goes through unchanged. The proxy also writes down what it
//! was asked, which is how a test sees that something was *not* fetched, or not told.
//!
//! Chance is a function of the seed, the path and how often the path was asked for, so what
//! happens to a request depends neither on the time nor on the order of parallel ones.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;

/// The longest header of a request or an answer, in bytes.
const HEADER_LIMIT: u64 = 64 << 10;

/// What is done to an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The header promises all, the body ends after so many bytes.
    CutAfter(u64),
    /// One bit of the byte at this offset of the body is turned over.
    FlipBitAt(u64),
    /// The registry is not asked; this status and these header lines are the answer.
    Status(u16, Vec<String>),
    /// Nothing is answered, for as long as the client waits.
    Stall,
    /// The body stops after so many bytes and the connection stays open.
    StallAfter(u64),
    /// The connection is closed without an answer.
    Drop,
    /// The answer comes whole, this much later.
    Delay(Duration),
}

/// Which answers a fault is for.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The path of the request contains this.
    pub path: String,
    /// What is done.
    pub fault: Fault,
    /// How often; `None` is always.
    pub times: Option<u32>,
}

/// See the module. The proxy is gone when this value is.
#[derive(Debug)]
pub struct FaultProxy {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    rules: Mutex<Vec<Rule>>,
    chance: Mutex<Option<Chance>>,
    requests: Mutex<Vec<String>>,
    heads: Mutex<Vec<String>>,
    asked: Condvar,
    over: AtomicBool,
}

impl FaultProxy {
    /// A proxy in front of the registry at `upstream` (`host:port`).
    pub fn start(upstream: &str, rules: Vec<Rule>) -> Result<FaultProxy, Error> {
        FaultProxy::with(upstream, rules, None)
    }

    /// A proxy that spoils about `percent` of a hundred answers: it drops, cuts, delays, flips
    /// bits, and answers 429, 500 and 503 by itself, until [`FaultProxy::behave`].
    pub fn random(upstream: &str, seed: u64, percent: u64) -> Result<FaultProxy, Error> {
        let chance = Chance {
            seed,
            percent,
            asked: HashMap::new(),
        };
        FaultProxy::with(upstream, Vec::new(), Some(chance))
    }

    fn with(upstream: &str, rules: Vec<Rule>, chance: Option<Chance>) -> Result<FaultProxy, Error> {
        let here = "127.0.0.1:0";
        let listener = TcpListener::bind(here).map_err(Error::file(here))?;
        let address = listener
            .local_addr()
            .map_err(Error::file(here))?
            .to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            rules: Mutex::new(rules),
            chance: Mutex::new(chance),
            heads: Mutex::default(),
            requests: Mutex::new(Vec::new()),
            asked: Condvar::new(),
            over: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if serving.over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // A client that goes away mid-answer is none of our business.
                thread::spawn(move || shared.serve(client));
            }
        });
        Ok(FaultProxy { address, shared })
    }

    /// Where it listens: `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What was asked until now, such as `GET /v2/image/manifests/latest`; with `Range: …` behind
    /// it when only a part was asked for.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }

    /// The same with all header lines, as they came.
    pub fn heads(&self) -> Vec<String> {
        lock(&self.shared.heads).clone()
    }

    /// From now on everything goes through unchanged.
    pub fn behave(&self) {
        lock(&self.shared.rules).clear();
        *lock(&self.shared.chance) = None;
    }

    /// Waits until a request whose path contains `path` has come in.
    pub fn wait_for(&self, path: &str, limit: Duration) -> Result<(), Error> {
        let end = Instant::now() + limit;
        let mut requests = lock(&self.shared.requests);
        while !requests.iter().any(|request| request.contains(path)) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Late {
                    what: format!("a request for {path}"),
                    limit,
                    seen: requests.join(", "),
                });
            }
            requests = self
                .shared
                .asked
                .wait_timeout(requests, left)
                .expect("no thread panics with the lock")
                .0;
        }
        Ok(())
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        // The clients of a registry send no bodies in requests that read.
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
        self.asked.notify_all();
        let fault = self.fault_for(path);

        let mut client = client;
        match &fault {
            Some(Fault::Status(status, lines)) => {
                let mut answer = format!("HTTP/1.1 {status} Spoiled\r\nContent-Length: 0\r\n");
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

    /// The fault for this path, used up once.
    fn fault_for(&self, path: &str) -> Option<Fault> {
        if let Some(chance) = &mut *lock(&self.chance) {
            return chance.fault_for(path);
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

/// Faults by chance.
#[derive(Debug)]
struct Chance {
    seed: u64,
    percent: u64,
    /// How often each path was asked for.
    asked: HashMap<String, u64>,
}

impl Chance {
    fn fault_for(&mut self, path: &str) -> Option<Fault> {
        let count = self.asked.entry(path.to_owned()).or_default();
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
        // Where documents are, or anywhere in a layer.
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

/// The step of the generator `splitmix64`.
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

/// The same header for a connection that ends with its one exchange.
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
