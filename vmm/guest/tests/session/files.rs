//! Trees of files.

use std::os::unix::fs::{MetadataExt, symlink};

use microagent_proto::frame::Frame;
use microagent_proto::tree::{Entry, Kind as FileKind, Part, ReadTree, Time, WriteTree};

use super::*;

/// The entries and the content of the tree at `path`.
fn read(agent: &Agent, path: &str, follow: bool) -> Result<(Vec<Entry>, Vec<u8>), Failure> {
    let mut session = agent.open();
    session.send(&Request::ReadTree(ReadTree {
        path: path.into(),
        follow,
    }));
    let us = (Program::CommandLine, Program::Agent);
    match read_opening(&mut session.stream, us.0, us.1, "a reply").unwrap() {
        Reply::TreeOpened => {}
        Reply::Failed(failure) => return Err(failure),
        other => panic!("{other:?}"),
    }
    let (mut entries, mut content) = (Vec::new(), Vec::new());
    loop {
        let Frame { kind, payload } = read_frame(&mut session.stream).unwrap().unwrap();
        if kind == Kind::Stdout {
            content.extend(payload);
            continue;
        }
        match serde_json::from_slice(&payload).unwrap() {
            Part::Entry(entry) => entries.push(entry),
            Part::Hole { length } => content.resize(content.len() + length as usize, 0),
            Part::End => return Ok((entries, content)),
            Part::Failed(failure) => return Err(failure),
        }
    }
}

fn entry(path: &str, kind: FileKind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o6751,
        uid: 33,
        gid: 34,
        modified: Time {
            seconds: 5,
            nanos: 6,
        },
        attributes: Vec::new(),
    }
}

/// Sends a file `name` with the content `new` to `path`.
fn write(agent: &Agent, path: &str, parts: &[Part], content: &[u8]) -> Result<u64, Failure> {
    let mut session = agent.open();
    session.send(&Request::WriteTree(WriteTree {
        path: path.into(),
        name: b"name".to_vec(),
        contents: false,
        provision: false,
    }));
    for part in parts {
        write_message(&mut session.stream, part).unwrap();
        if matches!(
            part,
            Part::Entry(Entry {
                kind: FileKind::File { .. },
                ..
            })
        ) {
            write_frame(&mut session.stream, Kind::Stdin, content).unwrap();
        }
    }
    if parts.last() != Some(&Part::End) {
        session.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let us = (Program::CommandLine, Program::Agent);
    match read_opening(&mut session.stream, us.0, us.1, "a reply") {
        Ok(Reply::TreeWritten { skipped }) => Ok(skipped),
        Ok(Reply::Failed(failure)) => Err(failure),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(Failure {
            kind: FailureKind::System,
            message: error.to_string(),
        }),
    }
}

#[test]
fn paths_do_not_lead_out_of_the_root() {
    let root = scratch_root();
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), root.path().join("out")).unwrap();
    symlink("../../../../../../etc/passwd", root.path().join("tmp/up")).unwrap();
    let agent = Agent::start(root.path());
    for path in [
        "/../../etc/passwd",
        "/tmp/../../../etc/passwd",
        "/tmp/up",
        "etc/passwd",
    ] {
        let (entries, content) = read(&agent, path, true).unwrap();
        assert_eq!(entries.len(), 1, "{path}");
        assert!(
            content.starts_with(b"root:x:0:0::/root:/bin/sh\nwww:"),
            "{path}"
        );
    }
    let (entries, content) = read(&agent, "/tmp/up", false).unwrap();
    let target = b"../../../../../../etc/passwd".to_vec();
    assert_eq!(entries[0].kind, FileKind::Symlink { target });
    assert!(content.is_empty());
    let secret = format!("/..{}/secret", outside.path().display());
    for path in ["/out/secret", "/out/", &secret, "/etc/none"] {
        let failure = read(&agent, path, true).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotFound, "{path}: {failure:?}");
    }
    let file = [
        Part::Entry(entry("", FileKind::File { size: 3 })),
        Part::End,
    ];
    for path in ["/out/new", "/out/secret", &secret] {
        let failure = write(&agent, path, &file, b"new").unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotFound, "{path}: {failure:?}");
    }
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    write(&agent, "/../../tmp/../tmp/", &file, b"new").unwrap();
    assert_eq!(fs::read(root.path().join("tmp/name")).unwrap(), b"new");
}

#[test]
fn a_tree_is_written_whole_or_not_at_all() {
    let root = scratch_root();
    let agent = Agent::start(root.path());
    let parts = [
        Part::Entry(entry("", FileKind::Directory)),
        Part::Entry(entry("file", FileKind::File { size: 3 })),
        Part::Entry(entry("null", FileKind::CharDevice { major: 1, minor: 3 })),
        Part::End,
    ];
    for cut in 1..parts.len() {
        let failure = write(&agent, "/tmp/tree", &parts[..cut], b"new").unwrap_err();
        assert_eq!(failure.kind, FailureKind::System);
        // The agent has removed what it wrote before it closes the session.
        assert_eq!(
            fs::read_dir(root.path().join("tmp")).unwrap().count(),
            0,
            "{cut}"
        );
    }
    // It reads to the end, and then says what is wrong.
    let failure = write(&agent, "/tmp/tree", &parts, b"longer").unwrap_err();
    assert_eq!(
        failure.message,
        "invalid entry file: its content is too long"
    );
    assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(write(&agent, "/tmp/tree", &parts, b"new").unwrap(), 0);
    let metadata = fs::metadata(root.path().join("tmp/tree/file")).unwrap();
    let owner = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    assert_eq!(owner, (0o6751, 33, 34));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (5, 6));
    let (entries, content) = read(&agent, "/tmp/tree", false).unwrap();
    let expected = parts.iter().map_while(|part| match part {
        Part::Entry(entry) => Some(entry.clone()),
        _ => None,
    });
    let expected = expected.collect::<Vec<_>>();
    assert_eq!((entries, content), (expected, b"new".to_vec()));
}
