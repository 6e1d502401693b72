//! Signals and crashes at any moment: the exit code is correct, nothing is left behind, and the next
//! run works.

use std::time::Duration;

use microagent_tests::fault_proxy::{Fault, FaultProxy, Rule};
use microagent_tests::image::Layout;
use microagent_tests::microagent::{Host, Invocation, Running};
use microagent_tests::registry::Registry;
use microagent_tests::{or_skip, tool};
use rustix::process::{Pid, Signal, kill_process};

/// Time limit from the signal to the exit.
const PROMPT: Duration = Duration::from_secs(5);

fn run(host: &Host, image: &str, command: &str) -> Invocation {
    host.microagent([
        "--engine", "qemu", "run", "--image", image, "--exec", command,
    ])
}

/// Sends the signal and checks that the run exits promptly and leaves nothing behind.
#[track_caller]
fn ends(host: &Host, running: Running, signal: Signal) {
    let sent = std::time::Instant::now();
    running.signal(signal);
    running.finish().expect_code(128 + signal.as_raw());
    assert!(sent.elapsed() < PROMPT, "it took {:?}", sent.elapsed());
    host.assert_clean();
}

#[track_caller]
fn interrupted_while_the_registry_stalls(fault: Fault, path: &str) {
    let registry = or_skip!(Registry::start());
    let layout = or_skip!(Layout::busybox());
    registry
        .push(&layout.reference("latest"), "test/image:1")
        .unwrap();
    let rule = Rule {
        path: path.to_owned(),
        fault,
        times: None,
    };
    let proxy = or_skip!(FaultProxy::start(registry.address(), vec![rule]));
    let host = or_skip!(Host::with_kernel());
    let image = format!("{}/test/image:1", proxy.address());
    let running = run(&host, &image, "true").start();
    proxy.wait_for(path, Duration::from_secs(30)).unwrap();
    ends(&host, running, Signal::INT);
}

#[test]
fn while_a_reference_is_resolved() {
    interrupted_while_the_registry_stalls(Fault::Stall, "/manifests/");
}

#[test]
fn while_waiting_for_a_blob() {
    interrupted_while_the_registry_stalls(Fault::Stall, "/blobs/");
}

#[test]
fn while_a_layer_is_fetched() {
    interrupted_while_the_registry_stalls(Fault::StallAfter(1000), "/blobs/");
}

#[test]
fn while_a_kernel_is_downloaded() {
    let rule = Rule {
        path: "/vmlinuz".to_owned(),
        fault: Fault::Stall,
        times: None,
    };
    let proxy = or_skip!(FaultProxy::start("127.0.0.1:1", vec![rule]));
    let host = or_skip!(Host::new());
    let url = format!("http://{}/vmlinuz", proxy.address());
    let sum = "0".repeat(64);
    let running = host
        .microagent(["kernel", "install", "--url", &url, "--sha256", &sum])
        .start();
    proxy.wait_for("/vmlinuz", Duration::from_secs(30)).unwrap();
    ends(&host, running, Signal::INT);
}

/// Sends a signal to a run while its command runs.
#[track_caller]
fn while_the_command_runs(signal: Signal, flags: &[&str], command: &str) {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let mut invocation = run(&host, &layout.reference("latest"), command);
    for flag in flags {
        invocation.argument(*flag);
    }
    let mut running = invocation.start();
    running.wait_for_error_text("at work");
    ends(&host, running, signal);
}

#[test]
fn while_a_setup_command_runs() {
    let flags = ["--setup", "echo at work >&2; sleep 1000"];
    while_the_command_runs(Signal::INT, &flags, "true");
}

#[test]
fn while_the_command_sleeps() {
    while_the_command_runs(Signal::INT, &[], "echo at work >&2; sleep 1000");
}

#[test]
fn while_the_command_ignores_signals() {
    let command = "trap '' INT TERM; echo at work >&2; while true; do sleep 1; done";
    while_the_command_runs(Signal::INT, &[], command);
}

#[test]
fn while_the_command_is_terminated() {
    while_the_command_runs(Signal::TERM, &[], "echo at work >&2; sleep 1000");
}

#[test]
fn while_the_command_floods_its_output() {
    while_the_command_runs(Signal::INT, &[], "echo at work >&2; yes");
}

/// Interrupts runs at a dozen moments, spread from start to exit.
#[test]
fn at_any_moment() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let image = layout.reference("latest");
    let whole = {
        let host = or_skip!(Host::with_kernel());
        run(&host, &image, "true").finish().expect_code(0).elapsed
    };
    const MOMENTS: u32 = 12;
    for moment in 0..MOMENTS {
        let host = or_skip!(Host::with_kernel());
        let running = run(&host, &image, "true").start();
        let finished = running.signal_after(whole * moment / MOMENTS, Signal::INT);
        // Before the program has installed its handler, the signal kills it.
        let interrupted = finished.code == Some(130) || finished.signal() == Some(2);
        assert!(
            interrupted || finished.code == Some(0),
            "moment {moment}: {:?}: {}",
            finished.status,
            finished.errors()
        );
        host.assert_clean();
    }
}

#[test]
fn killing_the_command_line_ends_its_vm() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let image = layout.reference("latest");
    let mut running = run(&host, &image, "echo at work >&2; sleep 1000").start();
    running.wait_for_error_text("at work");
    running.signal(Signal::KILL);
    let finished = running.finish();
    assert_eq!(finished.signal(), Some(9));
    assert_eq!(host.processes(), Vec::<String>::new());
    // The next run removes what the killed one left behind.
    run(&host, &image, "true").finish().expect_code(0);
    host.assert_clean();
}

#[test]
fn a_dead_supervisor_is_reported_within_a_second() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let image = layout.reference("latest");
    let mut running = run(&host, &image, "echo at work >&2; sleep 1000").start();
    running.wait_for_error_text("at work");
    let supervisors = running.children();
    assert_eq!(supervisors.len(), 1, "{supervisors:?}");
    let killed = std::time::Instant::now();
    for pid in supervisors {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    let finished = running.finish().expect_code(125);
    assert!(
        killed.elapsed() < Duration::from_secs(1),
        "{:?}",
        killed.elapsed()
    );
    assert!(
        finished.errors().contains("supervisor"),
        "{}",
        finished.errors()
    );
    host.assert_clean();
}

#[test]
fn a_closed_output_pipe_is_not_an_error() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let finished = host
        .shell(r#"microagent --quiet run "$IMAGE" yes | head -n 1"#)
        .variable("MICROAGENT_ENGINE", "qemu")
        .variable("IMAGE", layout.reference("latest"))
        .finish()
        .expect_code(0);
    assert_eq!(finished.text(), "y\n");
    assert_eq!(finished.errors(), "");
    host.assert_clean();
}
