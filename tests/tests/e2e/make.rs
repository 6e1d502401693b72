//! The scripts behind `make`: a missing prerequisite is reported in one line.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn script(name: &str) -> String {
    format!("{}/host/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs `toolchain.sh` in an environment whose only toolchain is the one in `home`.
fn toolchain(home: &Path) -> Output {
    Command::new("/bin/sh")
        .arg(script("toolchain.sh"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home)
        .output()
        .unwrap()
}

/// A toolchain whose programs report this version.
fn fake_toolchain(version: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join(".cargo/bin");
    fs::create_dir_all(&bin).unwrap();
    for program in ["cargo", "rustc"] {
        let path = bin.join(program);
        let script = format!("#!/bin/sh\necho {program} {version} '(0 2020-01-01)'\n");
        microagent_tests::program::write(path, 0o755, script).unwrap();
    }
    home
}

fn one_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn a_missing_toolchain_is_reported_in_one_line() {
    if Path::new("/usr/bin/cargo").exists() || Path::new("/usr/local/cargo/bin/cargo").exists() {
        microagent_tests::skip::record("this host has a system-wide toolchain");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let output = toolchain(home.path());
    assert!(!output.status.success());
    let text = one_line(&output);
    assert!(
        text.contains("no Rust toolchain found") && text.contains("rustup.rs"),
        "{text}"
    );
}

#[test]
fn an_outdated_toolchain_is_reported_in_one_line() {
    if Path::new("/usr/bin/cargo").exists() {
        microagent_tests::skip::record("this host has a system-wide toolchain");
        return;
    }
    let output = toolchain(fake_toolchain("1.70.0").path());
    assert!(!output.status.success());
    let text = one_line(&output);
    assert!(text.contains("Rust 1.70.0 is too old"), "{text}");
}

#[test]
fn a_toolchain_in_the_home_directory_is_found_without_path() {
    if Path::new("/usr/bin/cargo").exists() {
        microagent_tests::skip::record("this host has a system-wide toolchain");
        return;
    }
    let home = fake_toolchain("1.999.0");
    let output = toolchain(home.path());
    assert!(output.status.success(), "{}", one_line(&output));
    let settings = String::from_utf8_lossy(&output.stdout).into_owned();
    let bin = home.path().join(".cargo/bin").display().to_string();
    assert!(settings.contains(&bin), "{settings}");
}

#[test]
fn an_unknown_set_of_packages_is_refused() {
    let output = Command::new("/bin/sh")
        .args([&script("install.sh"), "no-such-set"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(one_line(&output).contains("no such set: no-such-set"));
}
