//! What a VM does before it is saved.

use std::fs;

use crate::console::log;

/// Files of `/proc/sys/vm` and what is written to them (Documentation/admin-guide/sysctl/vm.rst): all
/// clean caches are dropped, and free memory is put together.
const FREE: [(&str, &str); 2] = [
    ("/proc/sys/vm/drop_caches", "3"),
    ("/proc/sys/vm/compact_memory", "1"),
];

/// Frees what the kernel keeps of files, so that less is saved. A kernel that cannot is left as it is.
pub fn free_caches() {
    for (path, value) in FREE {
        match fs::write(path, value) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                log(&format!("cannot write to {path}: {error}"));
            }
            _ => {}
        }
    }
}
