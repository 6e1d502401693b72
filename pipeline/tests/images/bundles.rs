//! Disks built from tar bundles of GNU tar, compared with what it unpacks.

use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_pipeline::{Bundle, BundleOptions, DriftState, Error, ErrorKind};
use microagent_tests::image::Tar;
use microagent_tests::{root_or_skip, tool, tree};
use tar::EntryType;

use crate::support::{TestDir, assert_clean, assert_same, chain, layer};

/// Names with a special meaning in a layer, and every file type that a tar supports.
const CONTENT: &str = "mkdir a b; echo 1 >a/x; ln a/x b/y; echo hidden >.wh.a; echo >b/.wh..wh..opq
    mknod c c 1 5; mkfifo p; setfattr -n user.k -v v a/x; chmod 1777 a; chown 5:6 b a/x
    ln -s /a/x abs; touch -d @1.25 a/x; truncate -s 5M sparse; printf end >>sparse
    echo latin >\"$(printf 'latin-\\344')\"; mkdir -m 0750 lost+found; echo >lost+found/#123; chmod 0711 .";

fn options(path: &Path) -> BundleOptions {
    BundleOptions {
        path: path.to_owned(),
        name: "data".into(),
        mount: "/srv/data".into(),
        writable: false,
    }
}

/// A test directory with this tar as `bundle.tar`.
fn packed(tar: &[u8]) -> (TestDir, PathBuf) {
    let dir = TestDir::new();
    let path = dir.path("bundle.tar");
    std::fs::write(&path, tar).unwrap();
    (dir, path)
}

#[track_caller]
fn built(dir: &TestDir, options: &BundleOptions) -> Bundle {
    let bundle = dir.pipeline().bundle(options);
    bundle.unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// The fields that `dumpe2fs -h` prints: names and values.
fn superblock_fields(image: &Path) -> Vec<(String, String)> {
    let text = tool::text("dumpe2fs", ["-h".as_ref(), image.as_os_str()]).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn field(image: &Path, name: &str) -> String {
    let fields = superblock_fields(image);
    let field = fields.into_iter().find(|(known, _)| known == name);
    field.unwrap_or_else(|| panic!("no {name:?}")).1
}

#[test]
fn the_tree_is_what_tar_unpacks() {
    root_or_skip!();
    let (dir, path) = packed(&layer(CONTENT, &[]));
    let bundle = built(&dir, &options(&path));
    assert_clean(&bundle.path);
    let unpacked = tempfile::tempdir().unwrap();
    let tar = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
        .args([&path, Path::new("-C"), unpacked.path()])
        .status();
    assert!(tar.unwrap().success());
    assert_same(&bundle.path, &tree::list(unpacked.path()).unwrap());
}

#[test]
fn label_and_mount_point_are_recorded_and_truncated_to_their_fields() {
    let (dir, path) = packed(&Tar::new().file("x", b"1").finish());
    let bundle = built(&dir, &options(&path));
    assert_clean(&bundle.path);
    assert_eq!(field(&bundle.path, "Filesystem volume name"), "data");
    assert_eq!(field(&bundle.path, "Last mounted on"), "/srv/data");
    let label = ["-p", "-s", "LABEL", "-o", "value"].map(std::ffi::OsStr::new);
    let label = label.into_iter().chain([bundle.path.as_os_str()]);
    assert_eq!(tool::text("blkid", label).unwrap(), "data");

    let long = built(
        &dir,
        &BundleOptions {
            name: "a-name-of-more-than-sixteen".into(),
            mount: format!("/{}", "m".repeat(80)),
            ..options(&path)
        },
    );
    assert_clean(&long.path);
    assert_eq!(
        field(&long.path, "Filesystem volume name"),
        "a-name-of-more-t"
    );
    assert_eq!(
        field(&long.path, "Last mounted on"),
        format!("/{}", "m".repeat(62))
    );
}

#[test]
fn the_compression_of_a_tar_does_not_change_the_disk() {
    let tar = layer("mkdir a; seq 1 100000 >a/numbers; echo x >b", &[]);
    let (dir, plain) = packed(&tar);
    let expected = built(&dir, &options(&plain)).digest;
    for (program, suffix) in [("gzip", "gz"), ("zstd", "zst")] {
        let Ok(program) = tool::find(program) else {
            continue;
        };
        // A separate store, so that nothing is cached.
        let (dir, path) = packed(&tar);
        let packed = dir.path(&format!("bundle.tar.{suffix}"));
        let out = std::fs::File::create(&packed).unwrap();
        let status = Command::new(program)
            .args(["-c".as_ref(), path.as_os_str()])
            .stdout(out)
            .status();
        assert!(status.unwrap().success());
        assert_eq!(built(&dir, &options(&packed)).digest, expected, "{suffix}");
        assert_eq!(
            built(&dir, &options(&path)).digest,
            expected,
            "uncompressed, in the same store"
        );
    }
}

#[test]
fn the_node_key_covers_the_options_of_the_disk_and_not_the_path() {
    let (dir, path) = packed(&Tar::new().file("x", b"1").finish());
    let pipeline = dir.pipeline();
    let first = options(&path);
    let moved = dir.path("moved.tar");
    std::fs::copy(&path, &moved).unwrap();
    for same in [
        first.clone(),
        BundleOptions {
            path: moved,
            ..first.clone()
        },
        BundleOptions {
            name: "other".into(),
            ..first.clone()
        },
        BundleOptions {
            mount: "/other".into(),
            ..first.clone()
        },
        BundleOptions {
            writable: true,
            ..first.clone()
        },
    ] {
        pipeline.bundle(&same).unwrap();
    }
    let reports = pipeline.reports();
    let hits: Vec<bool> = reports.iter().map(|report| report.hit).collect();
    assert_eq!(hits, [false, true, false, false, false]);
    let outputs: std::collections::HashSet<_> = reports.iter().map(|r| r.output).collect();
    assert_eq!(outputs.len(), 4);

    std::fs::write(&path, Tar::new().file("x", b"2").finish()).unwrap();
    pipeline.bundle(&first).unwrap();
    assert!(!pipeline.reports()[5].hit);
}

#[test]
fn a_writable_disk_has_free_space_and_a_read_only_one_has_not() {
    let (dir, path) = packed(&layer("head -c 20M /dev/zero | tr '\\0' x >big", &[]));
    let free = |image: &Path| {
        let blocks: u64 = field(image, "Free blocks").parse().unwrap();
        blocks * 4096 / (1 << 20)
    };
    let read_only = built(&dir, &options(&path));
    assert!(free(&read_only.path) < 16, "{} MiB", free(&read_only.path));
    let writable = BundleOptions {
        writable: true,
        ..options(&path)
    };
    let writable = built(&dir, &writable);
    assert_clean(&writable.path);
    // The journal and the spare inodes take their share of the headroom.
    assert!(
        (480..=512).contains(&free(&writable.path)),
        "{} MiB",
        free(&writable.path)
    );
}

#[track_caller]
fn refused(result: Result<Bundle, Error>, kind: ErrorKind, text: &str) {
    let error = result.unwrap_err();
    assert_eq!(chain(&error), text);
    assert_eq!(error.kind(), kind);
}

#[test]
fn an_invalid_bundle_is_refused_with_its_path_and_the_reason() {
    let dir = TestDir::new();
    let pipeline = dir.pipeline();
    let named = |name: &str, bytes: &[u8]| {
        let path = dir.path(name);
        std::fs::write(&path, bytes).unwrap();
        (pipeline.bundle(&options(&path)), path.display().to_string())
    };
    let (result, path) = named("empty", b"");
    refused(
        result,
        ErrorKind::Corrupt,
        &format!("the bundle {path} is empty"),
    );
    let (result, path) = named("text", &[b'x'; 2000]);
    refused(
        result,
        ErrorKind::Corrupt,
        &format!(
            "the bundle {path} is not a readable tar: the header at offset 0 is not a tar header"
        ),
    );
    let (result, path) = named("lz4", b"\x04\x22\x4d\x18 and so on");
    refused(
        result,
        ErrorKind::Unsupported,
        &format!("the bundle {path} has an unsupported compression: lz4"),
    );
    let tar = Tar::new().file("a", &[b'a'; 5000]).finish();
    let (result, path) = named("cut", &tar[..3000]);
    refused(
        result,
        ErrorKind::Corrupt,
        &format!("the bundle {path} is not a readable tar: it is truncated at offset 3000"),
    );
    let shipped = zstd::encode_all(&tar[..], 1).unwrap();
    let (result, path) = named("cut.zst", &shipped[..shipped.len() / 2]);
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the bundle {path} cannot be decompressed")
    );
    let (result, path) = named("evil", &Tar::new().file("../evil", b"x").finish());
    refused(
        result,
        ErrorKind::Corrupt,
        &format!(
            "the bundle {path} has a member that cannot be unpacked: \"../evil\": its name leaves the root directory"
        ),
    );
    // Not damaged, but not supported: the remediation says what to leave out.
    let volume = Tar::new().entry("v", EntryType::new(b'V'), "", b"");
    let record = b"39 SCHILY.xattr.security.capability=zz\n";
    let capability = Tar::new()
        .entry("x", EntryType::XHeader, "", record)
        .file("f", b"x");
    let window = b"\x28\xb5\x2f\xfd\0\x90\x01\0\0".to_vec();
    for (bytes, remediation) in [
        (
            volume.finish(),
            "create the tar without it, or in another format (`tar --format=pax`)",
        ),
        (capability.finish(), "create the tar without the attribute"),
        (
            window,
            "compress it with a window of at most 128 MiB (`zstd --long=27`)",
        ),
    ] {
        let error = named("unsupported", &bytes).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", chain(&error));
        assert_eq!(error.remediation().as_deref(), Some(remediation));
    }
    let directory = dir.path("directory");
    std::fs::create_dir(&directory).unwrap();
    refused(
        pipeline.bundle(&options(&directory)),
        ErrorKind::Unsupported,
        &format!("the bundle {} is not a regular file", directory.display()),
    );
    let fifo = dir.path("fifo");
    tool::run("mkfifo", [&fifo]).unwrap();
    refused(
        pipeline.bundle(&options(&fifo)),
        ErrorKind::Unsupported,
        &format!("the bundle {} is not a regular file", fifo.display()),
    );
    let missing = dir.path("missing");
    refused(
        pipeline.bundle(&options(&missing)),
        ErrorKind::NotFound,
        &format!(
            "the bundle {} cannot be read: No such file or directory (os error 2)",
            missing.display()
        ),
    );
    let left = std::fs::read_dir(dir.store().join("tmp")).unwrap();
    assert_eq!(left.count(), 0);
}

/// The store is given a wrong digest for the file, as if the file had changed since it was hashed.
#[test]
fn a_bundle_that_does_not_match_its_digest_is_never_recorded() {
    let (dir, path) = packed(&Tar::new().file("x", b"1").finish());
    let store = microagent_cas::Store::open(&dir.store()).unwrap();
    let other = microagent_cas::Digest::of(b"what it was");
    store.remember_known(&path, &other).unwrap();
    let pipeline = dir.pipeline();
    refused(
        pipeline.bundle(&options(&path)),
        ErrorKind::Conflict,
        &format!("the bundle {} changed while it was read", path.display()),
    );
    assert_eq!(pipeline.reports(), []);
}

#[test]
fn a_changed_bundle_is_reported_as_drift() {
    let (dir, path) = packed(&Tar::new().file("x", b"1").finish());
    built(&dir, &options(&path));
    let state = || {
        let report = dir.pipeline().drift(&[]).unwrap();
        assert_eq!(report.files.len(), 1);
        assert_eq!(report.files[0].name, path.to_str().unwrap());
        report.files[0].state
    };
    assert_eq!(state(), DriftState::Same);
    std::fs::write(&path, Tar::new().file("x", b"2").finish()).unwrap();
    assert_eq!(state(), DriftState::Moved);
    built(&dir, &options(&path));
    assert_eq!(state(), DriftState::Same);
}
