//! The content and size of the file system.

use microagent_pipeline::{ErrorKind, RootfsOptions};
use microagent_tests::image::{self, Layout, Tar};
use microagent_tests::or_skip;
use tar::EntryType;

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

/// A tar of one file `f`, after `before`: the magic number and the version of its header, what follows
/// the number of a device, and the end of the header.
fn dialect(before: &[u8], magic: &[u8; 8], path: &[u8], trailer: &[u8]) -> Vec<u8> {
    let mut tar = Tar::new().file("f", b"x").finish();
    tar[257..265].copy_from_slice(magic);
    tar[345..512].fill(0);
    tar[345..345 + path.len()].copy_from_slice(path);
    tar[512 - trailer.len()..512].copy_from_slice(trailer);
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    [before, &tar].concat()
}

/// Headers of old and rare writers, and access control lists that the mode contradicts.
#[test]
fn unusual_headers_equal_what_umoci_unpacks() {
    let layout = or_skip!(Layout::empty());
    let (ustar, gnu) = (b"ustar\x0000", b"ustar  \0");
    let star = [&[b'p'; 131][..], b"00000000001 00000000002 "].concat();
    // An extended header with an access control list: rw-, user 1000 r--, ---, mask rwx, --x.
    let list = |entries: &[(u8, u8, u32)]| {
        let mut value = vec![2, 0, 0, 0];
        for (tag, permissions, id) in entries {
            value.extend([*tag, 0, *permissions, 0]);
            value.extend(id.to_le_bytes());
        }
        let record = [
            &b" SCHILY.xattr.system.posix_acl_access="[..],
            &value,
            b"\n",
        ]
        .concat();
        let record = [format!("{}", record.len() + 2).as_bytes(), &record].concat();
        let tar = Tar::new()
            .entry("x", EntryType::XHeader, "", &record)
            .finish();
        // Without the end of the archive.
        tar[..1024].to_vec()
    };
    let any = u32::MAX;
    let minimal = list(&[(1, 6, any), (4, 4, any), (32, 1, any)]);
    let extended = list(&[
        (1, 6, any),
        (2, 4, 1000),
        (4, 0, any),
        (16, 7, any),
        (32, 1, any),
    ]);
    let long_name = Tar::new()
        .entry("L", EntryType::GNULongName, "", b"\0")
        .finish();
    for layer in [
        dialect(&[], gnu, b"old/go", b""),
        dialect(&[], gnu, b"00000001234\x0000000001235\0", b""),
        dialect(&[], b"ustar\0\0\0", b"version", b""),
        dialect(&[], ustar, &star, b"tar\0"),
        dialect(&minimal, ustar, b"minimal", b""),
        dialect(&extended, ustar, b"extended", b""),
        dialect(&long_name[..1024], gnu, b"old/empty", b""),
    ] {
        layout.add_layer("latest", &layer).unwrap();
    }
    let dir = TestDir::new();
    let rootfs = build(&dir, &layout.reference("latest")).unwrap();
    assert_clean(&rootfs.path);
    let expected = unpacked(layout.directory(), "latest");
    for path in [
        "/f ",
        "/old/go/f ",
        "/version/f ",
        "/minimal/f 100641",
        "/extended/f 100671",
    ] {
        let found = expected.iter().any(|line| line.starts_with(path));
        assert!(found, "{path}: {expected:?}");
    }
    assert_same(&rootfs.path, &expected);
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
