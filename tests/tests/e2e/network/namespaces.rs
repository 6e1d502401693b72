//! Mode `user` between two [network namespaces](microagent_tests::namespaces).

use std::time::Duration;

use microagent_tests::microagent::{Finished, Host, Invocation};
use microagent_tests::tool;

/// A shell script in the namespaces, on engine `qemu`; `$IMAGE` is `image`.
pub fn shell(host: &Host, image: &str, script: &str) -> Invocation {
    let mut invocation = host.shell_in_namespaces(script);
    invocation
        .variable("MICROAGENT_ENGINE", "qemu")
        .variable("MICROAGENT_NETWORK", "")
        .variable("IMAGE", image)
        .variable("STATE", host.state());
    invocation
}

/// Runs such a script.
pub fn run(host: &Host, image: &str, script: &str) -> Finished {
    let finished = shell(host, image, script).deadline(DEADLINE).finish();
    host.assert_clean();
    finished
}

/// Time limit of a script.
const DEADLINE: Duration = Duration::from_secs(240);

/// What the tests of a network need on the host.
pub fn tools() -> Result<(), microagent_tests::Error> {
    for program in [
        "passt", "ip", "unshare", "nsenter", "dnsmasq", "busybox", "curl", "python3",
    ] {
        tool::find(program)?;
    }
    Ok(())
}
