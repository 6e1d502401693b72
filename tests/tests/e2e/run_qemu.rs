//! `microagent run` with engine `qemu` on this machine.

use std::time::Duration;

use crate::run_list::{self, Case};
use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{or_skip, tool};

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
