use super::*;
use proptest::prelude::*;
use std::process::{Command, Stdio};

/// The members of a tar.
fn entries(tar: &[u8]) -> Result<Vec<Entry>, TarError> {
    let mut reader = TarReader::new(tar);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        entries.push(entry);
    }
    reader.finish()?;
    Ok(entries)
}

/// The content of a file in `tar`, with zeros for holes.
fn content(tar: &[u8], entry: &Entry) -> Vec<u8> {
    let EntryKind::File(content) = &entry.kind else {
        panic!("{entry:?} is not a file");
    };
    let mut bytes = vec![0; content.size as usize];
    for segment in &content.segments {
        let (from, to) = (segment.offset as usize, segment.logical as usize);
        let length = segment.length as usize;
        bytes[to..to + length].copy_from_slice(&tar[from..from + length]);
    }
    bytes
}

/// The archive of a directory, made by GNU tar.
fn gnu_tar(directory: &std::path::Path, options: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(options)
        .args(["--numeric-owner", "-C"])
        .arg(directory)
        .args(["-cf", "-", "."])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

fn named<'a>(entries: &'a [Entry], name: &str) -> &'a Entry {
    let found = entries.iter().find(|entry| entry.path == name.as_bytes());
    found.unwrap_or_else(|| panic!("{name} is missing"))
}

/// Builds one header by hand.
fn header(name: &str, flag: u8, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(EntryType::new(flag));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_cksum();
    header
}

#[test]
fn sparse_files_of_every_gnu_format_have_their_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sparse");
    let file = std::fs::File::create(&path).unwrap();
    // More than four runs, so that the old format needs extension blocks.
    for run in 0..30u64 {
        use std::os::unix::fs::FileExt;
        let text = vec![b'a' + run as u8 % 26; 4096 + run as usize];
        file.write_all_at(&text, run * 100_000).unwrap();
    }
    file.set_len(4_000_001).unwrap();
    let expected = std::fs::read(&path).unwrap();
    for options in [
        &["--sparse", "--format=gnu"][..],
        &["--sparse", "--format=pax", "--sparse-version=0.0"],
        &["--sparse", "--format=pax", "--sparse-version=0.1"],
        &["--sparse", "--format=pax", "--sparse-version=1.0"],
        &["--format=ustar"],
    ] {
        let tar = gnu_tar(directory.path(), options);
        let entries = entries(&tar).unwrap();
        let entry = named(&entries, "./sparse");
        assert!(content(&tar, entry) == expected, "{options:?}");
        if options[0] == "--sparse" {
            let EntryKind::File(content) = &entry.kind else {
                unreachable!()
            };
            assert!(content.segments.len() >= 30, "{options:?}");
            assert!(tar.len() < 1_000_000);
        }
        assert_eq!(entries.len(), 2, "{options:?}: nothing follows the file");
    }
}

#[test]
fn long_names_and_link_targets_are_complete_in_gnu_and_pax() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let target = "t/".repeat(300);
    std::os::unix::fs::symlink(&target, deep.join("link")).unwrap();
    std::fs::write(deep.join("file"), b"x").unwrap();
    std::fs::hard_link(deep.join("file"), deep.join("other")).unwrap();
    let base = format!("./{}/{}", "d".repeat(120), "e".repeat(120));
    for format in ["--format=gnu", "--format=pax"] {
        let entries = entries(&gnu_tar(directory.path(), &[format, "--sort=name"])).unwrap();
        assert_eq!(
            named(&entries, &format!("{base}/link")).kind,
            EntryKind::Symlink {
                target: target.clone().into_bytes()
            }
        );
        assert_eq!(
            named(&entries, &format!("{base}/other")).kind,
            EntryKind::Hardlink {
                target: format!("{base}/file").into_bytes()
            }
        );
    }
}

#[test]
fn owners_times_modes_and_attributes_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    std::fs::write(&path, b"content").unwrap();
    std::os::unix::fs::chown(&path, Some(3_000_000_000), Some(70_000)).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).arg(&path).status();
        assert!(status.unwrap().success());
    };
    run("chmod", &["4751"]);
    run("touch", &["-d", "1969-12-31T23:59:58.25Z"]);
    run("setfattr", &["-n", "trusted.x", "-v", "0x000a3d20"]);
    let tar = gnu_tar(
        directory.path(),
        &["--format=pax", "--xattrs", "--xattrs-include=*"],
    );
    let entries = entries(&tar).unwrap();
    let attributes = &named(&entries, "./f").attributes;
    assert_eq!((attributes.uid, attributes.gid), (3_000_000_000, 70_000));
    assert_eq!(attributes.mode, 0o4751);
    assert_eq!(
        attributes.mtime,
        Timestamp {
            seconds: -2,
            nanos: 250_000_000
        }
    );
    assert_eq!(attributes.xattrs.len(), 1);
    assert_eq!(attributes.xattrs[0].name, b"trusted.x");
    assert_eq!(attributes.xattrs[0].value, b"\0\n= ");
}

/// Each result is that of umoci and podman.
#[test]
fn the_prefix_of_a_name_depends_on_the_dialect() {
    let name_with = |magic: &[u8; 8], rest: &[u8], star: bool| {
        let mut header = header("f", b'1', 0);
        header.as_old_mut().linkname[0] = b'a';
        let bytes = header.as_mut_bytes();
        bytes[257..265].copy_from_slice(magic);
        bytes[345..512].fill(0);
        bytes[345..345 + rest.len()].copy_from_slice(rest);
        if star {
            bytes[508..512].copy_from_slice(b"tar\0");
        }
        header.set_cksum();
        let entry = entries(header.as_bytes()).unwrap().remove(0);
        let target = b"a".to_vec();
        assert_eq!(entry.kind, EntryKind::Hardlink { target });
        String::from_utf8(entry.path).unwrap()
    };
    let (ustar, gnu) = (b"ustar\x0000", b"ustar  \0");
    let long = [&[b'p'; 131][..], b"00000000001 00000000002 "].concat();
    let in_131 = format!("{}/f", "p".repeat(131));
    let in_155 = format!("{}/f", long.escape_ascii());
    let times = b"00000001234\x0000000001235\0";
    let binary_times = b"\x80\0\0\0\0\0\0\0\0\0\0\x05\x80\0\0\0\0\0\0\0\0\0\0\x05";
    let cases: &[(&[u8; 8], &[u8], bool, &str)] = &[
        (ustar, b"some/dir", false, "some/dir/f"),
        (ustar, b"", false, "f"),
        (ustar, b"/abs/", false, "/abs//f"),
        (ustar, &long, false, &in_155),
        // The version does not matter.
        (b"ustar\0\0\0", b"some/dir", false, "some/dir/f"),
        (b"ustar\0  ", b"some/dir", false, "some/dir/f"),
        // Of star: 131 bytes, then two times.
        (ustar, &long, true, &in_131),
        (b"ustar\0  ", b"dir\0", true, "dir/f"),
        // GNU has times there, but Go wrote a prefix once.
        (gnu, b"", false, "f"),
        (gnu, times, false, "f"),
        (gnu, binary_times, false, "f"),
        (gnu, b"some/dir", false, "some/dir/f"),
        (gnu, b"\0\0\0\0\0\0\0\0\0\0\0\0garbage", false, "f"),
        (gnu, "d\u{e9}/dir".as_bytes(), false, "f"),
        // Others have none.
        (b"ustar 00", b"some/dir", false, "f"),
        (&[0; 8], b"some/dir", false, "f"),
        (&[0; 8], b"some/dir", true, "f"),
    ];
    for (magic, rest, star, expected) in cases {
        let found = name_with(magic, rest, *star);
        assert_eq!(found, *expected, "{magic:?} {}", rest.escape_ascii());
    }
}

/// As Go's `archive/tar`.
#[test]
fn a_device_in_a_header_without_its_number_is_0_0() {
    let device = |magic: &[u8; 8]| {
        let mut header = header("d", b'3', 0);
        header.as_mut_bytes()[257..265].copy_from_slice(magic);
        header.as_mut_bytes()[329..345].copy_from_slice(b"0000007\x000000011\0");
        header.set_cksum();
        match entries(header.as_bytes()).unwrap().remove(0).kind {
            EntryKind::CharDevice(device) => (device.major, device.minor),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(device(&[0; 8]), (0, 0));
    for magic in [b"ustar\x0000", b"ustar\0  ", b"ustar  \0"] {
        assert_eq!(device(magic), (7, 9));
    }
}

/// A member with content, padded.
fn member(name: &str, flag: u8, content: &[u8]) -> Vec<u8> {
    let mut tar = header(name, flag, content.len() as u64).as_bytes().to_vec();
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
    tar
}

#[test]
fn an_empty_long_name_of_gnu_does_not_count() {
    let mut link = header("link", b'1', 0);
    link.as_old_mut().linkname[0] = b'a';
    link.set_cksum();
    let mut tar = Vec::new();
    for flag in [b'L', b'K'] {
        tar.extend(member("././@LongLink", flag, b"\0"));
    }
    tar.extend(link.as_bytes());
    let entries = entries(&tar).unwrap();
    assert_eq!(entries[0].path, b"link");
    let target = b"a".to_vec();
    assert_eq!(entries[0].kind, EntryKind::Hardlink { target });
}

/// Each result is that of umoci and podman.
#[test]
fn a_file_is_sparse_if_its_version_is_known() {
    let map = |data: &[u8]| {
        let mut map = b"1\n2\n3\n".to_vec();
        map.resize(512, 0);
        [&map, data].concat()
    };
    let hole = [&[0; 2][..], b"abc"].concat();
    let sized = |size| [&hole[..], &vec![0; size - hole.len()]].concat();
    let (major, minor) = ("GNU.sparse.major", "GNU.sparse.minor");
    let (name, real, size) = ("GNU.sparse.name", "GNU.sparse.realsize", "GNU.sparse.size");
    type Records<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(Records<'_>, Vec<u8>, &str, Vec<u8>)] = &[
        (
            &[(major, "1"), (minor, "0"), (name, "q"), (real, "10")],
            map(b"abc"),
            "q",
            sized(10),
        ),
        // Without its size, it has that of the map and the data.
        (
            &[(major, "1"), (minor, "0"), (name, "q")],
            map(b"abc"),
            "q",
            sized(515),
        ),
        (
            &[
                (size, "10"),
                ("GNU.sparse.numblocks", "1"),
                ("GNU.sparse.map", "2,3"),
            ],
            b"abc".to_vec(),
            "f",
            sized(10),
        ),
        // Unknown versions, and no version or map.
        (
            &[(major, "2"), (minor, "0"), (name, "q"), (real, "10")],
            b"abc".to_vec(),
            "f",
            b"abc".to_vec(),
        ),
        (
            &[(major, "1"), (minor, "1"), (name, "q"), (real, "10")],
            b"abc".to_vec(),
            "f",
            b"abc".to_vec(),
        ),
        (
            &[(major, "1"), (name, "q"), (real, "3")],
            b"abc".to_vec(),
            "f",
            b"abc".to_vec(),
        ),
        (
            &[(major, "x"), (minor, "0"), (real, "3")],
            b"abc".to_vec(),
            "f",
            b"abc".to_vec(),
        ),
        (
            &[(size, "10"), ("GNU.sparse.numblocks", "0")],
            Vec::new(),
            "f",
            Vec::new(),
        ),
    ];
    for (records, stored, path, expected) in cases {
        let mut header = Vec::new();
        for (key, value) in *records {
            let body = format!(" {key}={value}\n");
            // Of two digits, with its own length.
            header.extend(format!("{}{body}", body.len() + 2).bytes());
        }
        let mut tar = member("x", b'x', &header);
        tar.extend(member("f", b'0', stored));
        tar.extend(member("next", b'0', b""));
        let entries = entries(&tar).unwrap();
        assert_eq!(entries[0].path, path.as_bytes(), "{records:?}");
        assert_eq!(content(&tar, &entries[0]), *expected, "{records:?}");
        assert_eq!(entries[1].path, b"next", "{records:?}");
    }
}

#[test]
fn names_are_bytes() {
    let mut tar = header("x", b'0', 0).as_bytes().to_vec();
    tar[0..3].copy_from_slice(b"\xff\\x");
    let mut fixed = *Header::from_byte_slice(&tar).as_bytes();
    let mut with_sum = Header::new_old();
    with_sum.as_mut_bytes().copy_from_slice(&fixed);
    with_sum.set_cksum();
    fixed = *with_sum.as_bytes();
    assert_eq!(entries(&fixed).unwrap()[0].path, b"\xff\\x");
}

#[test]
fn a_stream_that_ends_inside_a_member_is_truncated() {
    let mut tar = header("f", b'0', 1000).as_bytes().to_vec();
    tar.extend([0; 700]);
    // The content is skipped when the next header is read.
    assert!(matches!(
        entries(&tar),
        Err(TarError::CutShort { offset: 1212 })
    ));
    assert!(matches!(
        entries(&tar[..100]),
        Err(TarError::CutShort { offset: 100 })
    ));
}

/// As Go's `archive/tar`, which umoci and podman use.
#[test]
fn an_archive_may_end_after_the_content_of_its_last_member() {
    let mut tar = header("a", b'0', 0).as_bytes().to_vec();
    tar.extend(header("f", b'0', 5).as_bytes());
    for padding in [0, 1, 506, 507, 507 + 512, 507 + 1024, 507 + 1024 + 7] {
        let tar = [&tar[..], b"hello", &vec![0; padding]].concat();
        let entries = entries(&tar).unwrap();
        assert_eq!(entries.len(), 2, "{padding}");
        assert_eq!(content(&tar, &entries[1]), b"hello");
        let mut sought = TarReader::seekable(std::io::Cursor::new(&tar));
        assert_eq!(sought.next_entry().unwrap(), Some(entries[0].clone()));
        assert_eq!(sought.next_entry().unwrap(), Some(entries[1].clone()));
        assert_eq!(sought.next_entry().unwrap(), None);
    }
    // Extension headers without a member.
    for flag in [b'x', b'L', b'g'] {
        let lonely = header("x", flag, 0);
        assert_eq!(entries(lonely.as_bytes()).unwrap(), []);
    }
    // A part of a header, and a part of the content.
    for rest in [&b"hel"[..], &[&b"hello"[..], &[0; 507], &[0; 100]].concat()] {
        let cut = entries(&[&tar[..], rest].concat());
        assert!(matches!(cut, Err(TarError::CutShort { .. })), "{cut:?}");
    }
}

/// Owners that GNU tar and others write for ids that do not fit; what `umoci unpack` and `podman
/// pull` make of them.
#[test]
fn owners_are_reduced_to_32_bits_and_the_largest_is_root() {
    let binary = |value: i64| {
        let mut field = value.to_be_bytes();
        field[0] |= 0x80;
        field
    };
    let expected = [
        (-1, 0),
        (-2, 4_294_967_294),
        (-3, 4_294_967_293),
        (-(1 << 31), 1 << 31),
        (-(1 << 32), 0),
        ((1 << 32) - 2, 4_294_967_294),
        ((1 << 32) - 1, 0),
        (1 << 32, 0),
        ((1 << 32) + 5, 5),
        ((1 << 40) + 7, 7),
    ];
    for (value, id) in expected {
        let mut header = header("f", b'0', 0);
        header.as_old_mut().uid = binary(value);
        header.as_old_mut().gid = binary(value);
        header.set_cksum();
        let attributes = &entries(header.as_bytes()).unwrap()[0].attributes;
        assert_eq!((attributes.uid, attributes.gid), (id, id), "{value}");
        assert_eq!(owner(Some(value), b"", 0, "").unwrap(), id, "{value}");
    }
    for (field, id) in [
        (b"   755 \0", 0o755),
        (b" 755   \0", 0o755),
        (b"\0\0\x00755\0\0", 0o755),
        (b"00000755", 0o755),
        (b"        ", 0),
    ] {
        assert_eq!(owner(None, field, 0, "").unwrap(), id, "{field:?}");
    }
    for field in [b"7 55   \0", b"-000001\0", b"0000009\0"] {
        assert!(owner(None, field, 0, "").is_err(), "{field:?}");
    }
}

#[test]
fn a_negative_size_is_refused_where_it_counts() {
    let negative = |flag| {
        let mut header = header("f", flag, 0);
        header.as_old_mut().size = [0xff; 12];
        header.as_old_mut().mtime = [0xff; 12];
        header.set_cksum();
        entries(header.as_bytes())
    };
    assert!(matches!(
        negative(b'0'),
        Err(TarError::Field { field: "size", .. })
    ));
    assert_eq!(negative(b'5').unwrap()[0].attributes.mtime.seconds, -1);
}

#[test]
fn input_that_is_not_a_tar_is_rejected() {
    assert!(matches!(
        entries(&[b'a'; 1024]),
        Err(TarError::NoHeader { offset: 0 })
    ));
    let mut gap = vec![0; 512];
    gap.extend(header("f", b'0', 0).as_bytes());
    assert!(matches!(
        entries(&gap),
        Err(TarError::NoHeader { offset: 0 })
    ));
    assert!(matches!(
        entries(header("f", b'V', 0).as_bytes()),
        Err(TarError::Type { flag: 'V', .. })
    ));
    assert!(matches!(
        entries(header("x", b'x', 2 << 20).as_bytes()),
        Err(TarError::ExtendedTooLong { offset: 0 })
    ));
}

#[test]
fn numbers_are_octal_or_binary_and_may_be_negative() {
    assert_eq!(signed(b"0000644\0", 0, "").unwrap(), 0o644);
    assert_eq!(signed(b"   644 \0", 0, "").unwrap(), 0o644);
    assert_eq!(signed(b"\0\0\0\0", 0, "").unwrap(), 0);
    assert_eq!(signed(b"\x80\0\0\0\x01\0\0\0\0", 0, "").unwrap(), 1 << 32);
    assert_eq!(
        signed(b"\xff\xff\xff\xff\xff\xff\xff\xfe", 0, "").unwrap(),
        -2
    );
    assert!(signed(b"0000648\0", 0, "").is_err());
    assert!(signed(&[0x8f; 12], 0, "").is_err());
}

proptest! {
    #[test]
    fn no_input_panics(
        blocks in proptest::collection::vec((any::<u8>(), 0u64..2000, any::<[u8; 24]>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut tar = Vec::new();
        for (flag, size, noise) in blocks {
            let mut block = header("name", flag, size);
            block.as_mut_bytes()[386..410].copy_from_slice(&noise);
            block.set_cksum();
            tar.extend(block.as_bytes());
        }
        tar.extend(tail);
        let _ = entries(&tar);
    }
}
