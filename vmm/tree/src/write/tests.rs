use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use microagent_proto::tree::Attribute;
use proptest::prelude::*;

use super::*;
use crate::{Source, read};

const HOST: Policy = Policy {
    owners: false,
    privileges: false,
};

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: Time {
            seconds: 1_000_000_000,
            nanos: 5,
        },
        attributes: Vec::new(),
    }
}

/// Everything in a directory: path, mode, time and content.
fn listing(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(next) = pending.pop() {
        let metadata = fs::symlink_metadata(&next).unwrap();
        let content = match metadata.file_type() {
            kind if kind.is_dir() => String::new(),
            kind if kind.is_symlink() => fs::read_link(&next).unwrap().display().to_string(),
            kind if kind.is_file() => format!("{:?}", fs::read(&next).unwrap()),
            kind => format!("{kind:?}"),
        };
        lines.push(format!(
            "{} {:o} {}.{} {} {content}",
            next.strip_prefix(path).unwrap().display(),
            metadata.mode(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            if metadata.is_dir() {
                0
            } else {
                metadata.nlink()
            },
        ));
        if metadata.is_dir() {
            pending.extend(fs::read_dir(&next).unwrap().map(|e| e.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

#[test]
fn a_tree_is_copied_with_modes_times_links_and_holes() {
    let directory = tempfile::tempdir().unwrap();
    let from = directory.path().join("from");
    fs::create_dir_all(from.join("sub/empty")).unwrap();
    fs::write(from.join("sub/file"), "content").unwrap();
    fs::hard_link(from.join("sub/file"), from.join("again")).unwrap();
    symlink("/etc/passwd", from.join("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, from.join("pipe"), FileType::Fifo, FILE, 0).unwrap();
    let sparse = File::create(from.join("sparse")).unwrap();
    sparse.set_len(32 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (32 << 20) - 3).unwrap();
    File::create(from.join("hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    fs::set_permissions(from.join("sub/file"), fs::Permissions::from_mode(0o401)).unwrap();
    fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
    futimens(
        open(&from.join("sub")),
        &times(Time {
            seconds: -5,
            nanos: 7,
        }),
    )
    .unwrap();
    let source = open(directory.path());
    let mut writer = Writer::new(open(directory.path()), OsStr::new("to"), HOST);
    let what = Source {
        directory: &source,
        name: OsStr::new("from"),
        cross_mounts: false,
    };
    read(what, &mut writer).unwrap();
    assert_eq!(writer.finish().unwrap(), Skipped::default());
    let to = directory.path().join("to");
    assert_eq!(listing(&to), listing(&from));
    assert!(fs::metadata(to.join("sparse")).unwrap().blocks() * 512 < 1 << 20);
}

#[test]
fn another_name_of_a_skipped_file_is_skipped_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(open(directory.path()), OsStr::new("to"), HOST);
    writer.entry(&entry("", Kind::Directory)).unwrap();
    writer.entry(&entry("socket", Kind::Socket)).unwrap();
    let target = b"socket".to_vec();
    writer
        .entry(&entry("again", Kind::HardLink { target }))
        .unwrap();
    let skipped = writer.finish().unwrap();
    assert_eq!(skipped.first, [b"socket".to_vec(), b"again".to_vec()]);
    assert_eq!(
        fs::read_dir(directory.path().join("to")).unwrap().count(),
        0
    );
}

#[test]
fn privileges_are_not_given_on_a_host() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(open(directory.path()), OsStr::new("to"), HOST);
    let mut file = entry("f", Kind::File { size: 0 });
    file.mode = 0o6755;
    file.attributes = vec![Attribute {
        name: b"security.capability".to_vec(),
        value: vec![1; 20],
    }];
    writer.entry(&entry("", Kind::Directory)).unwrap();
    writer.entry(&file).unwrap();
    let device = Kind::CharDevice { major: 1, minor: 3 };
    writer.entry(&entry("null", device)).unwrap();
    writer.entry(&entry("socket", Kind::Socket)).unwrap();
    let skipped = writer.finish().unwrap();
    assert_eq!(skipped.first, [b"null".to_vec(), b"socket".to_vec()]);
    let to = directory.path().join("to");
    assert_eq!(fs::metadata(to.join("f")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    let mut names = [0; 1024];
    let length = rustix::fs::listxattr(to.join("f"), &mut names).unwrap_or(0);
    assert!(!names[..length].starts_with(b"security.capability"));
}

#[test]
fn content_must_be_as_long_as_its_entry_says() {
    let directory = tempfile::tempdir().unwrap();
    let writer = |name: &str| {
        let mut writer = Writer::new(open(directory.path()), OsStr::new(name), HOST);
        writer.entry(&entry("", Kind::File { size: 4 })).unwrap();
        writer
    };
    let mut short = writer("short");
    short.data(b"abc").unwrap();
    assert!(matches!(short.finish(), Err(TreeError::Invalid { .. })));
    let mut long = writer("long");
    assert!(long.data(b"abcde").is_err());
    let mut hole = writer("hole");
    assert!(hole.hole(u64::MAX).is_err());
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "[ab]",
        Just("..".to_owned()),
        Just(".".to_owned()),
        Just(String::new())
    ];
    prop::collection::vec(name, 0..4).prop_map(|names| names.join("/"))
}

fn kind() -> impl Strategy<Value = Kind> {
    let target = prop_oneof![path(), Just("/".to_owned()), Just("..".to_owned())];
    prop_oneof![
        Just(Kind::Directory),
        Just(Kind::File { size: 1 }),
        target
            .clone()
            .prop_map(|t| Kind::Symlink { target: t.into() }),
        target.prop_map(|t| Kind::HardLink { target: t.into() }),
        Just(Kind::Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the entries are, nothing outside the directory changes.
    #[test]
    fn nothing_is_written_outside(entries in prop::collection::vec((path(), kind()), 1..12)) {
        let directory = tempfile::tempdir().unwrap();
        let (inside, outside) = (directory.path().join("inside"), directory.path().join("a"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("b"), "kept").unwrap();
        let before = listing(&outside);
        let mut writer = Writer::new(open(&inside), OsStr::new("top"), HOST);
        for (path, kind) in entries {
            if writer.entry(&entry(&path, kind)).is_ok() {
                let _ = writer.data(b"x");
            }
        }
        let _ = writer.finish();
        prop_assert_eq!(listing(&outside), before);
        prop_assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        let names: Vec<_> = fs::read_dir(&inside).unwrap().map(|e| e.unwrap().file_name()).collect();
        prop_assert!(names.is_empty() || names == ["top"], "{:?}", names);
    }
}
