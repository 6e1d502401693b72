//! Images in other formats than their reference says, and layers that cannot be unpacked: what the
//! error tells the user to do is done, and then the image is built.

use std::fs;
use std::process::Command;

use microagent_pipeline::Error;
use microagent_tests::image::{Layout, Tar};
use microagent_tests::{or_skip, tool};
use tar::EntryType;

use crate::support::{TestDir, build, chain};

/// What follows `begin` in the text, up to `end` or to the end of the text.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let from = text.find(begin).unwrap_or_else(|| panic!("{text}")) + begin.len();
    let rest = &text[from..];
    &rest[..rest.find(end).unwrap_or(rest.len())]
}

fn refused(dir: &TestDir, reference: &str) -> (String, String) {
    let error = match reference.parse() {
        Ok(reference) => dir.pipeline().resolve(&reference).unwrap_err(),
        Err(error) => Error::from(error),
    };
    (chain(&error), error.remediation().unwrap())
}

#[test]
fn another_format_is_named_with_the_reference_that_works() {
    let layout = or_skip!(Layout::busybox());
    or_skip!(tool::find("skopeo"));
    let dir = TestDir::new();
    let file = |name: &str| dir.path(name).display().to_string();
    let shell = |script: &str| {
        let mut run = Command::new("sh");
        run.args(["-ec", script]).current_dir(dir.path("."));
        assert!(run.status().unwrap().success(), "{script}");
    };
    let path = layout.directory().display().to_string();
    layout
        .copy("latest", &format!("oci-archive:{}", file("oci.tar")), &[])
        .unwrap();
    layout
        .copy(
            "latest",
            &format!("docker-archive:{}:x:1", file("docker.tar")),
            &[],
        )
        .unwrap();
    layout
        .copy("latest", &format!("dir:{}", file("skopeo")), &[])
        .unwrap();
    shell(&format!(
        "mkdir old sub none && cp -r {path} sub/layout && tar -C sub -cf sub.tar layout
         tar -xf docker.tar -C old && rm old/manifest.json && echo {{}} >old/repositories
         tar -C old -cf old.tar ."
    ));
    let cases = [
        (
            "docker-archive:oci.tar",
            "a docker-save archive but an OCI archive",
        ),
        (
            "oci-archive:docker.tar",
            "an OCI archive but a docker-save archive",
        ),
        ("oci:docker.tar", "an OCI image layout directory but a file"),
        (
            "oci:skopeo",
            "an OCI image layout directory but a directory of skopeo's transport dir:",
        ),
        (
            "oci-archive:sub/layout",
            "a regular file or a pipe but an OCI image layout directory",
        ),
        (
            "docker-archive:sub/layout",
            "a regular file or a pipe but an OCI image layout directory",
        ),
        (
            "oci-archive:sub.tar",
            "an OCI archive but one with an OCI image layout in layout",
        ),
        (
            "docker-archive:old.tar",
            "a docker-save archive but one of a Docker before 1.10",
        ),
        ("oci:none", "an OCI image layout directory but a directory"),
        ("dir:skopeo", ""),
    ];
    for (reference, is_not) in cases {
        let (form, name) = reference.split_once(':').unwrap();
        let reference = format!("{form}:{}", file(name));
        let (message, hint) = refused(&dir, &reference);
        if !is_not.is_empty() {
            assert_eq!(
                message,
                format!("cannot use {}: it is not {is_not}", file(name))
            );
        }
        // Those that name no command.
        if name == "old.tar" {
            assert_eq!(
                hint,
                "load it into Docker and save it again with version 1.10 or later"
            );
            continue;
        }
        if name == "none" {
            assert!(hint.contains("`skopeo copy`"), "{hint}");
            continue;
        }
        if hint.contains('`') {
            shell(between(&hint, "`", "`"));
        }
        let works = match name {
            "docker.tar" if form == "oci" => between(&hint, " or ", " "),
            _ => between(&hint, "use ", " "),
        };
        let (form, name) = works.split_once(':').unwrap();
        let works = match name.starts_with('/') {
            true => works.to_owned(),
            false => format!("{form}:{}", file(name)),
        };
        build(&dir, &works).unwrap_or_else(|error| panic!("{hint}: {}", chain(&error)));
    }
    // An import takes OCI archives only.
    for (name, prefix) in [("docker.tar", "docker-archive:"), ("sub/layout", "oci:")] {
        let path = dir.path(name);
        let error = dir.pipeline().import_images(&path).unwrap_err();
        let path = path.display();
        assert_eq!(
            chain(&error),
            format!("cannot import {path}: only an OCI archive can be imported")
        );
        let hint = error.remediation().unwrap();
        assert_eq!(hint, format!("use it directly: run {prefix}{path}"));
        build(&dir, between(&hint, "run ", " ")).unwrap();
    }
}

/// What `umoci` and `skopeo` refuse, too: no transfer or repetition helps.
#[test]
fn a_layer_that_cannot_be_unpacked_is_not_called_damaged() {
    let refused = |layer: &[u8], change: &dyn Fn(&std::path::Path)| {
        let layout = Layout::empty().unwrap();
        layout.add_layer("latest", layer).unwrap();
        change(layout.directory());
        let dir = TestDir::new();
        let error = build(&dir, &layout.reference("latest")).unwrap_err();
        (
            chain(&error),
            error.kind().as_str(),
            error.remediation().unwrap(),
        )
    };
    or_skip!(Layout::empty());
    let volume = Tar::new()
        .entry("volume", EntryType::new(b'V'), "", b"")
        .finish();
    let (message, kind, hint) = refused(&volume, &|_| {});
    assert!(
        message.ends_with("\"volume\" has the unsupported type 'V'"),
        "{message}"
    );
    assert_eq!(kind, "unsupported");
    assert_eq!(
        hint,
        "build the image without it, or with a tar of another format (`tar --format=pax`)"
    );
    // Not compressible, so that the layer is the largest blob.
    let noise = (0..25_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
    let file = Tar::new().file("f", &noise.collect::<Vec<u8>>()).finish();
    let (message, kind, hint) = refused(&file, &|directory| {
        let blobs = fs::read_dir(directory.join("blobs/sha256")).unwrap();
        let largest = blobs
            .map(|blob| blob.unwrap().path())
            .max_by_key(|path| path.metadata().unwrap().len());
        let largest = fs::OpenOptions::new()
            .write(true)
            .open(largest.unwrap())
            .unwrap();
        largest
            .set_len(largest.metadata().unwrap().len() - 1)
            .unwrap();
    });
    assert!(message.contains(" is truncated: received "), "{message}");
    assert_eq!(kind, "corrupt");
    assert_eq!(
        hint,
        "the image is damaged at its source: push or save it again"
    );
}
