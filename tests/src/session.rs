//! The session of a process.

use std::fs;

/// Whether the process leads a session of its own (proc(5), `/proc/PID/stat`: the id of its session
/// is its own). Not by getsid(2), which returns 0, no process id, where the leader is in another
/// PID namespace, as that of a container's shell.
pub fn is_led_by(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program may contain spaces and parentheses.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let session = after_name.split(' ').nth(3);
    session == Some(pid.to_string().as_str())
}
