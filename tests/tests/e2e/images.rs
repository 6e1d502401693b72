//! Root file systems of real images, compared with the results of independent tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use microagent_tests::image::{self, Layout, Tar};
use microagent_tests::microagent::{Host, Invocation};
use microagent_tests::registry::{CREDENTIALS, Registry};
use microagent_tests::{Error, binaries, or_skip, program, root_or_skip, tool, tree};

/// `microagent rootfs build --allow-mutable --out OUT --image IMAGE`.
fn build(host: &Host, image: &str, out: &str) -> Invocation {
    let mut invocation = host.microagent([
        "--quiet",
        "rootfs",
        "build",
        "--allow-mutable",
        "--out",
        out,
        "--image",
        image,
    ]);
    invocation.deadline(Duration::from_secs(300));
    invocation
}

/// Unpacks an image of a layout with umoci and lists the tree.
fn unpacked(layout: &Path, tag: &str) -> Result<Vec<String>, Error> {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle");
    let image = format!("{}:{tag}", layout.display());
    tool::run(
        "umoci",
        ["unpack", "--image", &image, &bundle.display().to_string()],
    )?;
    tree::list(&bundle.join("rootfs"))
}

/// Checks the file system with e2fsck.
fn assert_fsck_clean(image: &Path) {
    tool::run("e2fsck", ["-fn".as_ref(), image.as_os_str()]).unwrap();
}

/// Builds, checks the file system, and compares it with umoci's tree.
#[track_caller]
fn assert_is_what_umoci_unpacks(image: &str, layout: &Path, tag: &str, flags: &[&str]) {
    let host = or_skip!(Host::new());
    let mut invocation = build(&host, image, "out");
    for flag in flags {
        invocation.argument(*flag);
    }
    invocation.finish().expect_code(0);
    let out = host.path("out");
    assert_fsck_clean(&out);
    let ours = tree::list_ext4(&out).unwrap();
    let theirs = unpacked(layout, tag).unwrap();
    let difference = tree::difference(&theirs, &ours);
    assert!(difference.is_empty(), "- umoci, + ours:\n{difference}");
    host.assert_clean();
}

fn debian(layout: &Path) -> String {
    format!("oci:{}:debian", layout.display())
}

#[test]
fn a_debian_image_of_several_layers_is_what_umoci_unpacks() {
    root_or_skip!();
    let layout = or_skip!(image::debian());
    assert_is_what_umoci_unpacks(&debian(&layout), &layout, "debian", &[]);
}

/// With `--mke2fs`, files are written by `debugfs`, which reads one command per line, so a name with
/// a line break is refused.
#[test]
fn with_mke2fs_the_tree_is_the_same() {
    root_or_skip!();
    let shared = or_skip!(image::debian());
    let mke2fs = or_skip!(tool::find("mke2fs")).display().to_string();
    let flags = ["--mke2fs", &mke2fs];

    let host = or_skip!(Host::new());
    let mut invocation = build(&host, &debian(&shared), "out");
    let refused = invocation.argument(flags[0]).argument(flags[1]).finish();
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.errors().contains("/odd/new"),
        "{}",
        refused.errors()
    );
    assert!(!host.path("out").exists());
    host.assert_clean();

    let layout = or_skip!(Layout::copy_of(&shared));
    let without = Tar::new().file("odd/.wh.new\nline", b"").finish();
    layout.add_layer("debian", &without).unwrap();
    let image = layout.reference("debian");
    assert_is_what_umoci_unpacks(&image, layout.directory(), "debian", &flags);
}

#[test]
fn from_a_registry_the_tree_is_the_same() {
    root_or_skip!();
    let layout = or_skip!(image::debian());
    let registry = or_skip!(Registry::start());
    registry.push(&debian(&layout), "test/debian:1").unwrap();
    let image = format!("{}/test/debian:1", registry.address());
    assert_is_what_umoci_unpacks(&image, &layout, "debian", &[]);
}

/// Copies the image to `destination`, builds `reference`, and compares; `PATH` in both stands for a
/// temporary path.
#[track_caller]
fn assert_survives_a_copy(destination: &str, reference: &str, flags: &[&str]) {
    root_or_skip!();
    let layout = or_skip!(image::debian());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy").display().to_string();
    let mut arguments = vec!["copy", "--quiet", "--insecure-policy"];
    arguments.extend_from_slice(flags);
    let (source, destination) = (debian(&layout), destination.replace("PATH", &path));
    arguments.extend_from_slice(&[&source, &destination]);
    or_skip!(tool::run("skopeo", arguments));
    let image = reference.replace("PATH", &path);
    assert_is_what_umoci_unpacks(&image, &layout, "debian", &[]);
}

#[test]
fn from_an_oci_archive_the_tree_is_the_same() {
    assert_survives_a_copy("oci-archive:PATH:debian", "oci-archive:PATH", &[]);
}

#[test]
fn from_a_docker_archive_the_tree_is_the_same() {
    assert_survives_a_copy(
        "docker-archive:PATH:test/debian:1",
        "docker-archive:PATH",
        &[],
    );
}

#[test]
fn with_zstd_layers_the_tree_is_the_same() {
    let flags = ["--dest-compress-format", "zstd"];
    assert_survives_a_copy("oci:PATH:debian", "oci:PATH:debian", &flags);
}

#[test]
fn python_in_the_debian_image_runs() {
    root_or_skip!();
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(image::debian());
    let host = or_skip!(Host::with_kernel());
    let program = "import sys, hashlib; print(sum(range(101)), sys.version_info.major, \
                   hashlib.sha256(b'x').hexdigest()[:8])";
    let finished = host
        .microagent([
            "--engine",
            "qemu",
            "run",
            &debian(&layout),
            "python3",
            "-c",
            program,
        ])
        .deadline(Duration::from_secs(240))
        .finish()
        .expect_code(0);
    assert_eq!(finished.text(), "5050 3 2d711642\n");
    host.assert_clean();
}

#[test]
fn the_password_is_read_from_the_file_in_the_environment() {
    let registry = or_skip!(Registry::with_password());
    let layout = or_skip!(Layout::busybox());
    registry
        .push(&layout.reference("latest"), "test/image:1")
        .unwrap();
    let image = format!("{}/test/image:1", registry.address());
    let host = or_skip!(Host::new());

    let refused = build(&host, &image, "out").finish().expect_code(1);
    assert!(
        refused.errors().contains("REGISTRY_AUTH_FILE"),
        "{}",
        refused.errors()
    );
    assert!(!host.path("out").exists());

    // The file is written by skopeo.
    let file = host.path("auth.json");
    let (user, password) = CREDENTIALS;
    or_skip!(tool::run(
        "skopeo",
        [
            "login",
            "--tls-verify=false",
            "--authfile",
            &file.display().to_string(),
            "--username",
            user,
            "--password",
            password,
            registry.address(),
        ]
    ));
    build(&host, &image, "out")
        .variable("REGISTRY_AUTH_FILE", &file)
        .finish()
        .expect_code(0);
    assert_fsck_clean(&host.path("out"));
}

#[test]
fn builds_are_reproducible() {
    let layout = or_skip!(Layout::busybox());
    let build_once = || {
        let host = Host::new()?;
        build(&host, &layout.reference("latest"), "out")
            .finish()
            .expect_code(0);
        fs::read(host.path("out")).map_err(|source| Error::File {
            path: PathBuf::from("out"),
            source,
        })
    };
    let first = or_skip!(build_once());
    let second = or_skip!(build_once());
    assert!(first == second, "two builds of one image differ");
}

#[test]
fn a_mutable_tag_is_refused_unless_allowed() {
    let registry = or_skip!(Registry::start());
    let layout = or_skip!(Layout::busybox());
    registry
        .push(&layout.reference("latest"), "test/image:1")
        .unwrap();
    let host = or_skip!(Host::new());
    let name = format!("{}/test/image", registry.address());
    let tagged = format!("{name}:1");
    let refused = host
        .microagent([
            "--quiet", "rootfs", "build", "--out", "out", "--image", &tagged,
        ])
        .finish();
    assert_ne!(refused.code, Some(0));
    let errors = refused.errors();
    assert!(
        errors.contains(&tagged) && errors.contains("--allow-mutable"),
        "{errors}"
    );
    assert!(!host.path("out").exists());

    let pinned = format!("{name}@{}", layout.digest("latest").unwrap());
    host.microagent([
        "--quiet", "rootfs", "build", "--out", "out", "--image", &pinned,
    ])
    .finish()
    .expect_code(0);
    assert_fsck_clean(&host.path("out"));
}

#[test]
fn the_file_system_has_the_requested_size() {
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    build(&host, &layout.reference("latest"), "out")
        .argument("--size-mib")
        .argument("100")
        .finish()
        .expect_code(0);
    assert_eq!(fs::metadata(host.path("out")).unwrap().len(), 100 << 20);
    assert_fsck_clean(&host.path("out"));
}

/// Owners, devices and attributes do not require root.
#[test]
fn a_build_without_root_yields_the_same_tree() {
    root_or_skip!();
    let layout = or_skip!(image::debian());
    let host = or_skip!(Host::new());
    // The cache may be in a directory that only root can enter.
    let copy = host.path("layout");
    or_skip!(tool::run(
        "cp",
        ["-a".as_ref(), layout.as_os_str(), copy.as_os_str()]
    ));
    let program = host.path("microagent");
    program::copy(binaries::microagent(), &program).unwrap();
    let root = host.path("..").display().to_string();
    tool::run("chown", ["-R", "65534:65534", &root]).unwrap();
    let mut invocation = host.program(Path::new("/usr/bin/setpriv"));
    for argument in ["--reuid=65534", "--regid=65534", "--clear-groups", "--"] {
        invocation.argument(argument);
    }
    invocation.argument(program);
    for argument in [
        "--quiet",
        "rootfs",
        "build",
        "--allow-mutable",
        "--out",
        "out",
        "--image",
    ] {
        invocation.argument(argument);
    }
    invocation
        .argument(debian(&copy))
        .deadline(Duration::from_secs(300))
        .finish()
        .expect_code(0);
    let ours = tree::list_ext4(&host.path("out")).unwrap();
    let theirs = unpacked(&layout, "debian").unwrap();
    let difference = tree::difference(&theirs, &ours);
    assert!(difference.is_empty(), "- umoci, + ours:\n{difference}");
}

/// The image's configuration supplies what the command line omits.
#[test]
fn the_configuration_of_the_image_is_applied() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let entrypoint = [
        "--config.entrypoint=/bin/sh",
        "--config.entrypoint=-c",
        "--config.entrypoint=echo \"$0 $* $(id -u):$(id -g):$(id -G) $PWD $GREETING $HOME\"",
        "--config.cmd=default",
        "--config.user=user",
        "--config.workingdir=/made/here",
        "--config.env=GREETING=hello",
    ];
    layout.configure("latest", &entrypoint).unwrap();
    let host = or_skip!(Host::with_kernel());
    let image = layout.reference("latest");
    let run = |arguments: &[&str]| {
        let mut invocation = host.microagent(["--quiet", "--engine", "qemu", "run"]);
        for argument in arguments {
            invocation.argument(*argument);
        }
        invocation.finish().expect_code(0).text()
    };
    let identity = "1000:1000:1000 2000 /made/here hello /home/user\n";
    assert_eq!(run(&["--image", &image]), format!("default  {identity}"));
    assert_eq!(run(&[&image, "one", "two"]), format!("one two {identity}"));
    assert_eq!(
        run(&["--image", &image, "--exec", "pwd; id -un"]),
        "/made/here\nuser\n"
    );
    assert_eq!(
        run(&["--entrypoint", "/bin/echo", &image, "only"]),
        "only\n"
    );
    host.assert_clean();
}

/// Whiteouts apply only to the layers below, whatever the order of entries in their own layer.
#[test]
fn whiteouts_in_any_order_equal_those_of_umoci() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let below = Tar::new()
        .directory("a")
        .file("a/old", b"old")
        .directory("a/below")
        .file("a/below/old", b"old")
        .file("gone", b"gone")
        .file("again", b"first");
    let above = Tar::new()
        .file("a/new", b"new")
        .file("a/.wh..wh..opq", b"")
        .file(".wh.gone", b"")
        .file("again", b"second")
        .directory("b")
        .file("b/.wh.never-was", b"");
    for layer in [below, above] {
        layout.add_layer("latest", &layer.finish()).unwrap();
    }
    let image = layout.reference("latest");
    assert_is_what_umoci_unpacks(&image, layout.directory(), "latest", &[]);
}
