//! Network mode `user` with the clients that people use, on engine `qemu`. The cases are in
//! `clients_list.rs`.

use std::time::Duration;

use crate::clients_list::{self, FILES, PROGRAMS};
use crate::network::namespaces::shell;
use crate::run_list::Case;
use microagent_tests::{built_kernel, or_skip, root_or_skip, soak, tool};

/// The duration of a bulk transfer, in seconds: three follow each other.
pub fn each() -> u64 {
    soak::duration().map_or(5, |duration| duration.as_secs() / 3)
}

fn check(case: &Case) {
    root_or_skip!();
    for program in PROGRAMS.iter().chain(&["dpkg-deb", "dpkg-scanpackages"]) {
        or_skip!(tool::find(program));
    }
    let (host, image) = or_skip!(built_kernel::host_with_clients());
    for (name, text) in FILES {
        std::fs::write(host.path(name), text).unwrap();
    }
    let limit = Duration::from_secs(case.seconds.into()) + soak::duration().unwrap_or_default();
    let finished = shell(&host, &image, case.script)
        .variable("EACH", each().to_string())
        .deadline(limit)
        .finish();
    host.assert_clean();
    case.check_finished(&finished);
}

clients_list::clients_list!(check);
