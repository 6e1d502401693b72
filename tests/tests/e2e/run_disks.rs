//! `run --disk` and `--bundle` on engine `qemu`: the cases that are not in the list for every engine
//! (`run_list.rs`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use microagent_tests::image::{Layout, Tar};
use microagent_tests::microagent::{Host, Invocation};
use microagent_tests::{Error, or_skip, tool};
use rustix::process::Signal;

/// An environment, an image, and an empty ext4 disk created with mke2fs.
struct Setup {
    host: Host,
    layout: Layout,
    disk: PathBuf,
}

impl Setup {
    fn new() -> Result<Setup, Error> {
        tool::find("qemu-system-x86_64")?;
        let host = Host::with_kernel()?;
        let disk = host.path("disk.img");
        let arguments = ["-q", "-t", "ext4", &text(&disk), "32M"];
        tool::run("mke2fs", arguments)?;
        Ok(Setup {
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

/// Checks a disk with `e2fsck -fn`.
fn fsck(disk: &Path) -> Result<(), Error> {
    tool::run("e2fsck", ["-fn".as_ref(), disk.as_os_str()]).map(drop)
}

fn superblock(disk: &Path) -> String {
    tool::text("dumpe2fs", ["-h".as_ref(), disk.as_os_str()]).unwrap()
}

#[test]
fn the_document_lists_the_disks() {
    let setup = or_skip!(Setup::new());
    let bundle = setup.bundle("bundle.tar");
    let tar = format!("tar={}:/srv/tar:rw", bundle.display());
    let flags = ["--bundle", &tar, "--disk", &setup.data("ro")];
    let first = setup.run(&flags, "true").finish().expect_code(0).json();
    let second = setup.run(&flags, "true").finish().expect_code(0).json();
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
        { "name": "data", "mount": "/data", "readOnly": true, "path": text(&setup.disk) },
        { "name": "tar", "mount": "/srv/tar", "readOnly": false, "digest": node(&first)["output"] },
    ]);
    for document in [first, second] {
        assert_eq!(document["disks"], expected);
        assert_eq!(document["finalState"], "stopped");
    }
    setup.host.assert_clean();
}

#[test]
fn a_written_disk_is_clean_even_if_processes_still_use_it() {
    let setup = or_skip!(Setup::new());
    let left_running = "cd /data && echo here >file && mkdir inner && mount -t tmpfs none inner
        sh -c 'while :; do echo x >>busy; done' >/dev/null 2>&1 &
        exit 3";
    setup
        .run(&["--disk", &setup.data("rw")], left_running)
        .finish()
        .expect_code(3);
    fsck(&setup.disk).unwrap();
    let superblock = superblock(&setup.disk);
    assert!(!superblock.contains("needs_recovery"), "{superblock}");
    let read = setup
        .run(&["--disk", &setup.data("ro")], "cat /data/file")
        .finish()
        .expect_code(0);
    assert_eq!(read.json()["result"]["stdout"], "here\n");
    setup.host.assert_clean();
}

#[test]
fn a_disk_has_many_readers_or_one_writer() {
    let setup = or_skip!(Setup::new());
    let at_work = "echo at work >&2; sleep 1000";
    let holding = |mode: &str| {
        let mut invocation = setup.host.microagent(["--engine", "qemu", "run"]);
        for argument in [
            "--image",
            &setup.layout.reference("latest"),
            "--disk",
            &setup.data(mode),
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
        let finished = setup
            .run(&["--disk", &setup.data(mode)], "true")
            .finish()
            .expect_code(125);
        let error: serde_json::Value = serde_json::from_slice(&finished.stderr).unwrap();
        assert_eq!(
            error["error"]["message"],
            format!("disk {} is in use by another VM", setup.disk.display())
        );
        assert_eq!(
            error["error"]["remediation"],
            "stop the other VM first, or attach a copy of the disk"
        );
    };
    let reader = holding("ro");
    setup
        .run(&["--disk", &setup.data("ro")], "true")
        .finish()
        .expect_code(0);
    refused("rw");
    let copy = setup.host.path("copy.img");
    std::fs::copy(&setup.disk, &copy).unwrap();
    let copy = format!("data={}:/data:rw", copy.display());
    let copied = setup.run(&["--disk", &copy], "true").finish();
    copied.expect_code(0);
    reader.signal(Signal::INT);
    reader.finish().expect_code(130);

    // Immediately: the exiting first run releases the disk quickly.
    let writer = holding("rw");
    refused("ro");
    writer.signal(Signal::KILL);
    writer.finish();
    // The disk was not unmounted; a guest with write access replays its journal.
    let read_only = setup
        .run(&["--disk", &setup.data("ro")], "true")
        .finish()
        .expect_code(125);
    assert!(
        read_only.errors().contains("e2fsck -p"),
        "{}",
        read_only.errors()
    );
    setup
        .run(&["--disk", &setup.data("rw")], "true")
        .finish()
        .expect_code(0);
    fsck(&setup.disk).unwrap();
    setup.host.assert_clean();
}

#[test]
fn an_interrupt_leaves_nothing_but_the_disk() {
    let setup = or_skip!(Setup::new());
    let bundle = format!("tar={}:/tar:rw", setup.bundle("bundle.tar").display());
    let mut invocation = setup.host.microagent(["--engine", "qemu", "run"]);
    for argument in [
        "--image",
        &setup.layout.reference("latest"),
        "--bundle",
        &bundle,
        "--disk",
        &setup.data("rw"),
        "--exec",
        "echo kept >/data/kept; sync; echo at work >&2; sleep 1000",
    ] {
        invocation.argument(argument);
    }
    let mut running = invocation.start();
    running.wait_for_error_text("at work");
    running.signal(Signal::TERM);
    running.finish().expect_code(143);
    setup.host.assert_clean();
    let read = setup
        .run(&["--disk", &setup.data("rw")], "cat /data/kept")
        .finish()
        .expect_code(0);
    assert_eq!(read.json()["result"]["stdout"], "kept\n");
}

#[test]
fn an_interrupt_while_a_bundle_is_built_leaves_nothing() {
    let setup = or_skip!(Setup::new());
    // One large file of zeros: small as a bundle, but slow to unpack.
    let script = "truncate -s 6G zeros && tar -cf - zeros | head -c 512 | gzip >large.tar.gz
        head -c 64M /dev/zero | gzip >part
        for n in $(seq 96); do cat part >>large.tar.gz; done; rm zeros part";
    let made = setup.host.shell(script).finish();
    made.expect_code(0);
    let tar = setup.host.path("large.tar.gz");
    let bundle = format!("large={}:/large:ro", tar.display());
    let running = setup.run(&["--bundle", &bundle], "true").start();
    let finished = running.signal_after(Duration::from_secs(1), Signal::INT);
    finished.expect_code(130);
    setup.host.assert_clean();
}

#[test]
fn the_maximum_number_of_disks_works_and_one_more_is_refused() {
    let setup = or_skip!(Setup::new());
    let bundles: Vec<String> = (1..=6)
        .map(|n| {
            let bundle = setup.bundle(&format!("b{n}"));
            format!("b{n}={}:/disks/{n}:ro", bundle.display())
        })
        .collect();
    let flags = |count: usize| {
        let flags = bundles[..count].iter();
        flags
            .flat_map(|bundle| ["--bundle", bundle])
            .collect::<Vec<_>>()
    };
    let five = setup
        .run(&flags(5), "for n in 1 2 3 4 5; do cat /disks/$n/name; done")
        .finish()
        .expect_code(0);
    assert_eq!(five.json()["result"]["stdout"], "b1b2b3b4b5");
    let six = setup.run(&flags(6), "true").finish().expect_code(125);
    assert!(
        six.errors().contains("supports 5 additional disks"),
        "{}",
        six.errors()
    );
    let networked = |count: usize, command: &str| {
        let mut run = setup.run(&flags(count), command);
        run.variable("MICROAGENT_NETWORK", "").finish()
    };
    let four = networked(4, "for n in 1 2 3 4; do cat /disks/$n/name; done").expect_code(0);
    assert_eq!(four.json()["result"]["stdout"], "b1b2b3b4");
    let five = networked(5, "true").expect_code(125);
    assert!(
        (five.errors()).contains("supports 4 additional disks beside a network, but 5 are given"),
        "{}",
        five.errors()
    );
    setup.host.assert_clean();
}

#[test]
fn the_same_file_twice_is_refused_unless_both_are_read_only() {
    let setup = or_skip!(Setup::new());
    let link = setup.host.path("link");
    std::fs::hard_link(&setup.disk, &link).unwrap();
    let other = |mode: &str| format!("other={}:/other:{mode}", link.display());
    let both = |one: &str, two: &str| {
        let flags = ["--disk", &setup.data(one), "--disk", &other(two)];
        setup.run(&flags, "true").finish()
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
    let setup = or_skip!(Setup::new());
    let flags = ["--keep", "--name", "kept", "--disk", &setup.data("rw")];
    let finished = setup
        .run(&flags, "echo root >/file; echo disk >/data/file")
        .finish()
        .expect_code(0);
    assert_eq!(finished.json()["finalState"], "halted");
    fsck(&setup.disk).unwrap();
    // Read from its disk, which a dirty journal would prevent.
    let copied = setup.host.path("copied");
    let copy = setup
        .host
        .microagent(["cp", "kept:/file"])
        .argument(&copied)
        .finish();
    copy.expect_code(0);
    assert_eq!(std::fs::read_to_string(copied).unwrap(), "root\n");
}
