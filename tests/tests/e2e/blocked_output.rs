//! Nobody reads what `microagent` prints: the pipe is full, or the terminal is stopped. Signals and
//! `--timeout` end it nevertheless.

use std::time::{Duration, Instant};

use microagent_tests::image::Layout;
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::{or_skip, tool};

/// `full NAME` makes a pipe that is full and never read. `blocked PID` waits until a thread of a
/// process blocks in a write to standard error.
const PRELUDE: &str = r#"
full() { mkfifo "$1" && exec sleep 600 <>"$1" >/dev/null 2>&1 & holders="${holders-} $!"
         until [ -p "$1" ]; do sleep 0.01; done
         timeout 1 dd if=/dev/zero of="$1" bs=64k count=2 2>/dev/null; true; }
blocked() { until grep -qs '^1 0x2 ' /proc/"$1"/task/*/syscall; do sleep 0.02; done; }
trap 'kill $holders' EXIT
"#;

fn script(host: &Host, layout: &Layout, text: &str) -> Finished {
    host.shell(&format!("{PRELUDE}{text}"))
        .variable("IMAGE", layout.reference("latest"))
        .variable("MICROAGENT_ENGINE", "qemu")
        .deadline(Duration::from_secs(120))
        .finish()
}

#[test]
fn a_signal_ends_a_command_whose_messages_nobody_reads() {
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    // A line of progress; an event; the error of a command that is about to exit by itself.
    let text = r#"full errors
        for words in "rootfs build --allow-mutable --image $IMAGE" \
                     "--json rootfs build --allow-mutable --image $IMAGE" \
                     "run --image oci:/no/such:1 true" \
                     "--quiet --json image resolve oci:/no/such:1"; do
            rm -rf "$MICROAGENT_STATE_DIR"
            microagent $words 2>errors & pid=$!
            blocked $pid
            kill -TERM $pid; wait $pid; echo $?
        done"#;
    let started = Instant::now();
    let finished = script(&host, &layout, text).expect_code(0);
    assert_eq!(finished.text(), "143\n143\n143\n143\n");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(40), "{took:?}");
    host.assert_clean();
}

#[test]
fn a_signal_ends_a_command_on_a_stopped_terminal() {
    or_skip!(tool::find("script"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::new());
    // The terminal is stopped by its Ctrl-S character; then a write to it blocks. Not SIGINT, which
    // the shell makes its background jobs ignore.
    let text = r#"
        cat >inner <<'END'
        while timeout 1 printf .; do :; done
        microagent rootfs build --allow-mutable --image "$IMAGE" & pid=$!
        until grep -qs '^1 0x[12] ' /proc/$pid/task/*/syscall; do sleep 0.02; done
        kill -TERM $pid; wait $pid; echo $? >code
END
        mkfifo keys; { printf '\023'; exec sleep 600; } >keys 2>/dev/null & holders=$!
        timeout 60 script -qc 'sh inner' /dev/null <keys >/dev/null 2>&1 & holders="$holders $!"
        until [ -s code ] || ! kill -0 $!; do sleep 0.05; done; cat code"#;
    let finished = script(&host, &layout, text).expect_code(0);
    assert_eq!(finished.text(), "143\n");
}

#[test]
fn a_timeout_fires_whatever_is_not_read() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let text = r#"full errors; full output
        microagent --quiet run "$IMAGE" true || exit 99
        start() { name=$1; shift; { "$@"; echo "$name $?" >"code-$name"; } & cases="${cases-} $!"; }
        run() { microagent "$@"; }
        forever() { run run --timeout 5 --image "$IMAGE" "$@"; }
        setup()  { forever --setup 'while :; do echo x; done' --exec true 2>errors; }
        stderr() { forever --exec 'yes >&2' 2>errors; }
        stdout() { forever --exec 'yes' >output 2>/dev/null; }
        both()   { forever --exec 'yes; yes >&2' >output 2>errors; }
        quiet()  { run --quiet run --timeout 5 --image "$IMAGE" --exec 'sleep 100' 2>errors; }
        json()   { run --json run --timeout 5 --image "$IMAGE" --exec 'true' >output 2>/dev/null; }
        # Two at a time: an emulated guest takes a processor.
        start setup setup; start stderr stderr; wait $cases
        cases=; start stdout stdout; start both both; wait $cases
        cases=; start quiet quiet; start json json; wait $cases
        cat code-*"#;
    let finished = script(&host, &layout, text).expect_code(0);
    assert_eq!(
        finished.text(),
        "both 124\njson 124\nquiet 124\nsetup 124\nstderr 124\nstdout 124\n"
    );
    host.assert_clean();
}
