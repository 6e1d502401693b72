//! Runs tests in a new network namespace, so that tap interfaces do not affect the host.
#![allow(unsafe_code)]

use std::thread;

use microagent_tests::{skip, tool};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Why tap interfaces cannot be created here; `None` if they can.
fn missing() -> Option<String> {
    if !skip::is_root() {
        return Some("needs root to create tap interfaces".into());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".into());
    }
    tool::find("ip").err().map(|error| error.to_string())
}

/// Runs a test on a new thread in a new network namespace, if this host supports it.
pub fn within(test: impl FnOnce() + Send) {
    if let Some(reason) = missing() {
        return skip::record(&reason);
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: needed because unsharing the descriptor table would be unsound; only the
            // network namespace is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            test();
        });
    });
}

/// Runs `ip` in the network namespace of the thread.
pub fn ip(arguments: &str) {
    tool::run("ip", arguments.split_whitespace().map(std::ffi::OsStr::new)).unwrap();
}
