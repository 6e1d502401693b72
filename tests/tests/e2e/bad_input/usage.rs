//! Flags that are refused before anything is done.

use super::*;

#[track_caller]
fn refused_usage(flags: &[&str], names: &[&str]) {
    let host = or_skip!(Host::new());
    refused(&host, &mut run(&host, "oci:/no/such:1", flags), 2, names);
    assert!(
        !host.state().join("cas/blobs").exists(),
        "the store was created"
    );
}

#[test]
fn zero_memory_is_refused() {
    refused_usage(&["--memory", "0"], &["--memory", "0"]);
}

#[test]
fn sixty_five_cpus_are_refused() {
    refused_usage(&["--cpus", "65"], &["--cpus", "65", "64"]);
    refused_usage(&["--cpus", "0"], &["--cpus", "0"]);
}

#[test]
fn an_unknown_profile_is_refused_with_the_known_ones() {
    refused_usage(
        &["--profile", "huge"],
        &["huge", "tiny", "small", "medium", "large"],
    );
}

#[test]
fn a_malformed_variable_is_refused() {
    refused_usage(&["--env", "=secret"], &["--env", "KEY=VALUE"]);
}

#[test]
fn a_malformed_name_is_refused() {
    refused_usage(&["--name", "Not_A_Name"], &["Not_A_Name"]);
    refused_usage(&["--name", "one", "--id", "two"], &["one", "two"]);
}

#[test]
fn a_zero_timeout_is_refused() {
    refused_usage(&["--timeout", "0"], &["--timeout", "0"]);
}

#[test]
fn flags_that_need_another_one_are_refused_without_it() {
    refused_usage(
        &["--shell", "/bin/bash"],
        &["--shell is for a workspace that is kept", "--keep"],
    );
    refused_usage(
        &["--mediation-optional"],
        &["--mediation-optional without --mediation"],
    );
}

#[test]
fn a_malformed_disk_flag_is_refused() {
    for flag in ["--disk", "--bundle"] {
        for (value, name) in [
            ("/file:/data:ro", "no name"),
            ("Data=/file:/data:ro", "\"Data\""),
            ("data=/file:/data", ":ro or :rw"),
            ("data=/file:ro", "no mount point"),
            ("data=:/data:ro", "no file"),
            ("data=/file:data:ro", "not an absolute path"),
            ("data=/file:/data/../etc:ro", ".."),
            ("data=/file:/:ro", "the root"),
            ("data=/file:/proc/x:ro", "/proc"),
        ] {
            refused_usage(&[flag, value], &[name]);
        }
        refused_usage(&[flag, "a=/x:/a:ro", flag, "a=/y:/b:ro"], &["\"a\""]);
        refused_usage(
            &[flag, "a=/x:/a:ro", flag, "b=/y:/a/:ro"],
            &["\"a\"", "\"b\"", "/a"],
        );
    }
}

#[test]
fn a_container_flag_without_meaning_for_a_vm_is_refused_with_a_hint() {
    refused_usage(&["--privileged"], &["--privileged"]);
    refused_usage(&["--volume", "/a:/b"], &["--volume"]);
}

#[test]
fn an_unknown_flag_is_a_usage_error() {
    let host = or_skip!(Host::new());
    let finished = run(&host, "oci:/no/such:1", &["--no-such-flag"])
        .finish()
        .expect_code(2);
    assert!(
        finished.errors().contains("--no-such-flag"),
        "{}",
        finished.errors()
    );
}
