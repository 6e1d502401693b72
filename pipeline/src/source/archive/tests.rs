use super::*;
use crate::diagnosis::{Diagnosis, ErrorKind};
use std::io::Write;
use std::process::Command;

use microagent_tests::tool;

fn archive(bytes: &[u8]) -> Result<Archive, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    open(file.path())
}

fn open(path: &Path) -> Result<Archive, String> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cas")).unwrap();
    let archive = Archive::open(path, &store).map_err(|error| match error {
        SourceFailure::Archive(error) => {
            let source = std::error::Error::source(&error).unwrap();
            source.to_string()
        }
        other => other.to_string(),
    });
    let left = std::fs::read_dir(store.root().join("tmp")).unwrap().count();
    assert_eq!(left, 0);
    archive
}

fn tar_of(script: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let script = format!("{script}\ntar -cf - --sort=name .");
    let output = Command::new("sh")
        .args(["-ec", &script])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn members_are_read_in_place_and_links_are_followed() {
    let tar = tar_of(
        "mkdir a b; head -c 100000 /dev/zero | tr '\\0' x >a/big; echo text >a/small
         ln a/small b/hard; ln -s ../a/small b/soft; ln -s loop loop; : >empty",
    );
    let archive = archive(&tar).unwrap();
    assert_eq!(archive.read("a/big").unwrap(), vec![b'x'; 100_000]);
    for name in ["a/small", "b/hard", "b/soft"] {
        assert_eq!(archive.read(name).unwrap(), b"text\n");
    }
    assert_eq!(archive.read("empty").unwrap(), b"");
    assert_eq!(archive.find("loop"), None);
    let mut rest = Vec::new();
    let big = archive.find("a/big").unwrap();
    archive.stream(big, 99_998).read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"xx");
}

#[test]
fn a_truncated_or_foreign_file_is_refused() {
    let tar = tar_of("head -c 100000 /dev/zero >big; echo text >small");
    let invalid = "it is not a valid tar file";
    assert_eq!(archive(&tar[..50_000]).unwrap_err(), invalid);
    assert_eq!(archive(b"not a tar").unwrap_err(), invalid);
    assert_eq!(archive(&[b'x'; 1024]).unwrap_err(), "it is not a tar file");
    assert_eq!(
        archive(b"\x04\x22\x4d\x18xxxx").unwrap_err(),
        "it is compressed with lz4"
    );
    let cut = compressed(&tar, "gzip");
    assert_eq!(archive(&cut[..40]).unwrap_err(), "it cannot be read");
    let dir = tempfile::tempdir().unwrap();
    let expected = "it is not a regular file or a pipe";
    assert_eq!(
        open(dir.path()).unwrap_err(),
        format!("{expected} but a directory")
    );
    assert_eq!(open(Path::new("/dev/zero")).unwrap_err(), expected);
    let store = Store::open(&dir.path().join("cas")).unwrap();
    let absent = Archive::open(Path::new("/no/such/file"), &store).unwrap_err();
    let SourceFailure::Archive(absent) = absent else {
        panic!("{absent}");
    };
    assert_eq!(absent.to_string(), "cannot use /no/such/file");
    assert_eq!(absent.kind(), ErrorKind::NotFound);
}

fn compressed(bytes: &[u8], program: &str) -> Vec<u8> {
    let mut child = Command::new(program)
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap().stdout;
    writer.join().unwrap();
    output
}

#[test]
fn compressed_archives_and_pipes_are_read() {
    let tar = tar_of("head -c 3000000 /dev/urandom >big; echo text >small");
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let archive = archive(&compressed(&tar, program)).unwrap();
        assert_eq!(archive.read("small").unwrap(), b"text\n", "{program}");
        assert_eq!(archive.find("big").unwrap().size, 3_000_000);
    }
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    tool::run("mkfifo", [&fifo]).unwrap();
    for bytes in [tar.clone(), compressed(&tar, "gzip")] {
        let path = fifo.clone();
        let writer = std::thread::spawn(move || std::fs::write(path, bytes).unwrap());
        assert_eq!(open(&fifo).unwrap().read("small").unwrap(), b"text\n");
        writer.join().unwrap();
    }
}
