//! Encodes layers as tar archives: ustar (POSIX.1-1988), PAX (POSIX.1-2001), GNU
//! long names and base-256 numbers, and sparse files in all four formats (GNU tar
//! manual, "Sparse Formats"). Shares no code with the reader under test.

use crate::member::{Body, EndOfArchive, Kind, Layer, Member, Sparse};

const BLOCK: usize = 512;

/// The uncompressed tar of a layer.
pub fn tar(layer: &Layer) -> Vec<u8> {
    let mut out = Vec::new();
    if layer.global_header {
        let records = records(&[
            (b"comment".to_vec(), b"x".to_vec()),
            (b"path".to_vec(), b"wrong".to_vec()),
        ]);
        extension(&mut out, b'g', b"pax_global_header", &records, false);
    }
    for member in &layer.members {
        write(&mut out, member);
    }
    match layer.end_of_archive {
        EndOfArchive::Marker => out.resize(out.len() + 2 * BLOCK, 0),
        EndOfArchive::Padded => out.resize((out.len() + 2 * BLOCK).next_multiple_of(20 * BLOCK), 0),
        EndOfArchive::Missing => {}
    }
    out
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn write(out: &mut Vec<u8>, member: &Member) {
    let Member {
        name, meta, form, ..
    } = member;
    let mut pax: Records = Vec::new();
    for (name, value) in &meta.xattrs {
        let key = [&b"SCHILY.xattr."[..], name].concat();
        pax.push((key, value.clone()));
    }
    // Metadata that the GNU format cannot store forces PAX.
    let sparse = match &member.kind {
        Kind::File(_) => form.sparse,
        _ => Sparse::Dense,
    };
    let pax_sparse = matches!(sparse, Sparse::Pax00 | Sparse::Pax01 | Sparse::Pax10);
    let gnu = (form.gnu && pax.is_empty() && meta.mtime.1 == 0 && !pax_sparse)
        || (sparse == Sparse::OldGnu);
    let mut header = Header::new(gnu);
    let link: &[u8] = match &member.kind {
        Kind::Symlink(target) | Kind::Hardlink(target) => target,
        _ => b"",
    };
    let mut name = name.clone();
    if matches!(member.kind, Kind::Directory) && form.old_directory && !name.ends_with(b"/") {
        name.push(b'/');
    }
    let (data, placeholder) = content(&mut header, &mut pax, member, sparse, &name);
    let name = placeholder.unwrap_or(name);
    match (
        name.len() <= 100,
        gnu,
        header.split_name(&name, form.prefix),
    ) {
        (true, ..) => header.put(0, &name),
        (_, true, _) => {
            let text = [&name[..], b"\0"].concat();
            extension(out, b'L', b"././@LongLink", &text, true);
            header.put(0, &name[..100]);
        }
        (_, _, true) => {}
        _ => {
            header.put(0, &name[..100]);
            pax.push((b"path".to_vec(), name.clone()));
        }
    }
    match (link.len() <= 100, gnu) {
        (true, _) => header.put(157, link),
        (false, true) => {
            let text = [link, b"\0"].concat();
            extension(out, b'K', b"././@LongLink", &text, true);
            header.put(157, &link[..100]);
        }
        (false, false) => pax.push((b"linkpath".to_vec(), link.to_vec())),
    }
    header.number(100, 8, i128::from(meta.mode));
    for (at, key, value) in [(108, "uid", meta.uid), (116, "gid", meta.gid)] {
        if !header.number(at, 8, i128::from(value)) {
            pax.push((key.into(), value.to_string().into()));
        }
    }
    let whole = header.number(136, 12, i128::from(meta.mtime.0));
    if !whole || meta.mtime.1 != 0 {
        if gnu {
            // An old GNU sparse member may carry PAX records as well.
            header.number(136, 12, 0);
        }
        pax.push((b"mtime".to_vec(), time(meta.mtime)));
    }
    header.number(124, 12, data.len() as i128);
    header.bytes[156] = match &member.kind {
        Kind::Directory if form.old_directory && pax.is_empty() => 0,
        Kind::Directory => b'5',
        Kind::File(_) if sparse == Sparse::OldGnu => b'S',
        Kind::File(_) => b'0',
        Kind::Symlink(_) => b'2',
        Kind::Hardlink(_) => b'1',
        Kind::Char(..) => b'3',
        Kind::Block(..) => b'4',
        Kind::Fifo => b'6',
    };
    if let Kind::Char(major, minor) | Kind::Block(major, minor) = member.kind {
        header.number(329, 8, i128::from(major));
        header.number(337, 8, i128::from(minor));
    }
    if !pax.is_empty() {
        extension(out, b'x', b"PaxHeaders/x", &records(&pax), false);
    }
    out.extend(header.with_checksum());
    out.extend(header.sparse_blocks);
    out.extend(&data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Returns the stored bytes of a member and, for sparse formats that need one,
/// a placeholder for the name in the header. The sparse map goes into the header
/// or the PAX records.
fn content(
    header: &mut Header,
    pax: &mut Records,
    member: &Member,
    sparse: Sparse,
    name: &[u8],
) -> (Vec<u8>, Option<Vec<u8>>) {
    let Kind::File(body) = &member.kind else {
        return (Vec::new(), None);
    };
    let mut put = |key: &str, value: &[u8]| pax.push((key.into(), value.to_vec()));
    let decimal = |number: u64| number.to_string().into_bytes();
    let mut map: Vec<(u64, u64)> = (body.runs.iter())
        .map(|(at, data)| (*at, data.len() as u64))
        .collect();
    // GNU tar ends the map with an empty run if the file ends in a hole.
    if map
        .last()
        .is_none_or(|(at, length)| at + length < body.size)
    {
        map.push((body.size, 0));
    }
    let stored: Vec<u8> = body
        .runs
        .iter()
        .flat_map(|(_, data)| data.clone())
        .collect();
    match sparse {
        Sparse::Dense => (dense(body), None),
        Sparse::OldGnu => {
            header.sparse(&map, body.size);
            (stored, None)
        }
        Sparse::Pax00 => {
            put("GNU.sparse.size", &decimal(body.size));
            put("GNU.sparse.numblocks", &decimal(map.len() as u64));
            for (at, length) in &map {
                put("GNU.sparse.offset", &decimal(*at));
                put("GNU.sparse.numbytes", &decimal(*length));
            }
            (stored, None)
        }
        Sparse::Pax01 => {
            let numbers = map.iter().flat_map(|(at, length)| [at, length]);
            let numbers: Vec<String> = numbers.map(u64::to_string).collect();
            put("GNU.sparse.size", &decimal(body.size));
            put("GNU.sparse.numblocks", &decimal(map.len() as u64));
            put("GNU.sparse.map", numbers.join(",").as_bytes());
            put("GNU.sparse.name", name);
            (stored, Some(b"GNUSparseFile.0/placeholder".to_vec()))
        }
        Sparse::Pax10 => {
            put("GNU.sparse.major", b"1");
            put("GNU.sparse.minor", b"0");
            put("GNU.sparse.name", name);
            put("GNU.sparse.realsize", &decimal(body.size));
            let mut data = format!("{}\n", map.len()).into_bytes();
            for (at, length) in &map {
                data.extend(format!("{at}\n{length}\n").bytes());
            }
            data.resize(data.len().next_multiple_of(BLOCK), 0);
            data.extend(stored);
            (data, Some(b"GNUSparseFile.0/placeholder".to_vec()))
        }
    }
}

fn dense(body: &Body) -> Vec<u8> {
    let mut data = vec![0; body.size as usize];
    for (at, run) in &body.runs {
        data[*at as usize..][..run.len()].copy_from_slice(run);
    }
    data
}

/// Writes an extension member: a PAX header, or a GNU long name or link target.
fn extension(out: &mut Vec<u8>, kind: u8, name: &[u8], data: &[u8], gnu: bool) {
    let mut header = Header::new(gnu);
    header.put(0, name);
    header.number(100, 8, 0o644);
    header.number(124, 12, data.len() as i128);
    header.bytes[156] = kind;
    out.extend(header.with_checksum());
    out.extend(data);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Encodes PAX records: `LENGTH KEY=VALUE\n`, where LENGTH includes its own digits.
fn records(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in pairs {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        out.extend(format!("{length} ").bytes());
        out.extend([&key[..], b"=", value, b"\n"].concat());
    }
    out
}

fn time((seconds, nanos): (i64, u32)) -> Vec<u8> {
    match (seconds < 0, nanos) {
        (_, 0) => seconds.to_string(),
        (false, nanos) => format!("{seconds}.{nanos:09}"),
        (true, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    }
    .into_bytes()
}

struct Header {
    bytes: [u8; BLOCK],
    gnu: bool,
    /// Extension blocks of an old GNU sparse map.
    sparse_blocks: Vec<u8>,
}

impl Header {
    fn new(gnu: bool) -> Header {
        let mut bytes = [0; BLOCK];
        let magic: &[u8; 8] = if gnu { b"ustar  \0" } else { b"ustar\x0000" };
        bytes[257..265].copy_from_slice(magic);
        Header {
            bytes,
            gnu,
            sparse_blocks: Vec::new(),
        }
    }

    fn put(&mut self, at: usize, text: &[u8]) {
        self.bytes[at..at + text.len()].copy_from_slice(text);
    }

    /// Writes a NUL-terminated octal number, or GNU base-256 if it does not fit.
    /// Returns false, with 0 in the field, if neither can represent the value.
    fn number(&mut self, at: usize, width: usize, value: i128) -> bool {
        let (field, fits) = number(width, value, self.gnu);
        self.put(at, &field);
        fits
    }

    /// Splits a long name at a slash into ustar's prefix and name fields. Returns
    /// false if that is not wanted or not possible.
    fn split_name(&mut self, name: &[u8], wanted: bool) -> bool {
        if !wanted || self.gnu || name.len() <= 100 {
            return false;
        }
        let slash = (1..name.len().min(156)).find(|at| {
            let rest = name.len() - at - 1;
            name[*at] == b'/' && (1..=100).contains(&rest)
        });
        if let Some(slash) = slash {
            self.put(345, &name[..slash]);
            self.put(0, &name[slash + 1..]);
        }
        slash.is_some()
    }

    fn sparse(&mut self, map: &[(u64, u64)], size: u64) {
        let run = |(at, length): (u64, u64)| {
            let numbers = [at, length].map(|n| number(12, i128::from(n), true).0);
            numbers.concat()
        };
        let (first, rest) = map.split_at(map.len().min(4));
        let runs: Vec<u8> = first.iter().copied().flat_map(run).collect();
        self.put(386, &runs);
        self.bytes[482] = u8::from(!rest.is_empty());
        self.number(483, 12, i128::from(size));
        let blocks = rest.chunks(21);
        let last = blocks.len();
        for (number, block) in blocks.enumerate() {
            let mut bytes: Vec<u8> = block.iter().copied().flat_map(run).collect();
            bytes.resize(504, 0);
            bytes.push(u8::from(number + 1 < last));
            bytes.resize(BLOCK, 0);
            self.sparse_blocks.extend(bytes);
        }
    }

    fn with_checksum(&self) -> [u8; BLOCK] {
        let mut bytes = self.bytes;
        bytes[148..156].fill(b' ');
        let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    }
}

fn number(width: usize, value: i128, gnu: bool) -> (Vec<u8>, bool) {
    let octal = format!("{:0digits$o}\0", value.max(0), digits = width - 1);
    if value >= 0 && octal.len() == width {
        return (octal.into_bytes(), true);
    }
    if !gnu {
        return (
            format!("{:0digits$o}\0", 0, digits = width - 1).into_bytes(),
            false,
        );
    }
    let mut bytes = value.to_be_bytes()[16 - width..].to_vec();
    bytes[0] = if value < 0 { 0xff } else { 0x80 };
    (bytes, true)
}
