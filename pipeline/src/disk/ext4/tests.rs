use super::*;
use crate::tar::entry::{Attributes, Device, Entry, EntryKind, Segment, Timestamp, Xattr};
use crate::tree::merge::Merger;
use mkext4::reader::Fs;
use std::process::Command;

fn seed() -> Digest {
    Digest::of(b"seed")
}

fn entry(path: &[u8], kind: EntryKind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        attributes: Attributes {
            mode: 0o640,
            uid: 3_000_000_000,
            gid: 7,
            mtime: Timestamp {
                seconds: -1,
                nanos: 5,
            },
            xattrs: vec![Xattr {
                name: b"trusted.x".to_vec(),
                value: b"y".to_vec(),
            }],
        },
    }
}

fn tree(entries: Vec<Entry>) -> Tree {
    let mut merger = Merger::new();
    merger.begin_layer(0, "");
    for entry in entries {
        merger.add(entry).unwrap();
    }
    merger.finish()
}

/// Writes the tree and checks the image with `e2fsck`.
fn written(tree: &Tree, tar: &[u8], size: Size) -> tempfile::NamedTempFile {
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), tar).unwrap();
    let image = tempfile::NamedTempFile::new().unwrap();
    let planned = plan(tree, &seed(), size).unwrap();
    let tars = [source.reopen().unwrap()];
    let result = planned.write(&tars, image.as_file(), &mut |_| {});
    assert!(result.is_ok(), "{:?}", result.err());
    let check = Command::new("e2fsck").arg("-fn").arg(image.path()).output();
    let check = check.unwrap();
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
    image
}

fn file(path: &[u8], size: u64) -> Entry {
    entry(path, EntryKind::File(Content::dense(size, 0)))
}

const SMALL: Size = Size::Headroom(16 * MIB);

#[test]
fn names_and_targets_may_be_any_bytes_even_in_sorted_directories() {
    let mut entries = vec![
        entry(b"d\xff", EntryKind::Directory),
        file(b"d\xff/\xfe", 3),
        entry(
            b"short",
            EntryKind::Symlink {
                target: b"t\xff".to_vec(),
            },
        ),
        entry(
            b"\xff\xff",
            EntryKind::Symlink {
                target: [b"t\xff".repeat(100)].concat(),
            },
        ),
        entry(
            b"again\xfe",
            EntryKind::Hardlink {
                target: b"d\xff/\xfe".to_vec(),
            },
        ),
    ];
    for number in 0..2000 {
        let name = match number % 50 {
            0 => format!("many/file-{number}-\u{0}").into_bytes(),
            _ => format!("many/file-{number}").into_bytes(),
        };
        let name: Vec<u8> = name
            .iter()
            .map(|b| if *b == 0 { 0xe4 } else { *b })
            .collect();
        entries.push(file(&name, 0));
    }
    let tree = tree(entries);
    let image = written(&tree, b"abc", SMALL);
    let fs = Fs::open(image.as_file()).unwrap();
    assert_eq!(fs.verify().unwrap(), []);
    let look = |directory, name: &[u8]| fs.lookup(directory, name).unwrap();
    let directory = look(2, b"d\xff").unwrap();
    let inner = look(directory, b"\xfe").unwrap();
    assert_eq!(fs.read_file(inner).unwrap(), b"abc");
    assert_eq!(look(2, b"again\xfe"), Some(inner));
    let target = |name: &[u8]| fs.symlink_target(look(2, name).unwrap()).unwrap();
    assert_eq!(target(b"short"), b"t\xff");
    assert_eq!(target(b"\xff\xff"), b"t\xff".repeat(100));
    let many = look(2, b"many").unwrap();
    assert_eq!(fs.read_dir(many).unwrap().len(), 2002);
    assert!(look(many, b"file-50-\xe4").is_some());
    assert!(fs.inode(many).unwrap().flags & mkext4::spec::iflags::INDEX != 0);
}

#[test]
fn a_sorted_directory_is_sorted_by_the_real_names() {
    let name = |number: u32| [format!("{number}-").as_bytes(), &[0xe4; 200]].concat();
    for count in [30, 60, 400] {
        let tree = tree((0..count).map(|number| file(&name(number), 0)).collect());
        let image = written(&tree, b"", SMALL);
        let fs = Fs::open(image.as_file()).unwrap();
        assert_eq!(fs.verify().unwrap(), []);
        assert!(fs.inode(2).unwrap().flags & mkext4::spec::iflags::INDEX != 0);
        for number in 0..count {
            assert!(fs.lookup(2, &name(number)).unwrap().is_some());
        }
    }
}

#[test]
fn attributes_and_holes_are_kept() {
    let segment = |logical, offset, length| Segment {
        logical,
        offset,
        length,
    };
    let content = Content {
        size: 20_000_005,
        segments: vec![
            segment(100, 0, 3),
            segment(4096 * 3 + 7, 3, 5000),
            segment(20_000_000, 5003, 5),
        ],
    };
    let tar: Vec<u8> = (0..5008u32).map(|n| (n % 251) as u8 + 1).collect();
    let mut expected = vec![0; 20_000_005];
    for s in &content.segments {
        let (to, from, length) = (s.logical as usize, s.offset as usize, s.length as usize);
        expected[to..to + length].copy_from_slice(&tar[from..from + length]);
    }
    let hole = Content {
        size: 9_000_001,
        segments: Vec::new(),
    };
    let device = Device {
        major: 259,
        minor: 70_000,
    };
    let tree = tree(vec![
        entry(b"sparse", EntryKind::File(content)),
        entry(b"hole", EntryKind::File(hole)),
        entry(b"dev", EntryKind::BlockDevice(device)),
        entry(b"lost+found", EntryKind::Directory),
    ]);
    let image = written(&tree, &tar, SMALL);
    let fs = Fs::open(image.as_file()).unwrap();
    let ino = fs.resolve("/sparse").unwrap();
    assert!(fs.read_file(ino).unwrap() == expected);
    let inode = fs.inode(ino).unwrap();
    assert_eq!(inode.blocks, 4 * 8, "blocks without data are not stored");
    assert_eq!(
        (inode.uid, inode.gid, inode.mode & 0o7777),
        (3_000_000_000, 7, 0o640)
    );
    let mtime = mkext4::spec::Inode::timestamp(inode.mtime, inode.mtime_extra);
    assert_eq!(mtime, (-1, 5));
    assert_eq!(fs.xattrs(ino).unwrap()[0].value, b"y");
    let hole = fs.read_file(fs.resolve("/hole").unwrap()).unwrap();
    assert!(hole == vec![0; 9_000_001]);
    let dev = fs.inode(fs.resolve("/dev").unwrap()).unwrap();
    assert_eq!(dev.dev_numbers(), Some((259, 70_000)));
}

#[test]
fn many_names_that_are_not_utf8_do_not_take_quadratic_time() {
    let tree = |count: u32| {
        let name = |n: u32| [format!("{n:06}").as_bytes(), b"\xff"].concat();
        tree((0..count).map(|n| file(&name(n), 0)).collect())
    };
    written(&tree(2000), b"", SMALL);
    let begun = std::time::Instant::now();
    let error = plan(&tree(40_000), &seed(), SMALL).err().unwrap();
    assert!(matches!(error, DiskError::Name { .. }), "{error}");
    // Minutes without the limit.
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    // Other writers are told the size that names of the same length take.
    let ascii = |n: u32| format!("{n:06}x").into_bytes();
    let same = super::tests::tree((0..40_000).map(|n| file(&ascii(n), 0)).collect());
    let measured = measure(&tree(40_000), &seed(), SMALL).unwrap();
    assert_eq!(measured, measure(&same, &seed(), SMALL).unwrap());
    // Of one byte there are more names than candidates.
    let short: Vec<_> = (0x80..=0xff).map(|byte| file(&[byte], 0)).collect();
    measure(&super::tests::tree(short), &seed(), SMALL).unwrap();
}

#[test]
fn a_size_that_is_too_small_is_rejected_with_the_minimum() {
    let mut entries: Vec<Entry> = (0..3000)
        .map(|n| file(format!("f{n}").as_bytes(), 5000))
        .collect();
    entries.push(file(b"big", 40 << 20));
    let tree = tree(entries);
    for asked in [0, 1, 8, 40, 63] {
        let error = plan(&tree, &seed(), Size::Exact(asked * MIB))
            .err()
            .unwrap();
        let DiskError::TooSmall {
            requested_mib,
            minimum_mib,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(requested_mib, asked);
        assert!(plan(&tree, &seed(), Size::Exact(minimum_mib * MIB)).is_ok());
        let below = plan(&tree, &seed(), Size::Exact((minimum_mib - 1) * MIB));
        assert!(matches!(below, Err(DiskError::TooSmall { .. })));
    }
    let tar = vec![b'x'; 40 << 20];
    let least = match plan(&tree, &seed(), Size::Exact(0)).err() {
        Some(DiskError::TooSmall { minimum_mib, .. }) => minimum_mib,
        other => panic!("{other:?}"),
    };
    written(&tree, &tar, Size::Exact(least * MIB));
}

#[test]
fn every_size_has_room_for_its_metadata() {
    let tree = tree(vec![file(b"f", 1)]);
    // Around the ends of block groups, and of sixteen block groups.
    for mib in [16, 17, 127, 128, 129, 2047, 2048, 2049, 2056, 4097] {
        match plan(&tree, &seed(), Size::Exact(mib * MIB)) {
            Ok(planned) => assert_eq!(planned.size(), mib * MIB),
            Err(DiskError::TooSmall { minimum_mib, .. }) => {
                assert!(
                    minimum_mib > mib && minimum_mib < mib + 16,
                    "{mib}: {minimum_mib}"
                );
            }
            Err(error) => panic!("{mib}: {error}"),
        }
    }
    assert!(matches!(
        plan(&tree, &seed(), Size::Exact(1 << 50)),
        Err(DiskError::TooLarge { .. })
    ));
}

#[test]
fn many_small_files_have_inodes_and_some_are_left() {
    let entries = (0..60_000).map(|n| file(format!("d{}/{n}", n % 40).as_bytes(), 0));
    let image = written(&tree(entries.collect()), b"", SMALL);
    let fs = Fs::open(image.as_file()).unwrap();
    assert!(fs.superblock().free_inodes_count >= 1000);
}

#[test]
fn a_member_that_ext4_cannot_store_is_named() {
    let refused = |entry: Entry| plan(&tree(vec![entry]), &seed(), SMALL).err().unwrap();
    let huge = Content {
        size: 1 << 50,
        segments: Vec::new(),
    };
    assert!(matches!(
        refused(entry(b"huge", EntryKind::File(huge))),
        DiskError::FileTooLarge { path } if path == "/huge"
    ));
}

/// The names in the root directory, with the kinds that they are listed as.
fn root_names(fs: &Fs<&std::fs::File>) -> Vec<(String, u8)> {
    let entries = fs.read_dir(2).unwrap().into_iter();
    let names = entries.map(|entry| (String::from_utf8(entry.name).unwrap(), entry.file_type));
    names.filter(|(name, _)| !name.starts_with('.')).collect()
}

#[test]
fn the_root_directory_has_lost_and_found_only_if_the_tree_has_it() {
    use mkext4::spec::file_type::{DIR, REG};
    let symlink = EntryKind::Symlink {
        target: b"x".to_vec(),
    };
    let hard_link = EntryKind::Hardlink {
        target: b"a".to_vec(),
    };
    type Names = Vec<(&'static str, u8)>;
    let cases: Vec<(Vec<Entry>, Names)> = vec![
        (vec![], vec![]),
        (vec![file(b"a", 1)], vec![("a", REG)]),
        (
            vec![entry(b"lost+found", EntryKind::Directory)],
            vec![("lost+found", DIR)],
        ),
        (
            vec![
                file(b"lost+found/#123", 1),
                file(b"lost+found/d/\xff", 1),
                file(b"lost+found~", 0),
            ],
            vec![("lost+found", DIR), ("lost+found~", REG)],
        ),
        (vec![file(b"lost+found", 1)], vec![("lost+found", REG)]),
        (
            vec![file(b"a", 1), entry(b"lost+found", hard_link)],
            vec![("lost+found", REG), ("a", REG)],
        ),
        (
            vec![entry(b"lost+found", symlink)],
            vec![("lost+found", mkext4::spec::file_type::SYMLINK)],
        ),
    ];
    for (entries, expected) in cases {
        let names: Vec<_> = entries.iter().map(|entry| entry.path.clone()).collect();
        let tree = tree(entries);
        let image = written(&tree, b"c", SMALL);
        let fs = Fs::open(image.as_file()).unwrap();
        assert_eq!(fs.verify().unwrap(), []);
        let expected: Vec<_> = (expected.into_iter())
            .map(|(name, kind)| (name.to_owned(), kind))
            .collect();
        assert_eq!(root_names(&fs), expected, "{names:?}");
        if names.contains(&b"lost+found/#123".to_vec()) {
            let file = fs.resolve("/lost+found/#123").unwrap();
            assert_eq!(fs.read_file(file).unwrap(), b"c");
        }
    }
}

/// Beside many names, so that the root directory is sorted, and at the limit of its links.
#[test]
fn lost_and_found_is_right_in_a_large_root_directory() {
    // 2 + 64 998 links are the most that an inode counts.
    for (own, count, kind) in [
        (false, 3000, EntryKind::Fifo),
        (true, 3000, EntryKind::Directory),
        (false, 64_998, EntryKind::Directory),
    ] {
        let name = |number| format!("{number}-with-some-more-text");
        let one = |number| entry(name(number).as_bytes(), kind.clone());
        let mut entries: Vec<Entry> = (0..count).map(one).collect();
        if own {
            entries.push(file(b"lost+found/inside", 1));
        }
        let image = written(&tree(entries), b"c", SMALL);
        let fs = Fs::open(image.as_file()).unwrap();
        assert_eq!(fs.verify().unwrap(), []);
        assert!(fs.inode(2).unwrap().flags & mkext4::spec::iflags::INDEX != 0);
        assert_eq!(fs.lookup(2, b"lost+found").unwrap().is_some(), own);
        assert_eq!(fs.read_dir(2).unwrap().len(), count + 2 + usize::from(own));
    }
}

/// Another version may lay out the same tree in another way, so it is part of every key.
#[test]
fn the_version_in_the_keys_is_the_one_in_the_lock_file() {
    let lock = include_str!("../../../../Cargo.lock");
    let (_, package) = lock.split_once("name = \"mkext4\"\nversion = \"").unwrap();
    let version = package.split('"').next().unwrap();
    assert_eq!(
        WRITER.split(',').next().unwrap(),
        format!("mkext4 {version}")
    );
}
