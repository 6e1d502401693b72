//! The supervisor process, without a VM.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use microagent_proto::control::{DiskConfig, DiskMode, Engine, ToSupervisor, VmConfig, encode};
use microagent_tests::tool;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

/// It opens a pipe without a writer as a disk, which blocks forever, as a file system that hangs
/// does.
#[test]
fn a_supervisor_that_is_blocked_exits_when_its_socket_closes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    tool::run("mkfifo", [&disk]).unwrap();
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let mut supervisor = Command::new(env!("CARGO_BIN_EXE_microagent-supervisor"))
        .stdin(Stdio::from(theirs))
        .spawn()
        .unwrap();
    let start = ToSupervisor::Start(Box::new(VmConfig {
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
        run_dir: dir.path().into(),
        console_to_stderr: false,
    }));
    send(&ours, &encode(&start).unwrap(), SendFlags::empty()).unwrap();
    let syscall = format!("/proc/{}/syscall", supervisor.id());
    // openat(2) of the pipe.
    let blocked = || std::fs::read_to_string(&syscall).is_ok_and(|call| call.starts_with("257 "));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !blocked() {
        assert!(Instant::now() < deadline && supervisor.try_wait().unwrap().is_none());
        std::thread::yield_now();
    }
    drop(ours);
    while supervisor.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}
