use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_tests::tree;
use tempfile::TempDir;

use super::*;
use crate::root_fs::{Blocks, changes};

#[test]
fn a_time_is_the_sum_of_its_parts() {
    let time = |seconds, nanos| time(microagent_tree::Time { seconds, nanos });
    assert_eq!(time(5, 0), "5");
    assert_eq!(time(5, 7), "5.000000007");
    assert_eq!(time(-2, 750_000_000), "-1.250000000");
    assert_eq!(time(-1, 500_000_000), "-0.500000000");
    assert_eq!(time(-2, 0), "-2");
}

fn run(directory: &Path, script: &str) {
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(directory)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
}

fn file_system(tree: &Path) -> RootFs {
    let image = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-O",
            "metadata_csum",
            "-d",
        ])
        .args([tree, image.path()])
        .arg("64M")
        .output();
    assert!(status.unwrap().status.success());
    RootFs::open(Blocks::base(image.path()).unwrap()).unwrap()
}

/// Two trees: `old`, and `new` as it became.
fn trees() -> (TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    let long = "n".repeat(120);
    fs::create_dir_all(old.join("same/deep")).unwrap();
    for name in [
        "same/deep/file",
        "content",
        "mode",
        "time",
        "gone",
        "linked",
        "attribute",
        "to-directory",
    ] {
        fs::write(old.join(name), "before").unwrap();
    }
    fs::hard_link(old.join("linked"), old.join("same/other-name")).unwrap();
    symlink("before", old.join("link")).unwrap();
    run(
        &old,
        "mkdir -p gone-directory/below emptied owner to-file/below; touch gone-directory/below/x emptied/x to-file/below/x",
    );
    run(directory.path(), "cp -a old new");
    let at = |name: &str| new.join(name);
    // The same length and time: only the content tells.
    let time = fs::metadata(at("content")).unwrap().modified().unwrap();
    fs::write(at("content"), "behind").unwrap();
    File::options()
        .write(true)
        .open(at("content"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    fs::set_permissions(at("mode"), fs::Permissions::from_mode(0o4711)).unwrap();
    run(
        &new,
        "touch -d @-1.25 time; ln -sfn after link; rm -r gone gone-directory emptied/x to-file to-directory; touch to-file; mkdir to-directory; touch to-directory/inside",
    );
    fs::hard_link(at("linked"), at("third-name")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at("attribute"), "user.key", b"value\n\0=", flags).unwrap();
    let deep = at(&format!("added/{long}/{long}"));
    fs::create_dir_all(&deep).unwrap();
    symlink(format!("/{long}"), deep.join(&long)).unwrap();
    let sparse = File::create(deep.join("sparse")).unwrap();
    sparse.write_all_at(b"x", 5_000_000).unwrap();
    run(
        &new,
        "mkfifo -m 640 added/fifo; touch same/deep; touch 'added/\\odd name'",
    );
    (directory, old, new)
}

#[test]
fn what_differs_is_found_and_a_layer_of_it_makes_the_new_tree() {
    let (directory, old, new) = trees();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        run(
            &new,
            "chown 70000:3000000 owner; mknod added/device c 1 300",
        );
    }
    let (before, after) = (file_system(&old), file_system(&new));
    assert_eq!(changes(&before, &before, &|_| false).unwrap(), []);
    let found = changes(&before, &after, &|path| path == b"mode").unwrap();
    let long = "n".repeat(120);
    let mut expected = vec![
        "A added".to_owned(),
        "A added/\\odd name".into(),
        "A added/fifo".into(),
        format!("A added/{long}"),
        format!("A added/{long}/{long}"),
        format!("A added/{long}/{long}/{long}"),
        format!("A added/{long}/{long}/sparse"),
        "C attribute".into(),
        "C content".into(),
        "C emptied".into(),
        "D emptied/x".into(),
        "D gone".into(),
        "D gone-directory".into(),
        "C link".into(),
        "A third-name".into(),
        "C time".into(),
        "C to-directory".into(),
        "A to-directory/inside".into(),
        "C to-file".into(),
    ];
    if is_root {
        expected.insert(2, "A added/device".into());
        expected.insert(15, "C owner".into());
    }
    let line = |changed: &Changed| {
        let letter = match changed.change {
            Change::Added => 'A',
            Change::Changed => 'C',
            Change::Removed => 'D',
        };
        format!("{letter} {}", String::from_utf8_lossy(&changed.path))
    };
    let lines: Vec<_> = found.iter().map(line).collect();
    assert_eq!(lines, expected);

    let found = changes(&before, &after, &|_| false).unwrap();
    let layer = directory.path().join("layer.tar");
    let written = write_layer(&after, &found, File::create(&layer).unwrap());
    assert_eq!(written.unwrap(), 0);
    // GNU tar applies it to the old tree.
    run(
        directory.path(),
        "tar -tf layer.tar | grep -E '(^|/)\\.wh\\.' >whiteouts; tar -tf layer.tar | sort | uniq -d | (! grep .)
         cp -a old applied; cd applied
         while read -r path; do rm -r \"$(dirname \"$path\")/$(basename \"$path\" | sed s/^.wh.//)\"; done <../whiteouts
         tar -xpf ../layer.tar --xattrs --xattrs-include='*' --numeric-owner --recursive-unlink --exclude-from=../whiteouts",
    );
    let applied = tree::list(&directory.path().join("applied")).unwrap();
    let expected = tree::list(&new).unwrap();
    assert_eq!(tree::difference(&applied, &expected), "");
}

#[test]
fn a_name_of_a_whiteout_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    for tree in [&old, &new] {
        fs::create_dir(tree).unwrap();
    }
    fs::write(new.join(".wh.file"), "").unwrap();
    let after = file_system(&new);
    let found = changes(&file_system(&old), &after, &|_| false).unwrap();
    let error = write_layer(&after, &found, io::sink()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the file .wh.file cannot be in a layer: its name is that of a whiteout"
    );
}
