//! The modules disk of a kernel package, compared with what kmod's programs make of the same
//! modules.

use std::collections::BTreeSet;

use super::*;

/// Copies the root directory of an ext4 image to `to`, with e2fsprogs.
fn dump(image: &Path, to: &Path) {
    let run = Command::new("debugfs")
        .args(["-R", &format!("rdump / {}", to.display())])
        .arg(image)
        .output();
    assert!(run.unwrap().status.success());
    let check = Command::new("e2fsck").arg("-fn").arg(image).output();
    assert!(check.unwrap().status.success());
}

fn sorted_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The files that modprobe would load for a name; empty if it does not know the name.
fn show_depends(root: &Path, release: &str, name: &str) -> Vec<String> {
    let run = Command::new("modprobe")
        .args(["--config", "/dev/null", "--dirname"])
        .arg(root)
        .args(["--set-version", release, "--show-depends", name])
        .output()
        .unwrap();
    let shown = String::from_utf8(run.stdout).unwrap();
    let lines = shown.lines().filter(|line| !line.starts_with("builtin"));
    let files = lines.map(|line| line.trim().rsplit('/').next().unwrap().to_owned());
    files.collect()
}

#[test]
fn kmod_finds_modules_on_the_disk_as_with_its_own_indexes() {
    if !has_apt() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pipeline = pipeline(dir.path());
    let source = KernelSource::Path(package().deb.clone());
    let kernel = pipeline.kernel(&source).unwrap();
    let disk = pipeline.store().sparse_path(&kernel.modules_disk.unwrap());
    let release = package().release();
    let [ours, theirs] = ["ours", "theirs"].map(|name| dir.path().join(name));
    let directory = |root: &Path| root.join("lib/modules").join(&release);
    fs::create_dir_all(directory(&ours)).unwrap();
    dump(&disk, &directory(&ours));
    let copied = Command::new("cp")
        .arg("-a")
        .args([&package().tree, &theirs])
        .status();
    assert!(copied.unwrap().success());
    let depmod = Command::new("depmod")
        .arg("-b")
        .arg(&theirs)
        .arg(&release)
        .status();
    assert!(depmod.unwrap().success());

    // The content is that of the package.
    let diff = Command::new("diff")
        .args(["-rq", "--exclude=modules.*", "--exclude=lost+found"])
        .args([directory(&ours), directory(&theirs)])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(diff.stdout).unwrap(), "");
    for name in ["modules.alias", "modules.softdep", "modules.devname"] {
        let [ours, theirs] = [&ours, &theirs].map(|root| sorted_lines(&directory(root).join(name)));
        assert_eq!(ours, theirs, "{name}");
    }
    // The order of the modules that a module needs is not unique.
    let needed = |root: &Path| {
        let lines = sorted_lines(&directory(root).join("modules.dep"));
        let words = |line: String| line.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
        lines.into_iter().map(words).collect::<Vec<_>>()
    };
    assert_eq!(needed(&ours), needed(&theirs));
    // These do not depend on that order.
    for name in [
        "modules.alias.bin",
        "modules.builtin.bin",
        "modules.builtin.alias.bin",
    ] {
        let [ours, theirs] =
            [&ours, &theirs].map(|root| fs::read(directory(root).join(name)).unwrap());
        assert!(ours == theirs, "{name}");
    }
    for name in [
        "overlay",
        "fs-overlay",
        "nf_nat",
        "nf-nat",
        "nft_compat",
        "net-pf-16-proto-12",
        "char-major-10-200",
        "block-major-7-1",
        "ext4",
        "no-such-module",
    ] {
        let [ours, theirs] = [&ours, &theirs].map(|root| show_depends(root, &release, name));
        let set = |files: &[String]| files.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(set(&ours), set(&theirs), "{name}");
        assert_eq!(ours.last(), theirs.last(), "{name}");
        let absent = ["ext4", "no-such-module"].contains(&name);
        assert_eq!(ours.is_empty(), absent, "{name}");
    }
    let nodes: Vec<_> = pipeline
        .reports()
        .into_iter()
        .map(|report| report.op)
        .collect();
    assert_eq!(nodes, ["kernel", "kernelModules"]);
}
