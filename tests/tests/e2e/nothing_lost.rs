//! Durability: no reported result is lost and no wrong one is kept when builds are killed, the disk
//! is full, system calls fail, or other builds and collections run at the same time.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::image::{Layout, Tar};
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::numbers::Numbers;
use microagent_tests::registry::Registry;
use microagent_tests::{binaries, or_skip, root_or_skip, soak, tool};
use serde_json::Value;

/// Number of killed builds and collections in the suite.
const KILLS: u64 = 100;
/// Number of builds with a failing system call in the suite.
const INJECTIONS: u64 = 30;

/// Images with shared lower layers: `latest`, and `count` images with one more layer each.
fn overlapping(count: u8) -> Result<(Layout, Vec<String>), microagent_tests::Error> {
    let layout = Layout::busybox()?;
    let shared = Tar::new().file("shared", &noise(1, 3 << 20)).finish();
    layout.add_layer("latest", &shared)?;
    let mut tags = Vec::new();
    for number in 0..count {
        let tag = format!("image-{number}");
        layout.tag("latest", &tag)?;
        let own = Tar::new()
            .file("own", &noise(u64::from(number) + 2, 1 << 20))
            .symlink("link", "own")
            .finish();
        layout.add_layer(&tag, &own)?;
        tags.push(tag);
    }
    Ok((layout, tags))
}

/// Bytes that do not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let words = std::iter::repeat_with(|| numbers.below(u64::MAX));
    words.flat_map(u64::to_le_bytes).take(length).collect()
}

fn build(host: &Host, image: &str) -> Finished {
    host.microagent(["--json", "rootfs", "build", "--allow-mutable", "--image"])
        .argument(image)
        .finish()
}

fn digest(finished: &Finished) -> String {
    finished.json()["rootfs"]["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Checks that every object in the store is valid and no temporary file is left.
fn assert_store_intact(host: &Host) {
    let report = host
        .microagent(["--json", "cache", "verify"])
        .finish()
        .expect_code(0)
        .json();
    assert_eq!(report["problems"], Value::Array(Vec::new()));
    let left = std::fs::read_dir(host.state().join("cas/tmp")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn killed_builds_and_collections_leave_the_store_intact() {
    let (layout, tags) = or_skip!(overlapping(4));
    let host = or_skip!(Host::new());
    let expected: Vec<String> = (tags.iter())
        .map(|tag| digest(&build(&host, &layout.reference(tag)).expect_code(0)))
        .collect();
    let started = Instant::now();
    json(&host, &["cache", "gc", "--max-size", "0"]);
    build(&host, &layout.reference(&tags[0])).expect_code(0);
    let longest = u64::try_from(started.elapsed().as_micros()).unwrap();
    json(&host, &["cache", "gc", "--max-size", "0"]);

    let mut numbers = Numbers::new(1);
    let (mut killed, mut rounds) = (0, 0);
    for round in soak::rounds(KILLS) {
        rounds += 1;
        // Collections keep less than an image needs, so that most builds have work to do.
        let (mut invocation, most) = match round % 2 {
            0 => {
                let size = (numbers.below(3) << 20).to_string();
                let words = ["--json", "cache", "gc", "--max-size", &size];
                (host.microagent(words), longest / 10)
            }
            _ => {
                let tag = &tags[usize::try_from(numbers.below(4)).unwrap()];
                let mut invocation =
                    host.microagent(["--json", "rootfs", "build", "--allow-mutable", "--image"]);
                invocation.argument(layout.reference(tag));
                (invocation, longest)
            }
        };
        let delay = Duration::from_micros(numbers.below(most));
        let finished = invocation
            .start()
            .signal_after(delay, rustix::process::Signal::KILL);
        match finished.signal() {
            Some(9) => killed += 1,
            _ => drop(finished.expect_code(0)),
        }
        if round % 25 == 24 {
            assert_store_intact(&host);
        }
    }
    println!("{killed} of {rounds} were killed");
    // Some finish before the signal, but not most of them.
    assert!(killed > rounds / 3, "only {killed} of {rounds} were killed");
    assert_store_intact(&host);
    for (tag, digest_before) in tags.iter().zip(&expected) {
        let again = build(&host, &layout.reference(tag)).expect_code(0);
        assert_eq!(&digest(&again), digest_before);
    }
    host.assert_clean();
}

fn json(host: &Host, words: &[&str]) -> Value {
    let mut invocation = host.microagent(["--json"]);
    for word in words {
        invocation.argument(*word);
    }
    invocation.finish().expect_code(0).json()
}

/// Checks that a build failed with an error of one of these kinds.
fn assert_failed_with(finished: Finished, kinds: &[&str]) {
    let error = finished.expect_code(1).error();
    let kind = error["kind"].as_str().unwrap();
    assert!(kinds.contains(&kind), "{error}");
}

#[test]
fn a_full_disk_at_any_moment_loses_nothing() {
    root_or_skip!();
    let (layout, tags) = or_skip!(overlapping(1));
    let image = layout.reference(&tags[0]);
    let host = or_skip!(Host::new());
    let expected = digest(&build(&host, &image).expect_code(0));
    std::fs::remove_dir_all(host.state()).unwrap();
    std::fs::create_dir_all(host.state()).unwrap();
    let target = host.state().display().to_string();
    let mount = |options: &str| {
        tool::run("mount", ["-t", "tmpfs", "-o", options, "none", &target]).unwrap();
    };
    let mut failures = 0;
    // From almost nothing to enough, in steps that fail in every stage.
    mount("size=256k");
    for kib in (256..40_000).step_by(1500) {
        let size = format!("remount,size={kib}k");
        tool::run("mount", ["-o", &size, &target]).unwrap();
        let finished = build(&host, &image);
        if finished.code == Some(0) {
            assert_eq!(digest(&finished), expected);
            break;
        }
        assert_failed_with(finished, &["noSpace"]);
        failures += 1;
    }
    assert!(failures > 4, "{failures}");
    tool::run("mount", ["-o", "remount,size=80m", &target]).unwrap();
    let again = build(&host, &image).expect_code(0);
    assert_eq!(digest(&again), expected);
    assert_store_intact(&host);
    tool::run("umount", [&target]).unwrap();
}

#[test]
fn a_failing_system_call_at_any_moment_loses_nothing() {
    let strace = or_skip!(tool::find("strace"));
    let (layout, tags) = or_skip!(overlapping(1));
    let image = layout.reference(&tags[0]);
    let host = or_skip!(Host::new());
    let expected = digest(&build(&host, &image).expect_code(0));
    json(&host, &["cache", "gc", "--max-size", "0"]);
    let calls = "write,pwrite64,fsync,linkat,rename,renameat,renameat2,ftruncate,fchmod";
    let mut numbers = Numbers::new(2);
    let (mut failed, mut done) = (0, 0);
    for round in soak::rounds(INJECTIONS) {
        let error = ["EIO", "ENOSPC"][usize::try_from(round % 2).unwrap()];
        // strace counts the calls of each thread separately.
        let inject = format!(
            "inject={calls}:error={error}:when={}",
            1 + numbers.below(25)
        );
        let mut traced = host.program(&strace);
        for word in ["-f", "-qq", "-o", "/dev/null", "-e", &inject] {
            traced.argument(word);
        }
        traced.argument(binaries::microagent());
        for word in [
            "--json",
            "rootfs",
            "build",
            "--allow-mutable",
            "--image",
            &image,
        ] {
            traced.argument(word);
        }
        let finished = traced.finish();
        match finished.code {
            Some(0) => {
                assert_eq!(digest(&finished), expected, "{inject}");
                done += 1;
            }
            // Even writing the error failed.
            _ if !finished.errors().contains("\"error\"") => failed += 1,
            _ => {
                assert_failed_with(finished, &["host", "noSpace"]);
                failed += 1;
            }
        }
        if round % 10 == 9 {
            assert_store_intact(&host);
            json(&host, &["cache", "gc", "--max-size", "0"]);
        }
    }
    assert!(failed > done / 3, "{failed} failed, {done} were done");
    let again = build(&host, &image).expect_code(0);
    assert_eq!(digest(&again), expected);
    assert_store_intact(&host);
}

/// Starts a command without waiting for it.
fn start(program: &Path, state: &Path, words: &[&str]) -> std::process::Child {
    Command::new(program)
        .args(["--quiet", "--state-dir"])
        .arg(state)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs eight concurrent builds while collections run one after the other. Returns the requests to
/// the registry.
fn eight_builds_during(gc: &[&str]) -> Result<Vec<String>, microagent_tests::Error> {
    let (layout, tags) = overlapping(8)?;
    let registry = Registry::start()?;
    for tag in &tags {
        registry.push(&layout.reference(tag), &format!("overlap:{tag}"))?;
    }
    let proxy = FaultProxy::start(registry.address(), Vec::new())?;
    let host = Host::new()?;
    let program = binaries::microagent();
    let state = host.state();
    let mut builds: Vec<_> = (tags.iter())
        .map(|tag| {
            let image = format!("{}/overlap:{tag}", proxy.address());
            let words = ["rootfs", "build", "--allow-mutable", "--image", &image];
            start(&program, &state, &words)
        })
        .collect();
    let mut collections = 0;
    while builds
        .iter_mut()
        .any(|build| build.try_wait().unwrap().is_none())
    {
        let words = [&["cache", "gc"][..], gc].concat();
        let output = start(&program, &state, &words).wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        collections += 1;
    }
    let mut digests = Vec::new();
    for build in builds {
        let output = build.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{stderr}");
        let text = String::from_utf8(output.stdout).unwrap();
        digests.push(text.trim_end().rsplit_once(' ').unwrap().1.to_owned());
    }
    assert!(collections > 1);
    assert_store_intact(&host);
    // Each result equals that of a build in an empty store.
    for (tag, expected) in tags.iter().zip(&digests) {
        let alone = Host::new()?;
        let alone = build(&alone, &layout.reference(tag)).expect_code(0);
        assert_eq!(&digest(&alone), expected);
    }
    Ok(proxy.requests())
}

#[test]
fn eight_builds_during_collections_fetch_every_layer_once() {
    let requests = or_skip!(eight_builds_during(&[]));
    let mut blobs: Vec<_> = (requests.into_iter())
        .filter(|request| request.contains("/blobs/"))
        .collect();
    let total = blobs.len();
    blobs.sort();
    blobs.dedup();
    // Two shared layers, eight own ones, eight configurations.
    assert_eq!((total, blobs.len()), (18, 18), "{blobs:?}");
}

#[test]
fn eight_builds_during_collections_of_everything_succeed() {
    let requests = or_skip!(eight_builds_during(&[
        "--max-size",
        "0",
        "--older-than",
        "0s"
    ]));
    assert!(requests.len() >= 18);
}
