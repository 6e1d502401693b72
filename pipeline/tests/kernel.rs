//! Kernels from the real world: the distribution's own package, through its own client, and what
//! people give for a kernel by mistake.
//!
//! The package is downloaded once for all tests. On a host without apt the tests say so and skip.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic, in its own functions too"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use microagent_cas::{Digest, Store};
use microagent_pipeline::{
    Error, ErrorKind, Event, Kernel, KernelSource, Pipeline, Progress, Silent,
};

fn pipeline(dir: &Path) -> Pipeline {
    Pipeline::new(Store::open(&dir.join("cas")).unwrap(), Arc::new(Silent))
}

fn has_apt() -> bool {
    let there = Path::new("/usr/bin/apt-get").exists();
    if !there {
        eprintln!("skipped: this host has no apt-get");
    }
    there
}

/// The newest cloud kernel's package, by hand.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let dir = own_dir("kernel-package");
        let script = "p=$(apt-cache depends --important linux-image-cloud-amd64 \
                      | sed -n 's/^ *Depends: //p') && apt-get -q download \"$p\" && ls -1 *.deb";
        let run = Command::new("sh")
            .args(["-c", script])
            .current_dir(&dir)
            .output()
            .unwrap();
        let listed = String::from_utf8(run.stdout).unwrap();
        dir.join(listed.lines().last().unwrap())
    })
}

/// A file of the package by the beginning of its name, unpacked by dpkg-deb.
fn in_package(directory: &str, name: &str) -> Vec<u8> {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let dir = own_dir("kernel-tree");
        let run = Command::new("dpkg-deb")
            .arg("-x")
            .arg(package())
            .arg(&dir)
            .output();
        assert!(run.unwrap().status.success());
        dir
    });
    let find = Command::new("find")
        .arg(tree.join(directory))
        .args(["-type", "f", "-name", &format!("{name}*")])
        .output()
        .unwrap();
    let paths = String::from_utf8(find.stdout).unwrap();
    let [path] = paths.lines().collect::<Vec<_>>()[..] else {
        panic!("{name}: {paths:?}")
    };
    fs::read(path).unwrap()
}

/// An empty directory in cargo's own place for tests: statics are never dropped, so a temporary
/// directory would stay behind.
fn own_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn release() -> String {
    let name = package().file_name().unwrap().to_str().unwrap();
    name.strip_prefix("linux-image-")
        .unwrap()
        .split('_')
        .next()
        .unwrap()
        .to_owned()
}

/// The kernel inside the package's bzImage, taken out as the kernel's own `extract-vmlinux` does:
/// from where the compressed form begins, by its tool.
fn vmlinux() -> &'static [u8] {
    static VMLINUX: OnceLock<Vec<u8>> = OnceLock::new();
    VMLINUX.get_or_init(|| {
        let image = in_package("boot", "vmlinuz-");
        let legacy_frame = [0x02, 0x21, 0x4c, 0x18];
        let start = image
            .windows(4)
            .position(|bytes| bytes == legacy_frame)
            .unwrap();
        let dir = own_dir("vmlinux");
        fs::write(dir.join("payload"), &image[start..]).unwrap();
        let payload = fs::File::open(dir.join("payload")).unwrap();
        // What follows the payload is no lz4, which lz4 says once it has written the kernel.
        let output = Command::new("lz4")
            .arg("-dc")
            .stdin(payload)
            .output()
            .unwrap();
        assert!(output.stdout.starts_with(b"\x7fELF"));
        output.stdout
    })
}

fn check_cloud_kernel(kernel: &Kernel, store: &Store) {
    assert_eq!(kernel.digest, Digest::of(vmlinux()));
    assert_eq!(fs::read(&kernel.path).unwrap().len(), vmlinux().len());
    assert_eq!(kernel.version, Some(release()));
    assert_eq!(
        check_modules(kernel, store),
        [
            "virtio_ring.ko",
            "virtio.ko",
            "virtio_mmio.ko",
            "virtio_blk.ko",
            "vsock.ko",
            "vmw_vsock_virtio_transport_common.ko",
            "vmw_vsock_virtio_transport.ko",
            "virtio_rng.ko",
        ]
    );
}

/// The names of the kernel's modules in load order; their bytes are those of the real package.
fn check_modules(kernel: &Kernel, store: &Store) -> Vec<String> {
    let modules = store.open_blob(&kernel.modules.unwrap()).unwrap().unwrap();
    let mut archive = tar::Archive::new(modules.file);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let file = if name == "virtio_rng.ko" {
            "virtio-rng.ko"
        } else {
            &name
        };
        assert!(bytes == in_package("lib/modules", file), "{name}");
        name
    });
    entries.collect()
}

#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl Progress for Notices {
    fn event(&self, event: Event) {
        if let Event::Notice(notice) = event {
            self.0.lock().unwrap().push(notice);
        }
    }
}

#[test]
fn the_distribution_has_a_kernel_for_us_and_a_second_install_downloads_nothing() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let notices = Arc::new(Notices::default());
    let store = Store::open(&dir.path().join("cas")).unwrap();
    let pipeline = Pipeline::new(store, notices.clone());
    assert_eq!(pipeline.default_kernel().unwrap(), None);
    let kernel = pipeline.kernel(&KernelSource::Distribution).unwrap();
    check_cloud_kernel(&kernel, pipeline.store());
    let package = format!("linux-image-{} ", release());
    assert!(kernel.source.starts_with(&package), "{}", kernel.source);
    assert_eq!(
        *notices.0.lock().unwrap(),
        [format!("installing the default kernel: {}", kernel.source)]
    );

    pipeline.set_default_kernel(&kernel).unwrap();
    assert_eq!(pipeline.default_kernel().unwrap(), Some(kernel.clone()));
    assert_eq!(
        pipeline.kernel(&KernelSource::Distribution).unwrap(),
        kernel
    );
    let nodes: Vec<_> = pipeline
        .reports()
        .into_iter()
        .map(|report| (report.op, report.hit))
        .collect();
    let node = |op: &str, hit| (op.to_owned(), hit);
    assert_eq!(
        nodes,
        [
            node("kernelPackages", false),
            node("kernel", false),
            node("kernelPackages", false),
            node("kernel", true)
        ]
    );
    assert_eq!(fs::read_dir(dir.path().join("cas/tmp")).unwrap().count(), 0);

    fs::remove_file(&kernel.path).unwrap();
    assert_eq!(pipeline.default_kernel().unwrap(), None);
}

/// The test below runs this one as nobody, with apt told that the host has no package lists.
#[test]
fn install_as_nobody() {
    let Some(dir) = std::env::var_os("MICROAGENT_TEST_INSTALL_INTO") else {
        return;
    };
    let pipeline = pipeline(Path::new(&dir));
    let kernel = pipeline.kernel(&KernelSource::Distribution).unwrap();
    pipeline.set_default_kernel(&kernel).unwrap();
}

#[test]
fn the_distributions_kernel_needs_neither_root_nor_package_lists() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let apt_conf = dir.path().join("apt.conf");
    fs::write(&apt_conf, "Dir::State::lists \"/nonexistent\";\n").unwrap();
    let test = dir.path().join("test");
    // Not `fs::copy`: another test's fork could hold the copy open for writing while it is started.
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&test)
        .status();
    assert!(copied.unwrap().success());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&test);
        command
    } else {
        Command::new(&test)
    };
    command.args(["--exact", "install_as_nobody", "--nocapture"]);
    command
        .env("APT_CONFIG", &apt_conf)
        .env("HOME", "/nonexistent");
    command.env("MICROAGENT_TEST_INSTALL_INTO", dir.path());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let pipeline = pipeline(dir.path());
    check_cloud_kernel(
        &pipeline.default_kernel().unwrap().unwrap(),
        pipeline.store(),
    );
    assert_eq!(fs::read_dir(dir.path().join("cas/tmp")).unwrap().count(), 0);
}

/// Builds a package from `tree` in `repository` and returns its paragraph in the package list.
fn offer(repository: &Path, name: &str, depends: &str, tree: &Path) -> String {
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let depends = if depends.is_empty() {
        String::new()
    } else {
        format!("Depends: {depends}\n")
    };
    let control = format!(
        "Package: {name}\nVersion: 6.8.0-31.31\nArchitecture: amd64\n{depends}\
         Maintainer: x <x@x>\nDescription: x\n"
    );
    fs::write(tree.join("DEBIAN/control"), &control).unwrap();
    let file = format!("{name}.deb");
    let deb = repository.join(&file);
    let built = Command::new("dpkg-deb")
        .args(["-Zgzip", "-b"])
        .arg(tree)
        .arg(&deb)
        .output();
    assert!(built.unwrap().status.success());
    let bytes = fs::read(&deb).unwrap();
    let hex = Digest::of(&bytes).hex();
    format!(
        "{control}Filename: ./{file}\nSize: {}\nSHA256: {hex}\n\n",
        bytes.len()
    )
}

/// Ubuntu's arrangement, offered by a real apt source: a meta package, the image and the modules
/// apart, the modules compressed with zstd and below /usr/lib, some drivers built in.
#[test]
fn a_kernel_in_two_packages_with_compressed_modules_is_put_together() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository");
    let tree = |name: &str, path: &str| {
        let tree = dir.path().join(name);
        fs::create_dir_all(tree.join(path)).unwrap();
        tree
    };
    let (meta, image) = (tree("meta", ""), tree("image", "boot"));
    fs::create_dir_all(&repository).unwrap();
    let kernel = in_package("boot", "vmlinuz-");
    fs::write(image.join("boot/vmlinuz-6.8.0-31-generic"), &kernel).unwrap();
    let modules = tree("modules", "usr/lib/modules/6.8.0-31-generic/kernel/net");
    let release = modules.join("usr/lib/modules/6.8.0-31-generic");
    for name in [
        "vsock.ko",
        "vmw_vsock_virtio_transport_common.ko",
        "vmw_vsock_virtio_transport.ko",
    ] {
        let bytes = zstd::encode_all(in_package("lib/modules", name).as_slice(), 1).unwrap();
        fs::write(
            release.join("kernel/net").join(format!("{name}.zst")),
            bytes,
        )
        .unwrap();
    }
    let builtin = ["virtio", "virtio_ring", "virtio_mmio", "virtio_blk", "ext4"]
        .map(|name| format!("kernel/x/{name}.ko\n"));
    fs::write(release.join("modules.builtin"), builtin.concat()).unwrap();
    let list = [
        offer(
            &repository,
            "linux-image-virtual",
            "linux-image-6.8.0-31-generic",
            &meta,
        ),
        offer(
            &repository,
            "linux-image-6.8.0-31-generic",
            "kmod, linux-base (>= 4.5), linux-modules-6.8.0-31-generic",
            &image,
        ),
        offer(&repository, "linux-modules-6.8.0-31-generic", "", &modules),
    ];
    fs::write(repository.join("Packages"), list.concat()).unwrap();
    let sources = dir.path().join("sources.list");
    fs::write(
        &sources,
        format!("deb [trusted=yes] file:{} ./\n", repository.display()),
    )
    .unwrap();
    let apt_conf = dir.path().join("apt.conf");
    let conf = format!(
        "Dir::State::lists \"/nonexistent\";\nDir::Etc::sourcelist \"{}\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n",
        sources.display()
    );
    fs::write(&apt_conf, conf).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "install_as_nobody", "--nocapture"])
        .env("APT_CONFIG", &apt_conf)
        .env("MICROAGENT_TEST_INSTALL_INTO", dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let pipeline = pipeline(dir.path());
    let installed = pipeline.default_kernel().unwrap().unwrap();
    assert_eq!(installed.digest, Digest::of(vmlinux()));
    assert_eq!(
        installed.source,
        "linux-image-6.8.0-31-generic 6.8.0-31.31, linux-modules-6.8.0-31-generic 6.8.0-31.31"
    );
    let names = check_modules(&installed, pipeline.store());
    assert_eq!(
        names,
        [
            "vsock.ko",
            "vmw_vsock_virtio_transport_common.ko",
            "vmw_vsock_virtio_transport.ko"
        ]
    );
}

#[test]
fn a_package_or_an_image_by_path_is_the_same_kernel() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path());
    let from_package = pipeline
        .kernel(&KernelSource::Path(package().to_owned()))
        .unwrap();
    check_cloud_kernel(&from_package, pipeline.store());
    let image = dir.path().join("vmlinuz");
    fs::write(&image, in_package("boot", "vmlinuz-")).unwrap();
    let from_image = pipeline.kernel(&KernelSource::Path(image.clone())).unwrap();
    assert_eq!(from_image.digest, from_package.digest);
    assert_eq!(from_image.version, from_package.version);
    assert_eq!(from_image.modules, None);
    assert_eq!(from_image.source, image.to_str().unwrap());
}

fn refusal(pipeline: &Pipeline, path: &Path) -> (ErrorKind, String) {
    let error = pipeline
        .kernel(&KernelSource::Path(path.to_owned()))
        .unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn what_is_no_kernel_is_refused_by_name_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path());
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let cases = [
        (
            file("text", b"hello"),
            "it has neither the header of a bzImage nor that of an ELF file",
        ),
        (file("empty", b""), "it is empty"),
        (
            PathBuf::from("/bin/sh"),
            "it is a program for a running Linux",
        ),
        (
            PathBuf::from("/bin/busybox"),
            "it is a program for a running Linux",
        ),
        (dir.path().to_owned(), "it is a directory"),
        (PathBuf::from("/dev/zero"), "it is no regular file"),
    ];
    for (path, why) in cases {
        let said = format!("{} is not a Linux kernel: {why}", path.display());
        assert_eq!(refusal(&pipeline, &path), (ErrorKind::Unsupported, said));
    }
    let absent = dir.path().join("absent");
    let said = format!("cannot read the kernel {}", absent.display());
    assert_eq!(refusal(&pipeline, &absent), (ErrorKind::NotFound, said));
    for place in ["blobs/sha256", "nodes", "tmp"] {
        assert_eq!(
            fs::read_dir(dir.path().join("cas").join(place))
                .unwrap()
                .count(),
            0,
            "{place}"
        );
    }
}

#[test]
fn damaged_images_and_packages_are_refused() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path());
    let image = in_package("boot", "vmlinuz-");
    let short = dir.path().join("short");
    fs::write(&short, &image[..image.len() / 2]).unwrap();
    let (kind, said) = refusal(&pipeline, &short);
    let begin = format!(
        "{} is not a Linux kernel: it is cut short at ",
        short.display()
    );
    assert!(
        kind == ErrorKind::Unsupported && said.starts_with(&begin),
        "{said}"
    );

    let package_bytes = fs::read(package()).unwrap();
    let short = dir.path().join("short.deb");
    fs::write(&short, &package_bytes[..package_bytes.len() / 2]).unwrap();
    let (_, said) = refusal(&pipeline, &short);
    assert!(said.contains("dpkg-deb"), "{said}");
    assert_eq!(
        fs::read_dir(dir.path().join("cas/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
}

/// Any package that is no kernel: the test harness installs busybox-static from one.
#[test]
fn a_package_without_a_kernel_is_refused() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("boot")).unwrap();
    let control =
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    fs::write(tree.join("boot/readme"), "no kernel").unwrap();
    let deb = dir.path().join("x.deb");
    let built = Command::new("dpkg-deb")
        .arg("-b")
        .arg(&tree)
        .arg(&deb)
        .output()
        .unwrap();
    assert!(built.status.success());
    let (kind, said) = refusal(&pipeline(dir.path()), &deb);
    let why = "it holds no boot/vmlinuz-*";
    let said_why = format!("the kernel package {} cannot be used: {why}", deb.display());
    assert_eq!((kind, said), (ErrorKind::Unsupported, said_why));
}

/// Serves `answer` to each of `times` requests, from a real socket.
fn serve(answer: Vec<u8>, times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(times) {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let _ = stream.write_all(&answer);
        }
    });
    format!("http://{address}/vmlinuz")
}

fn ok(body: &[u8], announced: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

#[test]
fn a_kernel_from_an_address_is_held_against_its_digest() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path());
    let image = in_package("boot", "vmlinuz-");
    let sha256 = Digest::of(&image);
    let from = |url: String, sha256| pipeline.kernel(&KernelSource::Url { url, sha256 });
    let refused = |error: Error| (error.kind(), error.to_string());

    let url = serve(ok(&image, image.len()), 1);
    let wrong = Digest::of(b"another");
    let said = format!("{url} has digest {sha256}, not {wrong}");
    assert_eq!(
        refused(from(url, wrong).unwrap_err()),
        (ErrorKind::Corrupt, said)
    );

    let url = serve(ok(&image[..1000], image.len()), 1);
    let error = from(url, sha256).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Unreachable && error.retryable(),
        "{error}"
    );

    let url = serve(
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
        1,
    );
    let said = format!("{url} answered 404");
    assert_eq!(
        refused(from(url, sha256).unwrap_err()),
        (ErrorKind::NotFound, said)
    );

    let url = serve(ok(b"", 3 << 30), 1);
    let said = format!(
        "{url} is larger than {} bytes, which no kernel is",
        2_u64 << 30
    );
    assert_eq!(
        refused(from(url, sha256).unwrap_err()),
        (ErrorKind::Unsupported, said)
    );

    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/x", listener.local_addr().unwrap())
    };
    assert_eq!(
        from(closed, sha256).unwrap_err().kind(),
        ErrorKind::Unreachable
    );
    assert_eq!(
        fs::read_dir(dir.path().join("cas/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );

    let url = serve(ok(&image, image.len()), 1);
    let kernel = from(url.clone(), sha256).unwrap();
    assert_eq!(
        (kernel.digest, kernel.source.as_str()),
        (Digest::of(vmlinux()), url.as_str())
    );
    // Known by its digest now: the server is gone and not asked.
    assert_eq!(from(url, sha256).unwrap(), kernel);
}

/// A kernel's ELF file, here one that only has the shape: Debian ships none.
#[test]
fn a_vmlinux_is_taken_with_the_version_in_its_banner() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("k.s");
    let text = ".globl _start\n_start: hlt\n.section .rodata\n\
                .string \"Linux version 6.1.0-test (x@y) #1\"\n";
    fs::write(&source, text).unwrap();
    let image = dir.path().join("vmlinux");
    let script = "cc -nostdlib -static -no-pie -Wl,-Ttext=0xffffffff81000000 \
                  -Wl,--section-start=.rodata=0xffffffff82000000 -o \"$1\" \"$0\"";
    let built = Command::new("sh")
        .args(["-c", script])
        .arg(&source)
        .arg(&image)
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let pipeline = pipeline(dir.path());
    let kernel = pipeline.kernel(&KernelSource::Path(image.clone())).unwrap();
    assert_eq!(kernel.version.as_deref(), Some("6.1.0-test"));
    let mut bytes = Vec::new();
    File::open(&kernel.path)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert!(bytes == fs::read(&image).unwrap());
}
