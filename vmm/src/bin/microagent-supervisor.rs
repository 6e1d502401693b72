//! The process that runs one VM. See [`microagent_vmm::supervisor`].

use std::process::ExitCode;

use microagent_proto::control::Engine;
use microagent_proto::error_chain;
use microagent_vmm::supervisor::{self, Control};

fn main() -> ExitCode {
    // A new session, so that Ctrl-C in a terminal reaches only the command line, which decides.
    // Fails only if this process already leads a process group, as when a shell started it.
    let _ = rustix::process::setsid();
    let expected = std::env::args()
        .nth(1)
        .and_then(|name| Engine::from_name(&name));
    let result =
        Control::from_stdin().and_then(|control| supervisor::run_process(&control, expected));
    let code = match result {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            eprintln!("microagent-supervisor: {}", error_chain(&error));
            2
        }
    };
    // Without running destructors: the kernel tears down the VM, and the caller need not wait.
    std::process::exit(code)
}
