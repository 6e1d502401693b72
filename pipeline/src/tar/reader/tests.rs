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
    // An extension header without a following member.
    let lonely = header("x", b'x', 0);
    assert!(matches!(
        entries(lonely.as_bytes()),
        Err(TarError::CutShort { .. })
    ));
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
