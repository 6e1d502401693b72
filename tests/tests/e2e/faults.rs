//! Builds through a network that drops, cuts and delays responses and flips bits, from a registry
//! that is sometimes busy or broken: the result is the correct image or a permitted error, and no
//! temporary files are left.
//!
//! The faults are a function of a seed, which is printed and can be set:
//! `MICROAGENT_TEST_SEED=N cargo test -p microagent-tests --test e2e faults::`.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::SystemTime;

use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::image::Layout;
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::registry::Registry;
use microagent_tests::{Error, tool};
use microagent_tests::{or_skip, soak};

/// Number of builds in the suite.
const BUILDS: u64 = 24;
/// Number of concurrent builds.
const CONCURRENT: u64 = 4;
/// Percentage of faulty responses.
const PERCENT: u64 = 35;

/// The permitted errors of a build through the faulty network: kind and text.
const PERMITTED: [(&str, &str); 8] = [
    ("unreachable", " is truncated: received "),
    ("unreachable", " closed the connection early"),
    ("unreachable", " returned status 429"),
    ("unreachable", " returned status 500"),
    ("unreachable", " returned status 503"),
    ("corrupt", ": digest mismatch: "),
    // A flipped bit in a stream is detected by its decoder before its digest is known.
    ("corrupt", " cannot be decompressed"),
    ("corrupt", "the tar of layer "),
];

/// An image of several layers, small ones and one that takes a few reads.
fn image() -> Result<Layout, Error> {
    let layout = Layout::busybox()?;
    for script in [
        "mkdir a; echo 1 >a/one; ln a/one a/two",
        "dd if=/dev/urandom of=random bs=64k count=48 2>/dev/null",
        "echo >.wh.random; mkdir a; echo 3 >a/three",
        "dd if=/dev/urandom of=again bs=1k count=20 2>/dev/null",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut make = Command::new("sh");
        make.args(["-ec", script]).current_dir(directory.path());
        tool::output(&mut make)?;
        let mut pack = Command::new(tool::find("tar")?);
        pack.args(["--sort=name", "-cf", "-", "."])
            .current_dir(directory.path());
        layout.add_layer("latest", &tool::output(&mut pack)?)?;
    }
    Ok(layout)
}

fn build(host: &Host, reference: &str) -> Finished {
    let mut invocation = host.microagent(["--json", "rootfs", "build", "--allow-mutable"]);
    invocation.argument("--size-mib").argument("32");
    invocation.argument("--out").argument("out.ext4");
    invocation.argument("--image").argument(reference);
    invocation.finish()
}

/// The result of an undisturbed build.
struct Expected {
    digests: (String, String),
    sha256: String,
}

/// The digests of the image and of its file system.
fn digests(finished: &Finished) -> (String, String) {
    let document: serde_json::Value = serde_json::from_slice(&finished.stdout).unwrap();
    let text = |part: &str| document[part]["digest"].as_str().unwrap().to_owned();
    (text("image"), text("rootfs"))
}

fn sha256(host: &Host) -> String {
    let errors = tool::run("sha256sum", [host.path("out.ext4")]).unwrap();
    let errors = String::from_utf8(errors).unwrap();
    format!("sha256:{}", errors.split(' ').next().unwrap())
}

/// Checks that no temporary file is left.
#[track_caller]
fn assert_no_temporary_files(host: &Host, seed: u64) {
    let left = std::fs::read_dir(host.state().join("cas/tmp")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "seed {seed}: {left:?}");
    host.assert_clean();
}

/// Builds through the faulty network, then again in the same store through a good one. Returns
/// whether the first build succeeded.
fn build_twice(registry: &Registry, expected: &Expected, seed: u64) -> bool {
    let host = Host::new().unwrap();
    let proxy = FaultProxy::random(registry.address(), seed, PERCENT).unwrap();
    let reference = format!("{}/app:1", proxy.address());
    let finished = build(&host, &reference);
    let requests = proxy.requests().join("\n");
    let errors = finished.errors();
    match finished.code {
        Some(0) => {
            assert_eq!(
                digests(&finished),
                expected.digests,
                "seed {seed}:\n{requests}"
            );
            assert_eq!(sha256(&host), expected.sha256, "seed {seed}:\n{requests}");
        }
        Some(1) => {
            let error = finished.error();
            let (kind, message) = (&error["kind"], &error["message"]);
            let is_permitted = PERMITTED.iter().any(|(permitted_kind, text)| {
                kind == permitted_kind && message.as_str().unwrap().contains(text)
            });
            assert!(is_permitted, "seed {seed}: {errors}\n{requests}");
            assert!(!host.path("out.ext4").exists(), "seed {seed}: {errors}");
        }
        code => panic!("seed {seed}: {code:?}: {errors}\n{requests}"),
    }
    assert_no_temporary_files(&host, seed);

    proxy.stop_faults();
    let again = build(&host, &reference).expect_code(0);
    assert_eq!(digests(&again), expected.digests, "seed {seed}");
    assert_eq!(sha256(&host), expected.sha256, "seed {seed}");
    assert_no_temporary_files(&host, seed);
    // Partial layers have been completed.
    let partial = std::fs::read_dir(host.state().join("cas/partial")).unwrap();
    assert_eq!(partial.count(), 0, "seed {seed}");
    finished.code == Some(0)
}

#[test]
fn a_faulty_network_yields_the_correct_image_or_a_permitted_error() {
    let layout = or_skip!(image());
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let host = or_skip!(Host::new());
    let direct = build(&host, &format!("{}/app:1", registry.address())).expect_code(0);
    let expected = Expected {
        digests: digests(&direct),
        sha256: sha256(&host),
    };

    let given = std::env::var("MICROAGENT_TEST_SEED").ok();
    let seed = match given.map(|text| text.parse().unwrap()) {
        Some(seed) => seed,
        None => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs(),
    };
    println!("MICROAGENT_TEST_SEED={seed}");
    let rounds = Mutex::new(soak::rounds(BUILDS));
    let builds = AtomicU64::new(0);
    let succeeded = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..CONCURRENT {
            scope.spawn(|| {
                loop {
                    let next = rounds.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(number) = next else { return };
                    builds.fetch_add(1, Ordering::Relaxed);
                    let is_success = build_twice(&registry, &expected, seed + number * 1_000_003);
                    succeeded.fetch_add(u64::from(is_success), Ordering::Relaxed);
                }
            });
        }
    });
    let (succeeded, builds) = (succeeded.into_inner(), builds.into_inner());
    println!("{succeeded} of {builds} builds succeeded");
    // Otherwise the faults were too many or too few for a meaningful test.
    assert!((1..builds).contains(&succeeded), "{succeeded} of {builds}");
}
