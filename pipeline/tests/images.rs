//! Images made, pushed and saved by the tools that people use, built into root
//! file systems and compared with what those tools unpack.
//!
//! Needs root (to unpack with owners and devices, and to mount); without a
//! tool a test says so and skips.

mod support;

use std::path::Path;
use std::process::Command;

use microagent_pipeline::{Error, ErrorKind, Pipeline, Reference, Rootfs, RootfsOptions};
use microagent_tests::image::{self, Layout, Tar};
use microagent_tests::or_skip;
use microagent_tests::registry::Registry;
use microagent_tests::tree;
use support::{Place, layer, list_image, mounted_listing};

/// Resolves and builds.
fn build(place: &Place, reference: &str) -> Result<Rootfs, Error> {
    let pipeline = place.pipeline();
    build_with(&pipeline, reference, &RootfsOptions::default())
}

fn build_with(
    pipeline: &Pipeline,
    reference: &str,
    options: &RootfsOptions,
) -> Result<Rootfs, Error> {
    let reference: Reference = reference.parse()?;
    let image = pipeline.resolve(&reference)?;
    pipeline.rootfs(&image, options)
}

/// What `umoci unpack` makes of an image of a layout.
fn unpacked(layout: &Path, tag: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle");
    let output = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:{tag}", layout.display()))
        .arg(&bundle)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    tree::list(&bundle.join("rootfs")).unwrap()
}

#[track_caller]
fn assert_same(image: &Path, expected: &[String]) {
    let ours = list_image(image);
    assert!(
        ours == expected,
        "- umoci, + ours:\n{}",
        tree::difference(expected, &ours)
    );
}

#[track_caller]
fn assert_clean(image: &Path) {
    let check = Command::new("e2fsck")
        .arg("-fn")
        .arg(image)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{said}");
}

/// Only run by [`mounted_listing`], in a mount namespace of its own.
#[test]
#[ignore = "a part of other tests"]
fn lister() {
    mounted_listing();
}

#[test]
fn a_debian_image_of_several_layers_equals_what_umoci_unpacks() {
    let layout = or_skip!(image::debian());
    let place = Place::new();
    let rootfs = build(&place, &format!("oci:{}:debian", layout.display())).unwrap();
    assert_clean(&rootfs.path);
    assert_same(&rootfs.path, &unpacked(&layout, "debian"));
}

#[test]
fn layers_that_try_an_unpacker_equal_what_umoci_makes_of_them() {
    let layout = or_skip!(Layout::empty());
    for script in [
        // Hard links, devices, attributes and times of the root directory.
        "mkdir a b; echo 1 >a/x; ln a/x b/y; ln a/x z; mknod c c 1 5; mknod b/d b 8 1; mkfifo p
         setfattr -n user.k -v v a/x; setfattr -n trusted.t -v 1 b; chmod 1777 a; chown 5:6 b a/x
         ln -s a l; ln -s /a/x abs; touch -h -d @-5.5 l; touch -d @1.25 z; chmod 0711 .",
        // Directory over symlink and back, file over directory, link broken.
        "mkdir l a b p; echo 2 >l/in; echo 3 >a/.wh.x; echo 4 >b/y; echo 5 >p/q",
        // Whiteouts of a directory, of a link's name, and an opaque mark after content.
        "echo >.wh.l; mkdir b p;  echo 6 >b/new; echo >b/.wh..wh..opq; echo >p/.wh.q",
        // A link into a lower layer; a name through a lower layer's link.
        "mkdir usr; mkdir usr/lib; ln -s usr/lib lib; ln -s /usr/lib way",
        "mkdir way lib; echo 7 >lib/one; echo 8 >way/two",
    ] {
        layout.add_layer("latest", &layer(script, &[])).unwrap();
    }
    // Members below a link, without a member for the link itself.
    let through = Tar::new().file("lib/three", b"9").hard_link("also", "z");
    layout.add_layer("latest", &through.finish()).unwrap();
    let place = Place::new();
    let rootfs = build(&place, &layout.reference("latest")).unwrap();
    assert_clean(&rootfs.path);
    assert_same(&rootfs.path, &unpacked(layout.directory(), "latest"));
}

#[test]
fn every_source_gives_the_same_file_system() {
    let layout = or_skip!(Layout::busybox());
    layout
        .add_layer("latest", &layer("mkdir top; echo x >top/f", &[]))
        .unwrap();
    let registry = or_skip!(Registry::start());
    registry
        .push(&layout.reference("latest"), "some/image:1")
        .unwrap();
    let saved = tempfile::tempdir().unwrap();
    let file = |name: &str| saved.path().join(name).display().to_string();
    let oci = format!("oci-archive:{}", file("oci.tar"));
    let docker = format!("docker-archive:{}", file("docker.tar"));
    let zstd = format!("oci:{}:z", file("zstd"));
    layout.copy("latest", &format!("{oci}:t"), &[]).unwrap();
    layout
        .copy("latest", &format!("{docker}:local/name:t"), &[])
        .unwrap();
    let compression = ["--dest-compress-format", "zstd", "--dest-compress"];
    layout.copy("latest", &zstd, &compression).unwrap();
    let mut digests = Vec::new();
    for reference in [
        layout.reference("latest"),
        format!("{}/some/image:1", registry.address()),
        oci.clone(),
        format!("{oci}:t"),
        docker.clone(),
        format!("{docker}:local/name:t"),
        zstd,
    ] {
        // A store of its own each time: nothing is shared but the code.
        let place = Place::new();
        let rootfs = build(&place, &reference)
            .unwrap_or_else(|error| panic!("{reference}: {}", support::chain(&error)));
        digests.push(rootfs.digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn a_second_build_finds_every_node_and_reads_no_registry_for_layers() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let place = Place::new();
    let reference = format!("{}/app:1", registry.address());
    let first = place.pipeline();
    let one = build_with(&first, &reference, &RootfsOptions::default()).unwrap();
    let second = place.pipeline();
    let two = build_with(&second, &reference, &RootfsOptions::default()).unwrap();
    assert_eq!(one, two);
    let hits = |pipeline: &Pipeline| -> Vec<(String, bool)> {
        let reports = pipeline.reports().into_iter();
        reports.map(|report| (report.op, report.hit)).collect()
    };
    let nodes = |hit| {
        [
            ("resolve", false),
            ("fetch", hit),
            ("unpack", hit),
            ("rootfs", hit),
        ]
        .map(|(op, hit)| (op.to_owned(), hit))
    };
    assert_eq!(hits(&first), nodes(false));
    assert_eq!(hits(&second), nodes(true));
    assert_eq!(second.reports()[0].output, first.reports()[0].output);

    // Pinned, the registry is not even asked.
    let image = first.resolve(&reference.parse().unwrap()).unwrap();
    drop(registry);
    assert!(image.resolved.contains("/app@sha256:"));
    let pinned = build(&place, &image.resolved).unwrap();
    assert_eq!(pinned, one);
}

#[test]
fn other_tools_read_the_image_from_the_store() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    registry
        .push(&layout.reference("latest"), "some/app:1.0")
        .unwrap();
    let place = Place::new();
    let reference = format!("{}/some/app:1.0", registry.address());
    build(&place, &reference).unwrap();
    let name = format!("oci:{}:{reference}", place.store().display());
    let skopeo = |arguments: &[&str]| {
        let output = Command::new("skopeo").args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(
        skopeo(&["inspect", "--format", "{{.Digest}}", &name]),
        layout.digest("latest").unwrap()
    );
    // All of it is there, and right.
    let copy = tempfile::tempdir().unwrap();
    let copy = format!("dir:{}", copy.path().display());
    skopeo(&["copy", "--quiet", "--insecure-policy", &name, &copy]);

    let local = place
        .pipeline()
        .resolve(&layout.reference("latest").parse().unwrap())
        .unwrap();
    let pipeline = place.pipeline();
    pipeline.rootfs(&local, &RootfsOptions::default()).unwrap();
    let name = format!("oci:{}:{}", place.store().display(), local.digest);
    skopeo(&["inspect", &name]);
}

#[test]
fn the_same_image_has_the_same_bytes_in_two_stores_and_other_sizes_differ() {
    let layout = or_skip!(Layout::busybox());
    let reference = layout.reference("latest");
    let digest = |size_mib| {
        let place = Place::new();
        let options = RootfsOptions {
            size_mib,
            mke2fs: None,
        };
        let rootfs = build_with(&place.pipeline(), &reference, &options).unwrap();
        assert_clean(&rootfs.path);
        if let Some(mib) = size_mib {
            assert_eq!(rootfs.size, mib << 20);
        }
        rootfs.digest
    };
    assert_eq!(digest(None), digest(None));
    assert_eq!(digest(Some(64)), digest(Some(64)));
    assert_ne!(digest(Some(64)), digest(Some(65)));
}

#[test]
fn a_size_that_is_too_small_names_the_least_one() {
    let layout = or_skip!(Layout::busybox());
    let place = Place::new();
    let with = |size_mib| {
        let options = RootfsOptions {
            size_mib: Some(size_mib),
            mke2fs: None,
        };
        build_with(&place.pipeline(), &layout.reference("latest"), &options)
    };
    let error = with(1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooSmall);
    let text = error.to_string();
    let least = text.rsplit(' ').nth(1).unwrap();
    assert_eq!(
        text,
        format!("1 MiB are too small for the image: it needs {least} MiB")
    );
    with(least.parse().unwrap()).unwrap();
}

#[test]
fn an_image_of_one_multi_platform_index_is_found() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    registry
        .push(&layout.reference("latest"), "multi:amd64")
        .unwrap();
    layout.tag("latest", "arm").unwrap();
    layout.configure("arm", &["--architecture=arm64"]).unwrap();
    registry
        .push(&layout.reference("arm"), "multi:arm64")
        .unwrap();
    let digest = support::push_index(
        &registry,
        "multi",
        &[("amd64", "amd64"), ("arm64", "arm64")],
        "both",
    );
    let place = Place::new();
    let name = format!("{}/multi", registry.address());
    let image = place
        .pipeline()
        .resolve(&format!("{name}:both").parse().unwrap())
        .unwrap();
    assert_eq!(image.digest.to_string(), layout.digest("latest").unwrap());
    assert_eq!(image.resolved, format!("{name}@{digest}"));
    let error = place
        .pipeline()
        .resolve(&format!("{name}:arm64").parse().unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("image {name}:arm64 is for linux/arm64; this machine runs linux/amd64")
    );
}

fn with_mke2fs() -> RootfsOptions {
    RootfsOptions {
        size_mib: None,
        mke2fs: Some("/usr/sbin/mke2fs".into()),
    }
}

#[test]
fn the_hosts_mke2fs_makes_the_same_tree() {
    let layout = or_skip!(Layout::busybox());
    for script in [
        "mkdir a 'with \"quotes\" and  blanks'; echo 1 >a/x; ln a/x y; ln a/x 'with \"quotes\" and  blanks/z'
         mknod c c 1 5; mknod b b 259 70000; mkfifo p; setfattr -n user.k -v 0x000a22ff a/x
         setfattr -n trusted.t -v 1 a; cp /bin/true cap; setcap cap_net_raw+ep cap
         chmod 1777 a; chmod 6755 cap; chown 3000000:70000 a/x; ln -s 'a  b' l; chown -h 7:8 l
         ln -s $(head -c 300 /dev/zero | tr '\\0' t) long; touch -h -d @-5.5 l; touch -d @1.25 y
         touch -d 2040-01-01 c; touch -d 1969-12-31T23:59:59Z p; chmod 0711 .
         truncate -s 5M sparse; printf end >>sparse; : >empty; echo x >'<12>'; echo x >-f
         echo latin >\"$(printf 'latin-\\344')\"",
        "mkdir many; for n in $(seq 600); do ln a-link many/a-very-long-name-to-fill-the-block-$n 2>/dev/null \
         || { [ -e a-link ] || echo l >a-link; ln a-link many/a-very-long-name-to-fill-the-block-$n; }; done",
    ] {
        layout.add_layer("latest", &layer(script, &[])).unwrap();
    }
    let reference = layout.reference("latest");
    let place = Place::new();
    let rootfs = build_with(&place.pipeline(), &reference, &with_mke2fs())
        .unwrap_or_else(|error| panic!("{}", support::chain(&error)));
    assert_clean(&rootfs.path);
    assert_same(&rootfs.path, &unpacked(layout.directory(), "latest"));
    let elsewhere = Place::new();
    let again = build_with(&elsewhere.pipeline(), &reference, &with_mke2fs()).unwrap();
    assert_eq!(again.digest, rootfs.digest);
    let ours = build(&place, &reference).unwrap();
    assert_ne!(ours.digest, rootfs.digest);
    assert_eq!(
        std::fs::read_dir(place.store().join("tmp"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn what_mke2fs_cannot_do_is_said() {
    let layout = or_skip!(Layout::busybox());
    let place = Place::new();
    let with = |path: &str| {
        let options = RootfsOptions {
            size_mib: None,
            mke2fs: Some(path.into()),
        };
        let error = build_with(&place.pipeline(), &layout.reference("latest"), &options);
        error.unwrap_err()
    };
    let error = with("/no/such/mke2fs");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "/no/such/mke2fs cannot be used");
    layout
        .add_layer("latest", &layer("echo >'new\nline'", &[]))
        .unwrap();
    let error = with("/usr/sbin/mke2fs");
    assert_eq!(
        error.to_string(),
        "the name \"/new\\\\nline\" cannot be given to debugfs"
    );
}
