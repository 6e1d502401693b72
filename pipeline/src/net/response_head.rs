//! The beginning of a response, its status line and header, as servers send it and the HTTP client
//! takes it. The client takes only the strict form of RFC 9112; Go's, curl's and so most other
//! clients also take, and some servers and proxies send:
//!
//! - values over several lines (`obs-fold`), a space before the colon, invalid lines, which are
//!   left out (RFC 9112, section 5);
//! - interim responses (1xx) before the final one, with a header or together with the final one
//!   (RFC 9110, section 15.2);
//! - long headers, such as the policies and cookies of web proxies. Only the fields that this
//!   program reads are kept.

use std::fmt::Write;

use httparse::{EMPTY_HEADER, ParserConfig, Status};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// The maximum length in bytes of the beginning of a response, with those of interim responses.
const MAX_HEAD: usize = 1 << 20;
/// The maximum number of interim responses, as in Go.
const MAX_INTERIM: usize = 5;

/// The fields that are kept.
const FIELDS: [&str; 11] = [
    "Connection",
    "Content-Encoding",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "Docker-Content-Digest",
    "Location",
    "Proxy-Authenticate",
    "Retry-After",
    "Transfer-Encoding",
    "WWW-Authenticate",
];

/// Normalises the responses on all connections.
#[derive(Debug)]
pub(super) struct ResponseHeadConnector;

impl<In: Transport> Connector<In> for ResponseHeadConnector {
    type Out = ResponseHeadTransport<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        Ok(chained.map(|connection| ResponseHeadTransport {
            connection,
            state: State::Content,
        }))
    }
}

/// A connection with normalised responses.
#[derive(Debug)]
pub(super) struct ResponseHeadTransport<T> {
    connection: T,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A request was sent; what has been received of its response.
    Head(Head),
    /// Received bytes that the client does not have yet.
    Rest(Vec<u8>),
    /// The rest of the response, or anything else than HTTP.
    Content,
}

impl<T: Transport> Transport for ResponseHeadTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.connection.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let output = &self.connection.buffers().output()[..amount];
        // A tunnel carries other protocols (TLS), whose responses are not looked at.
        if output.starts_with(b"GET ") || output.starts_with(b"POST ") {
            self.state = State::Head(Head::default());
        }
        self.connection.transmit_output(amount, timeout)
    }

    /// The client asks again after each piece, so that its time limits hold.
    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let is_open = match &self.state {
            State::Rest(_) => true,
            State::Head(_) | State::Content => self.connection.await_input(timeout)?,
        };
        if let State::Head(head) = &mut self.state {
            let buffers = self.connection.buffers();
            let received = buffers.input().len();
            let normalised = head.push(buffers.input())?;
            buffers.input_consume(received);
            match normalised {
                Some(bytes) => self.state = State::Rest(bytes),
                None if is_open => {}
                // The client reports a beginning that is cut off.
                None => self.state = State::Rest(std::mem::take(&mut head.received)),
            }
        }
        if let State::Rest(rest) = &mut self.state {
            let free = self.connection.buffers().input_append_buf();
            let amount = rest.len().min(free.len());
            free[..amount].copy_from_slice(&rest[..amount]);
            self.connection.buffers().input_appended(amount);
            rest.drain(..amount);
            if rest.is_empty() {
                self.state = State::Content;
            }
            return Ok(amount > 0);
        }
        Ok(is_open)
    }

    fn is_open(&mut self) -> bool {
        self.connection.is_open()
    }

    fn is_tls(&self) -> bool {
        self.connection.is_tls()
    }
}

/// What has been received of the beginning of a response.
#[derive(Debug, Default)]
struct Head {
    received: Vec<u8>,
    /// The part of it that does not contain the end.
    searched: usize,
    /// The number of interim responses before it.
    interim: usize,
    /// Their length in bytes.
    skipped: usize,
}

impl Head {
    /// Adds received bytes. Returns the normalised beginning and what follows it once it is
    /// complete, and unchanged what is not a response.
    fn push(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, ureq::Error> {
        self.received.extend_from_slice(bytes);
        loop {
            let begin = &self.received[..self.received.len().min(5)];
            if !b"HTTP/".starts_with(begin) {
                return Ok(Some(std::mem::take(&mut self.received)));
            }
            let end = end_of_head(&self.received, self.searched);
            let length = self.skipped + end.unwrap_or(self.received.len());
            if length > MAX_HEAD {
                return Err(ureq::Error::LargeResponseHeader(length, MAX_HEAD));
            }
            let Some(end) = end else {
                self.searched = self.received.len();
                return Ok(None);
            };
            self.searched = 0;
            match normalised(&self.received[..end]) {
                Some(Normalised::Interim) if self.interim < MAX_INTERIM => {
                    self.interim += 1;
                    self.skipped += end;
                    self.received.drain(..end);
                }
                Some(Normalised::Final(mut bytes)) => {
                    bytes.extend_from_slice(&self.received[end..]);
                    return Ok(Some(bytes));
                }
                // The client reports what is wrong with it.
                Some(Normalised::Interim) | None => {
                    return Ok(Some(std::mem::take(&mut self.received)));
                }
            }
        }
    }
}

/// The offset behind the first empty line, if there is one behind `from`.
fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let mut begin = from.saturating_sub(3);
    while let Some(at) = bytes[begin..].iter().position(|byte| *byte == b'\n') {
        let after = begin + at + 1;
        match &bytes[after..] {
            [b'\n', ..] => return Some(after + 1),
            [b'\r', b'\n', ..] => return Some(after + 2),
            _ => begin = after,
        }
    }
    None
}

enum Normalised {
    /// An interim response, which is left out.
    Interim,
    Final(Vec<u8>),
}

/// The normal form of the beginning of a response; `None` if it has none.
fn normalised(head: &[u8]) -> Option<Normalised> {
    let lines = head.iter().filter(|byte| **byte == b'\n').count();
    let mut headers = vec![EMPTY_HEADER; lines];
    let mut response = httparse::Response::new(&mut headers);
    let mut config = ParserConfig::default();
    config
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    match config.parse_response(&mut response, head) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) | Err(_) => return None,
    }
    let (version, code) = (response.version?, response.code?);
    // 101 ends HTTP on the connection.
    if (100..200).contains(&code) && code != 101 {
        return Some(Normalised::Interim);
    }
    let mut text = String::new();
    write!(text, "HTTP/1.{version} {code:03}\r\n").ok()?;
    let mut bytes = text.into_bytes();
    let is_kept = |header: &&httparse::Header<'_>| {
        (FIELDS.iter()).any(|field| field.eq_ignore_ascii_case(header.name))
    };
    for header in response.headers.iter().filter(is_kept) {
        bytes.extend_from_slice(header.name.as_bytes());
        bytes.extend_from_slice(b": ");
        let unfolded = header.value.iter().map(|byte| match byte {
            b'\r' | b'\n' => b' ',
            other => *other,
        });
        bytes.extend(unfolded);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    Some(Normalised::Final(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the client gets of a response that arrives in pieces of this length.
    fn pushed(response: &[u8], length: usize) -> Result<Option<String>, String> {
        let mut head = Head::default();
        let mut out: Option<Vec<u8>> = None;
        for piece in response.chunks(length) {
            match &mut out {
                Some(out) => out.extend_from_slice(piece),
                None => out = head.push(piece).map_err(|error| error.to_string())?,
            }
        }
        Ok(out.map(|out| String::from_utf8_lossy(&out).into_owned()))
    }

    fn taken(response: &str) -> String {
        let whole = pushed(response.as_bytes(), usize::MAX).unwrap().unwrap();
        for length in [1, 2, 3, 7] {
            let pieces = pushed(response.as_bytes(), length).unwrap();
            assert_eq!(pieces.as_ref(), Some(&whole), "{length}");
        }
        whole
    }

    #[test]
    fn what_other_clients_take_becomes_the_strict_form() {
        let strict = "HTTP/1.1 200\r\nContent-Type: a; b\r\nContent-Length: 2\r\n\r\nhi";
        for response in [
            "HTTP/1.1 200 OK\r\nContent-Type: a; b\r\nContent-Length: 2\r\n\r\nhi",
            "HTTP/1.1 200\nContent-Type:a; b\nContent-Length:2\n\nhi",
            "HTTP/1.1 200 OK\r\nContent-Type : a; b\r\nX(y): z\r\nX-Odd\r\nContent-Length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nX-Long: a\r\n  b\r\n\tc\r\nContent-Type: a; b\r\nContent-Length:\r\n 2\r\n\r\nhi",
            "HTTP/1.1 100 Continue\r\nDate: x\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: a; b\r\nContent-Length: 2\r\n\r\nhi",
        ] {
            assert_eq!(taken(response).replace(":   ", ": "), strict, "{response}");
        }
        assert_eq!(
            taken("HTTP/1.0 401 \r\nwww-authenticate: Bearer a=b,\r\n c=d\r\n\r\n"),
            "HTTP/1.0 401\r\nwww-authenticate: Bearer a=b,   c=d\r\n\r\n"
        );
    }

    #[test]
    fn what_is_not_a_response_is_left_to_the_client() {
        for other in [
            "SSH-2.0-x\r\n",
            "\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 x\r\n\r\n",
        ] {
            assert_eq!(taken(other), other);
        }
        let interim = "HTTP/1.1 102 x\r\n\r\n";
        assert_eq!(taken(&interim.repeat(6)), interim);
        assert_eq!(pushed(b"HTTP/1.1 200 OK\r\nA: b\r\n", 4), Ok(None));
    }

    #[test]
    fn the_length_is_limited_and_only_fields_in_use_are_kept() {
        let with = |lines: usize| {
            let fields = "X-Policy: aaaaaaaaaaaaaa\r\n".repeat(lines);
            format!("HTTP/1.1 200 OK\r\n{fields}Location: /x\r\n\r\n")
        };
        let short = pushed(with(40_000).as_bytes(), 16_000);
        assert_eq!(
            short.unwrap().unwrap(),
            "HTTP/1.1 200\r\nLocation: /x\r\n\r\n"
        );
        let long = pushed(with(50_000).as_bytes(), 16_000).unwrap_err();
        assert!(long.contains("response header is too big"), "{long}");
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 2 << 20]].concat();
        assert!(pushed(&endless, 16_000).is_err());
        let interim = "HTTP/1.1 103 x\r\n\r\n".to_owned() + &with(41_942);
        assert!(pushed(interim.as_bytes(), 16_000).is_err());
    }

    proptest! {
        #[test]
        fn no_response_causes_a_panic(
            response in "(HTTP/1.1 [12]00\r?\n)?([A-z(]{0,2}[ :]{0,2}[ -~]{0,3}\r?\n){0,4}\r?\n?",
            length in 1usize..9,
        ) {
            let whole = pushed(response.as_bytes(), usize::MAX);
            prop_assert_eq!(whole, pushed(response.as_bytes(), length));
        }
    }
}
