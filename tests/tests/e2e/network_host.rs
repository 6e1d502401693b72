//! Network modes `nat` and `bridged` from the command line, and what is left of a network when its
//! processes are killed, on engine `qemu`. The cases are in `network_list.rs`.

use std::time::Duration;

use crate::network::namespaces::shell;
use crate::network_list::{self, FORWARDING, PROGRAMS};
use crate::run_list::Case;
use microagent_tests::image::Layout;
use microagent_tests::{built_kernel, or_skip, root_or_skip, tool};

fn check(case: &Case) {
    root_or_skip!();
    for program in PROGRAMS {
        or_skip!(tool::find(program));
    }
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = format!("{FORWARDING}{}", case.script);
    let finished = shell(&host, &layout.reference("latest"), &script)
        .deadline(Duration::from_secs(case.seconds.into()))
        .finish();
    host.assert_clean();
    case.check_finished(&finished);
}

network_list::network_list!(check);
