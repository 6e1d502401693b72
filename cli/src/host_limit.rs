//! What to do about an error of the host that is a limit of this process.
//!
//! The texts of such errors come from this process, from the supervisor and from QEMU, some of them
//! without an error number, so they are recognised by the words of strerror(3).

/// A limit.
struct Limit {
    /// The words of its error.
    words: &'static str,
    /// What contains them but is another error.
    others: Option<&'static str>,
    /// What to do.
    remediation: &'static str,
}

const LIMITS: [Limit; 6] = [
    Limit {
        words: "Too many open files",
        // ENFILE, the limit of the whole system.
        others: Some("Too many open files in system"),
        remediation: "raise the limit of open files: ulimit -n 1024",
    },
    Limit {
        words: "Resource temporarily unavailable",
        others: None,
        remediation: "raise the limit of processes: ulimit -u 4096 (in a container, its limit of processes)",
    },
    Limit {
        words: "File too large",
        others: None,
        remediation: "raise the limit of file sizes: ulimit -f unlimited",
    },
    Limit {
        words: "Cannot allocate memory",
        others: None,
        remediation: "free memory, or raise the limit of memory: ulimit -v unlimited",
    },
    // QEMU's dynamic loader.
    Limit {
        words: "failed to map segment from shared object",
        others: None,
        remediation: "free memory, or raise the limit of memory: ulimit -v unlimited",
    },
    // `std::io::ErrorKind::OutOfMemory`.
    Limit {
        words: ": out of memory",
        others: None,
        remediation: "free memory, or raise the limit of memory: ulimit -v unlimited",
    },
];

/// The remediation for a message about an error of the host; `None` if it is not about a limit.
pub fn remediation(message: &str) -> Option<&'static str> {
    (LIMITS.iter())
        .find(|limit| {
            message.contains(limit.words)
                && !(limit.others).is_some_and(|others| message.contains(others))
        })
        .map(|limit| limit.remediation)
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn limits_are_recognised_in_messages() {
        for (errno, flag) in [
            (Errno::MFILE, Some("-n")),
            (Errno::AGAIN, Some("-u")),
            (Errno::FBIG, Some("-f")),
            (Errno::NOMEM, Some("-v")),
            (Errno::NFILE, None),
            (Errno::NOENT, None),
        ] {
            let error = io::Error::from(errno);
            let found = remediation(&format!("cannot serve device0: {error}"));
            assert_eq!(
                flag.map(|flag| format!("ulimit {flag} ")),
                found.map(|found| {
                    let from = found.find("ulimit").unwrap();
                    found[from..].chars().take("ulimit -x ".len()).collect()
                }),
                "{error}"
            );
        }
        let memory = io::Error::from(io::ErrorKind::OutOfMemory);
        assert!(remediation(&format!("cannot read /x: {memory}")).is_some());
        let qemu = "qemu-system-x86_64: qemu: qemu_thread_create: Resource temporarily unavailable";
        assert!(remediation(qemu).is_some());
    }
}
