//! Properties of the parsers, for the fuzz targets in `fuzz/`. Each function
//! panics if its property does not hold for the given bytes. Not part of the API.
//!
//! Several inputs of one target are separated by [`SEPARATOR`].

use std::collections::HashSet;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::mem::discriminant;
use std::time::Duration;

use microagent_cas::Digest;

use crate::disk::error::DiskError;
use crate::disk::{self, Size, ext4};
use crate::image::manifest::{self, Document, Manifest};
use crate::image::platform::{Candidates, GuestCpu};
use crate::image::reference::Reference;
use crate::source;
use crate::tar::decompress;
use crate::tar::entry::{Content, Entry, EntryKind};
use crate::tar::index::{IndexReader, IndexWriter};
use crate::tar::reader::{TarError, TarReader};
use crate::tree::merge::Merger;
use crate::tree::{InodeKind, ROOT, Tree};

/// Separates the inputs of a target.
pub const SEPARATOR: &[u8] = b"\n-- next --\n";
/// The maximum number of steps of a merge for a byte of a layer: a member of 512 bytes that
/// resolves two paths of 1024 components has 4, and as many when what it made is hidden.
const MAX_WORK: u64 = 16;
/// The maximum number of inodes for a byte of a layer, created the same way.
const MAX_INODES: u64 = 4;
/// The maximum processor time: ten times what it takes with the instrumentation of a fuzz target.
const BASE_TIME: Duration = Duration::from_secs(2);
const TIME_PER_KIB: Duration = Duration::from_millis(20);
/// The maximum unpacked size of a layer in a fuzz target, in bytes.
const MAX_LAYER: u64 = 4 << 20;

/// Compressed layers from the bottom up.
///
/// Reading as a stream and by seeking gives the same members; their contents are
/// within the tar, and the index returns the same members. Together they form a
/// valid tree or are rejected; the tree can be laid out, or fails with an error
/// other than [`DiskError::Layout`]. Reading, merging and laying out take time in
/// proportion to the uncompressed layers, whose memory the merge bounds.
pub fn layer_stack(data: &[u8]) {
    let mut merger = Merger::new();
    let mut total = 0;
    let begin = cpu_time();
    for (number, shipped) in inputs(data).iter().enumerate() {
        let Some(tar) = unpacked(shipped) else { return };
        let members = read_tar(TarReader::new(&tar[..]));
        let length = tar.len() as u64;
        total += length;
        let sought = read_tar(TarReader::seekable(Bounded {
            inner: Cursor::new(&tar),
            length,
        }));
        // The two may detect a truncation at different offsets.
        let kind = |result: &Result<_, TarError>| result.as_ref().err().map(discriminant);
        assert_eq!(kind(&members), kind(&sought));
        assert_eq!(members.as_ref().ok(), sought.as_ref().ok());
        let Ok(members) = members else { return };
        for member in &members {
            if let EntryKind::File(content) = &member.kind {
                content_lies_in(content, length);
            }
        }
        assert_eq!(
            read_index(&write_index(&members)).ok(),
            Some(members.clone())
        );
        merger.begin_layer(number, "a layer");
        for member in members {
            let added = merger.add(member);
            let work = merger.work();
            assert!(work <= MAX_WORK * total, "{work} steps for {total} bytes");
            if added.is_err() {
                return;
            }
        }
    }
    let tree = merger.finish();
    let inodes = tree.capacity() as u64;
    assert!(
        inodes <= 1 + MAX_INODES * total,
        "{inodes} inodes for {total} bytes"
    );
    tree_is_proper(&tree);
    match ext4::plan(&tree, &Digest::of(b""), Size::Headroom(0)) {
        Ok(planned) => assert_eq!(planned.size() % disk::MIB, 0),
        // A bug of the layout, not a property of the tree.
        Err(error @ DiskError::Layout { .. }) => panic!("{error:?}"),
        Err(_) => {}
    }
    let taken = cpu_time() - begin;
    let most = BASE_TIME + TIME_PER_KIB * (total / 1024) as u32;
    assert!(taken <= most, "{taken:?} for {total} bytes");
}

/// The processor time of this thread.
fn cpu_time() -> Duration {
    // Documentation/scheduler/sched-stats.rst: the first field is the time in nanoseconds.
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

/// A layer's index, possibly damaged: members that are read from it can be
/// written and read again unchanged.
pub fn layer_index(data: &[u8]) {
    let Ok(members) = read_index(data) else {
        return;
    };
    assert_eq!(
        read_index(&write_index(&members)).ok(),
        Some(members.clone())
    );
    let mut merger = Merger::new();
    merger.begin_layer(0, "a layer");
    if members.into_iter().all(|member| merger.add(member).is_ok()) {
        tree_is_proper(&merger.finish());
    }
}

/// An index or a manifest, then a configuration: the OCI form of a manifest names
/// the same blobs, and an image has as many layers as its manifest.
pub fn image_documents(data: &[u8]) {
    let parts = inputs(data);
    let [document, rest @ ..] = parts.as_slice() else {
        return;
    };
    match manifest::parse(document, None, "an image") {
        Ok(Document::Index(index)) => {
            let found = Candidates::of(&index, &GuestCpu::default());
            for chosen in [found.bits64, found.silent, found.bits32].concat() {
                assert!(index.manifests.contains(chosen));
                let _ = manifest::digest(chosen, "an image");
            }
        }
        Ok(Document::Manifest(manifest)) => documents_of(&manifest, rest.first().copied()),
        Err(_) => {}
    }
}

fn documents_of(manifest: &Manifest, config: Option<&[u8]>) {
    let oci = manifest::as_oci(manifest).to_string();
    let Ok(Document::Manifest(again)) = manifest::parse(oci.as_bytes(), None, "an image") else {
        panic!("{oci}");
    };
    let blobs = |manifest: &Manifest| -> Vec<(String, i64)> {
        std::iter::once(&manifest.config)
            .chain(&manifest.layers)
            .map(|blob| (blob.digest.clone(), blob.size))
            .collect()
    };
    assert_eq!(blobs(manifest), blobs(&again));
    let config = config.unwrap_or_default();
    if let Ok(configured) = manifest::read_config(config, manifest, "an image") {
        assert_eq!(configured.layers.len(), manifest.layers.len());
    }
}

/// A reference: its printed form parses to the same reference.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<Reference>() {
        Ok(reference) => {
            let printed = reference.to_string();
            assert_eq!(printed.parse().as_ref(), Ok(&reference), "{printed:?}");
        }
        Err(error) => {
            // One line of limited length.
            let said = error.to_string();
            assert!(!said.contains('\n') && said.len() < 20_000, "{said:?}");
        }
    }
}

/// A `WWW-Authenticate` header, then a credentials file.
pub fn registry_access(data: &[u8]) {
    let parts = inputs(data);
    let mut parts = parts.iter();
    if let Some(Ok(header)) = parts.next().map(|part| std::str::from_utf8(part)) {
        source::fuzzing::challenge(header);
    }
    if let (Some(file), Ok(Reference::Registry(image))) = (parts.next(), "a.b:5/c/d:e".parse()) {
        source::fuzzing::auth_file(file, &image);
    }
}

fn inputs(data: &[u8]) -> Vec<&[u8]> {
    let mut inputs = Vec::new();
    let mut rest = data;
    let separator = |data: &[u8]| {
        let mut windows = data.windows(SEPARATOR.len());
        windows.position(|window| window == SEPARATOR)
    };
    while let Some(at) = separator(rest) {
        inputs.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    inputs.push(rest);
    inputs
}

/// The tar of a layer; `None` if it cannot be decompressed.
fn unpacked(shipped: &[u8]) -> Option<Vec<u8>> {
    let (first, input) = decompress::peek(shipped).ok()?;
    let compression = decompress::detect(&first).ok()?;
    let reader = decompress::reader(input, compression).ok()?;
    let mut tar = Vec::new();
    reader.take(MAX_LAYER).read_to_end(&mut tar).ok()?;
    Some(tar)
}

fn read_tar<R: Read>(mut tar: TarReader<R>) -> Result<Vec<Entry>, TarError> {
    let mut members = Vec::new();
    while let Some(member) = tar.next_entry()? {
        members.push(member);
    }
    Ok(members)
}

/// A tar that cannot be read or sought past its end.
struct Bounded<'a> {
    inner: Cursor<&'a Vec<u8>>,
    length: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer)
    }
}

impl Seek for Bounded<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self.inner.seek(to)? {
            beyond if beyond > self.length => Err(io::ErrorKind::UnexpectedEof.into()),
            within => Ok(within),
        }
    }
}

fn write_index(members: &[Entry]) -> Vec<u8> {
    let write = || -> io::Result<Vec<u8>> {
        let mut writer = IndexWriter::new(Vec::new())?;
        for member in members {
            writer.add(member)?;
        }
        Ok(writer.finish()?.0)
    };
    write().expect("writing to memory does not fail")
}

fn read_index(bytes: &[u8]) -> io::Result<Vec<Entry>> {
    let mut reader = IndexReader::new(bytes)?;
    let mut members = Vec::new();
    while let Some(member) = reader.next_entry()? {
        members.push(member);
    }
    Ok(members)
}

/// Checks that the data ranges are ascending and disjoint, within the file and the tar.
fn content_lies_in(content: &Content, tar: u64) {
    let mut end = 0;
    for segment in &content.segments {
        assert!(segment.length > 0 && segment.logical >= end, "{content:?}");
        end = segment.logical + segment.length;
        let stored = segment.offset.checked_add(segment.length);
        assert!(stored.is_some_and(|stored| stored <= tar), "{content:?}");
    }
    assert!(end <= content.size, "{content:?}");
}

/// Checks that no name escapes, and that no directory has two names or contains itself.
fn tree_is_proper(tree: &Tree) {
    let mut directories = HashSet::from([ROOT]);
    let mut pending = vec![ROOT];
    while let Some(directory) = pending.pop() {
        for (name, edge) in tree.names(directory) {
            assert!((1..=255).contains(&name.len()), "{name:?}");
            assert!(!matches!(name, b"." | b".."), "{name:?}");
            assert!(
                !name.iter().any(|byte| matches!(byte, b'/' | 0)),
                "{name:?}"
            );
            let inode = tree.inode(edge.inode);
            assert!(inode.attributes.mode <= 0o7777);
            if let InodeKind::Directory(_) = inode.kind {
                assert!(directories.insert(edge.inode), "{name:?}");
                pending.push(edge.inode);
            }
        }
    }
}
