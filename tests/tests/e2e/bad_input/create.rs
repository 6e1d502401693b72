//! Each flag of `create` with a wrong value.

use std::process::Command;

use super::*;

/// What must not exist afterwards: a workspace, or a root of the store for one.
#[track_caller]
fn assert_nothing_created(host: &Host) {
    for directory in ["workspaces", "cas/roots"] {
        let entries = std::fs::read_dir(host.state().join(directory));
        let left: Vec<_> = (entries.into_iter().flatten())
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| directory == "workspaces" || name.to_string_lossy().contains("work"))
            .collect();
        assert!(left.is_empty(), "{directory}: {left:?}");
    }
}

#[track_caller]
fn refused_create(host: &Host, flags: &[&str], code: i32, names: &[&str]) {
    let mut invocation = host.microagent(["--quiet", "--engine", "qemu", "create"]);
    for flag in flags {
        invocation.argument(*flag);
    }
    refused(host, &mut invocation, code, names);
    assert_nothing_created(host);
}

#[test]
fn a_wrong_value_of_each_flag_of_create_is_named() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(Host::new());
    for (flags, names) in [
        (&["A_b"][..], &["workspace name \"A_b\"", "lowercase"][..]),
        (&["a", "b"], &["b", "--help"]),
        (&["--name", ""], &["workspace name \"\""]),
        (
            &["--name", "a", "--id", "b"],
            &["--name a", "--id b", "one of them"],
        ),
        (&["a", "--id", "b"], &["name a", "b", "give one name"]),
        (&[], &["no name", "create NAME --image REF"]),
        (
            &["a", "--restart", "sometimes"],
            &["sometimes", "on-failure"],
        ),
        (
            &["a", "--shell", "bash"],
            &["\"bash\"", "--shell /bin/bash"],
        ),
        (&["a", "--shell", ""], &["\"\"", "--shell /bin/bash"]),
        (&["a", "--hostname=-x-"], &["\"-x-\"", "labels"]),
        (
            &["a", "--entrypoint", ""],
            &["--entrypoint is empty", "omit it"],
        ),
        (
            &["a", "--entrypoint", "ls", "--image-command"],
            &["--entrypoint", "--image-command"],
        ),
        (&["a", "--env", "=x"], &["--env", "KEY=VALUE"]),
        (&["a", "--disk", "x"], &["--disk \"x\"", "NAME=PATH:/MOUNT"]),
        (&["a", "--disk", "d=/x:/:ro"], &["\"/\"", "/data"]),
        (
            &["a", "--bundle", "x=y"],
            &["--bundle \"x=y\"", "NAME=TAR:/MOUNT"],
        ),
        (
            &["a", "--output", "x"],
            &["--output \"x\"", "NAME=/guest/path"],
        ),
        (&["a", "--output", "x=y"], &["\"y\"", "NAME=/guest/path"]),
        (&["a", "--profile", "huge"], &["huge", "tiny, small"]),
        (&["a", "--memory", "1"], &["--memory 1", "32"]),
        (&["a", "--memory", "1G"], &["--memory \"1G\"", "512"]),
        (&["a", "--cpus", "0"], &["--cpus 0", "1"]),
        (&["a", "--size-mib", "x"], &["--size-mib \"x\"", "1024"]),
        (&["a", "--timeout", "0"], &["--timeout 0", "1 second"]),
        (&["a", "--ttl", "1h"], &["--ttl \"1h\"", "--ttl 60"]),
        (
            &["a", "--on-idle", "suspend"],
            &[
                "--on-idle needs --ttl",
                "as in: --ttl 600 --on-idle suspend",
            ],
        ),
        (
            &["a", "--ttl", "9", "--on-idle", "pause"],
            &["--on-idle \"pause\"", "stop or suspend"],
        ),
        (
            &["a", "--mediation", "x"],
            &["--mediation \"x\"", "PORT=HOST:PORT"],
        ),
        (&["a", "--mediation", "1=x"], &["\"x\"", "127.0.0.1:8000"]),
        (
            &["a", "--mediation-optional"],
            &["--mediation-optional without"],
        ),
        (&["a", "--network", "x"], &["\"x\"", "isolated"]),
        (
            &["a", "--network-interface", "br0"],
            &["--network-interface", "--network bridged"],
        ),
        (
            &["a", "--network", "bridged"],
            &["bridged needs a bridge", "--network-interface BRIDGE"],
        ),
        (
            &[
                "a",
                "--network",
                "bridged",
                "--network-interface",
                "Wi-Fi (en0)",
            ],
            &[
                "\"Wi-Fi (en0)\"",
                "display names",
                "--network-interface br0",
            ],
        ),
        (&["a", "--publish", "80"], &["--publish \"80\"", "8080:80"]),
        (
            &["a", "--publish", "80:80", "--network", "isolated"],
            &["publishes no ports", "--network user"],
        ),
        (&["a", "--rootfs", "x"], &["--rootfs needs --id", "--id ID"]),
        (
            &["--id", "a", "--rootfs", "x", "--image", "y"],
            &["--image conflicts with --rootfs", "one of them"],
        ),
        (
            &["--id", "a", "--rootfs", "x", "--image-command"],
            &["imageCommand conflicts with rootfs"],
        ),
        (
            &["--id", "a", "--rootfs", "x", "--mke2fs", "/y"],
            &["--mke2fs conflicts with rootfs"],
        ),
        (
            &["a", "--file", "x", "--request", "y"],
            &["--file", "--request"],
        ),
        (&["a", "--privileged"], &["--privileged", "omit it"]),
        (&["a", "--exec", "x"], &["--exec"]),
        (&["a", "--dry-rn"], &["--dry-rn", "--dry-run"]),
        (&["a", "--memory"], &["--memory", "--help"]),
    ] {
        refused_create(&host, flags, 2, names);
    }
    for (flags, names) in [
        (&["a", "--image", ""][..], &["image reference"][..]),
        (&["a", "--image", "B AD"], &["B AD"]),
        (
            &["a", "--file", "/no/file"][..],
            &["/no/file", "No such file"][..],
        ),
        (&["a", "--file", "/tmp"], &["/tmp", "s a directory"]),
        (
            &["a", "--request", "/no/file"],
            &["/no/file", "No such file"],
        ),
        (
            &["a", "--env-file", "/no/file"],
            &["/no/file", "No such file"],
        ),
        (
            &["a", "--disk", "d=/no/x:/d:ro"],
            &["disk d (/no/x)", "No such file"],
        ),
        (
            &["a", "--supervisor", "/no/file"],
            &["--supervisor", "/no/file", "omit"],
        ),
        (
            &["--id", "a", "--rootfs", "/no/file"],
            &["/no/file", "No such file"],
        ),
    ] {
        refused_create(&host, flags, 1, names);
        let dry = [flags, &["--dry-run"]].concat();
        refused_create(&host, &dry, 1, names);
    }
    assert!(
        !host.state().join("cas/blobs").exists(),
        "the store was created"
    );
    std::fs::write(host.path("file"), "").unwrap();
    let state = host.path("file").display().to_string();
    refused_create(&host, &["a", "--state-dir", &state], 1, &[&state]);
}

/// What is only found out when the image and the kernel are there.
#[test]
fn what_a_workspace_cannot_be_made_of_is_named() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(Host::with_kernel());
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("latest");
    for (flags, code, names) in [
        (
            &["--kernel", "/etc/passwd"][..],
            1,
            &["/etc/passwd", "kernel"][..],
        ),
        (&["--kernel", "/no/file"], 1, &["/no/file"]),
        (
            &["--bundle", "b=/no/file:/b:ro"],
            1,
            &["/no/file", "No such file"],
        ),
        (
            &["--bundle", "b=/etc/passwd:/b:ro"],
            1,
            &["/etc/passwd", "tar"],
        ),
        (&["--mke2fs", "/no/file"], 1, &["/no/file"]),
        (&["--size-mib", "1"], 1, &["--size-mib", "or more"]),
        (&["--memory", "32"], 2, &["--memory 32", "or more"]),
    ] {
        let flags = [&["a", "--image", &image][..], flags].concat();
        refused_create(&host, &flags, code, names);
    }
    refused_create(&host, &["a", "--image", "oci:/no/such:1"], 1, &["/no/such"]);
}

/// A root file system is checked before anything is done, also with `--dry-run`.
#[test]
fn a_file_that_is_not_a_root_file_system_is_named() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(Host::new());
    let script = "export PATH=$PATH:/usr/sbin; mkdir directory; mkfifo fifo; head -c 100k /dev/zero >zeros; : >empty
        mkfs.ext4 -q whole 8M && head -c 5M whole >cut && cp whole unclean && debugfs -w -R 'feature needs_recovery' unclean 2>/dev/null
        cp whole blank && dd if=/dev/zero of=blank bs=1 seek=1028 count=4 conv=notrunc 2>/dev/null
        printf '{\"name\": \"a\", \"rootfs\": \"cut\"}' >request.json";
    host.shell(script).finish().expect_code(0);
    let path = |name: &str| host.path(name).display().to_string();
    for (name, code, names) in [
        ("none", 1, &["the root file system", "No such file"][..]),
        ("directory", 1, &["not a regular file", "mke2fs -t ext4 -d"]),
        ("fifo", 1, &["not a regular file"]),
        ("zeros", 1, &["no ext4", "mkfs.ext4"]),
        ("empty", 1, &["no ext4", "mkfs.ext4"]),
        ("blank", 1, &["no ext4", "mkfs.ext4"]),
        (
            "cut",
            1,
            &[
                "truncated",
                "8388608 bytes",
                "only 5242880",
                "copy it again",
            ],
        ),
        ("unclean", 1, &["not unmounted cleanly", "e2fsck -p"]),
    ] {
        let path = path(name);
        let names = [&[&*path], names].concat();
        let flags = ["--id", "a", "--rootfs", &path];
        refused_create(&host, &flags, code, &names);
        refused_create(&host, &[&flags[..], &["--dry-run"]].concat(), code, &names);
    }
    refused_create(
        &host,
        &["--json", &path("request.json")],
        1,
        &[&path("cut"), "truncated"],
    );
    let small = ["--id", "a", "--rootfs", &path("whole"), "--size-mib", "7"];
    refused_create(&host, &small, 2, &["--size-mib 7", "8 MiB", "or more"]);
    assert!(
        !host.state().join("cas/blobs").exists(),
        "the store was created"
    );
    // One that a VM writes to.
    let mut writer = Command::new("flock");
    writer.args(["--exclusive", "--no-fork", &path("whole"), "sleep", "1000"]);
    let mut writer = writer.spawn().unwrap();
    let flags = ["--id", "a", "--rootfs", &path("whole")];
    while Command::new("flock")
        .args(["--shared", "--nonblock", &path("whole"), "true"])
        .status()
        .unwrap()
        .success()
    {}
    refused_create(&host, &flags, 1, &[&path("whole"), "in use"]);
    writer.kill().unwrap();
    writer.wait().unwrap();
}

/// A value of a document has file, line and field; one of a flag, the flag.
#[test]
fn a_value_of_a_document_is_named_with_its_line_and_field() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(Host::new());
    for (line, flags, names) in [
        (
            "resources: {memoryMiB: 1}",
            &[][..],
            &[
                "microagent: a.yaml:2: resources.memoryMiB 1 is below the minimum of 32 MiB",
                "a whole number from 32",
            ][..],
        ),
        (
            "resources: {memoryMiB: 64}",
            &["--memory", "1"],
            &["microagent: --memory 1 is below", "--memory 512"],
        ),
        (
            "env: {A: x, 'B=C': y}",
            &[],
            &["microagent: a.yaml:2: env.B=C: \"B=C\" is not the name"],
        ),
        (
            "disks:\n  - name: d\n    path: /x\n    mountpoint: /sys/x",
            &["--disk", "e=/x:/e:ro"],
            &["microagent: a.yaml:5: disks[0].mountpoint: invalid mount point \"/sys/x\""],
        ),
        (
            "image: B AD",
            &["--env", "A=1"],
            &["microagent: a.yaml:2: image: \"B AD\""],
        ),
        (
            "image: good",
            &["--image", "B AD"],
            &["microagent: \"B AD\""],
        ),
    ] {
        std::fs::write(host.path("a.yaml"), format!("name: a\n{line}\n")).unwrap();
        let flags = [&["--file", "a.yaml", "--dry-run"][..], flags].concat();
        let code = if line.starts_with("image") { 1 } else { 2 };
        refused_create(&host, &flags, code, names);
    }
    // Of a request, also from standard input.
    let request = "{\n\"name\": \"a\",\n\"network\": {\"forwards\": [\n{\"hostPort\": 1, \"guestPort\": 0}]}}";
    let words = ["--engine", "qemu", "create", "--json", "-", "--dry-run"];
    let refused = host.microagent(words).input(request).finish();
    assert_eq!(refused.code, Some(2));
    let errors = refused.errors();
    let expected = "microagent: standard input:4: network.forwards[0]: a port to publish is from 1";
    assert!(errors.starts_with(expected), "{errors}");
}

/// Files of a specification: the line and the field, or the file of the host.
#[test]
fn files_that_cannot_be_copied_are_named() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(Host::new());
    std::fs::create_dir(host.path("directory")).unwrap();
    std::fs::write(host.path("file"), "").unwrap();
    let here = |name: &str| host.path(name).display().to_string();
    for (entry, code, names) in [
        ("dst: /a", 2, &["a.yaml:3: field src is missing"][..]),
        ("src: file", 2, &["a.yaml:3: field dst is missing"]),
        (
            "{src: file, dst: a}",
            2,
            &["a.yaml:3: ", "dst: an absolute path"],
        ),
        (
            "{src: file, dst: /a/../b}",
            2,
            &["a.yaml:3: ", "without .."],
        ),
        (
            "{src: file, dst: /a, mode: rw}",
            2,
            &["a.yaml:3: ", "\"0644\""],
        ),
        (
            "{src: file, dst: /a, mode: 0644}",
            2,
            &["a.yaml:3: ", "in quotes"],
        ),
        (
            "{src: file, dst: /x}\n  - {src: file, dst: //x}",
            2,
            &["a.yaml:3: files[1] has the dst \"//x\" of files[0]"],
        ),
        (
            "{src: none, dst: /a}",
            1,
            &["a.yaml:3: files[0]: src ", &here("none"), "No such file"],
        ),
        (
            "{src: file, dst: /b}\n  - {src: /dev/null, dst: /a}",
            2,
            &["a.yaml:4: files[1]: src /dev/null is not"],
        ),
        (
            "{src: directory, dst: /a, mode: '0755'}",
            2,
            &["a.yaml:3: files[0]: mode is for a file", &here("directory")],
        ),
    ] {
        std::fs::write(
            host.path("a.yaml"),
            format!("name: a\nfiles:\n  - {entry}\n"),
        )
        .unwrap();
        refused_create(&host, &["--file", "a.yaml"], code, names);
        refused_create(&host, &["--file", "a.yaml", "--dry-run"], code, names);
    }
}
