//! Images through a network that drops, cuts, delays and flips bits, from a registry that is busy
//! or broken now and then: what comes out is the right image or the right error, and nothing that
//! stays.
//!
//! What happens is a function of a seed, which is printed and can be given again:
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

/// How many builds there are in the suite.
const BUILDS: u64 = 24;
/// How many run at once.
const AT_ONCE: u64 = 4;
/// How many of a hundred requests go wrong.
const PERCENT: u64 = 35;

/// What a build may say when the network was too bad for it, by kind.
const RIGHT: [(&str, &str); 8] = [
    ("unreachable", " is truncated: received "),
    ("unreachable", " closed the connection early"),
    ("unreachable", " returned status 429"),
    ("unreachable", " returned status 500"),
    ("unreachable", " returned status 503"),
    ("corrupt", ": digest mismatch: "),
    // A flipped bit in what is read while it comes shows before the digest does.
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

/// What comes out of a build that nothing disturbs.
struct Right {
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
    let said = tool::run("sha256sum", [host.path("out.ext4")]).unwrap();
    let said = String::from_utf8(said).unwrap();
    format!("sha256:{}", said.split(' ').next().unwrap())
}

/// Nothing is left of what was begun.
#[track_caller]
fn assert_nothing_begun(host: &Host, seed: u64) {
    let begun = std::fs::read_dir(host.state().join("cas/tmp")).unwrap();
    let begun: Vec<_> = begun.map(|entry| entry.unwrap().path()).collect();
    assert!(begun.is_empty(), "seed {seed}: {begun:?}");
    host.assert_clean();
}

/// One build through a bad network, then the same in the same place through a good one; whether
/// the first succeeded.
fn one(registry: &Registry, right: &Right, seed: u64) -> bool {
    let host = Host::new().unwrap();
    let proxy = FaultProxy::random(registry.address(), seed, PERCENT).unwrap();
    let reference = format!("{}/app:1", proxy.address());
    let finished = build(&host, &reference);
    let requests = proxy.requests().join("\n");
    let said = finished.errors();
    match finished.code {
        Some(0) => {
            assert_eq!(
                digests(&finished),
                right.digests,
                "seed {seed}:\n{requests}"
            );
            assert_eq!(sha256(&host), right.sha256, "seed {seed}:\n{requests}");
        }
        Some(1) => {
            let error = finished.error();
            let (kind, message) = (&error["kind"], &error["message"]);
            let is_right = RIGHT.iter().any(|(right_kind, text)| {
                kind == right_kind && message.as_str().unwrap().contains(text)
            });
            assert!(is_right, "seed {seed}: {said}\n{requests}");
            assert!(!host.path("out.ext4").exists(), "seed {seed}: {said}");
        }
        code => panic!("seed {seed}: {code:?}: {said}\n{requests}"),
    }
    assert_nothing_begun(&host, seed);

    proxy.behave();
    let again = build(&host, &reference).expect_code(0);
    assert_eq!(digests(&again), right.digests, "seed {seed}");
    assert_eq!(sha256(&host), right.sha256, "seed {seed}");
    assert_nothing_begun(&host, seed);
    // Layers that had come in part are whole now.
    let partial = std::fs::read_dir(host.state().join("cas/partial")).unwrap();
    assert_eq!(partial.count(), 0, "seed {seed}");
    finished.code == Some(0)
}

#[test]
fn a_broken_network_gives_the_right_image_or_the_right_error() {
    let layout = or_skip!(image());
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let host = or_skip!(Host::new());
    let direct = build(&host, &format!("{}/app:1", registry.address())).expect_code(0);
    let expected = Right {
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
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = rounds.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(number) = next else { return };
                    builds.fetch_add(1, Ordering::Relaxed);
                    let is_success = one(&registry, &expected, seed + number * 1_000_003);
                    succeeded.fetch_add(u64::from(is_success), Ordering::Relaxed);
                }
            });
        }
    });
    let (succeeded, builds) = (succeeded.into_inner(), builds.into_inner());
    println!("{succeeded} of {builds} builds succeeded");
    // Otherwise too much or too little went wrong to show anything.
    assert!((1..builds).contains(&succeeded), "{succeeded} of {builds}");
}
