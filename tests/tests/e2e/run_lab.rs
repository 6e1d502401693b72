//! `microagent run` on engine `kvm`, in two labs at the same time, each with half of the cases. The
//! kernel is that of `kernel build`; the cases that use the distribution's as well are in the
//! second lab.

use std::sync::OnceLock;

use crate::run_list::{self, Case};
use microagent_tests::lab::Report;
use microagent_tests::microagent::Host;
use microagent_tests::{Error, or_skip, program, tool};

/// The environment of each script.
const SETTINGS: &str = "export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm \
                        IMAGE=oci:/layout:latest PROGRAMS=/programs \
                        DISTRIBUTION=/state-of-the-distribution XDG_RUNTIME_DIR=/run\n";

/// Starts a run and waits until its command runs. Its process id is in `$run`.
macro_rules! at_work {
    () => {
        r#"mkfifo errors
        microagent --quiet run --image "$IMAGE" --exec 'echo at work >&2; sleep 1000' 2>errors &
        run=$!
        exec 4<errors
        read -r line <&4 && echo "$line"
        "#
    };
}
const INTERRUPTED: &str = concat!(at_work!(), r#"kill -TERM $run; wait $run; echo $?"#);
const KILLED: &str = concat!(
    at_work!(),
    // The supervisor must notice by itself that the command line was killed.
    r#"supervisor=$(pidof microagent-supervisor)
    kill -KILL $run; wait $run 2>/dev/null; echo $?
    timeout 2 sh -c "while [ -e /proc/$supervisor/exe ]; do usleep 10000; done" && echo gone"#
);
const NO_SUPERVISOR: &str = concat!(
    at_work!(),
    r#"kill -KILL $(pidof microagent-supervisor); wait $run; echo $?
    read -r line <&4 && echo "$line""#
);

const DISTRIBUTION: &str = r#"MICROAGENT_STATE_DIR=$DISTRIBUTION
    microagent --quiet run --cpus 2 --image "$IMAGE" --exec 'uname -r | cut -d- -f3-; nproc; echo $$
    cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range'
    least=$(microagent --quiet run -m 40 --image "$IMAGE" --exec true 2>&1 | sed -n "s/.*minimum of \([0-9]*\) MiB for this kernel/\1/p")
    microagent --quiet run -m $least --image "$IMAGE" --exec "echo runs""#;

/// Whether a case runs in the first lab. The other cases and [`OTHERS`] run in the second.
fn is_in_first(name: &str) -> bool {
    let index = CASES.iter().position(|case| case.name == name);
    index.is_some_and(|index| index % 2 == 0 && !CASES[index].uses_distribution())
}

/// Cases that are not in the list for every engine: names and scripts of the steps.
const OTHERS: [(&str, &str); 6] = [
    ("interrupted", INTERRUPTED),
    ("killed", KILLED),
    ("no supervisor", NO_SUPERVISOR),
    ("doctor", "microagent doctor"),
    ("distribution's kernel", DISTRIBUTION),
    (
        "auto",
        "microagent --engine auto --json run \"$IMAGE\" true",
    ),
];

/// Takes the snapshots that most cases can use.
const WARM: &str =
    "export MICROAGENT_SNAPSHOT=on; for cpus in 1 2; do microagent --quiet warm --cpus $cpus; done";

/// The longest time limit of a case that is executed both ways, in seconds: the others take minutes.
const BOTH_SECONDS: u32 = 150;

/// Whether a case is executed both ways: with VMs that boot, and with those that are restored from
/// snapshots. A process that takes a snapshot keeps the state directory busy, so no case does that unmounts it.
fn has_both(case: &Case) -> bool {
    let runs = ["microagent run", "microagent --quiet run"];
    let is_run = runs.iter().any(|command| case.script.contains(command));
    let not = [" create ", "umount state"];
    is_run
        && case.seconds <= BOTH_SECONDS
        && !not.iter().any(|word| case.script.contains(word))
        && !case.uses_distribution()
}

/// The last step of each lab. A process that takes a snapshot beside a run may outlive it for a moment.
const LEFT_BEHIND: &str = "while pidof microagent >/dev/null; do usleep 20000; done
    ps -o pid,args | grep '[m]icroagent'
    find /state/workspaces /state/cas/tmp /tmp /run/microagent -type f 2>/dev/null
    grep -E 'ext4|loop' /proc/mounts";

fn boot(first: bool) -> Result<Report, Error> {
    let layout = run_list::layout(CASES)?;
    let mut lab = run_list::lab(&layout)?;
    lab.program(tool::find("script")?, "/usr/bin/script")?;
    if !first {
        let host = Host::with_kernel()?;
        lab.directory(&host.state(), "/state-of-the-distribution")?;
    }
    let programs = program::for_guests()?;
    lab.directory(programs.path(), "/programs")?;
    for case in CASES.iter().filter(|case| is_in_first(case.name) == first) {
        lab.step(
            case.name,
            &format!("{SETTINGS}{}", case.script),
            case.seconds,
        );
    }
    for (name, script) in OTHERS.iter().filter(|_| !first) {
        lab.step(name, &format!("{SETTINGS}{script}"), 120);
    }
    lab.step("left behind", LEFT_BEHIND, 30);
    lab.boot()
}

/// A lab with those cases of one of two halves that are executed both ways, with VMs that are restored.
fn boot_restored(half: usize) -> Result<(Vec<&'static Case>, Report), Error> {
    let cases: Vec<&Case> = (CASES.iter().filter(|case| has_both(case)))
        .enumerate()
        .filter_map(|(index, case)| (index % 2 == half).then_some(case))
        .collect();
    let layout = run_list::layout(cases.iter().copied())?;
    let mut lab = run_list::lab(&layout)?;
    lab.program(tool::find("script")?, "/usr/bin/script")?;
    let programs = program::for_guests()?;
    lab.directory(programs.path(), "/programs")?;
    lab.step("warm", &format!("{SETTINGS}{WARM}"), 120);
    for case in &cases {
        let script = format!("{SETTINGS}export MICROAGENT_SNAPSHOT=on\n{}", case.script);
        lab.step(case.name, &script, case.seconds);
    }
    lab.step("left behind", LEFT_BEHIND, 60);
    Ok((cases, lab.boot()?))
}

/// The report of a lab; both are booted at the first call.
fn report(first: bool) -> &'static Result<Report, Error> {
    static REPORTS: OnceLock<[Result<Report, Error>; 2]> = OnceLock::new();
    let reports = REPORTS.get_or_init(|| {
        std::thread::scope(|scope| {
            let second = scope.spawn(|| boot(false));
            let first = boot(true);
            [second.join().unwrap(), first]
        })
    });
    &reports[usize::from(first)]
}

fn check(case: &Case) {
    case.check_in(or_skip!(report(is_in_first(case.name))));
}

run_list::run_list!(check);

#[test]
fn doctor_reports_that_kvm_works() {
    let step = or_skip!(report(false)).step("doctor");
    assert_eq!(step.code, 0, "{}{}", step.text(), step.errors());
    assert!(step.text().contains("kvm"), "{}", step.text());
}

#[test]
fn the_distributions_kernel_boots() {
    let step = or_skip!(report(false)).step("distribution's kernel");
    assert_eq!(
        step.text(),
        "cloud-amd64\n2\n1\n0\n0\t2147483647\nruns\n",
        "{}",
        step.errors()
    );
}

#[test]
fn the_automatic_engine_is_kvm_if_it_works() {
    let step = or_skip!(report(false)).step("auto");
    let answer: serde_json::Value = serde_json::from_slice(&step.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", step.text(), step.errors()));
    assert_eq!(answer["engine"], "kvm");
}

#[test]
fn an_interrupted_run_ends_as_the_signal_says() {
    let step = or_skip!(report(false)).step("interrupted");
    assert_eq!(step.text(), "at work\n143\n", "{}", step.errors());
}

#[test]
fn a_killed_command_line_takes_its_vm_with_it() {
    let step = or_skip!(report(false)).step("killed");
    assert_eq!(step.text(), "at work\n137\ngone\n", "{}", step.errors());
}

#[test]
fn a_dead_supervisor_is_reported() {
    let step = or_skip!(report(false)).step("no supervisor");
    let text = step.text();
    assert!(
        text.starts_with("at work\n125\n"),
        "{text}{}",
        step.errors()
    );
    assert!(text.contains("supervisor"), "{text}{}", step.errors());
}

#[test]
fn nothing_is_left_behind() {
    for first in [true, false] {
        let step = or_skip!(report(first)).step("left behind");
        assert_eq!(step.text(), "", "{}", step.errors());
    }
}

#[test]
fn restored_vms_do_what_booted_ones_do() {
    let reports = std::thread::scope(|scope| {
        let second = scope.spawn(|| boot_restored(1));
        let first = boot_restored(0);
        [first, second.join().unwrap()]
    });
    let mut wrong = Vec::new();
    for report in reports {
        let (cases, report) = or_skip!(report);
        assert!(cases.len() > 10, "{}", cases.len());
        for case in cases {
            let step = report.step(case.name);
            if (step.code, step.text().as_str()) != (case.code, case.stdout) {
                let (name, took) = (case.name, step.elapsed);
                let (text, errors) = (step.text(), step.errors());
                wrong.push(format!(
                    "{name}: {} {text:?}, took {took:?}\n{errors}",
                    step.code
                ));
            }
        }
        assert_eq!(report.step("left behind").text(), "");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
