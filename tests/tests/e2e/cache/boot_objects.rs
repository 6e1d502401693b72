//! Damaged objects that a VM is booted from: kernel, its modules, initramfs, bundle.

use microagent_tests::lab;

use super::damage::{corrupt, decay};
use super::*;

/// The operations whose objects these are.
const OPS: [&str; 4] = ["kernel", "kernelModules", "initramfs", "bundle"];

/// A run of a busybox image with the distribution's kernel and a bundle.
struct Setup {
    host: Host,
    layout: Layout,
    package: PathBuf,
}

/// An output of a node.
#[derive(Debug, Clone, PartialEq)]
struct Object {
    op: String,
    name: String,
    path: PathBuf,
}

impl Setup {
    fn new() -> Result<Setup, microagent_tests::Error> {
        let host = Host::new()?;
        let tar = Tar::new().file("file", b"bundled").finish();
        fs::write(host.path("bundle.tar"), tar).unwrap();
        Ok(Setup {
            layout: Layout::busybox()?,
            package: lab::kernel()?.package,
            host,
        })
    }

    fn run(&self, flags: &[&str]) -> Finished {
        let mut run = self.host.microagent(["--quiet", "--engine", "qemu", "run"]);
        for flag in flags {
            run.argument(*flag);
        }
        run.argument("--kernel").argument(&self.package);
        run.argument("--bundle").argument("b=bundle.tar:/b:ro");
        let image = self.layout.reference("latest");
        for word in [
            "--image",
            &image,
            "--exec",
            "cat /b/file; modprobe overlay; grep -c overlay /proc/filesystems",
        ] {
            run.argument(word);
        }
        run.finish()
    }

    /// Prepares everything that a run needs, for a supervisor that exits at once.
    fn prepare(&self) -> Finished {
        self.run(&["--supervisor", "/bin/false"])
    }

    /// Prepares a run successfully.
    #[track_caller]
    fn prepared(&self, what: &str) {
        let finished = self.prepare().expect_code(125);
        let expected = "microagent: the supervisor of the VM died (exit code 1)\n";
        assert_eq!(finished.errors(), expected, "{what}");
    }

    /// The objects of the nodes [`OPS`], sorted; a disk and its chunk map are two.
    fn objects(&self) -> Vec<Object> {
        let mut objects = Vec::new();
        for record in records(&self.host, &OPS) {
            let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
            for (name, output) in record["outputs"].as_object().unwrap() {
                let store = self.host.state().join("cas");
                let mut add = |name: String, path: PathBuf| {
                    let op = record["op"].as_str().unwrap().to_owned();
                    objects.push(Object { op, name, path });
                };
                let (kind, hex) = output.as_str().unwrap().rsplit_once(':').unwrap();
                let blob = store.join("blobs/sha256").join(hex);
                if kind.starts_with("sparse") {
                    add(format!("{name} map"), blob);
                    add(name.clone(), store.join("sparse").join(hex));
                } else {
                    add(name.clone(), blob);
                }
            }
        }
        objects.sort_by_key(|object| (object.op.clone(), object.name.clone()));
        objects
    }
}

/// A byte of each that is not padding: of a disk, in its superblock, whose first KiB is unused.
fn offset(object: &Object) -> u64 {
    let is_disk = object.path.parent().unwrap().ends_with("sparse");
    if is_disk { 1100 } else { 20 }
}

fn contents(objects: &[Object]) -> Vec<String> {
    let sum = |object: &Object| tool::text("sha256sum", [object.path.as_os_str()]).unwrap();
    objects.iter().map(sum).collect()
}

/// Each object in turn: a write to it is noticed by the next run, decay by a verification, whose
/// repair drops what was built from it, and the next run has the same objects again.
#[test]
fn each_object_that_a_vm_is_booted_from_is_made_again() {
    let setup = or_skip!(Setup::new());
    setup.prepared("new");
    let objects = setup.objects();
    let names: Vec<_> = (objects.iter())
        .map(|object| format!("{} {}", object.op, object.name))
        .collect();
    assert_eq!(
        names,
        [
            "bundle bundle",
            "bundle bundle map",
            "initramfs initramfs",
            "kernel description",
            "kernel kernel",
            "kernel modules",
            "kernelModules kernelModules",
            "kernelModules kernelModules map",
        ]
    );
    let golden = contents(&objects);
    let all: Vec<PathBuf> = records(&setup.host, &OPS);
    assert_eq!(all.len(), 4);
    for (object, name) in objects.iter().zip(&names) {
        // A program writes to it. Chunk maps are blobs like the others.
        if !name.ends_with(" map") {
            corrupt(&object.path, offset(object));
            setup.prepared(name);
            assert!(contents(&objects) == golden, "{name}");
        }

        // It decays.
        decay(&object.path, offset(object));
        let before = records(&setup.host, &OPS);
        let repaired = json(&setup.host, &["cache", "verify", "--repair"]);
        assert_eq!(repaired["ok"], true, "{name}: {repaired}");
        let path = object.path.to_str().unwrap();
        let problems = repaired["problems"].as_array().unwrap().iter();
        let found = { problems }.any(|problem| problem["path"] == path);
        assert!(found && !object.path.exists(), "{name}: {repaired}");
        // The node itself, and what was built from it.
        let left = records(&setup.host, &OPS);
        let dropped = before.len() - left.len();
        let expected = match object.op.as_str() {
            "kernel" => 2,
            _ => 1,
        };
        assert_eq!(dropped, expected, "{name}: {repaired}");
        setup.prepared(name);
        assert!(contents(&objects) == golden, "{name}");
    }
    let clean = json(&setup.host, &["cache", "verify"]);
    assert_eq!(clean["problems"], Value::Array(Vec::new()));
    // With the right bytes, everything works.
    let finished = setup.run(&[]).expect_code(0);
    assert_eq!(finished.text(), "bundled1\n");
}

/// What is only built upon is read and verified then: modules that decayed are in no initramfs.
#[test]
fn an_initramfs_is_never_built_from_decayed_modules() {
    let setup = or_skip!(Setup::new());
    setup.prepared("new");
    let objects = setup.objects();
    let golden = contents(&objects);
    let modules = objects
        .iter()
        .find(|object| object.name == "modules")
        .unwrap();
    decay(&modules.path, 3000);
    remove_all(&records(&setup.host, &["initramfs"]));
    let refused = setup.prepare().expect_code(125).errors();
    let (message, remediation) = refused.split_once("\n  ").unwrap();
    let hex = modules.path.file_name().unwrap().to_str().unwrap();
    assert_eq!(
        message,
        format!(
            "microagent: the modules sha256:{hex} of the kernel cannot be used: they are missing or damaged"
        )
    );
    // From the same package, because the distribution's would be downloaded.
    let install = remediation
        .trim_end()
        .strip_prefix("install the kernel again: ")
        .unwrap();
    let install = format!("{install} --from {}", setup.package.display());
    setup.host.shell(&install).finish().expect_code(0);
    setup.prepared("after the installation");
    assert!(contents(&objects) == golden);
}
