use super::*;
use crate::diagnosis::{Diagnosis, ErrorKind};
use std::io::Write;
use std::process::Command;

fn archive(bytes: &[u8]) -> Result<Archive, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Archive::open(file.path()).map_err(|error| {
        let source = std::error::Error::source(&error).unwrap();
        source.to_string()
    })
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
        archive(b"\x1f\x8b\x08").unwrap_err(),
        "it is compressed with gzip"
    );
    let absent = Archive::open(Path::new("/no/such/file")).unwrap_err();
    assert_eq!(absent.to_string(), "cannot use /no/such/file");
    assert_eq!(absent.kind(), ErrorKind::NotFound);
}
