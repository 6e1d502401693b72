//! The process that runs one VM. See [`microagent_vmm::supervisor`].

use std::process::ExitCode;

use microagent_proto::control::Engine;
use microagent_vmm::supervisor::{self, Control};

fn main() -> ExitCode {
    // A session of its own: a terminal's Ctrl-C goes to the command line, which decides.
    // It fails only for a process that leads a group already.
    let _ = rustix::process::setsid();
    let expected = std::env::args()
        .nth(1)
        .and_then(|name| Engine::from_name(&name));
    let result = Control::from_stdin().and_then(|control| supervisor::run(&control, expected));
    let code = match result {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(error) => {
            eprintln!("microagent-supervisor: {error}");
            2
        }
    };
    // No destructor is owed anything: the kernel takes the VM down, and the caller need not wait
    // for it.
    std::process::exit(code)
}
