//! The content and size of the file system.

use microagent_pipeline::{ErrorKind, RootfsOptions};
use microagent_tests::image::{self, Layout, Tar};
use microagent_tests::or_skip;

use crate::support::{TestDir, assert_clean, assert_same, build, build_with, layer, unpacked};

#[test]
fn a_debian_image_of_several_layers_equals_what_umoci_unpacks() {
    let layout = or_skip!(image::debian());
    let dir = TestDir::new();
    let rootfs = build(&dir, &format!("oci:{}:debian", layout.display())).unwrap();
    assert_clean(&rootfs.path);
    assert_same(&rootfs.path, &unpacked(&layout, "debian"));
}

#[test]
fn layers_with_edge_cases_equal_what_umoci_unpacks() {
    let layout = or_skip!(Layout::empty());
    for script in [
        // Hard links, devices, attributes and times of the root directory.
        "mkdir a b; echo 1 >a/x; ln a/x b/y; ln a/x z; mknod c c 1 5; mknod b/d b 8 1; mkfifo p
         setfattr -n user.k -v v a/x; setfattr -n trusted.t -v 1 b; chmod 1777 a; chown 5:6 b a/x
         ln -s a l; ln -s /a/x abs; touch -h -d @-5.5 l; touch -d @1.25 z; chmod 0711 .",
        // Directory over symlink and back, file over directory, broken hard link.
        "mkdir l a b p; echo 2 >l/in; echo 3 >a/.wh.x; echo 4 >b/y; echo 5 >p/q",
        // Whiteouts of a directory and of a hard link; an opaque whiteout after content.
        "echo >.wh.l; mkdir b p;  echo 6 >b/new; echo >b/.wh..wh..opq; echo >p/.wh.q",
        // Symbolic links to directories, replaced by directories in the next layer.
        "mkdir usr; mkdir usr/lib; ln -s usr/lib lib; ln -s /usr/lib way",
        "mkdir way lib; echo 7 >lib/one; echo 8 >way/two",
    ] {
        layout.add_layer("latest", &layer(script, &[])).unwrap();
    }
    // A file without a member for its directory; a hard link to a lower layer's file.
    let through = Tar::new().file("lib/three", b"9").hard_link("also", "z");
    layout.add_layer("latest", &through.finish()).unwrap();
    let dir = TestDir::new();
    let rootfs = build(&dir, &layout.reference("latest")).unwrap();
    assert_clean(&rootfs.path);
    assert_same(&rootfs.path, &unpacked(layout.directory(), "latest"));
}

/// What tools that write a layer member by member make of links and odd names.
#[test]
fn handmade_layers_equal_what_umoci_unpacks() {
    let layout = or_skip!(Layout::empty());
    let mut owner = Tar::new().file("nobody", b"x").finish();
    owner.truncate(1024);
    // A user id of -2, in base 256; and no padding after the content.
    owner[108..116].fill(0xff);
    owner[115] = 0xfe;
    owner[148..156].fill(b' ');
    let sum: u32 = owner[..512].iter().map(|byte| u32::from(*byte)).sum();
    owner[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    owner.truncate(513);
    for layer in [
        // Links on the way in one layer: absolute, out of the root, in a chain, to nothing.
        Tar::new()
            .symlink("var/run", "/run")
            .file("var/run/x", b"1")
            .symlink("var/up", "../../../run/deep")
            .file("var/up/y", b"2")
            .symlink("a", "b")
            .symlink("b", "/var/./run/")
            .file("a/z", b"3")
            .hard_link("hard", "b/deep/y")
            .symlink("gone", "no/where")
            .file("lost+found/#123", b"4")
            .finish(),
        // The same across layers; a whiteout and an opaque mark behind a link.
        Tar::new()
            .file("a/new", b"5")
            .file("var/run/.wh.x", b"")
            .file("gone/.wh.x", b"")
            .file("var/up/.wh..wh..opq", b"")
            .file(".wh.d/f", b"6")
            .finish(),
        owner,
    ] {
        layout.add_layer("latest", &layer).unwrap();
    }
    let dir = TestDir::new();
    let rootfs = build(&dir, &layout.reference("latest")).unwrap();
    assert_clean(&rootfs.path);
    let expected = unpacked(layout.directory(), "latest");
    for (path, owner) in [
        ("/run/new ", "0:0"),
        ("/nobody ", "4294967294:0"),
        ("/.wh.d/f ", "0:0"),
    ] {
        let line = expected.iter().find(|line| line.starts_with(path));
        assert!(line.is_some_and(|line| line.contains(owner)), "{path}");
    }
    assert_same(&rootfs.path, &expected);
}

#[test]
fn the_file_system_is_reproducible_and_depends_on_its_size() {
    let layout = or_skip!(Layout::busybox());
    let reference = layout.reference("latest");
    let digest = |size_mib| {
        let dir = TestDir::new();
        let options = RootfsOptions {
            size_mib,
            mke2fs: None,
        };
        let rootfs = build_with(&dir.pipeline(), &reference, &options).unwrap();
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
fn a_size_below_the_minimum_is_refused_with_the_minimum() {
    let layout = or_skip!(Layout::busybox());
    let dir = TestDir::new();
    let with = |size_mib| {
        let options = RootfsOptions {
            size_mib: Some(size_mib),
            mke2fs: None,
        };
        build_with(&dir.pipeline(), &layout.reference("latest"), &options)
    };
    let error = with(1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooSmall);
    let text = error.to_string();
    let least = text.rsplit(' ').nth(1).unwrap();
    assert_eq!(
        text,
        format!("1 MiB is too small for the image: the minimum is {least} MiB")
    );
    with(least.parse().unwrap()).unwrap();
}
