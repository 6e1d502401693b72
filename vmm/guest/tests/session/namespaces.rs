//! Which processes and mounts a command sees, and what becomes of them.

use super::*;

#[test]
fn the_workload_is_the_first_process_of_its_namespace() {
    let root = scratch_root();
    let script = "echo $$; cat /proc/1/comm; readlink /proc/self; ps -o pid,comm; \
                  grep -c ' /proc ' /proc/mounts; grep ' /proc ' /proc/mounts";
    assert_eq!(
        stdout_of(root.path(), shell(script)),
        "1\nsh\n3\nPID   COMMAND\n    1 sh\n    4 ps\n1\n\
         proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n"
    );
}

#[test]
fn only_handled_signals_and_sigkill_reach_the_workload() {
    let root = scratch_root();
    let mut session = Session::exec(root.path(), command(&["sleep", "1000"]));
    session.started();
    for signal in [15, 2, 1, 9] {
        write_message(&mut session.stream, &Input::Signal(signal)).unwrap();
    }
    assert_eq!(session.rest().end, killed(9));

    let script = "kill -9 $$; kill -TERM $$; echo still here; trap 'exit 7' TERM; kill -TERM $$";
    let outcome = Session::exec(root.path(), shell(script)).outcome();
    assert_eq!(outcome.stdout, b"still here\n");
    assert_eq!(outcome.end, code(7));
}

#[test]
fn a_command_joins_the_workload_and_ends_with_it() {
    let root = scratch_root();
    fs::create_dir(root.path().join("mnt")).unwrap();
    let agent = Agent::start(root.path());
    let mut workload = agent.exec(Exec {
        stdin: true,
        ..shell("mount -t tmpfs none /mnt; echo mine >/mnt/file; echo up; read -r line; exit 3")
    });
    workload.started();
    let up = read_frame(&mut workload.stream).unwrap().unwrap();
    assert_eq!(up.payload, b"up\n");

    let script = "cat /proc/1/comm /mnt/file; readlink /proc/self >/dev/null && echo mounted";
    let outcome = agent.exec(beside(script)).outcome();
    assert_eq!(outcome.stdout, b"sh\nmine\nmounted\n");
    // An orphan goes to the workload.
    let mut second = agent.exec(beside("(sleep 1000 & echo $!); sleep 1000"));
    second.started();
    read_frame(&mut second.stream).unwrap().unwrap();
    assert_eq!(fs::read_dir(root.path().join("mnt")).unwrap().count(), 0);

    workload.stdin(b"\n");
    assert_eq!(second.rest().end, killed(9));
    assert_eq!(workload.rest().end, code(3));
}

#[test]
fn a_vm_has_one_workload_at_a_time() {
    let root = scratch_root();
    let agent = Agent::start(root.path());
    let mut first = agent.exec(Exec {
        stdin: true,
        ..command(&["cat"])
    });
    first.started();
    let failure = agent.exec(command(&["true"])).failure();
    assert_eq!(failure.kind, FailureKind::BadRequest);
    assert_eq!(failure.message, "the workload is already running");
    first.stdin(b"");
    assert_eq!(first.rest().end, code(0));
    // One that cannot be started does not count.
    agent.exec(command(&["nothing"])).failure();
    assert_eq!(agent.exec(shell("exit 5")).outcome().end, code(5));
}

#[test]
fn what_setup_commands_start_and_mount_stays() {
    let root = scratch_root();
    fs::create_dir(root.path().join("mnt")).unwrap();
    let agent = Agent::start(root.path());
    // The daemon writes more than a pipe holds after its session has ended.
    let daemon = "mount -t tmpfs none /mnt; echo setup >/mnt/file; mkfifo /tmp/go /tmp/done; \
        (read -r line </tmp/go; for i in $(seq 5000); do echo 0123456789abcdef; done; \
         echo alive >/tmp/done; sleep 1000) & cat /proc/1/comm";
    let outcome = agent.exec(beside(daemon)).outcome();
    assert_eq!(outcome.stdout, b"init\n");
    let outcome = agent
        .exec(beside("cat /mnt/file; echo go >/tmp/go; cat /tmp/done"))
        .outcome();
    assert_eq!(outcome.stdout, b"setup\nalive\n");

    // The workload has a copy of the mounts and does not see the daemon.
    let script = "cat /mnt/file; ps -o comm; grep -c ' /proc ' /proc/mounts";
    let outcome = agent.exec(shell(script)).outcome();
    assert_eq!(outcome.stdout, b"setup\nCOMMAND\nsh\nps\n1\n");
    // Afterwards the VM is idle again, and the daemon is still there.
    let outcome = agent
        .exec(beside("ps -o comm | grep -c sleep; cat /mnt/file"))
        .outcome();
    assert_eq!(outcome.stdout, b"1\nsetup\n");
}

#[test]
fn orphans_are_reaped_between_commands() {
    let root = scratch_root();
    let agent = Agent::start(root.path());
    // Orphans that end before and after their parent does.
    let script = "i=0; while [ $i -lt 100 ]; do ( (sleep 0.00$((i % 7))) & ) ; i=$((i+1)); done; \
                  exit 5";
    assert_eq!(agent.exec(beside(script)).outcome().end, code(5));
    let script = "while ps -o stat,comm | grep -q sleep; do :; done; ps -o stat,comm | grep -c Z";
    assert_eq!(agent.exec(beside(script)).outcome().stdout, b"0\n");
}
