//! Full and read-only file systems and missing permissions, on real mounts.
//!
//! Mounting needs root; without it these tests record that they were skipped.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use microagent_cas::{Store, StoreError};
use microagent_tests::error_chain;

use super::{blobs, names};

/// A temporary tmpfs mount.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(options: &str) -> Option<Tmpfs> {
        if !rustix::process::geteuid().is_root() {
            microagent_tests::skip::record("mounting needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        run(
            &["mount", "-t", "tmpfs", "-o", options, "tmpfs"],
            dir.path(),
        );
        Some(Tmpfs(dir))
    }

    /// A second, read-only mount of `disk`.
    fn read_only(disk: &Tmpfs) -> Tmpfs {
        let dir = tempfile::tempdir().unwrap();
        let first = disk.path().to_str().unwrap();
        run(&["mount", "--bind", first], dir.path());
        let second = Tmpfs(dir);
        run(&["mount", "-o", "remount,bind,ro"], second.path());
        second
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run(&["umount", "-l"], self.0.path());
    }
}

fn run(command: &[&str], path: &Path) {
    let status = Command::new(command[0])
        .args(&command[1..])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success(), "{command:?} {}", path.display());
}

#[test]
fn a_full_disk_is_an_error_that_names_the_directory_and_leaves_nothing() {
    let Some(disk) = Tmpfs::mount("size=1m") else {
        return;
    };
    let store = Store::open(&disk.path().join("cas")).unwrap();
    let tmp = store.root().join("tmp");
    let full = format!(
        "cannot write to {}: No space left on device (os error 28)",
        tmp.display()
    );

    let mut writer = store.writer().unwrap();
    let error = writer.write_all(&vec![7; 2 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let error = StoreError::from_stream(error).unwrap();
    assert!(matches!(&error, StoreError::NoSpace(_)));
    assert_eq!(error_chain(&error), full);
    assert_eq!(
        error.remediation().unwrap(),
        format!("free space on the file system of {}", tmp.display())
    );
    drop(writer);

    let error = store.put_bytes(&vec![7; 2 << 20]).unwrap_err();
    assert_eq!(error_chain(&error), full);
    assert_eq!((blobs(&store), names(&store, "tmp")), (vec![], vec![]));
    store.put_bytes(&vec![7; 100 << 10]).unwrap();

    let scratch = store.scratch().unwrap();
    let error = scratch
        .file()
        .write_all_at(&vec![7; 2 << 20], 0)
        .unwrap_err();
    assert!(matches!(
        StoreError::io("write to", scratch.path(), error),
        StoreError::NoSpace(_)
    ));
    drop(scratch);
    assert_eq!(names(&store, "tmp"), [""; 0]);
}

#[test]
fn a_full_disk_loses_no_record_and_no_tag() {
    let Some(disk) = Tmpfs::mount("size=1m") else {
        return;
    };
    let store = Store::open(&disk.path().join("cas")).unwrap();
    store
        .set_root("r", vec![], serde_json::json!("old"))
        .unwrap();
    let mut filler = fs::File::create(disk.path().join("filler")).unwrap();
    while filler.write(&[0; 4096]).is_ok() {}
    let error = store
        .set_root("r", vec![], serde_json::json!("new".repeat(10_000)))
        .unwrap_err();
    assert!(matches!(error, StoreError::NoSpace(_)), "{error}");
    assert_eq!(store.get_root("r").unwrap().unwrap().value, "old");
    assert_eq!(names(&store, "tmp"), [""; 0]);
}

#[test]
fn opening_a_store_on_a_read_only_disk_fails() {
    let Some(disk) = Tmpfs::mount("size=1m") else {
        return;
    };
    Store::open(&disk.path().join("cas")).unwrap();
    // A second mount: a fork of another test may hold the first one writable.
    let disk = Tmpfs::read_only(&disk);
    let root = disk.path().join("cas");
    let error = Store::open(&root).unwrap_err();
    assert!(matches!(&error, StoreError::ReadOnly(_)));
    let cause = "Read-only file system (os error 30)";
    assert_eq!(
        error_chain(&error),
        format!("cannot write to {}/tmp: {cause}", root.display())
    );
    let error = Store::open(&disk.path().join("new")).unwrap_err();
    assert!(matches!(&error, StoreError::ReadOnly(_)), "{error}");
    assert_eq!(
        error.remediation().unwrap(),
        "choose a writable directory with --state-dir"
    );
}

/// The child process of the test below, run as nobody.
#[test]
fn open_as_nobody() {
    let Some(root) = std::env::var_os("MICROAGENT_TEST_STORE") else {
        return;
    };
    let error = Store::open(Path::new(&root)).unwrap_err();
    assert!(matches!(&error, StoreError::Permission(_)));
    println!("{}", error_chain(&error));
}

#[test]
fn opening_a_store_in_a_directory_of_another_user_fails() {
    if !rustix::process::geteuid().is_root() {
        microagent_tests::skip::record("switching to another user needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let test = dir.path().join("test");
    microagent_tests::program::copy(std::env::current_exe().unwrap(), &test).unwrap();
    let root = dir.path().join("cas");
    let open_as_nobody = || {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&test)
            .args(["--exact", "disk::open_as_nobody", "--nocapture"])
            .env("MICROAGENT_TEST_STORE", &root)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let denied = "Permission denied (os error 13)";
    let output = open_as_nobody();
    assert!(
        output.contains(&format!("cannot create {}: {denied}", root.display())),
        "{output}"
    );
    Store::open(&root).unwrap();
    let output = open_as_nobody();
    assert!(
        output.contains(&format!("cannot write to {}/tmp: {denied}", root.display())),
        "{output}"
    );
}
