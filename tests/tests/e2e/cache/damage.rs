//! Damaged objects of the store.

use super::*;

/// Flips a byte of a file, as a decaying disk does: its times stay.
pub(super) fn decay(path: &Path, offset: u64) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    corrupt(path, offset);
    let file = fs::File::open(path).unwrap();
    file.set_modified(modified).unwrap();
}

/// Flips a byte of a read-only file.
pub(super) fn corrupt(path: &Path, offset: u64) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn damaged_objects_are_detected_removed_and_rebuilt() {
    let layout = or_skip!(layout_with(&[7; 100_000]));
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let image = format!("{}/app:1", registry.address());
    let host = or_skip!(Host::new());
    let built = build(&host, &image).json();
    let clean = json(&host, &["cache", "verify"]);
    assert_eq!(
        (&clean["ok"], &clean["problems"]),
        (&true.into(), &Value::Array(vec![]))
    );

    // Every object: blobs of every kind, the chunk map, the disk.
    let disk = PathBuf::from(built["rootfs"]["path"].as_str().unwrap());
    let mut objects = blobs(&host);
    objects.push(disk.clone());
    assert!(objects.len() > 6, "{objects:?}");
    for object in objects {
        // The superblock of the disk; its first KiB is unused.
        let offset = if object == disk { 1100 } else { 10 };
        corrupt(&object, offset);
        let report = host
            .microagent(["--json", "cache", "verify"])
            .finish()
            .expect_code(1)
            .json();
        let paths: Vec<_> = (report["problems"].as_array().unwrap().iter())
            .map(|problem| problem["path"].as_str().unwrap().to_owned())
            .collect();
        assert!(paths.contains(&object.display().to_string()), "{report}");
        let repaired = host
            .microagent(["--json", "cache", "verify", "--repair"])
            .finish()
            .expect_code(0)
            .json();
        assert_eq!(repaired["ok"], true, "{repaired}");
        assert!(!object.exists());
        let again = build(&host, &image).json();
        assert_eq!(again["rootfs"]["digest"], built["rootfs"]["digest"]);
        let report = json(&host, &["cache", "verify"]);
        assert_eq!(report["ok"], true, "after {}: {report}", object.display());
    }
}

/// Each object and each record in turn, without a verification: what is found in the store is
/// replaced, what is read is verified, and the next build has the right bytes.
#[test]
fn a_build_upon_a_damaged_object_has_the_right_bytes() {
    let layout = or_skip!(layout_with(&[7; 100_000]));
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let image = format!("{}/app:1", registry.address());
    let host = or_skip!(Host::new());
    let build_out = || {
        let mut build = host.microagent(["--json", "rootfs", "build", "--allow-mutable"]);
        let built = build.argument("--size-mib").argument("32");
        let built = built.argument("--image").argument(&image);
        built.argument("--out").argument("out.img").finish()
    };
    build_out().expect_code(0);
    let right = fs::read(host.path("out.img")).unwrap();
    let sparse = fs::read_dir(host.state().join("cas/sparse")).unwrap();
    let disk = sparse.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut objects = blobs(&host);
    objects.push(disk.clone());
    objects.extend(records(&host, &["resolve", "fetch", "unpack", "rootfs"]));
    assert!(objects.len() > 12, "{objects:?}");
    let check = |what: &str, object: &Path| {
        let _ = fs::remove_file(host.path("out.img"));
        let finished = build_out();
        assert_eq!(
            finished.code,
            Some(0),
            "{what} of {}: {}",
            object.display(),
            finished.errors()
        );
        let image = fs::read(host.path("out.img")).unwrap();
        assert!(image == right, "{what} of {}", object.display());
        // What decayed and was not read is still there.
        host.microagent(["cache", "verify", "--repair"])
            .finish()
            .expect_code(0);
    };
    for object in &objects {
        let offset = if *object == disk { 1100 } else { 10 };
        corrupt(object, offset);
        check("cached", object);
        // Its digest is looked at only when it is read: without the records that save reading it.
        for rebuilt in [&["rootfs"][..], &["rootfs", "unpack"]] {
            remove_all(&records(&host, rebuilt));
            if object.exists() {
                decay(object, offset);
            }
            check(&format!("without {rebuilt:?}"), object);
        }
    }
    // Without a copy, the disk is not read; so its decay is seen by the copy.
    decay(&disk, 1100);
    check("copied", &disk);
}

#[test]
fn repair_drops_what_was_built_from_a_damaged_object() {
    let layout = or_skip!(layout_with(&[7; 100_000]));
    let host = or_skip!(Host::new());
    let image = layout.reference("latest");
    build(&host, &image);
    // The indexes are not in the key of the root file system, but it is built from them.
    let is_index = |path: &PathBuf| {
        fs::read(path)
            .unwrap()
            .starts_with(b"microagent layer index")
    };
    let index = blobs(&host).into_iter().find(is_index).unwrap();
    decay(&index, 40);
    let repaired = json(&host, &["cache", "verify", "--repair"]);
    let reasons: Vec<_> = (repaired["problems"].as_array().unwrap().iter())
        .map(|problem| problem["why"].as_str().unwrap().to_owned())
        .filter(|why| why.contains("built from"))
        .collect();
    let hex = index.file_name().unwrap().to_str().unwrap();
    assert_eq!(
        reasons,
        [format!("it was built from sha256:{hex}, which is damaged")]
    );
    assert_eq!(records(&host, &["rootfs"]).len(), 0);
}
