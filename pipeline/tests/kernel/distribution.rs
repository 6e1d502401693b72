//! The distribution's kernel, in one package or in two.

use super::*;

#[test]
fn the_distributions_kernel_is_installed_and_a_second_install_downloads_nothing() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let notices = Arc::new(Notices::default());
    let store = Store::open(&dir.path().join("cas")).unwrap();
    let pipeline = Pipeline::new(store, notices.clone());
    assert_eq!(pipeline.default_kernel().unwrap(), None);
    let kernel = pipeline.kernel(&KernelSource::Distribution).unwrap();
    check_cloud_kernel(&kernel, pipeline.store(), package());
    let package = format!("linux-image-{} ", package().release());
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
            node("kernelModules", false),
            node("kernelPackages", false),
            node("kernel", true),
            node("kernelModules", true)
        ]
    );
    assert_eq!(fs::read_dir(dir.path().join("cas/tmp")).unwrap().count(), 0);

    let disk = pipeline.store().sparse_path(&kernel.modules_disk.unwrap());
    for file in [disk, kernel.path] {
        let moved = dir.path().join("moved");
        fs::rename(&file, &moved).unwrap();
        assert_eq!(pipeline.default_kernel().unwrap(), None);
        fs::rename(&moved, &file).unwrap();
        assert!(pipeline.default_kernel().unwrap().is_some());
    }
}

/// The child process of the test below, which runs it as nobody and with an apt configuration
/// without package lists.
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
    microagent_tests::program::copy(std::env::current_exe().unwrap(), &test).unwrap();
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
    command.args(["--exact", "distribution::install_as_nobody", "--nocapture"]);
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
        current_package(),
    );
    assert_eq!(fs::read_dir(dir.path().join("cas/tmp")).unwrap().count(), 0);
}

/// Builds a package from `tree` into `repository` and returns its stanza for the package list.
fn build_package(repository: &Path, name: &str, depends: &str, tree: &Path) -> String {
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

/// Ubuntu's layout, in a real apt source: a metapackage, separate packages for image and modules,
/// modules compressed with zstd and below /usr/lib, some drivers built in.
#[test]
fn a_kernel_in_two_packages_with_compressed_modules_is_assembled() {
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
    let kernel = package().file("boot", "vmlinuz-");
    fs::write(image.join("boot/vmlinuz-6.8.0-31-generic"), &kernel).unwrap();
    let modules = tree("modules", "usr/lib/modules/6.8.0-31-generic/kernel/net");
    let release = modules.join("usr/lib/modules/6.8.0-31-generic");
    for name in [
        "vsock.ko",
        "vmw_vsock_virtio_transport_common.ko",
        "vmw_vsock_virtio_transport.ko",
    ] {
        let bytes = zstd::encode_all(package().file("lib/modules", name).as_slice(), 1).unwrap();
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
        build_package(
            &repository,
            "linux-image-virtual",
            "linux-image-6.8.0-31-generic",
            &meta,
        ),
        build_package(
            &repository,
            "linux-image-6.8.0-31-generic",
            "kmod, linux-base (>= 4.5), linux-modules-6.8.0-31-generic",
            &image,
        ),
        build_package(&repository, "linux-modules-6.8.0-31-generic", "", &modules),
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
        .args(["--exact", "distribution::install_as_nobody", "--nocapture"])
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
    assert_eq!(installed.digest, Digest::of(&package().vmlinux));
    assert_eq!(
        installed.source,
        "linux-image-6.8.0-31-generic 6.8.0-31.31, linux-modules-6.8.0-31-generic 6.8.0-31.31"
    );
    let names = check_modules(&installed, pipeline.store(), package());
    assert_eq!(
        names,
        [
            "vsock.ko",
            "vmw_vsock_virtio_transport_common.ko",
            "vmw_vsock_virtio_transport.ko"
        ]
    );
}
