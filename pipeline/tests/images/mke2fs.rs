//! `--mke2fs`: file systems written by the host's mke2fs and debugfs.

use microagent_pipeline::{ErrorKind, RootfsOptions};
use microagent_tests::image::Layout;
use microagent_tests::or_skip;

use crate::support::{
    TestDir, assert_clean, assert_same, build, build_with, chain, layer, unpacked,
};

fn with_mke2fs() -> RootfsOptions {
    RootfsOptions {
        size_mib: None,
        mke2fs: Some("/usr/sbin/mke2fs".into()),
    }
}

#[test]
fn the_hosts_mke2fs_writes_the_same_tree() {
    let layout = or_skip!(Layout::busybox());
    for script in [
        "mkdir a 'with \"quotes\" and  blanks'; echo 1 >a/x; ln a/x y; ln a/x 'with \"quotes\" and  blanks/z'
         mknod c c 1 5; mknod b b 259 70000; mkfifo p; setfattr -n user.k -v 0x000a22ff a/x
         setfattr -n trusted.t -v 1 a; cp /bin/true cap; setcap cap_net_raw+ep cap
         chmod 1777 a; chmod 6755 cap; chown 3000000:70000 a/x; ln -s 'a  b' l; chown -h 7:8 l
         ln -s $(head -c 300 /dev/zero | tr '\\0' t) long; touch -h -d @-5.5 l; touch -d @1.25 y
         touch -d 2040-01-01 c; touch -d 1969-12-31T23:59:59Z p; chmod 0711 .
         truncate -s 5M sparse; printf end >>sparse; : >empty; echo x >'<12>'; echo x >-f
         echo latin >\"$(printf 'latin-\\344')\"; mkdir -m 0750 lost+found; echo >lost+found/#123",
        "mkdir many; for n in $(seq 600); do ln a-link many/a-very-long-name-to-fill-the-block-$n 2>/dev/null \
         || { [ -e a-link ] || echo l >a-link; ln a-link many/a-very-long-name-to-fill-the-block-$n; }; done",
    ] {
        layout.add_layer("latest", &layer(script, &[])).unwrap();
    }
    let reference = layout.reference("latest");
    let dir = TestDir::new();
    let rootfs = build_with(&dir.pipeline(), &reference, &with_mke2fs())
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_clean(&rootfs.path);
    assert_same(&rootfs.path, &unpacked(layout.directory(), "latest"));
    let elsewhere = TestDir::new();
    let again = build_with(&elsewhere.pipeline(), &reference, &with_mke2fs()).unwrap();
    assert_eq!(again.digest, rootfs.digest);
    let ours = build(&dir, &reference).unwrap();
    assert_ne!(ours.digest, rootfs.digest);
    assert_eq!(
        std::fs::read_dir(dir.store().join("tmp")).unwrap().count(),
        0
    );
}

#[test]
fn a_missing_mke2fs_and_an_unsupported_name_are_reported() {
    let layout = or_skip!(Layout::busybox());
    let dir = TestDir::new();
    let with = |path: &str| {
        let options = RootfsOptions {
            size_mib: None,
            mke2fs: Some(path.into()),
        };
        let error = build_with(&dir.pipeline(), &layout.reference("latest"), &options);
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
        "the name \"/new\\\\nline\" cannot be passed to debugfs"
    );
}
