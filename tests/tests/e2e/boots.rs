//! Boots on engine `qemu` while other processes use every processor. A VM that stalls is reported
//! with its console and registers. `make soak` runs more boots.

use std::process::{Command, Stdio};
use std::thread::available_parallelism;
use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::scoped_process::ScopedProcess;
use microagent_tests::{or_skip, soak, tool};

/// Number of boots in the suite.
const BOOTS: u64 = 2;

#[test]
fn a_vm_boots_under_load() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let mut work = Command::new("sh");
    work.args(["-c", "while :; do :; done"]);
    let processors = available_parallelism().unwrap().get();
    let _work: Vec<ScopedProcess> = (0..=processors)
        .map(|_| ScopedProcess::start(&work, Stdio::null(), Stdio::null()).unwrap())
        .collect();
    let image = layout.reference("latest");
    let mut slowest = Duration::ZERO;
    for boot in soak::rounds(BOOTS) {
        let finished = host
            .microagent(["--engine", "qemu", "-v", "run", "--image", &image])
            .argument("--exec")
            .argument("echo up")
            .deadline(Duration::from_secs(300))
            .finish();
        assert_eq!(finished.code, Some(0), "boot {boot}: {}", finished.errors());
        assert_eq!(finished.text(), "up\n", "boot {boot}");
        slowest = slowest.max(finished.elapsed);
        host.assert_clean();
    }
    println!("the slowest boot took {slowest:?}");
}
