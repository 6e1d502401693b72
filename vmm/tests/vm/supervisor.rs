//! The supervisor process, without a VM.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use microagent_proto::control::{
    DiskConfig, DiskMode, Engine, FromSupervisor, MAX_MESSAGE, ToSupervisor, VmConfig, decode,
    encode,
};
use microagent_proto::envelope::Program;
use microagent_tests::{or_skip, root_or_skip, session, tool};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const PROGRAM: &str = env!("CARGO_BIN_EXE_microagent-supervisor");
const TIMEOUT: Duration = Duration::from_secs(30);

/// A control socket: our end and the supervisor's.
fn control() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap()
}

/// A VM with one disk and a kernel that does not exist.
fn start(disk: PathBuf, run_dir: &Path) -> Vec<u8> {
    let config = VmConfig {
        name: "test".into(),
        engine: Engine::Qemu,
        cpus: 1,
        memory_mib: 256,
        kernel: "/no/such/kernel".into(),
        initramfs: None,
        extra_cmdline: None,
        disks: vec![DiskConfig {
            path: disk,
            mode: DiskMode::ReadOnly,
        }],
        run_dir: run_dir.into(),
        console_to_stderr: false,
        listen: Vec::new(),
        net: None,
        saved: None,
    };
    encode(&ToSupervisor::Start(Box::new(config))).unwrap()
}

/// The message of the failure that the supervisor reports.
fn failure(control: &OwnedFd) -> String {
    let mut packet = vec![0; MAX_MESSAGE];
    loop {
        // A supervisor that has exited without reading our message resets the socket first.
        let Ok((length, _)) = recv(control, &mut packet[..], RecvFlags::empty()) else {
            continue;
        };
        assert!(length > 0, "it exited without a report");
        let message = decode(&packet[..length], Program::CommandLine, Program::Supervisor).unwrap();
        if let FromSupervisor::Failed { message, .. } = message {
            return message;
        }
    }
}

fn wait_until(supervisor: &mut Child, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline && supervisor.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
}

/// It opens a pipe without a writer as a disk, which blocks forever, as a file system that hangs
/// does.
#[test]
fn a_supervisor_that_is_blocked_exits_when_its_socket_closes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    tool::run("mkfifo", [&disk]).unwrap();
    let (ours, theirs) = control();
    let mut supervisor = Command::new(PROGRAM)
        .stdin(Stdio::from(theirs))
        .spawn()
        .unwrap();
    send(&ours, &start(disk, dir.path()), SendFlags::empty()).unwrap();
    let syscall = format!("/proc/{}/syscall", supervisor.id());
    // openat(2) of the pipe.
    wait_until(&mut supervisor, || {
        std::fs::read_to_string(&syscall).is_ok_and(|call| call.starts_with("257 "))
    });
    drop(ours);
    let deadline = Instant::now() + TIMEOUT;
    while supervisor.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every limit below what it needs, so each of its threads and processes is once the one that
/// cannot be started.
#[test]
fn a_thread_that_cannot_be_started_is_reported_in_one_line() {
    root_or_skip!();
    or_skip!(tool::find("qemu-system-x86_64"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    // Where another user may execute it.
    let program = dir.path().join("supervisor");
    microagent_tests::program::copy(PROGRAM, &program).unwrap();
    let disk = dir.path().join("disk");
    std::fs::write(&disk, [0; 4096]).unwrap();
    // A user without other processes; the limit does not apply to root.
    let user = (0x4000_0000 + std::process::id()).to_string();
    let mut refused = 0;
    for limit in 1.. {
        let (ours, theirs) = control();
        let mut supervisor = Command::new("setpriv")
            .args(["--reuid", &user, "--clear-groups", "--"])
            .args(["prlimit", &format!("--nproc={limit}"), "--"])
            .arg(&program)
            .arg(Engine::Qemu.name())
            .stdin(Stdio::from(theirs))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Fails if it has exited already.
        let _ = send(&ours, &start(disk.clone(), dir.path()), SendFlags::NOSIGNAL);
        let message = failure(&ours);
        let mut errors = String::new();
        let mut stderr = supervisor.stderr.take().unwrap();
        stderr.read_to_string(&mut errors).unwrap();
        assert_eq!(errors, "", "limit {limit}");
        assert_eq!(supervisor.wait().unwrap().code(), Some(1), "limit {limit}");
        if !message.contains("Resource temporarily unavailable") {
            assert!(message.contains("/no/such/kernel"), "{message}");
            break;
        }
        assert_eq!(message.lines().count(), 1, "{message}");
        refused += 1;
    }
    // The watch on the socket, QEMU, and two threads for each of two devices.
    assert!(refused >= 6, "{refused}");
}

/// The shell stands for the command line: it starts the supervisor, and the terminal's signal goes
/// to its process group.
#[test]
fn it_has_a_session_of_its_own_that_a_terminal_does_not_reach() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = control();
    let mut caller = Command::new("sh")
        .args(["-c", r#"exec 3<&0; "$0" qemu <&3 3<&- & echo $!; wait"#])
        .arg(PROGRAM)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut line = [0; 16];
    let length = caller.stdout.as_mut().unwrap().read(&mut line).unwrap();
    let pid: i32 = std::str::from_utf8(&line[..length])
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let supervisor = Pid::from_raw(pid).unwrap();
    wait_until(&mut caller, || session::is_led_by(pid));
    kill_process_group(Pid::from_child(&caller), Signal::HUP).unwrap();
    caller.wait().unwrap();
    // It still answers.
    let message = start("/no/such/disk".into(), dir.path());
    send(&ours, &message, SendFlags::empty()).unwrap();
    let message = failure(&ours);
    assert!(message.contains("/no/such/disk"), "{message}");
    let _ = kill_process(supervisor, Signal::KILL);
}
