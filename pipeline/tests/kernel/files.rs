//! Kernels from files, and files that are not kernels.

use super::*;

#[test]
fn a_package_is_taken_and_its_image_without_the_modules_is_refused() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path());
    let from_package = pipeline
        .kernel(&KernelSource::Path(package().deb.clone()))
        .unwrap();
    check_cloud_kernel(&from_package, pipeline.store(), package());
    let image = dir.path().join("vmlinuz");
    fs::write(&image, package().file("boot", "vmlinuz-")).unwrap();
    let vmlinux = dir.path().join("vmlinux");
    fs::write(&vmlinux, &package().vmlinux).unwrap();
    for file in [image, vmlinux] {
        let message = format!(
            "the kernel {} does not have built in what a microVM requires: \
             virtio_mmio, virtio_blk, vmw_vsock_virtio_transport",
            file.display()
        );
        assert_eq!(refusal(&pipeline, &file), (ErrorKind::Unsupported, message));
    }
}

fn refusal(pipeline: &Pipeline, path: &Path) -> (ErrorKind, String) {
    let error = pipeline
        .kernel(&KernelSource::Path(path.to_owned()))
        .unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn a_file_that_is_not_a_kernel_is_refused_and_leaves_nothing_behind() {
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
            "it has neither a bzImage header nor an ELF header",
        ),
        (file("empty", b""), "it is empty"),
        (PathBuf::from("/bin/sh"), "it is a user-space program"),
        (PathBuf::from("/bin/busybox"), "it is a user-space program"),
        (dir.path().to_owned(), "it is a directory"),
        (PathBuf::from("/dev/zero"), "it is not a regular file"),
        (
            file("zeros", &[0; 70_000]),
            "it has neither a bzImage header nor an ELF header",
        ),
    ];
    for (path, why) in cases {
        let message = format!("{} is not a Linux kernel: {why}", path.display());
        assert_eq!(refusal(&pipeline, &path), (ErrorKind::Unsupported, message));
    }
    let absent = dir.path().join("absent");
    let message = format!("cannot read the kernel {}", absent.display());
    assert_eq!(refusal(&pipeline, &absent), (ErrorKind::NotFound, message));
    for directory in ["blobs/sha256", "nodes", "tmp"] {
        assert_eq!(
            fs::read_dir(dir.path().join("cas").join(directory))
                .unwrap()
                .count(),
            0,
            "{directory}"
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
    let image = package().file("boot", "vmlinuz-");
    let short = dir.path().join("short");
    fs::write(&short, &image[..image.len() / 2]).unwrap();
    let (kind, message) = refusal(&pipeline, &short);
    let begin = format!(
        "{} is not a Linux kernel: it is truncated: ",
        short.display()
    );
    assert!(
        kind == ErrorKind::Unsupported && message.starts_with(&begin),
        "{message}"
    );

    // LZ4 as the kernel uses it has no checksum; this is not LZ4 at all.
    let mut bytes = image.clone();
    let middle = bytes.len() / 2;
    bytes[middle..middle + (64 << 10)].fill(0xff);
    let damaged = dir.path().join("damaged");
    fs::write(&damaged, bytes).unwrap();
    let (kind, message) = refusal(&pipeline, &damaged);
    let begin = format!(
        "{} is not a Linux kernel: its compressed part is damaged: ",
        damaged.display()
    );
    assert!(
        kind == ErrorKind::Unsupported && message.starts_with(&begin),
        "{message}"
    );

    let package_bytes = fs::read(&package().deb).unwrap();
    let short = dir.path().join("short.deb");
    fs::write(&short, &package_bytes[..package_bytes.len() / 2]).unwrap();
    let (_, message) = refusal(&pipeline, &short);
    assert!(message.contains("dpkg-deb"), "{message}");
    assert_eq!(
        fs::read_dir(dir.path().join("cas/blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
}

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
    let (kind, message) = refusal(&pipeline(dir.path()), &deb);
    let why = "it contains no boot/vmlinuz-*";
    let expected = format!("the kernel package {} cannot be used: {why}", deb.display());
    assert_eq!((kind, message), (ErrorKind::Unsupported, expected));
}

/// The names of the drivers that a microVM requires.
const DRIVERS: &str = ".string \"virtio-mmio\"\n.string \"virtio_blk\"\n\
                       .string \"vmw_vsock_virtio_transport\"\n.string \"ext4\"\n";

/// The note with the PVH entry point, as in arch/x86/platform/pvh/head.S.
const PVH_NOTE: &str = ".section .note.Xen, \"a\", @note\n\
                        .long 4, 4, 18\n.asciz \"Xen\"\n.long 0x1000000\n";

/// Assembles an ELF file that only resembles a kernel, because Debian does not ship a vmlinux.
/// `more` is added to its read-only data.
fn vmlinux(dir: &Path, name: &str, more: &str) -> PathBuf {
    let source = dir.join("k.s");
    let text = format!(
        ".globl _start\n_start: hlt\n.section .rodata\n\
         .string \"Linux version 6.1.0-test (x@y) #1\"\n{more}"
    );
    fs::write(&source, text).unwrap();
    let image = dir.join(name);
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
    image
}

#[test]
fn the_version_of_a_vmlinux_is_read_from_its_banner() {
    let dir = tempfile::tempdir().unwrap();
    let image = vmlinux(dir.path(), "vmlinux", &format!("{DRIVERS}{PVH_NOTE}"));
    let notices = Arc::new(Notices::default());
    let store = Store::open(&dir.path().join("cas")).unwrap();
    let pipeline = Pipeline::new(store, notices.clone());
    let kernel = pipeline.kernel(&KernelSource::Path(image.clone())).unwrap();
    assert_eq!(kernel.version.as_deref(), Some("6.1.0-test"));
    let mut bytes = Vec::new();
    File::open(&kernel.path)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert!(bytes == fs::read(&image).unwrap());
    assert_eq!(*notices.0.lock().unwrap(), [""; 0]);
}

#[test]
fn a_vmlinux_without_a_pvh_entry_point_is_taken_with_a_notice() {
    let dir = tempfile::tempdir().unwrap();
    let image = vmlinux(dir.path(), "vmlinux", DRIVERS);
    let notices = Arc::new(Notices::default());
    let store = Store::open(&dir.path().join("cas")).unwrap();
    let pipeline = Pipeline::new(store, notices.clone());
    pipeline.kernel(&KernelSource::Path(image.clone())).unwrap();
    let expected = format!(
        "the kernel {} has no PVH entry point, so it boots on engine kvm only",
        image.display()
    );
    assert_eq!(*notices.0.lock().unwrap(), [expected]);
}

#[test]
fn a_vmlinux_that_cannot_boot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path());
    let whole = fs::read(vmlinux(dir.path(), "whole", DRIVERS)).unwrap();
    for length in [whole.len() - 1, whole.len() / 2, 4000] {
        let short = dir.path().join("short");
        fs::write(&short, &whole[..length]).unwrap();
        let message = format!(
            "{} is not a Linux kernel: it is truncated: {length} of {} bytes",
            short.display(),
            whole.len()
        );
        assert_eq!(
            refusal(&pipeline, &short),
            (ErrorKind::Unsupported, message)
        );
    }
    for driver in ["virtio_blk", "ext4"] {
        let strings = DRIVERS.replace(driver, "removed");
        let image = vmlinux(dir.path(), driver, &strings);
        let message = format!(
            "the kernel {} does not have built in what a microVM requires: {driver}",
            image.display()
        );
        assert_eq!(
            refusal(&pipeline, &image),
            (ErrorKind::Unsupported, message)
        );
    }
}
