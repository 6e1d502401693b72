//! Resource limits of the supervisor's process, which QEMU inherits.
#![allow(unsafe_code)]

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The number of open files that is enough for any VM: each stream to the guest is one.
const OPEN_FILES: u64 = 64 << 10;

/// Raises the limit of open files as far as this user may, and makes a write beyond the limit of
/// file sizes fail with EFBIG, which can be reported; SIGXFSZ would kill the process.
pub(super) fn relax() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let enough = maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if current.is_some_and(|current| current < enough) {
        let limit = Rlimit {
            current: Some(enough),
            maximum,
        };
        // Up to the maximum it does not fail.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    // SAFETY: needed because there is no safe function that ignores a signal. No handler is
    // installed, so no code runs in a signal's context, and nothing else uses this signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
