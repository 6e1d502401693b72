//! Which descriptors are locked. Over NFS, flock(2) is emulated by fcntl(2), which demands a
//! writable descriptor for an exclusive lock and a readable one for a shared lock; locks of
//! directories stay on the machine (nfs(5), flock(2)). No NFS server can run everywhere, so the
//! system calls are checked. And the session of the supervisor.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{or_skip, session, tool};

/// A file that a thread opened.
struct Opened {
    fd: String,
    path: String,
    flags: String,
}

/// `NUMBER</PATH>`, as strace prints descriptors.
fn descriptor(text: &str) -> Option<(String, String)> {
    let (fd, rest) = text.split_once('<')?;
    let path = rest.rsplit_once('>')?.0;
    Some((fd.trim().to_owned(), path.to_owned()))
}

#[test]
fn exclusive_locks_are_taken_on_writable_descriptors() {
    for program in ["strace", "qemu-system-x86_64"] {
        or_skip!(tool::find(program));
    }
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let script = r#"mkdir traces && truncate -s 1M disk && mke2fs -q disk
        traced() { strace --seccomp-bpf -f -ff -o traces/$1 -qq -y -e trace=openat,flock,mkdir "$(command -v microagent)" --quiet "$@"; }
        traced rootfs build --allow-mutable --image "$IMAGE" &&
        traced run --keep --name kept --disk "d=$PWD/disk:/d:rw" --image "$IMAGE" true &&
        traced image resolve "$IMAGE" && traced cache verify --repair && traced cache ls && traced cache gc"#;
    host.shell(script)
        .variable("MICROAGENT_ENGINE", "qemu")
        .variable("IMAGE", layout.reference("latest"))
        .finish()
        .expect_code(0);
    let mut directories = HashSet::new();
    let mut threads = Vec::new();
    for entry in fs::read_dir(host.path("traces")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let (mut opened, mut locked) = (Vec::new(), Vec::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("mkdir(\"") {
                directories.extend(rest.split_once('"').map(|(path, _)| path.to_owned()));
            } else if let Some(rest) = line.strip_prefix("openat(")
                && let Some((call, result)) = rest.rsplit_once(" = ")
                && let Some((fd, path)) = descriptor(result)
            {
                let flags = call.rsplit_once("\", ").unwrap().1.to_owned();
                opened.push(Opened { fd, path, flags });
            } else if let Some(rest) = line.strip_prefix("flock(")
                && let Some((target, operation)) = rest.rsplit_once(">, ")
                && let Some((fd, path)) = descriptor(&format!("{target}>"))
            {
                // A descriptor may be used again: the opening before this lock.
                let by = opened
                    .iter()
                    .rposition(|o: &Opened| o.fd == fd && o.path == path);
                locked.push((path, operation.to_owned(), by));
            }
        }
        threads.push((opened, locked));
    }
    let is_directory = |path: &str| directories.contains(path) || Path::new(path).is_dir();
    let (mut exclusive, mut shared) = (0, 0);
    for (opened, locked) in &threads {
        for (path, operation, by) in locked {
            if is_directory(path) || operation.contains("LOCK_UN") {
                continue;
            }
            let flags: Vec<_> = match by {
                Some(index) => vec![&opened[*index].flags],
                // Another thread opened it.
                None => (threads.iter().flat_map(|(opened, _)| opened))
                    .filter(|opened| opened.path == *path)
                    .map(|opened| &opened.flags)
                    .collect(),
            };
            assert!(!flags.is_empty(), "{path} was not opened");
            let (count, unfit) = match operation.contains("LOCK_EX") {
                true => (&mut exclusive, "O_RDONLY"),
                false => (&mut shared, "O_WRONLY"),
            };
            *count += 1;
            assert!(
                flags.iter().all(|flags| !flags.contains(unfit)),
                "{operation}: {path}: {flags:?}"
            );
        }
    }
    // Gates, leases, nodes, the disk, the workspace.
    assert!(exclusive >= 20 && shared >= 5, "{exclusive} {shared}");
}

#[test]
fn the_supervisor_leads_a_session_of_its_own() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(Host::with_kernel());
    let mut running = host
        .microagent(["--engine", "qemu", "run", "--image"])
        .argument(layout.reference("latest"))
        .argument("--exec")
        .argument("echo at work >&2; sleep 1000")
        .start();
    running.wait_for_error_text("at work");
    let children = running.children();
    assert_eq!(children.len(), 1, "{children:?}");
    for child in children {
        assert!(session::is_led_by(child));
    }
    running.signal(rustix::process::Signal::TERM);
    running.finish().expect_code(143);
    host.assert_clean();
}
