//! Commands that cannot be executed: the message names the cause, and the kind is that of a shell.

use super::*;

fn refused(root: &Path, argv0: &str, user: &str) -> (FailureKind, String) {
    let mut exec = command(&[argv0]);
    exec.user = user.into();
    let failure = Session::exec(root, exec).failure();
    (failure.kind, failure.message)
}

#[test]
fn commands_that_do_not_exist_are_not_found() {
    let root = scratch_root();
    for (argv0, message) in [
        ("nothing", "nothing was not found in PATH (/bin)"),
        ("/bin/nothing", "the image has no /bin/nothing"),
        ("/bin/sh/x", "the image has no /bin/sh/x"),
    ] {
        assert_eq!(
            refused(root.path(), argv0, ""),
            (FailureKind::NotFound, message.to_owned())
        );
    }
}

/// The header of an ELF program for a machine, with one program header that names a loader.
fn elf(wide: bool, machine: u16, loader: &[u8]) -> Vec<u8> {
    let (header, entry) = if wide { (64, 56) } else { (52, 32) };
    let mut file = vec![0; header + entry];
    file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1]);
    let mut short = |at: usize, value: u16| file[at..at + 2].copy_from_slice(&value.to_le_bytes());
    short(16, 2);
    short(18, machine);
    short(20, 1);
    let sizes = if wide { 52 } else { 40 };
    short(sizes, header as u16);
    short(sizes + 2, entry as u16);
    short(sizes + 4, 1);
    file[if wide { 32 } else { 28 }] = header as u8;
    file[header] = 3;
    let (offset, length) = if wide { (8, 32) } else { (4, 16) };
    file[header + offset] = (header + entry) as u8;
    file[header + length] = loader.len() as u8;
    file.extend(loader);
    file
}

#[test]
fn programs_that_cannot_be_executed_are_explained() {
    let root = scratch_root();
    let bin = root.path().join("bin");
    let write =
        |name: &str, bytes: &[u8], mode: u32| program::write(bin.join(name), mode, bytes).unwrap();
    write("plain", b"#!/bin/sh\n", 0o644);
    write("secret", b"#!/bin/sh\n", 0o700);
    write("orphan", b"#!/usr/bin/perl -w\n", 0o755);
    write("windows", b"#!/bin/sh\r\necho\r\n", 0o755);
    write("windows-env", b"#!/usr/bin/env\r\n", 0o755);
    write("directory", b"#!/bin\n", 0o755);
    write("interpreter-plain", b"#!/bin/plain\n", 0o755);
    write("second-hand", b"#!/bin/windows\n", 0o755);
    write("relative", b"#!nowhere/sh\n", 0o755);
    write("none", b"#!  \n", 0o755);
    write("mark", b"\xef\xbb\xbf#!/bin/sh\n", 0o755);
    write("text", b"echo hello\n", 0o755);
    write("garbage", b"\x01\x02", 0o755);
    write("empty", b"", 0o755);
    write("arm", &elf(true, 183, b"/lib/ld.so\0"), 0o755);
    write("other", &elf(true, 999, b"/lib/ld.so\0"), 0o755);
    write(
        "dynamic",
        &elf(true, 62, b"/lib64/ld-linux-x86-64.so.2\0"),
        0o755,
    );
    write("musl", &elf(true, 62, b"/lib/ld-musl-x86_64.so.1\0"), 0o755);
    write("truncated", &elf(true, 62, b"")[..40], 0o755);

    let not_in_image = "which the image does not have";
    for (name, message) in [
        ("plain", "/bin/plain is not executable".to_owned()),
        ("/bin", "/bin is a directory".to_owned()),
        (
            "orphan",
            format!("/bin/orphan needs /usr/bin/perl, {not_in_image}"),
        ),
        (
            "windows",
            format!(
                "/bin/windows needs /bin/sh\\r, {not_in_image}: the first line ends with \\r, \
                 a Windows line ending; convert the file to Unix line endings"
            ),
        ),
        (
            "windows-env",
            format!(
                "/bin/windows-env needs /usr/bin/env\\r, {not_in_image}: the first line ends with \
                 \\r, a Windows line ending; convert the file to Unix line endings"
            ),
        ),
        (
            "directory",
            "/bin/directory needs /bin, which is a directory".to_owned(),
        ),
        (
            "interpreter-plain",
            "/bin/interpreter-plain needs /bin/plain, which is not executable".to_owned(),
        ),
        (
            "second-hand",
            format!(
                "/bin/windows needs /bin/sh\\r, {not_in_image}: the first line ends with \\r, \
                 a Windows line ending; convert the file to Unix line endings"
            ),
        ),
        (
            "relative",
            format!("/bin/relative needs nowhere/sh, {not_in_image}"),
        ),
        (
            "dynamic",
            format!("/bin/dynamic needs /lib64/ld-linux-x86-64.so.2, {not_in_image}"),
        ),
        (
            "musl",
            format!("/bin/musl needs /lib/ld-musl-x86_64.so.1, {not_in_image}"),
        ),
    ] {
        assert_eq!(
            refused(root.path(), name, ""),
            (FailureKind::NotExecutable, message)
        );
    }
    assert_eq!(
        refused(root.path(), "secret", "www"),
        (
            FailureKind::NotExecutable,
            "/bin/secret is not executable".to_owned()
        )
    );
    for (name, why) in [
        ("none", "its #! line names no interpreter"),
        ("mark", "a UTF-8 byte order mark precedes its #! line"),
        (
            "text",
            "it is neither a program nor a script that starts with #!",
        ),
        (
            "garbage",
            "it is neither a program nor a script that starts with #!",
        ),
        ("empty", "it is empty"),
        (
            "arm",
            "it is a program for arm64, and this machine is x86-64",
        ),
        (
            "other",
            "it is a program for ELF machine 999, and this machine is x86-64",
        ),
        (
            "truncated",
            "it is neither a program nor a script that starts with #!",
        ),
    ] {
        assert_eq!(
            refused(root.path(), name, ""),
            (
                FailureKind::NotExecutable,
                format!("cannot execute /bin/{name}: exec format error: {why}")
            )
        );
    }
    // A shell runs what the kernel does not recognise, as everywhere.
    assert_eq!(stdout_of(root.path(), shell("/bin/text")), "hello\n");
}

#[test]
fn a_program_on_a_noexec_file_system_is_named() {
    let root = scratch_root();
    fs::create_dir(root.path().join("data")).unwrap();
    let agent = Agent::start(root.path());
    let mount = "mount -t tmpfs -o noexec none /data; cat /bin/busybox >/data/program; \
                 chmod 755 /data/program";
    assert_eq!(agent.exec(beside(mount)).outcome().end, code(0));
    let failure = agent.exec(command(&["/data/program"])).failure();
    assert_eq!(failure.kind, FailureKind::NotExecutable);
    assert_eq!(
        failure.message,
        "/data/program is on a file system that is mounted noexec"
    );
}
