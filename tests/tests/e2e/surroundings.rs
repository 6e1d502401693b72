//! How the process was started: umask, ignored signals, the directory of its state.

use std::time::Duration;

use microagent_tests::fault_proxy::{Fault, FaultProxy, Rule};
use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{or_skip, root_or_skip};
use rustix::process::Signal;

#[test]
fn the_state_directory_is_private_whichever_command_creates_it() {
    let host = or_skip!(Host::new());
    for command in [
        "cache ls",
        "cache verify",
        "image resolve oci:nowhere:x",
        "rootfs build --allow-mutable --image oci:nowhere:x",
        "run oci:nowhere:x true",
        "kernel install --from nowhere",
    ] {
        for umask in ["0", "022", "0777"] {
            let script = format!(
                "rm -rf state; umask {umask}; microagent --state-dir state/of/it {command} >out 2>&1; \
                 stat -c %a state state/of/it"
            );
            let modes = host.shell(&script).finish().expect_code(0).text();
            assert_eq!(modes, "700\n700\n", "{command} with umask {umask}");
        }
    }
    // Its owner may share it on purpose.
    let script =
        "mkdir -m 750 shared && microagent --state-dir shared cache ls && stat -c %a shared";
    let text = host.shell(script).finish().expect_code(0).text();
    assert!(text.ends_with("750\n"), "{text}");
}

/// As nohup(1) does, and a shell without job control for a background job.
#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let host = or_skip!(Host::new());
    let all = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
    for (ignored, last) in [
        (&all[..1], Signal::INT),
        (&all[..2], Signal::TERM),
        (&all[1..3], Signal::HUP),
        (&all[3..], Signal::INT),
    ] {
        let rule = Rule {
            path: "/v2/".to_owned(),
            fault: Fault::Stall,
            times: None,
        };
        let proxy = or_skip!(FaultProxy::start("127.0.0.1:1", vec![rule]));
        let image = format!("{}/test/image:1", proxy.address());
        let numbers: Vec<_> = (ignored.iter())
            .map(|signal| signal.as_raw().to_string())
            .collect();
        let running = host
            .shell(&format!(
                "trap '' {}; exec microagent image resolve {image}",
                numbers.join(" ")
            ))
            .start();
        proxy.wait_for("/v2/", Duration::from_secs(30)).unwrap();
        for signal in ignored {
            running.signal(*signal);
        }
        running.signal(last);
        running.finish().expect_code(128 + last.as_raw());
    }
    host.assert_clean();
}

/// What a process may be started without. The script builds a root file system; it works, or ends
/// with one line that names the cause.
#[test]
fn what_is_missing_around_the_process_is_done_without_or_named() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    // For another user, whom the limit on processes applies to.
    let script = format!(
        "chmod 755 .. . && cp -r {} layout && cp \"$(command -v microagent)\" program && \
         chmod -R a+rX layout program && mkdir -m 777 open && mkdir -m 700 ro",
        layout.directory().display()
    );
    host.shell(&script).finish().expect_code(0);
    let build =
        "./program --state-dir open/s rootfs build --allow-mutable --image oci:layout:latest";
    let works = "";
    for (name, script, error) in [
        ("no PATH", format!("env -u PATH {build}"), works),
        ("no HOME", format!("env -u HOME {build}"), works),
        (
            "no TMPDIR",
            format!("env -u TMPDIR -u XDG_RUNTIME_DIR {build}"),
            works,
        ),
        ("no environment", format!("env -i {build}"), works),
        ("no stdin", format!("{build} <&-"), works),
        ("no stdout", format!("{build} >&-"), works),
        ("no stderr", format!("{build} 2>&-"), works),
        ("no standard files", format!("{build} <&- >&- 2>&-"), works),
        ("few files", format!("ulimit -n 16; {build}"), works),
        (
            "no /proc",
            format!("unshare --mount sh -c 'mount -t tmpfs x /proc && exec {build}'"),
            works,
        ),
        (
            "no /proc and no privileges",
            format!(
                "unshare --mount sh -c 'mount -t tmpfs x /proc && \
                 exec setpriv --reuid 12345 --clear-groups --inh-caps=-all {build}'"
            ),
            works,
        ),
        (
            "few threads",
            format!("exec setpriv --reuid 12345 --clear-groups prlimit --nproc=2 {build}"),
            "Resource temporarily unavailable",
        ),
        (
            "no threads",
            format!("exec setpriv --reuid 12345 --clear-groups prlimit --nproc=1 {build}"),
            "Resource temporarily unavailable",
        ),
        (
            "a read-only file system",
            format!(
                "unshare --mount sh -c 'mount -t tmpfs -o ro x ro && exec {}'",
                build.replace("open/s", "ro/s")
            ),
            "Read-only file system",
        ),
        (
            "a name that is not UTF-8",
            build.replace("open/s", "\"$(printf 'open/\\377')\""),
            "is not UTF-8",
        ),
    ] {
        host.shell("rm -rf open && mkdir -m 777 open")
            .finish()
            .expect_code(0);
        let finished = host.shell(&script).finish();
        let errors = finished.errors();
        assert!(!errors.contains("panicked"), "{name}: {errors}");
        if error == works {
            assert_eq!(finished.code, Some(0), "{name}: {errors}");
            continue;
        }
        assert!(
            [Some(1), Some(2)].contains(&finished.code),
            "{name}: {errors}"
        );
        let failure: Vec<_> = (errors.lines())
            .filter(|line| line.starts_with("microagent: ") && line.contains(error))
            .collect();
        assert_eq!(failure.len(), 1, "{name}: {errors}");
    }
}
