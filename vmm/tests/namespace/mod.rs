//! A network of one's own: a thread in a fresh network namespace, where tap interfaces disturb
//! nobody.
#![allow(unsafe_code)]

use std::thread;

use microagent_tests::{skip, tool};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Why there can be no tap interfaces here, if that is so.
fn missing() -> Option<String> {
    if !skip::is_root() {
        return Some("needs root, to make tap interfaces".into());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".into());
    }
    tool::find("ip").err().map(|error| error.to_string())
}

/// Runs a test in a thread of its own and a network of its own, if this host can.
pub fn within(test: impl FnOnce() + Send) {
    if let Some(reason) = missing() {
        return skip::record(&reason);
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: needed because descriptors could be unshared, too; they are not.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            test();
        });
    });
}

/// Runs `ip` in the thread's network.
pub fn ip(arguments: &str) {
    tool::run("ip", arguments.split_whitespace().map(std::ffi::OsStr::new)).unwrap();
}
