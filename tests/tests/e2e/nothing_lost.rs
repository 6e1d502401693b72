//! Nothing that was reported done is lost, and nothing wrong is kept: whatever kills a build, fills
//! its disk, fails its system calls or works beside it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::image::{Layout, Tar};
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::registry::Registry;
use microagent_tests::{binaries, or_skip, root_or_skip, soak, tool};
use serde_json::Value;

/// How often a build or a collection is killed in the suite.
const KILLS: u64 = 100;
/// How many system calls fail in the suite, each in a build of its own.
const INJECTIONS: u64 = 30;

/// Numbers that look random, the same in each run: what varies is when they meet the build.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Images that share their lower layers: `latest`, and `latest` with one layer more each.
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
    let mut numbers = Numbers(seed);
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

/// Everything in the store is what it says, and nothing is half done.
fn assert_whole(host: &Host) {
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
fn builds_and_collections_that_are_killed_leave_a_whole_store() {
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

    let mut numbers = Numbers(1);
    let (mut killed, mut rounds) = (0, 0);
    for round in soak::rounds(KILLS) {
        rounds += 1;
        // So much is collected that most builds have much to do.
        let (mut invocation, most) = match round % 2 {
            0 => {
                let size = (numbers.below(6) << 20).to_string();
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
            assert_whole(&host);
        }
    }
    // Some were done before the signal came; most must not have been.
    assert!(killed > rounds / 3, "only {killed} of {rounds} were killed");
    assert_whole(&host);
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

/// A build failed and said so, in one of these kinds.
fn assert_said(finished: Finished, kinds: &[&str]) {
    let error = finished.expect_code(1).error();
    let kind = error["kind"].as_str().unwrap();
    assert!(kinds.contains(&kind), "{error}");
}

#[test]
fn a_disk_that_is_full_at_any_moment_loses_nothing() {
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
    // From nothing at all to enough, in steps that end in every stage.
    mount("size=256k");
    for kib in (256..40_000).step_by(1500) {
        let size = format!("remount,size={kib}k");
        tool::run("mount", ["-o", &size, &target]).unwrap();
        let finished = build(&host, &image);
        if finished.code == Some(0) {
            assert_eq!(digest(&finished), expected);
            break;
        }
        assert_said(finished, &["noSpace"]);
        failures += 1;
    }
    assert!(failures > 4, "{failures}");
    tool::run("mount", ["-o", "remount,size=80m", &target]).unwrap();
    let again = build(&host, &image).expect_code(0);
    assert_eq!(digest(&again), expected);
    assert_whole(&host);
    tool::run("umount", [&target]).unwrap();
}

#[test]
fn a_system_call_that_fails_at_any_moment_loses_nothing() {
    let strace = or_skip!(tool::find("strace"));
    let (layout, tags) = or_skip!(overlapping(1));
    let image = layout.reference(&tags[0]);
    let host = or_skip!(Host::new());
    let expected = digest(&build(&host, &image).expect_code(0));
    json(&host, &["cache", "gc", "--max-size", "0"]);
    let calls = "write,pwrite64,fsync,linkat,rename,renameat,renameat2,ftruncate,fchmod";
    let mut numbers = Numbers(2);
    let (mut failed, mut done) = (0, 0);
    for round in soak::rounds(INJECTIONS) {
        let error = ["EIO", "ENOSPC"][usize::try_from(round % 2).unwrap()];
        // Of each thread, its n-th call.
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
            // Not even its error could be written.
            _ if !finished.errors().contains("\"error\"") => failed += 1,
            _ => {
                assert_said(finished, &["host", "noSpace"]);
                failed += 1;
            }
        }
        if round % 10 == 9 {
            assert_whole(&host);
            json(&host, &["cache", "gc", "--max-size", "0"]);
        }
    }
    assert!(failed > done / 3, "{failed} failed, {done} were done");
    let again = build(&host, &image).expect_code(0);
    assert_eq!(digest(&again), expected);
    assert_whole(&host);
}

/// Starts a build that is not waited for.
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

/// Eight builds at once while collections go on one after the other; what was asked of the registry.
fn eight_beside(gc: &[&str]) -> Result<Vec<String>, microagent_tests::Error> {
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
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let text = String::from_utf8(output.stdout).unwrap();
        digests.push(text.trim_end().rsplit_once(' ').unwrap().1.to_owned());
    }
    assert!(collections > 1);
    assert_whole(&host);
    // What each of them made is what a build alone makes.
    for (tag, expected) in tags.iter().zip(&digests) {
        let alone = Host::new()?;
        let alone = build(&alone, &layout.reference(tag)).expect_code(0);
        assert_eq!(&digest(&alone), expected);
    }
    Ok(proxy.requests())
}

#[test]
fn eight_builds_beside_collections_fetch_every_layer_once() {
    let requests = or_skip!(eight_beside(&[]));
    let mut blobs: Vec<_> = (requests.into_iter())
        .filter(|request| request.contains("/blobs/"))
        .collect();
    let asked = blobs.len();
    blobs.sort();
    blobs.dedup();
    // Two shared layers, eight own ones, eight configurations.
    assert_eq!((asked, blobs.len()), (18, 18), "{blobs:?}");
}

#[test]
fn eight_builds_beside_collections_of_everything_succeed() {
    let requests = or_skip!(eight_beside(&["--max-size", "0", "--older-than", "0s"]));
    assert!(requests.len() >= 18);
}
