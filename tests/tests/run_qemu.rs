//! `microagent run` with engine `qemu` on this machine.

#[path = "support/run_list.rs"]
mod run_list;

use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{or_skip, tool};
use run_list::Case;

fn check(case: &Case) {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let finished = host
        .shell(case.script)
        .variable("MICROAGENT_ENGINE", "qemu")
        .variable("IMAGE", layout.reference("latest"))
        .deadline(Duration::from_secs(u64::from(case.seconds)))
        .finish()
        .expect_code(case.code);
    assert_eq!(finished.text(), case.stdout, "{}", finished.errors());
    host.assert_clean();
}

run_list::run_list!(check);
