//! What `run` may be started without, and limits of the process. A run works, or it ends with one
//! line that names the cause, exit code 125 and nothing left behind. Few of these runs boot.

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{or_skip, root_or_skip, tool};

/// A host with a kernel and an image of which a user without other processes has run a command: the
/// limit on processes counts all processes of a user, and does not apply to root.
fn prepared(user: u32) -> Result<Host, microagent_tests::Error> {
    for program in ["qemu-system-x86_64", "script", "prlimit", "setpriv"] {
        tool::find(program)?;
    }
    let layout = Layout::busybox()?;
    let host = Host::with_kernel()?;
    let script = format!(
        "chmod 755 .. && cp -r {} layout && mkdir bin && cp \"$(dirname \"$(command -v microagent)\")\"/microagent* bin
         printf '%s\\n' 'exec prlimit --core=0 $LIMIT -- $PWD/bin/microagent --quiet --engine qemu run --image oci:layout:latest \"$@\"' >run
         printf '%s\\n' 'exec setpriv --reuid {user} --clear-groups \"$@\"' >user
         sh run true && chown -R {user} ..",
        layout.directory().display()
    );
    host.shell(&script).finish().expect_code(0);
    Ok(host)
}

#[test]
fn each_limit_that_is_too_low_is_named_and_can_be_raised() {
    root_or_skip!();
    let host = or_skip!(prepared(0x4000_0000 + std::process::id()));
    let limits = (1..=12)
        .map(|limit| (format!("--nproc={limit}"), "-u"))
        .chain([4, 5, 6, 7, 10, 12, 14, 30, 63].map(|limit| (format!("--nofile={limit}"), "-n")))
        .chain([0, 1, 4096, 1_000_000].map(|limit| (format!("--fsize={limit}"), "-f")))
        .chain([("--as=100000000".to_owned(), "-v")]);
    for (limit, flag) in limits {
        let finished = host
            .shell(&format!("LIMIT={limit} exec sh user sh run true"))
            .finish();
        let errors = finished.errors();
        assert_eq!(finished.code, Some(125), "{limit}: {errors}");
        let lines: Vec<_> = errors.lines().collect();
        assert_eq!(lines.len(), 2, "{limit}: {errors}");
        assert!(lines[0].starts_with("microagent: "), "{limit}: {errors}");
        assert!(
            lines[1].contains(&format!("ulimit {flag} ")),
            "{limit}: {errors}"
        );
        host.assert_clean();
    }
    // What the errors say, in a shell that has the command. The soft limit of open files is raised
    // by the supervisor itself.
    let script = "exec sh user prlimit --nproc=99:9999 --nofile=20:2000 --fsize=0:unlimited --as=100000000:unlimited -- \
                  bash -c 'ulimit -u 4096 && ulimit -f unlimited && ulimit -v unlimited && sh run echo works'";
    let finished = host.shell(script).finish().expect_code(0);
    assert_eq!(finished.text(), "works\n");
    let script =
        "exec sh user prlimit --nofile=10:2000 -- bash -c 'ulimit -n 1024 && sh run echo works'";
    let finished = host.shell(script).finish().expect_code(0);
    assert_eq!(finished.text(), "works\n");
    host.assert_clean();
}

/// A terminal gets bars, which a thread animates; a name is looked up by a thread.
#[test]
fn a_missing_thread_of_the_terminal_or_of_the_network_is_no_panic() {
    root_or_skip!();
    let host = or_skip!(prepared(0x5000_0000 + std::process::id()));
    let build = "bin/microagent --state-dir fresh rootfs build --allow-mutable --image";
    for limit in 1..=6 {
        let inner = format!("sh user prlimit --nproc={limit} -- {build} oci:layout:latest");
        // `script` itself is not limited.
        let finished = host
            .shell(&format!(
                "rm -rf fresh; script -qec '{inner}' /dev/null </dev/null"
            ))
            .finish();
        let output = finished.text();
        assert!(!output.contains("panicked"), "{limit}: {output}");
        assert!(
            [Some(0), Some(1)].contains(&finished.code),
            "{limit}: {output}"
        );
        assert_eq!(
            finished.code == Some(1),
            output.contains("os error 11"),
            "{limit}: {output}"
        );
        let inner = format!("exec sh user prlimit --nproc={limit} -- {build} localhost:1/none:x");
        let finished = host.shell(&inner).finish().expect_code(1);
        let errors = finished.errors();
        assert!(!errors.contains("panicked"), "{limit}: {errors}");
        assert!(
            errors.contains("os error 11") || limit > 2,
            "{limit}: {errors}"
        );
    }
}

#[test]
fn what_is_missing_or_odd_is_done_without_or_named() {
    root_or_skip!();
    let host = or_skip!(prepared(0));
    let covered =
        |mounts: &str, run: &str| format!("exec unshare --mount sh -c '{mounts} && {run}'");
    for (name, script, code, expected) in [
        (
            "no /proc",
            covered("mount -t tmpfs x /proc", "exec sh run true"),
            125,
            "microagent: engine qemu needs /proc, which is not mounted\n  mount it: mount -t proc proc /proc\n",
        ),
        (
            "no /dev/null",
            covered("mount -t tmpfs x /dev", "exec sh run true"),
            125,
            "microagent: cannot open /dev/null: No such file or directory (os error 2)\n",
        ),
        (
            "a state directory that cannot be written",
            covered(
                "mount --bind ../state ../state && mount -o remount,ro,bind ../state",
                "MICROAGENT_STATE_DIR=../state exec sh run true",
            ),
            125,
            "Read-only file system (os error 30)\n  choose a writable directory with --state-dir\n",
        ),
        (
            "no directory for sockets",
            covered(
                "mount --bind .. /mnt && mount -t tmpfs -o ro x /tmp && cd /mnt/home",
                "MICROAGENT_STATE_DIR=/mnt/state exec env -u XDG_RUNTIME_DIR sh run true",
            ),
            125,
            "microagent: cannot create /tmp/microagent-0: Read-only file system (os error 30)\n  \
             set XDG_RUNTIME_DIR to a writable directory with a short path\n",
        ),
        (
            "a state directory that is not UTF-8",
            "MICROAGENT_STATE_DIR=$(printf 'a\\377') exec sh run true".into(),
            2,
            " is not UTF-8\n  use another --state-dir DIR\n",
        ),
    ] {
        let finished = host.shell(&script).finish();
        let errors = finished.errors();
        assert_eq!(finished.code, Some(code), "{name}: {errors}");
        assert!(errors.ends_with(expected), "{name}: {errors}");
        assert_eq!(
            errors
                .lines()
                .filter(|line| line.starts_with("microagent: "))
                .count(),
            1,
            "{errors}"
        );
        host.assert_clean();
    }
    // The rest at once: nothing of it is missed. The two remediations are among it.
    let odd = format!("{}/a b,c:d\ne=f'\"$x%s\\", "x".repeat(150));
    let script = r#"mkdir -p "$ODD" && mv ../state "$ODD/s" && printf '%s\n' '
            mount -t tmpfs x /proc && mount -t tmpfs x /sys && mount -t tmpfs x /dev/shm &&
            mount --bind .. /mnt && mount -t tmpfs -o ro x /tmp && mount -t proc proc /proc &&
            mkdir /mnt/home/gone && cd /mnt/home/gone && rmdir /mnt/home/gone && umask 0777 && ulimit -c 0 &&
            exec env -i XDG_RUNTIME_DIR=/mnt/run TMPDIR=/nonexistent LC_ALL=xx_YY.KOI8-R RUST_BACKTRACE=full RUST_LOG=trace \
                "MICROAGENT_STATE_DIR=/mnt/home/$ODD/s" /mnt/home/bin/microagent --quiet --engine qemu \
                run --image oci:/mnt/home/layout:latest "$@"' >odd
        unshare --mount sh odd echo works &&
        unshare --mount sh odd sh -c 'exit 7' <&- >&- 2>&-"#;
    let finished = host
        .shell(script)
        .variable("ODD", odd)
        .finish()
        .expect_code(7);
    assert_eq!(finished.text(), "works\n");
    assert_eq!(finished.errors(), "");
    host.assert_clean();
}
