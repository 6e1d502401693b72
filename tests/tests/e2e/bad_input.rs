//! Invalid and malicious input: each is refused with a non-zero exit code and one or two lines that
//! name the input and a remediation, and leaves nothing behind.

mod create;
mod usage;
mod verbs;

use std::path::Path;

use microagent_tests::fault_proxy::{Fault, FaultProxy, Rule};
use microagent_tests::image::{Layout, Tar};
use microagent_tests::microagent::{Finished, Host, Invocation};
use microagent_tests::registry::Registry;
use microagent_tests::{Error, lab, or_skip, root_or_skip, tool};

/// The exit code of `run` for a failure of microagent itself.
const OURS: i32 = 125;

/// Runs and checks the refusal: the exit code; on standard error one line `microagent: …` that
/// contains all of `names`, and at most one more; nothing on standard output; nothing left behind.
#[track_caller]
fn refused(host: &Host, invocation: &mut Invocation, code: i32, names: &[&str]) -> Finished {
    let finished = invocation.finish().expect_code(code);
    assert_eq!(finished.text(), "");
    let errors = finished.errors();
    let lines: Vec<&str> = errors.lines().collect();
    assert!(
        (1..=2).contains(&lines.len()),
        "not one or two lines:\n{errors}"
    );
    assert!(lines[0].starts_with("microagent: "), "{errors}");
    for name in names {
        assert!(errors.contains(name), "{name:?} is not named:\n{errors}");
    }
    host.assert_clean();
    finished
}

/// `microagent --quiet run --engine qemu --image IMAGE --exec true`, plus flags.
fn run(host: &Host, image: &str, flags: &[&str]) -> Invocation {
    let mut invocation = host.microagent([
        "--quiet", "--engine", "qemu", "run", "--image", image, "--exec", "true",
    ]);
    for flag in flags {
        invocation.argument(*flag);
    }
    invocation
}

#[track_caller]
fn refused_image(image: &str, names: &[&str]) {
    let host = or_skip!(Host::with_kernel());
    refused(&host, &mut run(&host, image, &[]), OURS, names);
}

/// A registry that holds the busybox image as `test/image:1`.
fn registry() -> Result<(Registry, Layout), Error> {
    let registry = Registry::start()?;
    let layout = Layout::busybox()?;
    registry.push(&layout.reference("latest"), "test/image:1")?;
    Ok((registry, layout))
}

#[test]
fn an_unknown_image_is_named() {
    let (registry, _layout) = or_skip!(registry());
    let image = format!("{}/no/such:1", registry.address());
    refused_image(&image, &[&image]);
}

#[test]
fn an_unknown_tag_is_named() {
    let (registry, _layout) = or_skip!(registry());
    let image = format!("{}/test/image:none", registry.address());
    refused_image(&image, &[&image]);
}

#[test]
fn a_registry_that_refuses_the_connection_is_named() {
    // Nothing listens on port 1.
    refused_image("127.0.0.1:1/test/image:1", &["127.0.0.1:1", "refused"]);
}

#[test]
fn an_unknown_layout_and_an_unknown_tag_in_one_are_named() {
    refused_image("oci:/no/such/layout:1", &["/no/such/layout"]);
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("none");
    refused_image(&image, &[&layout.directory().display().to_string(), "none"]);
}

#[test]
fn an_unknown_archive_is_named() {
    refused_image("oci-archive:/no/such/file", &["/no/such/file"]);
    refused_image("docker-archive:/no/such/file", &["/no/such/file"]);
}

#[test]
fn an_invalid_reference_is_named() {
    refused_image("Not/A Reference", &["Not/A Reference"]);
}

#[track_caller]
fn refused_with_fault(fault: Fault, path: &str, names: &[&str]) {
    let (registry, layout) = or_skip!(registry());
    let rule = Rule {
        path: path.to_owned(),
        fault,
        times: None,
    };
    let proxy = or_skip!(FaultProxy::start(registry.address(), vec![rule]));
    let image = format!("{}/test/image:1", proxy.address());
    refused_image(&image, names);
    drop(layout);
}

#[test]
fn a_truncated_layer_is_refused() {
    refused_with_fault(Fault::CutAfter(100), "/blobs/", &["sha256:"]);
}

#[test]
fn a_blob_with_another_digest_is_refused() {
    refused_with_fault(Fault::FlipBitAt(50), "/blobs/", &["sha256:"]);
}

#[test]
fn a_corrupt_manifest_is_refused() {
    refused_with_fault(Fault::FlipBitAt(5), "/manifests/", &["test/image"]);
}

#[test]
fn the_status_of_a_failing_registry_is_named() {
    refused_with_fault(Fault::Status(500, Vec::new()), "/manifests/", &["500"]);
}

#[test]
fn a_request_that_fails_once_is_retried() {
    let (registry, _layout) = or_skip!(registry());
    let once = |path: &str, fault| Rule {
        path: path.to_owned(),
        fault,
        times: Some(1),
    };
    let rules = vec![
        once("/manifests/", Fault::Status(503, Vec::new())),
        once(
            "/manifests/",
            Fault::Status(429, vec!["Retry-After: 0".to_owned()]),
        ),
        once("/blobs/", Fault::CutAfter(100)),
        once("/blobs/", Fault::Status(500, Vec::new())),
    ];
    let proxy = or_skip!(FaultProxy::start(registry.address(), rules));
    let host = or_skip!(Host::new());
    let image = format!("{}/test/image:1", proxy.address());
    host.microagent([
        "rootfs",
        "build",
        "--allow-mutable",
        "--out",
        "out",
        "--image",
        &image,
    ])
    .finish()
    .expect_code(0);
    assert!(host.path("out").is_file());
}

/// Checks that an image with this layer is refused and that nothing outside was written.
#[track_caller]
fn refused_layer(tar: Tar, names: &[&str]) {
    let layout = or_skip!(Layout::busybox());
    layout.add_layer("latest", &tar.finish()).unwrap();
    refused_image(&layout.reference("latest"), names);
    assert!(!Path::new("/tmp/microagent-escaped").exists());
}

#[test]
fn a_layer_with_dot_dot_in_a_name_is_refused() {
    refused_layer(
        Tar::new().file("../../../../tmp/microagent-escaped", b"x"),
        &["../../../../tmp/microagent-escaped"],
    );
}

#[test]
fn a_layer_with_dot_dot_inside_a_name_is_refused() {
    refused_layer(
        Tar::new().file("bin/../../tmp/microagent-escaped", b"x"),
        &["bin/../../tmp/microagent-escaped"],
    );
}

/// `..` of the root directory is the root directory, as for a process in it.
#[test]
fn a_symbolic_link_in_a_layer_does_not_lead_out_of_the_image() {
    let layout = or_skip!(Layout::busybox());
    let tar = Tar::new()
        .symlink("way", "../../../../tmp")
        .file("way/microagent-escaped", b"x")
        .symlink("other", "/tmp")
        .file("other/microagent-escaped-2", b"x");
    layout.add_layer("latest", &tar.finish()).unwrap();
    let host = or_skip!(Host::new());
    host.microagent(["--quiet", "rootfs", "build", "--allow-mutable"])
        .argument("--out")
        .argument("out")
        .argument("--image")
        .argument(layout.reference("latest"))
        .finish()
        .expect_code(0);
    for name in ["/tmp/microagent-escaped", "/tmp/microagent-escaped-2"] {
        let stat = format!("stat {name}");
        let out = host.path("out");
        let found = tool::text("debugfs", ["-R".as_ref(), stat.as_ref(), out.as_os_str()]);
        assert!(found.unwrap().contains("Type: regular"), "{name}");
        assert!(!Path::new(name).exists());
    }
    host.assert_clean();
}

/// Forty links at most, as in Linux; an error of one line.
#[test]
fn a_loop_of_symbolic_links_in_a_layer_is_refused() {
    refused_layer(
        Tar::new()
            .symlink("one", "two")
            .symlink("two", "/one")
            .file("one/microagent-escaped", b"x"),
        &["one/microagent-escaped", "40 symbolic links"],
    );
}

#[test]
fn a_layer_with_a_hard_link_out_of_the_root_is_refused() {
    refused_layer(
        Tar::new().hard_link("passwd", "../../../../etc/passwd"),
        &["passwd"],
    );
}

#[test]
fn a_layer_with_a_hard_link_to_a_missing_file_is_refused() {
    refused_layer(
        Tar::new().hard_link("here", "no/such/file"),
        &["here", "no/such/file"],
    );
}

/// Container engines interpret an absolute name relative to the root of the image.
#[test]
fn an_absolute_name_in_a_layer_is_relative_to_the_images_root() {
    let layout = or_skip!(Layout::busybox());
    let tar = Tar::new().file("/tmp/microagent-escaped", b"x");
    layout.add_layer("latest", &tar.finish()).unwrap();
    let host = or_skip!(Host::new());
    let finished = host
        .microagent([
            "--quiet",
            "rootfs",
            "build",
            "--allow-mutable",
            "--out",
            "out",
        ])
        .argument("--image")
        .argument(layout.reference("latest"))
        .finish();
    assert!(!Path::new("/tmp/microagent-escaped").exists());
    if finished.code != Some(0) {
        assert!(
            finished.errors().contains("/tmp/microagent-escaped"),
            "{}",
            finished.errors()
        );
    }
    host.assert_clean();
}

#[test]
fn a_layer_that_is_not_an_archive_is_refused() {
    let layout = or_skip!(Layout::busybox());
    layout.add_layer("latest", &[b'x'; 2048]).unwrap();
    refused_image(&layout.reference("latest"), &["sha256:"]);
}

#[test]
fn an_image_for_another_architecture_is_refused() {
    let layout = or_skip!(Layout::busybox());
    layout
        .configure("latest", &["--architecture=arm64"])
        .unwrap();
    refused_image(&layout.reference("latest"), &["arm64", "amd64"]);
}

#[test]
fn an_image_without_a_shell_is_reported() {
    let layout = or_skip!(Layout::empty());
    let tar = Tar::new().directory("empty").finish();
    layout.add_layer("latest", &tar).unwrap();
    let host = or_skip!(Host::with_kernel());
    refused(
        &host,
        &mut run(&host, &layout.reference("latest"), &[]),
        127,
        &["/bin/sh"],
    );
}

#[test]
fn a_size_below_the_minimum_is_refused_with_the_minimum() {
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let mut tight = run(&host, &layout.reference("latest"), &["--size-mib", "1"]);
    let finished = refused(&host, &mut tight, OURS, &["--size-mib", "MiB"]);
    // The minimum in the message must work.
    let errors = finished.errors();
    let minimum = errors
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|number| number.parse::<u64>().ok())
        .find(|number| (2..1000).contains(number))
        .unwrap_or_else(|| panic!("no size is named: {errors}"));
    let minimum = minimum.to_string();
    run(
        &host,
        &layout.reference("latest"),
        &["--size-mib", &minimum],
    )
    .finish()
    .expect_code(0);
}

#[test]
fn a_file_that_is_not_a_kernel_is_named() {
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    let image = layout.reference("latest");
    refused(
        &host,
        &mut run(&host, &image, &["--kernel", "/etc/passwd"]),
        OURS,
        &["/etc/passwd", "kernel"],
    );
    refused(
        &host,
        &mut run(&host, &image, &["--kernel", "/no/such/kernel"]),
        OURS,
        &["/no/such/kernel"],
    );
    let mut install = host.microagent(["--quiet", "kernel", "install", "--from", "/etc/passwd"]);
    refused(&host, &mut install, 1, &["/etc/passwd", "kernel"]);

    // The distribution's image without the modules in its package.
    let image = or_skip!(lab::kernel()).image;
    let image = image.to_str().unwrap();
    let mut install = host.microagent(["--quiet", "kernel", "install", "--from", image]);
    let names = ["virtio_mmio, virtio_blk", "(.deb)", "kernel build"];
    refused(&host, &mut install, 1, &names);
    let doctor = host.microagent(["--json", "doctor"]).finish().json();
    assert!(doctor["kernel"]["installed"].is_null(), "{doctor}");
}

/// The script runs in an environment without `/dev/kvm` and without QEMU in the path.
#[test]
fn missing_kvm_and_qemu_are_reported() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let script = r#"mount -t tmpfs dev /dev && mknod -m 666 /dev/null c 1 3 &&
        mknod -m 666 /dev/urandom c 1 9 && mkdir /dev/shm &&
        PATH="$(dirname "$(command -v microagent)")" microagent --quiet run "$IMAGE" true"#;
    let mut invocation = host.shell_with_mounts(script);
    invocation.variable("IMAGE", layout.reference("latest"));
    refused(&host, &mut invocation, OURS, &["/dev/kvm", "qemu", "apt"]);
}

/// Checks that a run with this disk or bundle is refused and does not change the file. `FILE` in
/// `value` stands for the path of a file with this content.
#[track_caller]
fn refused_disk(flag: &str, value: &str, content: &[u8], names: &[&str]) {
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let file = host.path("file");
    std::fs::write(&file, content).unwrap();
    let path = file.display().to_string();
    let mut invocation = run(
        &host,
        &layout.reference("latest"),
        &[flag, &value.replace("FILE", &path)],
    );
    refused(&host, &mut invocation, OURS, names);
    assert!(std::fs::read(&file).unwrap() == content);
}

#[test]
fn an_invalid_disk_is_named() {
    refused_disk(
        "--disk",
        "data=/no/such/disk:/data:ro",
        b"",
        &["data", "/no/such/disk", "No such file"],
    );
    refused_disk("--disk", "data=/tmp:/data:ro", b"", &["/tmp", "--bundle"]);
    for content in [&b""[..], &[b'x'; 64 << 10]] {
        let names = ["data", "/file", "no ext4", "mkfs.ext4"];
        refused_disk("--disk", "data=FILE:/data:rw", content, &names);
    }
    // The magic number of a superblock and nothing else.
    let mut damaged = vec![0; 64 << 10];
    damaged[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
    refused_disk(
        "--disk",
        "data=FILE:/data:rw",
        &damaged,
        &["disk data", "/data"],
    );
}

#[test]
fn an_invalid_bundle_is_named() {
    let missing = "data=/no/such/bundle:/data:ro";
    refused_disk(
        "--bundle",
        missing,
        b"",
        &["/no/such/bundle", "No such file"],
    );
    refused_disk("--bundle", "data=/tmp:/data:ro", b"", &["/tmp", "tar -C"]);
    let ours = "data=FILE:/data:ro";
    refused_disk("--bundle", ours, b"", &["/file", "empty"]);
    refused_disk("--bundle", ours, &[b'x'; 2048], &["/file", "offset 0"]);
    refused_disk(
        "--bundle",
        ours,
        b"\x04\x22\x4d\x18x",
        &["/file", "lz4", "zstd"],
    );
    refused_disk(
        "--bundle",
        ours,
        &Tar::new().file("../up", b"x").finish(),
        &["/file", "\"../up\""],
    );
    let tar = Tar::new().file("x", b"x").finish();
    refused_disk(
        "--bundle",
        "data=FILE:/etc/group/x:ro",
        &tar,
        &["data", "/etc/group/x", "directory"],
    );
}

/// Prepares a run in a mount namespace where `mount` has changed the state directory.
fn run_on(host: &Host, mount: &str, image: &str) -> Invocation {
    let script = format!(r#"{mount} && exec microagent --quiet --engine qemu run "$IMAGE" true"#);
    let mut invocation = host.shell_with_mounts(&script);
    invocation.variable("IMAGE", image);
    invocation
}

#[test]
fn a_read_only_state_directory_is_named() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let mount = r#"mount --bind "$MICROAGENT_STATE_DIR" "$MICROAGENT_STATE_DIR" &&
        mount -o remount,bind,ro "$MICROAGENT_STATE_DIR""#;
    let state = host.state().display().to_string();
    refused(
        &host,
        &mut run_on(&host, mount, &layout.reference("latest")),
        OURS,
        &[&state, "ead-only"],
    );
}

#[test]
fn a_full_state_directory_is_named() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    // Enough space for the existing kernel, but not for the image.
    let mount = r#"mkdir full && mount -t tmpfs -o size=400M full full && cp -a "$MICROAGENT_STATE_DIR" full/ &&
        head -c 500M /dev/zero >full/rest 2>/dev/null;
        export MICROAGENT_STATE_DIR="$PWD/full/state""#;
    refused(
        &host,
        &mut run_on(&host, mount, &layout.reference("latest")),
        OURS,
        &["full/state", "space"],
    );
}

#[test]
fn a_state_directory_that_is_a_file_is_named() {
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    let file = host.path("file");
    std::fs::write(&file, "x").unwrap();
    let mut invocation = run(&host, &layout.reference("latest"), &[]);
    invocation.variable("MICROAGENT_STATE_DIR", &file);
    refused(&host, &mut invocation, OURS, &[&file.display().to_string()]);
}

#[test]
fn with_json_the_error_is_the_last_line() {
    let host = or_skip!(Host::new());
    let finished = host
        .microagent([
            "--json",
            "run",
            "--image",
            "oci:/no/such/layout:1",
            "--exec",
            "true",
        ])
        .finish()
        .expect_code(OURS);
    assert_eq!(finished.text(), "");
    let error = finished.error();
    assert_eq!(error["kind"], "notFound", "{error}");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("/no/such/layout"),
        "{error}"
    );
    assert_eq!(error["retryable"], false, "{error}");
}

#[test]
fn engine_qemu_takes_no_snapshots() {
    let host = or_skip!(Host::new());
    let mut warm = host.microagent(["--engine", "qemu", "warm"]);
    let names = ["engine qemu takes no snapshots"];
    refused(&host, &mut warm, 1, &names);
    let mut far = host.microagent(["--engine", "qemu", "warm", "--network", "moon"]);
    refused(&host, &mut far, 2, &["moon", "the modes are"]);
}
