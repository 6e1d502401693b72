//! What `microagent run` must do on every engine: the same shell scripts on this machine and in
//! the lab, with the same answers.
//!
//! A script finds `$IMAGE` (the busybox image, of which [`INTERRUPT`] is a variant) and a `microagent`
//! whose engine, state directory and kernel are set up: the kernel of `kernel build`, and in the state
//! directory `$DISTRIBUTION` the distribution's. `$PROGRAMS` is a directory with the programs of
//! [`microagent_tests::program::for_guests`].

use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine, Report};
use microagent_tests::microagent::Finished;
use microagent_tests::{Error, built_kernel};

/// The tag of the busybox image whose stop signal is SIGINT.
const INTERRUPT: &str = "interrupt";

/// A layout with the images of these cases.
///
/// # Errors
/// Those of the tools that make images.
pub fn layout<'a>(cases: impl IntoIterator<Item = &'a Case>) -> Result<Layout, Error> {
    let layout = Layout::busybox()?;
    if cases
        .into_iter()
        .any(|case| case.script.contains(INTERRUPT))
    {
        layout.tag("latest", INTERRUPT)?;
        layout.configure(INTERRUPT, &["--config.stopsignal=SIGINT"])?;
    }
    Ok(layout)
}

/// A lab with `microagent`, the kernel of `kernel build` in the state directory `/state`, and the
/// images of `layout` in `/layout`.
///
/// # Errors
/// When the kernel, the lab's own or a file is missing.
pub fn lab(layout: &Layout) -> Result<Lab, Error> {
    let mut lab = Lab::with_machine(Machine {
        deadline: Duration::from_secs(1200),
        ..Machine::default()
    })?;
    lab.microagent()?;
    lab.directory(&built_kernel::host()?.state(), "/state")?;
    lab.directory(layout.directory(), "/layout")?;
    Ok(lab)
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The name of its test.
    pub name: &'static str,
    /// The shell script to run.
    pub script: &'static str,
    /// Time limit in seconds on the slower engine.
    pub seconds: u32,
    /// Its exit status.
    pub code: i32,
    /// Its standard output, exactly.
    pub stdout: &'static str,
}

impl Case {
    /// Whether it boots the distribution's kernel.
    pub fn uses_distribution(&self) -> bool {
        self.script.contains("$DISTRIBUTION")
    }

    /// Checks what a lab reports of it.
    #[track_caller]
    pub fn check_in(&self, report: &Report) {
        let step = report.step(self.name);
        assert_eq!(
            (step.code, step.text().as_str()),
            (self.code, self.stdout),
            "stderr: {}; took {:?}",
            step.errors(),
            step.elapsed
        );
    }

    /// Checks how it ended on this host.
    #[track_caller]
    pub fn check_finished(&self, finished: &Finished) {
        assert_eq!(
            (finished.code, finished.text().as_str()),
            (Some(self.code), self.stdout),
            "stderr: {}; took {:?}",
            finished.errors(),
            finished.elapsed
        );
    }

    /// Whether it uses the programs for guests.
    pub fn uses_programs(&self) -> bool {
        self.script.contains("$PROGRAMS")
    }
}

mod workspaces;

/// Defines `CASES`, those of workspaces after these, and for each a test that passes it to `$check`.
macro_rules! run_list {
    ($check:path) => {
        $crate::run_list::with_workspaces! { $check;
            the_command_runs_in_a_guest_with_the_image_as_its_root {
                script: r#"microagent run --image "$IMAGE" --exec 'echo hello; uname -s; cat /etc/group; readlink /bin/ls'"#,
                code: 0,
                stdout: "hello\nLinux\nroot:x:0:\nuser:x:1000:\nextra:x:2000:user\n/bin/busybox\n",
            }
            one_cpu_is_one_cpu {
                script: r#"microagent run --image "$IMAGE" --cpus 1 --exec nproc"#,
                code: 0,
                stdout: "1\n",
            }
            two_cpus_are_two_cpus_that_both_work {
                script: r#"microagent run --image "$IMAGE" --cpus 2 --exec 'nproc
                    for cpu in 0 1; do taskset -c $cpu sha256sum /etc/group | cut -c1-8 & done; wait; grep -c processor /proc/cpuinfo'"#,
                code: 0,
                stdout: "2\n39308094\n39308094\n2\n",
            }
            the_guest_has_the_requested_memory {
                script: r#"microagent run --image "$IMAGE" --memory 768 --exec 'while read -r key value unit; do
                    [ "$key" = MemTotal: ] && [ $value -gt 700000 ] && [ $value -le 786432 ] && echo right; done </proc/meminfo; exit 0'"#,
                code: 0,
                stdout: "right\n",
            }
            the_exit_code_is_that_of_the_command {
                script: r#"microagent run --image "$IMAGE" --exec 'exit 3'"#,
                code: 3,
                stdout: "",
            }
            a_command_that_exits_with_125_has_a_result {
                script: r#"microagent run --json --quiet --image "$IMAGE" --exec 'exit 125' >document; echo $?
                    grep -E '"(exitCode|error|finalState)"' document"#,
                code: 0,
                stdout: "125\n    \"exitCode\": 125,\n  \"error\": null,\n  \"finalState\": \"stopped\"\n",
            }
            the_exit_code_for_a_signal_is_128_plus_its_number {
                script: r#"microagent run --image "$IMAGE" --exec 'sh -c "kill -9 \$\$"; exit $?'"#,
                code: 137,
                stdout: "",
            }
            the_command_is_the_first_process_of_its_own_namespace {
                script: r#"microagent run --image "$IMAGE" --setup 'sleep 1000 & cat /proc/1/comm >/first' --exec '
                    echo $$; cat /first /proc/1/comm; readlink /proc/self; ps -o pid,comm
                    grep -c " /proc " /proc/mounts; kill -9 $$; kill -TERM $$; echo still here; exit 5'"#,
                code: 5,
                stdout: "1\ninit\nsh\n3\nPID   COMMAND\n    1 sh\n    4 ps\n1\nstill here\n",
            }
            what_setup_commands_start_lives_on {
                script: r#"microagent run --image "$IMAGE" --setup 'mkdir /m; mount -t tmpfs none /m; mkfifo /m/go /m/done
                    (read line </m/go; seq 100000; echo "$line" >/m/done) &' --exec 'echo alive >/m/go; cat /m/done'"#,
                code: 0,
                stdout: "alive\n",
            }
            every_user_may_bind_low_ports_and_open_ping_sockets {
                script: r#"microagent run --image "$IMAGE" --exec 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range
                    su user -s /bin/sh -c "nc -l -p 80 -e echo bound & until nc 127.0.0.1 80 2>/dev/null; do :; done"'"#,
                code: 0,
                stdout: "0\n0\t2147483647\nbound\n",
            }
            a_large_environment_reaches_the_command {
                script: r#"long=$(head -c 100000 /dev/zero | tr '\0' x); set --
                    for i in 1 2 3 4 5 6 7 8 9 10 11; do set -- "$@" -e "V$i=$long"; done
                    microagent run "$@" --image "$IMAGE" --exec 'echo ${#V1} ${#V11}; env | wc -c'"#,
                code: 0,
                stdout: "100000 100000\n1100159\n",
            }
            an_environment_above_linuxs_limit_is_refused_before_the_boot {
                script: r#"ulimit -s unlimited; long=$(head -c 100000 /dev/zero | tr '\0' x); set -- -e "LONGEST=x$long"
                    for i in $(seq 21); do set -- "$@" -e "V$i=$long"; done
                    microagent --quiet run "$@" --image "$IMAGE" --exec true 2>&1"#,
                code: 2,
                stdout: "microagent: the command and its environment are 2200426 bytes long, above Linux's limit of 2097152 bytes; the longest part is --env LONGEST with 100009 bytes\n  pass it in a file: --bundle NAME=TAR:/MOUNT:ro, or on standard input with -i\n",
            }
            a_script_with_windows_line_endings_is_explained {
                script: r#"microagent --quiet run --image "$IMAGE" --setup 'printf "\043!/bin/sh\r\necho\r\n" >/script; chmod 755 /script' -- /script 2>&1"#,
                code: 126,
                stdout: "microagent: /script needs /bin/sh\\r, which the image does not have: the first line ends with \\r, a Windows line ending; convert the file to Unix line endings\n",
            }
            the_minimum_of_memory_is_checked_before_the_boot_and_suffices {
                script: r#"least() { microagent --quiet run "$@" --image "$IMAGE" --exec true 2>&1 | sed -n 's/.*minimum of \([0-9]*\) MiB for this kernel/\1/p'; }
                    for cpus in 1 2; do least=$(least -m 32 --cpus $cpus); microagent --quiet run -m $((least - 1)) --cpus $cpus --image "$IMAGE" --exec true 2>/dev/null; echo $?
                    microagent run -m $least --cpus $cpus --image "$IMAGE" --exec 'echo runs'; done"#,
                seconds: 120,
                code: 0,
                stdout: "2\nruns\n2\nruns\n",
            }
            exhausted_memory_is_named {
                script: r#"fill='head -c 50000000 /dev/zero >/dev/shm/x'; hog='tail -c 100000000 /dev/zero'
                    microagent --quiet run -m 128 --image "$IMAGE" --exec "$fill; exec $hog" 2>&1; echo $?
                    microagent --quiet run -m 128 --image "$IMAGE" --exec "$fill; $hog; exit \$?" 2>&1 | grep microagent
                    fill='mount -o remount,size=100% /dev/shm; head -c 150000000 /dev/zero >/dev/shm/x'
                    microagent --quiet run -m 128 --image "$IMAGE" --exec "$fill" 2>&1 | grep microagent
                    microagent --quiet run -m 256 --image "$IMAGE" --exec "$fill" 2>&1; echo $?"#,
                seconds: 240,
                code: 0,
                stdout: "microagent: the guest ran out of memory (128 MiB)\n  use more, as in --memory 256\n137\nmicroagent: the guest ran out of memory (128 MiB)\nmicroagent: the guest ran out of memory (128 MiB)\n0\n",
            }
            output_to_one_file_keeps_its_order {
                script: r#"microagent --quiet run --image "$IMAGE" --exec 'for i in $(seq 200); do echo o$i; echo e$i >&2; done' >both 2>&1
                    for i in $(seq 200); do echo o$i; echo e$i; done | cmp - both && echo same
                    microagent --quiet run --image "$IMAGE" --exec 'for i in 1 2 3; do echo o$i; echo e$i >&2; done' 2>&1 | cat"#,
                seconds: 120,
                code: 0,
                stdout: "same\no1\ne1\no2\ne2\no3\ne3\n",
            }
            a_command_that_does_not_exist_is_127 {
                script: r#"microagent run "$IMAGE" no-such-command 2>/dev/null"#,
                code: 127,
                stdout: "",
            }
            a_file_that_cannot_be_executed_is_126 {
                script: r#"microagent run "$IMAGE" /etc/group 2>/dev/null"#,
                code: 126,
                stdout: "",
            }
            arguments_reach_the_command_unchanged {
                script: r#"microagent run "$IMAGE" printf '[%s]' 'a b' '' '$HOME' "it's" '*'"#,
                code: 0,
                stdout: "[a b][][$HOME][it's][*]",
            }
            standard_output_and_error_are_separate {
                script: r#"microagent --quiet run --image "$IMAGE" --exec 'echo out; echo err >&2' 2>errors; cat errors"#,
                code: 0,
                stdout: "out\nerr\n",
            }
            a_hundred_megabytes_of_output_arrive_completely {
                script: r#"microagent run --image "$IMAGE" --exec 'yes 0123456789abcdef | head -c 100000000' | sha256sum"#,
                seconds: 400,
                code: 0,
                stdout: "be8f86331d0505dbc8546b36dd7cbc853e453d040f8eefaf87b5539385660010  -\n",
            }
            binary_output_arrives_unchanged {
                script: r#"microagent run --image "$IMAGE" --exec 'i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done' | sha256sum"#,
                code: 0,
                stdout: "40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880  -\n",
            }
            a_command_reads_its_input_to_the_end {
                script: r#"seq 1 200000 | microagent run -i --image "$IMAGE" --exec 'sha256sum; echo end'"#,
                code: 0,
                stdout: "5af7b95208fdcff454bab3f5eddf567a688a3796c703d4fef91072e38645c062  -\nend\n",
            }
            input_is_empty_by_default {
                script: r#"seq 1 10 | microagent run --image "$IMAGE" --exec 'cat; echo end'"#,
                code: 0,
                stdout: "end\n",
            }
            a_timeout_kills_a_sleeping_guest {
                script: r#"microagent run --image "$IMAGE" --timeout 30 --exec 'echo started; sleep 1000' 2>/dev/null"#,
                seconds: 90,
                code: 124,
                stdout: "started\n",
            }
            a_background_process_does_not_delay_the_exit {
                script: r#"microagent run --image "$IMAGE" --exec 'sleep 1000 & echo done'"#,
                seconds: 60,
                code: 0,
                stdout: "done\n",
            }
            setup_commands_run_first_and_in_order {
                script: r#"microagent run --image "$IMAGE" --setup 'echo one >/list' --setup 'echo two >>/list' --exec 'cat /list'"#,
                code: 0,
                stdout: "one\ntwo\n",
            }
            the_environment_and_the_host_name_are_set {
                script: r#"microagent run --image "$IMAGE" --env 'GREETING=hello world' --env EMPTY= --hostname here --exec 'echo "$GREETING,${EMPTY-unset}"; hostname'"#,
                code: 0,
                stdout: "hello world,\nhere\n",
            }
            a_program_for_32_bit_x86_runs {
                script: r#"printf '\177\105\114\106\001\001\001\000\000\000\000\000\000\000\000\000\002\000\003\000\001\000\000\000\124\200\004\010\064\000\000\000\000\000\000\000\000\000\000\000\064\000\040\000\001\000\000\000\000\000\000\000\001\000\000\000\000\000\000\000\000\200\004\010\000\200\004\010\172\000\000\000\172\000\000\000\005\000\000\000\000\020\000\000\270\004\000\000\000\273\001\000\000\000\271\163\200\004\010\272\007\000\000\000\315\200\270\001\000\000\000\061\333\315\200\063\062\055\142\151\164\012' >hello
                    chmod +x hello; tar -cf hello.tar hello
                    microagent run --image "$IMAGE" --bundle b=hello.tar:/b:ro --exec /b/hello"#,
                code: 0,
                stdout: "32-bit\n",
            }
            the_clock_is_right {
                script: r#"before=$(date +%s); guest=$(microagent run --image "$IMAGE" --exec 'date +%s'); after=$(date +%s)
                    [ "$guest" -ge "$before" ] && [ "$guest" -le "$after" ] && echo right"#,
                code: 0,
                stdout: "right\n",
            }
            a_bundle_is_mounted_at_its_mount_point {
                script: r#"mkdir -p read/sub; echo one >read/sub/file; tar -C read -cf read.tar .
                    microagent run --image "$IMAGE" --bundle data=read.tar:/srv/data:ro --exec 'cat /srv/data/sub/file
                    { echo x >/srv/data/x; } 2>/dev/null || echo read-only
                    while read -r device point type options rest; do [ $point = /srv/data ] && echo $type ${options%%,*}; done </proc/mounts; exit 0'"#,
                code: 0,
                stdout: "one\nread-only\next4 ro\n",
            }
            writes_to_a_bundle_are_discarded {
                script: r#"mkdir write; echo one >write/one; tar -C write -czf write.tar.gz .
                    for run in 1 2; do microagent run --image "$IMAGE" --bundle data=write.tar.gz:/data:rw --setup 'echo two >/data/two-'$run \
                    --exec 'ls /data; rm /data/one'; done"#,
                seconds: 120,
                code: 0,
                stdout: "one\ntwo-1\none\ntwo-2\n",
            }
            disks_are_distinguished_and_can_be_nested {
                script: r#"for name in a b c; do mkdir -p nested/$name/inner; echo $name >nested/$name/name; tar -C nested/$name -cf nested-$name.tar .; done
                    microagent run --image "$IMAGE" --bundle a=nested-a.tar:/disk/inner/deep:ro --bundle b=nested-b.tar:/disk/inner:rw \
                    --bundle c=nested-c.tar:/disk:ro --exec 'cat /disk/name /disk/inner/name /disk/inner/deep/name'"#,
                code: 0,
                stdout: "c\nb\na\n",
            }
            writes_to_a_disk_persist {
                script: r#"microagent --quiet rootfs build --image "$IMAGE" --allow-mutable --out disk.img >/dev/null
                    microagent run --image "$IMAGE" --disk data=disk.img:/data:rw --exec 'echo hello >/data/kept'
                    microagent run --image "$IMAGE" --disk data=disk.img:/data:ro --exec 'cat /data/kept; { echo x >/data/kept; } 2>/dev/null || echo read-only'"#,
                seconds: 120,
                code: 0,
                stdout: "hello\nread-only\n",
            }
            old_and_32_bit_programs_run_on_both_kernels {
                script: r#"tar -C "$PROGRAMS" -cf programs.tar .
                    for state in "$MICROAGENT_STATE_DIR" "$DISTRIBUTION"; do
                        MICROAGENT_STATE_DIR=$state microagent run --cpus 1 --image "$IMAGE" --bundle programs=programs.tar:/programs:ro \
                            --exec '/programs/vsyscall; echo $?; /programs/ia32; echo $?'
                    done"#,
                seconds: 150,
                code: 0,
                stdout: "vsyscall\n0\nia32\n0\nvsyscall\n0\nia32\n0\n",
            }
            the_distributions_kernel_loads_its_modules_on_demand {
                // Each line needs modules that are not loaded: the kernel requests them.
                script: r#"MICROAGENT_STATE_DIR=$DISTRIBUTION microagent run --cpus 1 --image "$IMAGE" --exec '
                    loaded() { grep -c "^$1 " /proc/modules; }
                    loaded overlay; mkdir /l /u /w /m; mount -t tmpfs none /w; mkdir /w/u /w/w; echo lower >/l/file
                    mount -t overlay overlay -o lowerdir=/l,upperdir=/w/u,workdir=/w/w /m && cat /m/file; loaded overlay
                    (exec 3<>/dev/fuse) && echo fuse; (exec 3<>/dev/net/tun) && echo tun; stat -c %a /dev/fuse /dev/net/tun
                    dd if=/dev/zero of=/disk bs=1M count=4 2>/dev/null; mke2fs -F /disk >/dev/null 2>&1; mount -o loop /disk /u && echo loop
                    ip link add left type veth && loaded veth
                    ip link add bridge0 type bridge && echo bridge
                    modprobe nft_masq && loaded nf_tables; modprobe no-such-module 2>/dev/null || echo unknown
                    ls /lib/modules/$(uname -r) | grep -x modules.dep; touch /lib/modules/$(uname -r)/x 2>/dev/null || echo read-only'
                    "#,
                seconds: 150,
                code: 0,
                stdout: "0\nlower\n1\nfuse\ntun\n666\n666\nloop\n1\nbridge\n1\nunknown\nmodules.dep\nread-only\n",
            }
            file_systems_can_be_unmounted_right_after_a_run {
                script: r#"microagent --quiet rootfs build --image "$IMAGE" --allow-mutable --out image >/dev/null
                    mkdir state disk; export STATE="$MICROAGENT_STATE_DIR"
                    cat >inside <<'END'
                    mount -t tmpfs none disk && cp image disk/image || exit
                    run() { mount --bind "$STATE" state && (cd disk; MICROAGENT_STATE_DIR=$OLDPWD/state microagent --quiet run --image "$IMAGE" "$@"); umount state && echo $?; }
                    run --exec true; run --exec 'sync; exit 3'; run --timeout 1 --exec 'sleep 100' 2>/dev/null
                    run --disk data=image:/data:rw --exec 'echo x >/data/x'; umount disk; echo $?
END
                    unshare -m sh inside"#,
                seconds: 200,
                code: 0,
                stdout: "0\n0\n0\n0\n0\n",
            }
            a_process_1_that_does_not_reap_has_no_zombies_of_a_run {
                script: r#"unshare -p -f -m --mount-proc sleep 500 & init=
                    until [ -n "$init" ]; do read -r init rest </proc/$!/task/$!/children; done
                    inside() { nsenter -t $init -p -m "$@"; }
                    inside microagent --quiet run --image "$IMAGE" --exec 'exit 3'; echo $?
                    inside microagent --quiet run --image "$IMAGE" --timeout 1 --exec 'sleep 100' 2>/dev/null; echo $?
                    inside sh -c 'cat /proc/1/task/1/children | wc -w'; kill -9 $init"#,
                seconds: 120,
                code: 0,
                stdout: "3\n124\n0\n",
            }
            variables_come_from_files_and_from_the_caller {
                script: r#"printf '# comment\nA=from a file\nB=file\n\n  GIVEN\nABSENT\n' >variables; export GIVEN=caller; unset ABSENT HOSTNAME
                    microagent run --image "$IMAGE" --env-file variables -e B=flag -e HOSTNAME -e ABSENT=1 -e ABSENT --exec '
                        echo "$A,$B,$GIVEN,${ABSENT-unset}"; env | grep -c ^HOSTNAME=; exit 4'"#,
                code: 4,
                stdout: "from a file,flag,caller,unset\n0\n",
            }
            writes_to_the_root_are_discarded {
                script: r#"microagent run --image "$IMAGE" --exec 'echo x >/written && sync && cat /written'
                    microagent run --image "$IMAGE" --exec 'test ! -e /written && echo clean'"#,
                seconds: 120,
                code: 0,
                stdout: "x\nclean\n",
            }
        }
    };
}

macro_rules! define {
    ($check:path; $($name:ident {
        script: $script:expr,
        $(seconds: $seconds:expr,)?
        code: $code:expr,
        stdout: $stdout:expr,
    })*) => {
        /// Every case, in order.
        const CASES: &[$crate::run_list::Case] = &[$($crate::run_list::Case {
            name: stringify!($name),
            script: $script,
            seconds: { let seconds = 90; $(let _ = seconds; let seconds = $seconds;)? seconds },
            code: $code,
            stdout: $stdout,
        }),*];
        $(
            #[test]
            fn $name() {
                $check(CASES.iter().find(|case| case.name == stringify!($name)).unwrap());
            }
        )*
    };
}

pub(crate) use workspaces::with_workspaces;
pub(crate) use {define, run_list};
