//! `run --disk` and `--bundle` on this machine, with engine `qemu`: what the list for every engine
//! (`support/run_list.rs`) does not say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use microagent_tests::image::{Layout, Tar};
use microagent_tests::microagent::{Host, Invocation};
use microagent_tests::{Error, or_skip, tool};
use rustix::process::Signal;

/// A machine, an image, and an empty ext4 disk made by the host's own tool.
struct Place {
    host: Host,
    layout: Layout,
    disk: PathBuf,
}

impl Place {
    fn new() -> Result<Place, Error> {
        tool::find("qemu-system-x86_64")?;
        let host = Host::with_kernel()?;
        let disk = host.path("disk.img");
        let arguments = ["-q", "-t", "ext4", &text(&disk), "32M"];
        tool::run("mke2fs", arguments)?;
        Ok(Place {
            layout: Layout::busybox()?,
            disk,
            host,
        })
    }

    fn run(&self, flags: &[&str], command: &str) -> Invocation {
        let image = self.layout.reference("latest");
        let mut invocation = self.host.microagent(["--engine", "qemu", "--json", "run"]);
        for flag in flags {
            invocation.argument(*flag);
        }
        for argument in ["--image", &image, "--exec", command] {
            invocation.argument(argument);
        }
        invocation
    }

    /// `data=DISK:/data:MODE`
    fn data(&self, mode: &str) -> String {
        format!("data={}:/data:{mode}", self.disk.display())
    }

    fn bundle(&self, name: &str) -> PathBuf {
        let path = self.host.path(name);
        let tar = Tar::new().file("name", name.as_bytes()).finish();
        std::fs::write(&path, tar).unwrap();
        path
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What `e2fsck -fn` says of a disk that is as it should be is nothing.
fn fsck(disk: &Path) -> Result<(), Error> {
    tool::run("e2fsck", ["-fn".as_ref(), disk.as_os_str()]).map(drop)
}

fn superblock(disk: &Path) -> String {
    tool::text("dumpe2fs", ["-h".as_ref(), disk.as_os_str()]).unwrap()
}

#[test]
fn the_document_names_the_disks() {
    let place = or_skip!(Place::new());
    let bundle = place.bundle("bundle.tar");
    let tar = format!("tar={}:/srv/tar:rw", bundle.display());
    let flags = ["--bundle", &tar, "--disk", &place.data("ro")];
    let first = place.run(&flags, "true").finish().expect_code(0).json();
    let second = place.run(&flags, "true").finish().expect_code(0).json();
    let node = |document: &serde_json::Value| {
        let nodes = document["nodes"].as_array().unwrap().clone();
        nodes
            .into_iter()
            .find(|node| node["op"] == "bundle")
            .unwrap()
    };
    assert_eq!(
        (&node(&first)["hit"], &node(&second)["hit"]),
        (&false.into(), &true.into())
    );
    let expected = serde_json::json!([
        { "name": "data", "mount": "/data", "readOnly": true, "path": text(&place.disk) },
        { "name": "tar", "mount": "/srv/tar", "readOnly": false, "digest": node(&first)["output"] },
    ]);
    for document in [first, second] {
        assert_eq!(document["disks"], expected);
        assert_eq!(document["finalState"], "stopped");
    }
    place.host.assert_clean();
}

#[test]
fn a_disk_that_was_written_is_clean_whatever_was_left_running_on_it() {
    let place = or_skip!(Place::new());
    let left_running = "cd /data && echo here >file && mkdir inner && mount -t tmpfs none inner
        sh -c 'while :; do echo x >>busy; done' >/dev/null 2>&1 &
        exit 3";
    place
        .run(&["--disk", &place.data("rw")], left_running)
        .finish()
        .expect_code(3);
    fsck(&place.disk).unwrap();
    let superblock = superblock(&place.disk);
    assert!(!superblock.contains("needs_recovery"), "{superblock}");
    let read = place
        .run(&["--disk", &place.data("ro")], "cat /data/file")
        .finish()
        .expect_code(0);
    assert_eq!(read.json()["result"]["stdout"], "here\n");
    place.host.assert_clean();
}

#[test]
fn a_disk_is_read_by_many_and_written_by_one_alone() {
    let place = or_skip!(Place::new());
    let at_work = "echo at work >&2; sleep 1000";
    let holding = |mode: &str| {
        let mut invocation = place.host.microagent(["--engine", "qemu", "run"]);
        for argument in [
            "--image",
            &place.layout.reference("latest"),
            "--disk",
            &place.data(mode),
            "--exec",
            at_work,
        ] {
            invocation.argument(argument);
        }
        let mut running = invocation.start();
        running.wait_for_error_text("at work");
        running
    };
    let refused = |mode: &str| {
        let finished = place
            .run(&["--disk", &place.data(mode)], "true")
            .finish()
            .expect_code(125);
        let error: serde_json::Value = serde_json::from_slice(&finished.stderr).unwrap();
        assert_eq!(
            error["error"]["message"],
            format!("disk {} is in use by another VM", place.disk.display())
        );
    };
    let reader = holding("ro");
    place
        .run(&["--disk", &place.data("ro")], "true")
        .finish()
        .expect_code(0);
    refused("rw");
    reader.signal(Signal::INT);
    reader.finish().expect_code(130);

    // At once: what is left of the first does not keep the disk for long.
    let writer = holding("rw");
    refused("ro");
    writer.signal(Signal::KILL);
    writer.finish();
    // It was not unmounted, and the guest that may write repairs it.
    let read_only = place
        .run(&["--disk", &place.data("ro")], "true")
        .finish()
        .expect_code(125);
    assert!(
        read_only.errors().contains("e2fsck -p"),
        "{}",
        read_only.errors()
    );
    place
        .run(&["--disk", &place.data("rw")], "true")
        .finish()
        .expect_code(0);
    fsck(&place.disk).unwrap();
    place.host.assert_clean();
}

#[test]
fn an_interrupt_leaves_nothing_but_the_disk() {
    let place = or_skip!(Place::new());
    let bundle = format!("tar={}:/tar:rw", place.bundle("bundle.tar").display());
    let mut invocation = place.host.microagent(["--engine", "qemu", "run"]);
    for argument in [
        "--image",
        &place.layout.reference("latest"),
        "--bundle",
        &bundle,
        "--disk",
        &place.data("rw"),
        "--exec",
        "echo kept >/data/kept; sync; echo at work >&2; sleep 1000",
    ] {
        invocation.argument(argument);
    }
    let mut running = invocation.start();
    running.wait_for_error_text("at work");
    running.signal(Signal::TERM);
    running.finish().expect_code(143);
    place.host.assert_clean();
    let read = place
        .run(&["--disk", &place.data("rw")], "cat /data/kept")
        .finish()
        .expect_code(0);
    assert_eq!(read.json()["result"]["stdout"], "kept\n");
}

#[test]
fn an_interrupt_while_a_bundle_is_made_leaves_nothing() {
    let place = or_skip!(Place::new());
    // A few kilobytes that unpack to enough to be at work for a while: one file of zeros.
    let script = "truncate -s 6G zeros && tar -cf - zeros | head -c 512 | gzip >large.tar.gz
        head -c 64M /dev/zero | gzip >part
        for n in $(seq 96); do cat part >>large.tar.gz; done; rm zeros part";
    let made = place.host.shell(script).finish();
    made.expect_code(0);
    let tar = place.host.path("large.tar.gz");
    let bundle = format!("large={}:/large:ro", tar.display());
    let running = place.run(&["--bundle", &bundle], "true").start();
    let finished = running.signal_after(Duration::from_secs(1), Signal::INT);
    finished.expect_code(130);
    place.host.assert_clean();
}

#[test]
fn as_many_disks_as_there_are_places_and_not_one_more() {
    let place = or_skip!(Place::new());
    let bundles: Vec<String> = (1..=6)
        .map(|n| {
            let bundle = place.bundle(&format!("b{n}"));
            format!("b{n}={}:/disks/{n}:ro", bundle.display())
        })
        .collect();
    let flags = |count: usize| {
        let flags = bundles[..count].iter();
        flags
            .flat_map(|bundle| ["--bundle", bundle])
            .collect::<Vec<_>>()
    };
    let five = place
        .run(&flags(5), "for n in 1 2 3 4 5; do cat /disks/$n/name; done")
        .finish()
        .expect_code(0);
    assert_eq!(five.json()["result"]["stdout"], "b1b2b3b4b5");
    let six = place.run(&flags(6), "true").finish().expect_code(125);
    assert!(
        six.errors().contains("supports 5 additional disks"),
        "{}",
        six.errors()
    );
    place.host.assert_clean();
}

#[test]
fn a_file_given_twice_is_refused_unless_both_only_read_it() {
    let place = or_skip!(Place::new());
    let link = place.host.path("link");
    std::fs::hard_link(&place.disk, &link).unwrap();
    let other = |mode: &str| format!("other={}:/other:{mode}", link.display());
    let both = |one: &str, two: &str| {
        let flags = ["--disk", &place.data(one), "--disk", &other(two)];
        place.run(&flags, "true").finish()
    };
    both("ro", "ro").expect_code(0);
    for (one, two) in [("ro", "rw"), ("rw", "ro"), ("rw", "rw")] {
        let refused = both(one, two).expect_code(125);
        assert!(
            refused.errors().contains("same file"),
            "{}",
            refused.errors()
        );
    }
}

#[test]
fn a_kept_workspace_and_a_disk_are_both_shut_down_cleanly() {
    let place = or_skip!(Place::new());
    let flags = ["--keep", "--name", "kept", "--disk", &place.data("rw")];
    let finished = place
        .run(&flags, "echo root >/file; echo disk >/data/file")
        .finish()
        .expect_code(0);
    assert_eq!(finished.json()["finalState"], "halted");
    fsck(&place.disk).unwrap();
    fsck(&place.host.state().join("workspaces/kept/rootfs.ext4")).unwrap();
}
