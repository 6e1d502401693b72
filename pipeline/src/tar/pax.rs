//! PAX extended headers (POSIX.1-2001 `pax`, "pax Extended Header"): records
//! of the form `LENGTH KEY=VALUE\n`.
//!
//! The `tar` crate's parser splits at newlines, so it misreads a binary value
//! that contains 0x0a (a file capability may). This one uses the lengths.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use crate::tar::entry::{Timestamp, Xattr};

/// The prefix of records with extended attributes, as written by GNU tar, Go and
/// the tools that build images.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The fields that the extended header of a member overrides.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PaxHeader {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) xattrs: Vec<Xattr>,
    pub(crate) sparse: PaxSparse,
}

/// GNU tar's records for sparse files, formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PaxSparse {
    pub(crate) major: Option<Vec<u8>>,
    pub(crate) minor: Option<Vec<u8>>,
    /// The real name; the member's own name is a placeholder for other readers.
    pub(crate) name: Option<Vec<u8>>,
    /// The file's size, including holes.
    pub(crate) size: Option<u64>,
    /// The map as `offset, length, offset, length…`; in format 1.0 it is in the data.
    pub(crate) map: Option<Vec<u64>>,
}

/// Where the map of a sparse file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapPlace {
    /// In the extended header.
    Header,
    /// Before the data.
    Data,
}

impl PaxSparse {
    /// The place of the map; `None` if the file is not sparse. Go's rule: versions 0.0 and 0.1,
    /// whose headers need not name it, and 1.0. With any other version, the file is an ordinary one.
    pub(crate) fn map_place(&self) -> Option<MapPlace> {
        let has_map = self.map.as_ref().is_some_and(|map| !map.is_empty());
        match (self.major.as_deref(), self.minor.as_deref()) {
            (Some(b"0"), Some(b"0" | b"1")) => Some(MapPlace::Header),
            (Some(b"1"), Some(b"0")) => Some(MapPlace::Data),
            (None, None) if has_map => Some(MapPlace::Header),
            _ => None,
        }
    }
}

/// Parses the content of an extended header. The error is the reason.
pub(crate) fn parse(data: &[u8], map_limit: usize) -> Result<PaxHeader, &'static str> {
    let mut header = PaxHeader::default();
    let mut rest = data;
    // Some writers pad the header's content with zero bytes.
    while !rest.is_empty() && rest.first() != Some(&0) {
        let (key, value, after) = record(rest).ok_or("a record has a wrong length")?;
        rest = after;
        header.set(key, value, map_limit)?;
    }
    keep_last(&mut header.xattrs);
    Ok(header)
}

/// Removes all but the last of the attributes with the same name.
fn keep_last(xattrs: &mut Vec<Xattr>) {
    let mut last: HashMap<&[u8], usize> = HashMap::new();
    for (number, xattr) in xattrs.iter().enumerate() {
        last.insert(&xattr.name, number);
    }
    if last.len() == xattrs.len() {
        return;
    }
    let kept: HashSet<usize> = last.into_values().collect();
    let mut number = 0..;
    xattrs.retain(|_| number.next().is_some_and(|number| kept.contains(&number)));
}

/// The first record's key and value, and what follows it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(21).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(data.get(..space)?).ok()?.parse().ok()?;
    let (record, after) = data.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], after))
}

impl PaxHeader {
    fn set(&mut self, key: &[u8], value: &[u8], map_limit: usize) -> Result<(), &'static str> {
        // An empty value removes an override (POSIX).
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        let sparse = &mut self.sparse;
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.mtime = timestamp(value)?,
            b"GNU.sparse.major" => sparse.major = bytes(),
            b"GNU.sparse.minor" => sparse.minor = bytes(),
            b"GNU.sparse.name" => sparse.name = bytes(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.size = number(value)?,
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',');
                let mut map = Vec::new();
                for text in numbers.filter(|text| !text.is_empty()) {
                    if map.len() >= map_limit {
                        return Err("its sparse map is too long");
                    }
                    map.extend(number::<u64>(text)?);
                }
                sparse.map = Some(map);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let map = sparse.map.get_or_insert_default();
                if map.len() >= map_limit {
                    return Err("its sparse map is too long");
                }
                map.extend(number::<u64>(value)?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    if name.is_empty() || name.contains(&0) {
                        return Err("an extended attribute has no proper name");
                    }
                    self.xattrs.push(Xattr {
                        name: name.to_vec(),
                        value: value.to_vec(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn number<N: FromStr>(value: &[u8]) -> Result<Option<N>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| "a number is not decimal")?;
    let number = text.parse().map_err(|_| "a number is not decimal")?;
    Ok(Some(number))
}

/// `[+-]SECONDS[.FRACTION]`; digits beyond nanoseconds are ignored.
fn timestamp(value: &[u8]) -> Result<Option<Timestamp>, &'static str> {
    const BAD: &str = "a time is not a decimal number";
    if value.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value).map_err(|_| BAD)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (negative, digits) = match whole.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, whole.strip_prefix('+').unwrap_or(whole)),
    };
    if !digits
        .bytes()
        .chain(fraction.bytes())
        .all(|b| b.is_ascii_digit())
        || digits.is_empty()
    {
        return Err(BAD);
    }
    let seconds: i64 = digits.parse().map_err(|_| BAD)?;
    let nanos: u32 = format!("{fraction:0<9.9}").parse().map_err(|_| BAD)?;
    Ok(Some(match (negative, nanos) {
        (false, nanos) => Timestamp { seconds, nanos },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanos: 0,
        },
        (true, nanos) => Timestamp {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(pairs: &[(&str, &[u8])]) -> Vec<u8> {
        let mut data = Vec::new();
        for (key, value) in pairs {
            let body = key.len() + value.len() + 3;
            let mut length = body + 1;
            while format!("{length}").len() + body != length {
                length += 1;
            }
            data.extend(format!("{length} {key}=").bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        data
    }

    #[test]
    fn a_value_may_contain_any_bytes() {
        let value = b"\x01\n\0=\xff 12 a=b\n";
        let header = parse(&records(&[("SCHILY.xattr.security.capability", value)]), 8).unwrap();
        assert_eq!(header.xattrs[0].name, b"security.capability");
        assert_eq!(header.xattrs[0].value, value);
    }

    #[test]
    fn times_are_read_to_the_nanosecond_before_and_after_1970() {
        let time = |text: &str| timestamp(text.as_bytes()).unwrap().unwrap();
        let at = |seconds, nanos| Timestamp { seconds, nanos };
        assert_eq!(time("12"), at(12, 0));
        assert_eq!(time("12.5"), at(12, 500_000_000));
        assert_eq!(time("12.1234567899"), at(12, 123_456_789));
        assert_eq!(time("-1.25"), at(-2, 750_000_000));
        assert_eq!(time("-3"), at(-3, 0));
        assert_eq!(time("+3"), at(3, 0));
        assert_eq!(time("1."), at(1, 0));
        for bad in ["x", ".", "1.-5", "--1", "+-1", "1e3", ".5", " 1"] {
            assert!(timestamp(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_value_removes_an_override_and_the_last_record_has_priority() {
        let header = parse(
            &records(&[("path", b"a"), ("path", b""), ("uid", b"1"), ("uid", b"2")]),
            8,
        );
        let header = header.unwrap();
        assert_eq!((header.path, header.uid), (None, Some(2)));
    }

    #[test]
    fn the_last_of_repeated_attributes_counts_and_many_take_linear_time() {
        let key = |number: usize| format!("SCHILY.xattr.user.{number}");
        let keys: Vec<String> = (0..40_000).map(|number| key(number % 20_000)).collect();
        let values: Vec<String> = (0..40_000).map(|number| number.to_string()).collect();
        let pairs: Vec<(&str, &[u8])> = (keys.iter().zip(&values))
            .map(|(key, value)| (key.as_str(), value.as_bytes()))
            .collect();
        let begin = std::time::Instant::now();
        let header = parse(&records(&pairs), 8).unwrap();
        // 10 ms unoptimised; comparing each with each takes 10 s.
        assert!(begin.elapsed().as_secs() < 3, "{:?}", begin.elapsed());
        assert_eq!(header.xattrs.len(), 20_000);
        for (number, xattr) in header.xattrs.iter().enumerate() {
            assert_eq!(xattr.name, format!("user.{number}").into_bytes());
            assert_eq!(xattr.value, (number + 20_000).to_string().into_bytes());
        }
    }

    #[test]
    fn malformed_records_are_rejected() {
        for bad in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"6 abc\n",
            b"a",
        ] {
            assert!(parse(bad, 8).is_err(), "{bad:?}");
        }
        assert!(parse(&records(&[("size", b"-1")]), 8).is_err());
        assert!(parse(&records(&[("GNU.sparse.map", b"1,2,3")]), 2).is_err());
    }

    proptest! {
        #[test]
        fn no_input_panics(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&data, 16);
        }

        #[test]
        fn records_are_read_as_written(path in proptest::collection::vec(any::<u8>(), 1..200), uid in any::<i64>()) {
            let header = parse(&records(&[("path", &path), ("uid", uid.to_string().as_bytes())]), 8).unwrap();
            prop_assert_eq!(header.path, Some(path));
            prop_assert_eq!(header.uid, Some(uid));
        }
    }
}
