//! `microagent run` on engine `qemu` with the kernel of `kernel build`, and some cases with the
//! distribution's.

use std::path::Path;
use std::time::Duration;

use crate::run_list::{self, Case};
use microagent_tests::microagent::Host;
use microagent_tests::{built_kernel, or_skip, program, tool};
use tempfile::TempDir;

/// Runs of the script report what they do, and the state of a guest that does not come up, on
/// standard error, which is printed if the case fails. Scripts that read it say `--quiet`.
const VERBOSE: &str = r#"microagent() {
    case " $* " in
    *" --quiet "*) command microagent "$@" ;;
    *) command microagent -v "$@" ;;
    esac
}
"#;

fn check(case: &Case) {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(run_list::layout([case]));
    let host = or_skip!(built_kernel::host());
    let programs = match case.uses_programs() {
        true => Some(or_skip!(program::for_guests())),
        false => None,
    };
    let distribution = match case.uses_distribution() {
        true => Some(or_skip!(Host::with_kernel())),
        false => None,
    };
    let finished = host
        .shell(&format!("{VERBOSE}{}", case.script))
        .variable("MICROAGENT_ENGINE", "qemu")
        .variable("IMAGE", layout.reference("latest"))
        .variable(
            "PROGRAMS",
            programs.as_ref().map_or(Path::new(""), TempDir::path),
        )
        .variable(
            "DISTRIBUTION",
            distribution.as_ref().map(Host::state).unwrap_or_default(),
        )
        .deadline(Duration::from_secs(u64::from(case.seconds)))
        .finish()
        .expect_code(case.code);
    assert_eq!(finished.text(), case.stdout, "{}", finished.errors());
    host.assert_clean();
    if let Some(distribution) = distribution {
        distribution.assert_clean();
    }
}

run_list::run_list!(check);

/// What an index with variants is resolved for: QEMU emulates AVX2 and no AVX-512.
#[test]
fn the_processor_has_the_instructions_of_level_3() {
    check(&Case {
        name: "the_processor_has_the_instructions_of_level_3",
        script: r#"microagent run --image "$IMAGE" --exec 'for flag in cx16 popcnt ssse3 sse4_2 avx2 bmi1 bmi2 f16c fma abm movbe xsave avx512f; do
            busybox grep -qw $flag /proc/cpuinfo && echo $flag; done; exit 0'"#,
        code: 0,
        stdout: "cx16\npopcnt\nssse3\nsse4_2\navx2\nbmi1\nbmi2\nf16c\nfma\nabm\nmovbe\nxsave\n",
        seconds: 60,
    });
}

/// QEMU saves no VM: what needs that is refused, or something else happens.
#[test]
fn what_needs_a_saved_vm_is_refused_and_idle_workspaces_are_stopped() {
    check(&Case {
        name: "what_needs_a_saved_vm_is_refused_and_idle_workspaces_are_stopped",
        script: r#"w() { microagent --quiet "$@"; }
            w create w --image "$IMAGE" --memory 128 --ttl 3 --on-idle suspend >/dev/null; w start w >/dev/null
            w clone w c 2>&1; w snapshot create w 2>&1; w wait w; w status w | grep '^state'; w events w | tail -n 1 | cut -c 27-
            w clone w c; w delete w c"#,
        code: 0,
        stdout: "microagent: workspace w: engine qemu takes no snapshots\n  stop it first: microagent stop w\n\
                 microagent: workspace w: engine qemu takes no snapshots\nw\nstate      stopped\n\
                 stopped      it was idle for 3 s, and cannot be suspended: engine qemu takes no snapshots\nc\nw\nc\n",
        seconds: 60,
    });
}
