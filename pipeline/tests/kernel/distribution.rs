//! The distribution's kernel, in one package or in several.

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

/// A package to be built: its name, its dependencies, and its files below the root.
struct Source {
    name: String,
    depends: String,
    files: Vec<(String, Vec<u8>)>,
}

impl Source {
    fn new(name: &str, depends: &str, files: Vec<(String, Vec<u8>)>) -> Source {
        Source {
            name: name.to_owned(),
            depends: depends.to_owned(),
            files,
        }
    }

    /// Builds it into `repository` and returns its stanza for the package list.
    fn build(&self, repository: &Path) -> String {
        let Source {
            name,
            depends,
            files,
        } = self;
        let tree = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        fs::create_dir_all(tree.path().join("DEBIAN")).unwrap();
        let depends = match depends.is_empty() {
            true => String::new(),
            false => format!("Depends: {depends}\n"),
        };
        let control = format!(
            "Package: {name}\nVersion: 6.8.0-31.31\nArchitecture: amd64\n{depends}\
             Maintainer: x <x@x>\nDescription: x\n"
        );
        fs::write(tree.path().join("DEBIAN/control"), &control).unwrap();
        let file = format!("{name}.deb");
        let deb = repository.join(&file);
        let built = Command::new("dpkg-deb")
            .args(["-Zgzip", "-b"])
            .arg(tree.path())
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
}

/// Installs the distribution's kernel from a real apt source with these packages.
fn install(dir: &Path, sources: &[Source]) -> (Pipeline, Kernel) {
    let repository = dir.join("repository");
    fs::create_dir_all(&repository).unwrap();
    let list: Vec<_> = (sources.iter())
        .map(|source| source.build(&repository))
        .collect();
    fs::write(repository.join("Packages"), list.concat()).unwrap();
    let sources = dir.join("sources.list");
    fs::write(
        &sources,
        format!("deb [trusted=yes] file:{} ./\n", repository.display()),
    )
    .unwrap();
    let apt_conf = dir.join("apt.conf");
    let conf = format!(
        "Dir::State::lists \"/nonexistent\";\nDir::Etc::sourcelist \"{}\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n",
        sources.display()
    );
    fs::write(&apt_conf, conf).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "distribution::install_as_nobody", "--nocapture"])
        .env("APT_CONFIG", &apt_conf)
        .env("MICROAGENT_TEST_INSTALL_INTO", dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let pipeline = pipeline(dir);
    let installed = pipeline.default_kernel().unwrap().unwrap();
    assert_eq!(installed.digest, Digest::of(&package().vmlinux));
    (pipeline, installed)
}

/// The modules that are not built into the kernels below, in load order.
const NOT_BUILT_IN: [&str; 3] = [
    "vsock.ko",
    "vmw_vsock_virtio_transport_common.ko",
    "vmw_vsock_virtio_transport.ko",
];

/// A list of built-in modules.
fn builtin() -> Vec<u8> {
    ["virtio", "virtio_ring", "virtio_mmio", "virtio_blk", "ext4"]
        .map(|name| format!("kernel/x/{name}.ko\n"))
        .concat()
        .into_bytes()
}

/// Ubuntu's layout: a metapackage, separate packages for image and modules, modules compressed with
/// zstd and below /usr/lib, some drivers built in.
#[test]
fn a_kernel_in_two_packages_with_compressed_modules_is_assembled() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let release = "usr/lib/modules/6.8.0-31-generic";
    let mut modules = vec![(format!("{release}/modules.builtin"), builtin())];
    for name in NOT_BUILT_IN {
        let bytes = zstd::encode_all(package().file("lib/modules", name).as_slice(), 1).unwrap();
        modules.push((format!("{release}/kernel/net/{name}.zst"), bytes));
    }
    let image = package().file("boot", "vmlinuz-");
    let (pipeline, installed) = install(
        dir.path(),
        &[
            Source::new(
                "linux-image-virtual",
                "linux-image-6.8.0-31-generic",
                Vec::new(),
            ),
            Source::new(
                "linux-image-6.8.0-31-generic",
                "kmod, linux-base (>= 4.5), linux-modules-6.8.0-31-generic",
                vec![("boot/vmlinuz-6.8.0-31-generic".to_owned(), image)],
            ),
            Source::new("linux-modules-6.8.0-31-generic", "", modules),
        ],
    );
    assert_eq!(
        installed.source,
        "linux-image-6.8.0-31-generic 6.8.0-31.31, linux-modules-6.8.0-31-generic 6.8.0-31.31"
    );
    let names = check_modules(&installed, pipeline.store(), package());
    assert_eq!(names, NOT_BUILT_IN);
}

/// Debian's layout since 7.0: the list of built-in modules is in one package, the image in another,
/// both below /usr/lib/modules; a third has the modules, compressed with xz.
#[test]
fn a_kernel_in_four_packages_is_assembled() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let version = "7.2.13+deb14-cloud-amd64";
    let release = format!("usr/lib/modules/{version}");
    let xz = |bytes: &[u8]| {
        let plain = dir.path().join("module");
        fs::write(&plain, bytes).unwrap();
        let input = File::open(plain).unwrap();
        let run = Command::new("xz")
            .args(["--check=crc32", "-c"])
            .stdin(input)
            .output();
        run.unwrap().stdout
    };
    let modules = NOT_BUILT_IN.map(|name| {
        let path = format!("{release}/kernel/net/{name}.xz");
        (path, xz(&package().file("lib/modules", name)))
    });
    let needs_base = format!("linux-base-{version} (= 6.8.0-31.31)");
    let (pipeline, installed) = install(
        dir.path(),
        &[
            Source::new(
                "linux-image-cloud-amd64",
                &format!("linux-base-cloud-amd64, linux-image-{version} (= 6.8.0-31.31)"),
                Vec::new(),
            ),
            Source::new("linux-base-cloud-amd64", &needs_base, Vec::new()),
            Source::new(
                &format!("linux-image-{version}"),
                &format!(
                    "dracut | initramfs-tools (>= 0.120), {needs_base}, linux-binary-{version}, \
                     linux-modules-{version}"
                ),
                Vec::new(),
            ),
            Source::new(
                &format!("linux-base-{version}"),
                "",
                vec![
                    (format!("{release}/modules.builtin"), builtin()),
                    (format!("{release}/config"), b"CONFIG_64BIT=y\n".to_vec()),
                ],
            ),
            Source::new(
                &format!("linux-binary-{version}"),
                &needs_base,
                vec![(
                    format!("{release}/vmlinuz"),
                    package().file("boot", "vmlinuz-"),
                )],
            ),
            Source::new(
                &format!("linux-modules-{version}"),
                &format!("kmod, {needs_base}"),
                modules.to_vec(),
            ),
        ],
    );
    assert_eq!(
        installed.source,
        ["base", "binary", "image", "modules"]
            .map(|part| format!("linux-{part}-{version} 6.8.0-31.31"))
            .join(", ")
    );
    let names = check_modules(&installed, pipeline.store(), package());
    assert_eq!(names, NOT_BUILT_IN);
}
