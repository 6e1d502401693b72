//! What the file system holds, and how large it is.

use microagent_pipeline::{ErrorKind, RootfsOptions};
use microagent_tests::image::{self, Layout, Tar};
use microagent_tests::or_skip;

use crate::support::{Place, assert_clean, assert_same, build, build_with, layer, unpacked};

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
