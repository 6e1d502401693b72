//! Many workspaces at once: none waits for another one, and nothing is left of them.

use std::time::{Duration, Instant};

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine};
use microagent_tests::microagent::Host;
use microagent_tests::{Error, built_kernel, or_skip, soak, tool};

/// Workspaces on engine `qemu` in the suite and in a soak, and how many at once.
const QEMU: (u32, u32) = (6, 50);
const QEMU_AT_ONCE: u32 = 6;

/// Workspaces in the lab, all at once.
const LAB: (u32, u32) = (3, 50);

/// Workspaces that `ps` looks at.
const MANY: u32 = 200;

/// How long it may take with them, also with programs that are not optimised.
const PS_LIMIT: Duration = Duration::from_millis(50);

/// How often it is measured: what else the host does only adds to the time.
const REPETITIONS: usize = 9;

/// Creates, starts, enters and deletes the workspaces w1 to wCOUNT, ATONCE at a time. In each, ten
/// commands leave the descriptors of its supervisor as they were.
const LIVES: &str = r#"w() { microagent --quiet "$@"; }
one() {
    w create $1 --image "$IMAGE" --profile tiny >/dev/null && w start $1 >/dev/null || return
    shim=$(sed 's/.*"pid":\([0-9]*\).*/\1/' "$MICROAGENT_STATE_DIR/workspaces/$1/lock")
    w exec $1 true; before=$(ls /proc/$shim/fd | wc -l)
    for n in $(seq 10); do w exec $1 -- sh -c 'echo $((6 * 7))' || return; done | grep -c 42
    until [ $(ls /proc/$shim/fd | wc -l) -le $before ]; do sleep 0.1; done
    # The others of its turn run, too.
    touch $1.up; until [ $(ls *.up | wc -l) -ge $2 ]; do sleep 0.1; done
    w delete --force $1 >/dev/null && echo deleted
}
from=1
while [ $from -le COUNT ]; do
    to=$((from + ATONCE - 1)); [ $to -le COUNT ] || to=COUNT
    for n in $(seq $from $to); do one w$n $to >w$n.out 2>&1 & done; wait
    from=$((to + 1))
done
cat w*.out | sort | uniq -c | awk '{$1 = $1; print}'
w list | wc -l; ls -A "$MICROAGENT_STATE_DIR/workspaces" "$MICROAGENT_STATE_DIR/cas/tmp" | grep -v :$ | grep -c .
ls "$MICROAGENT_STATE_DIR/cas/roots" | grep -c workspace
"#;

fn lives(count: u32, at_once: u32) -> String {
    LIVES
        .replace("COUNT", &count.to_string())
        .replace("ATONCE", &at_once.to_string())
}

/// What [`LIVES`] prints: each of `count` gave ten answers and was deleted.
fn expected(count: u32) -> String {
    format!("{count} 10\n{count} deleted\n1\n0\n0\n")
}

#[test]
fn many_workspaces_live_side_by_side_on_qemu() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let count = if soak::duration().is_some() {
        QEMU.1
    } else {
        QEMU.0
    };
    let mut script = host.shell(&lives(count, QEMU_AT_ONCE));
    let finished = script
        .variable("IMAGE", layout.reference("latest"))
        .variable("MICROAGENT_ENGINE", "qemu")
        .deadline(Duration::from_secs(60 * u64::from(count)))
        .finish();
    println!("{count}: {:?}", finished.elapsed);
    assert_eq!(finished.text(), expected(count), "{}", finished.errors());
    host.assert_clean();
}

fn lab(host: &Host, layout: &Layout, count: u32) -> Result<Lab, Error> {
    let mut lab = Lab::with_machine(Machine {
        memory_mib: 10 << 10,
        deadline: Duration::from_secs(300 + 40 * u64::from(count)),
        ..Machine::default()
    })?;
    lab.microagent()?;
    lab.directory(&host.state(), "/state")?;
    lab.directory(layout.directory(), "/layout")?;
    let settings = "export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm \
                    IMAGE=oci:/layout:latest XDG_RUNTIME_DIR=/run\n";
    lab.step(
        "lives",
        &format!("{settings}{}", lives(count, count)),
        200 + 40 * count,
    );
    lab.step(
        "left",
        "ps -o pid,args | grep '[m]icroagent'; ls /tmp/microagent-0; grep -c kvm /proc/mounts",
        30,
    );
    Ok(lab)
}

#[test]
fn many_workspaces_live_side_by_side_on_kvm() {
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let count = if soak::duration().is_some() {
        LAB.1
    } else {
        LAB.0
    };
    let report = or_skip!(or_skip!(lab(&host, &layout, count)).boot());
    let step = report.step("lives");
    println!("{count}: {:?}", step.elapsed);
    assert_eq!(step.text(), expected(count), "{}", step.errors());
    assert_eq!(report.step("left").text(), "0\n");
}

/// The shortest time of a command.
fn shortest(host: &Host, words: &[&str]) -> Duration {
    let once = || {
        let started = Instant::now();
        host.microagent(words.iter().copied())
            .finish()
            .expect_code(0);
        started.elapsed()
    };
    (0..REPETITIONS).map(|_| once()).min().unwrap_or_default()
}

#[test]
fn ps_is_quick_with_two_hundred_workspaces_and_waits_for_none() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let script = format!(
        r#"w() {{ microagent --quiet --engine qemu "$@"; }}
        w create w --image "$IMAGE" --memory 128 >/dev/null && w start w
        kill -STOP $(sed 's/.*"pid":\([0-9]*\).*/\1/' "$MICROAGENT_STATE_DIR/workspaces/w/lock")
        w create x --image "$IMAGE" >/dev/null
        from=1; while [ $from -lt {MANY} ]; do
            for n in 0 1 2 3; do w clone x c$((from + n)) >/dev/null & done; wait; from=$((from + 4))
        done; w list | wc -l"#
    );
    let mut created = host.shell(&script);
    let created = created
        .variable("IMAGE", layout.reference("latest"))
        .finish();
    // With a heading and two others.
    let rows = format!("w\n{}\n", MANY + 3);
    assert_eq!(created.text(), rows, "{}", created.errors());
    let (version, ps) = (shortest(&host, &["version"]), shortest(&host, &["ps"]));
    println!("version {version:?}, ps of {} workspaces {ps:?}", MANY + 2);
    let shown = host.microagent(["ps"]).finish().expect_code(0).text();
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(ps < PS_LIMIT, "{ps:?}");
    let script = r#"kill -CONT $(sed 's/.*"pid":\([0-9]*\).*/\1/' "$MICROAGENT_STATE_DIR/workspaces/w/lock")
        microagent --quiet delete --force w x $(seq -f c%g 200) | wc -l"#;
    let deleted = host.shell(script).finish();
    assert_eq!(
        deleted.text(),
        format!("{}\n", MANY + 2),
        "{}",
        deleted.errors()
    );
    host.assert_clean();
}

/// Wherever a command is stopped, and whatever it has locked then, those about other workspaces go on.
#[test]
fn a_stopped_command_or_supervisor_delays_no_other_workspace() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let script = r#"w() { timeout 30 microagent --quiet "$@"; }
        others() { w create o --image "$IMAGE" >/dev/null && w clone o p >/dev/null && w list >/dev/null && w delete o p | wc -l; }
        stopped() { delay=$1; shift; env microagent --quiet "$@" >/dev/null & sleep $delay; kill -STOP $! 2>/dev/null; others; kill -CONT $! 2>/dev/null; wait $! || echo failed; }
        w create x --image "$IMAGE" --memory 128 >/dev/null
        for n in 00 01 02 03 05 08 12; do
            stopped 0.$n create a --image "$IMAGE"; stopped 0.$n delete a; stopped 0.$n clone x c; stopped 0.$n delete c
        done | sort | uniq -c
        stopped 0.05 start x; shim=$(sed 's/.*"pid":\([0-9]*\).*/\1/' "$MICROAGENT_STATE_DIR/workspaces/x/lock")
        kill -STOP $shim; others; kill -CONT $shim; w exec x echo alive; w delete --force x"#;
    let mut shell = host.shell(script);
    let finished = shell
        .variable("IMAGE", layout.reference("latest"))
        .variable("MICROAGENT_ENGINE", "qemu")
        .finish();
    assert_eq!(
        finished.text(),
        "     28 2\n2\n2\nalive\nx\n",
        "{}",
        finished.errors()
    );
    host.assert_clean();
}
