//! The server name at the beginning of a TLS connection (RFC 8446, RFC 6066).

use crate::name::Name;

/// How much of a connection is read at most to find the end of its ClientHello.
pub(crate) const MAX_HELLO: usize = 16 * 1024;

/// The content type of handshake records, which is the first byte of a TLS connection.
const HANDSHAKE: u8 = 22;
/// The handshake message.
const CLIENT_HELLO: u8 = 1;
/// The maximum length of a plaintext record.
const MAX_RECORD: usize = 1 << 14;
/// The extension with the server's name, and its type for host names.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// More is needed.
    Incomplete,
    /// Not TLS.
    NotTls,
    /// A ClientHello, which ends before the byte `end`.
    Hello { name: Option<Name>, end: usize },
    /// TLS that cannot be understood, or with a name that is not a host name.
    Invalid,
}

/// Reads the beginning of a connection.
pub(crate) fn read(stream: &[u8]) -> Beginning {
    match stream.first() {
        None => return Beginning::Incomplete,
        Some(&HANDSHAKE) => {}
        Some(_) => return Beginning::NotTls,
    }
    let (message, end) = match message(stream) {
        Ok(Some(found)) => found,
        Ok(None) if stream.len() < MAX_HELLO => return Beginning::Incomplete,
        Ok(None) | Err(Invalid) => return Beginning::Invalid,
    };
    match server_name(&message) {
        Ok(name) => Beginning::Hello { name, end },
        Err(Invalid) => Beginning::Invalid,
    }
}

/// The input is not what it should be.
#[derive(Debug)]
struct Invalid;

/// The body of the first handshake message, which may be spread over several records, and the
/// offset of the end of its last record. `None` if it is not complete.
fn message(stream: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Invalid> {
    let mut message = Vec::new();
    let mut rest = stream;
    loop {
        let header = match rest.split_first_chunk::<5>() {
            Some((header, after)) => {
                rest = after;
                *header
            }
            // What is there of the header must be right, so that nothing else is waited for.
            None if matches!(rest, [] | [HANDSHAKE] | [HANDSHAKE, 3, ..]) => return Ok(None),
            None => return Err(Invalid),
        };
        let [HANDSHAKE, 3, _, high, low] = header else {
            return Err(Invalid);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > MAX_RECORD {
            return Err(Invalid);
        }
        let record = rest.get(..length).unwrap_or(rest);
        message.extend_from_slice(record);
        if let Some((&[kind, a, b, c], body)) = message.split_first_chunk::<4>() {
            let whole = usize::try_from(u32::from_be_bytes([0, a, b, c])).map_err(|_| Invalid)?;
            if kind != CLIENT_HELLO || whole > MAX_HELLO {
                return Err(Invalid);
            }
            if body.len() >= whole && record.len() == length {
                // Nothing may follow in the record: the keys change (RFC 8446, section 5.1).
                if body.len() > whole {
                    return Err(Invalid);
                }
                return Ok(Some((body.to_vec(), stream.len() - rest.len() + length)));
            }
        } else if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Invalid);
        }
        rest = match rest.get(length..) {
            Some(rest) => rest,
            None => return Ok(None),
        };
    }
}

/// The server name in a ClientHello. Two of them are an error, because servers may take either.
fn server_name(hello: &[u8]) -> Result<Option<Name>, Invalid> {
    let mut fields = Fields(hello);
    // Version, random number.
    fields.take(2 + 32)?;
    // Session, cipher suites, compression methods.
    fields.vector(1)?;
    fields.vector(2)?;
    fields.vector(1)?;
    if fields.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Fields(fields.vector(2)?);
    if !fields.0.is_empty() {
        return Err(Invalid);
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.vector(2)?;
        if kind != usize::from(SERVER_NAME) {
            continue;
        }
        if found.is_some() {
            return Err(Invalid);
        }
        let mut content = Fields(content);
        let mut list = Fields(content.vector(2)?);
        if !content.0.is_empty() || list.number(1)? != usize::from(HOST_NAME) {
            return Err(Invalid);
        }
        let name = Name::from_ascii(list.vector(2)?).map_err(|_| Invalid)?;
        if !list.0.is_empty() {
            return Err(Invalid);
        }
        found = Some(name);
    }
    Ok(found)
}

/// What is left of a structure.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Invalid> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(Invalid)?;
        self.0 = rest;
        Ok(field)
    }

    /// A big-endian number of `length` bytes.
    fn number(&mut self, length: usize) -> Result<usize, Invalid> {
        let bytes = self.take(length)?;
        Ok(bytes
            .iter()
            .fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A field that is preceded by its length, a number of `prefix` bytes.
    fn vector(&mut self, prefix: usize) -> Result<&'a [u8], Invalid> {
        let length = self.number(prefix)?;
        self.take(length)
    }
}

#[cfg(test)]
pub(crate) mod tests;
