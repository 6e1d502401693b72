//! Files that the user names: `rootfs build --out`, `cache export`.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use microagent_tests::image::Layout;
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::{or_skip, root_or_skip, tool};

fn host_with(image: &str) -> Result<Host, microagent_tests::Error> {
    let host = Host::new()?;
    build(&host, image, "plain.img").expect_code(0);
    Ok(host)
}

fn build(host: &Host, image: &str, out: &str) -> Finished {
    host.microagent(["rootfs", "build", "--allow-mutable", "--size-mib", "32"])
        .argument("--image")
        .argument(image)
        .argument("--out")
        .argument(out)
        .finish()
}

fn export(host: &Host, image: &str, out: &str) -> Finished {
    host.microagent(["cache", "export", image, "--out", out])
        .finish()
}

#[test]
fn standard_output_has_the_file_and_nothing_else() {
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("latest");
    let host = or_skip!(host_with(&image));
    export(&host, &image, "plain.tar").expect_code(0);
    for (out, plain) in [
        ("/dev/stdout", "plain.img"),
        ("/proc/self/fd/1", "plain.img"),
    ] {
        let piped = build(&host, &image, out).expect_code(0);
        assert!(piped.stdout == fs::read(host.path(plain)).unwrap(), "{out}");
    }
    let piped = export(&host, &image, "/dev/stdout").expect_code(0);
    assert!(piped.stdout == fs::read(host.path("plain.tar")).unwrap());
    // Redirected to a file: in place, so that what the shell opened has the content.
    host.shell(&format!(
        "microagent cache export {image} --out /dev/stdout >redirected && cmp redirected plain.tar"
    ))
    .finish()
    .expect_code(0);
    let refused = host
        .microagent(["--json", "cache", "export", &image, "--out", "/dev/stdout"])
        .finish()
        .expect_code(2);
    assert_eq!(refused.stdout, b"");
    assert_eq!(refused.error()["kind"], "usage");
}

#[test]
fn links_are_followed_and_fifos_written_to() {
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("latest");
    let host = or_skip!(host_with(&image));
    let plain = fs::read(host.path("plain.img")).unwrap();
    fs::create_dir(host.path("elsewhere")).unwrap();
    symlink("elsewhere/target", host.path("link")).unwrap();
    build(&host, &image, "link").expect_code(0);
    assert!(
        fs::symlink_metadata(host.path("link"))
            .unwrap()
            .is_symlink()
    );
    assert!(fs::read(host.path("elsewhere/target")).unwrap() == plain);

    host.shell("mkfifo fifo").finish().expect_code(0);
    for refused in [build(&host, &image, "fifo"), export(&host, &image, "fifo")] {
        assert_eq!(
            refused.expect_code(1).errors(),
            "microagent: cannot write fifo: no process has opened this FIFO for reading\n"
        );
    }
    host.shell(&format!(
        "cat fifo >read & exec 3>fifo; microagent --quiet rootfs build --allow-mutable \
         --size-mib 32 --image {image} --out fifo && exec 3>&- && wait && cmp read plain.img"
    ))
    .finish()
    .expect_code(0);
    for (out, why) in [
        ("elsewhere", "it is a directory"),
        ("/dev/full", "No space left on device (os error 28)"),
    ] {
        let refused = build(&host, &image, out).expect_code(1).errors();
        assert_eq!(refused, format!("microagent: cannot write {out}: {why}\n"));
    }
    build(&host, &image, "/dev/null").expect_code(0);
    assert!(
        fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn of(file: &Path) -> Result<Loop, microagent_tests::Error> {
        tool::text("losetup", ["--find", "--show", &file.display().to_string()]).map(Loop)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = tool::run("losetup", ["--detach", &self.0]);
    }
}

#[test]
fn a_block_device_is_written_in_place() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("latest");
    let host = or_skip!(host_with(&image));
    let plain = fs::read(host.path("plain.img")).unwrap();
    let backing = host.path("backing");
    fs::write(&backing, vec![7; 40 << 20]).unwrap();
    let device = or_skip!(Loop::of(&backing));
    let before = fs::metadata(&device.0).unwrap();
    build(&host, &image, &device.0).expect_code(0);
    let after = fs::metadata(&device.0).unwrap();
    assert!(after.file_type().is_block_device());
    assert_eq!((before.ino(), before.rdev()), (after.ino(), after.rdev()));
    let written = fs::read(&device.0).unwrap();
    assert!(written[..plain.len()] == plain);
    assert!(written[plain.len()..].iter().all(|byte| *byte == 7));
    tool::run("e2fsck", ["-fn", &device.0]).unwrap();
    drop(device);

    fs::write(&backing, vec![7; 1 << 20]).unwrap();
    let small = or_skip!(Loop::of(&backing));
    let refused = build(&host, &image, &small.0).expect_code(1).errors();
    assert_eq!(
        refused,
        format!(
            "microagent: cannot write {}: it has 1048576 bytes, the image has 33554432\n",
            small.0
        )
    );
    assert!(fs::read(&small.0).unwrap().iter().all(|byte| *byte == 7));
}
