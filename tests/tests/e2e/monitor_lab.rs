//! The monitor under load and over time, in the lab: disks under mixed I/O, a power cut, many
//! consecutive VMs, several vCPUs, large memory.
//!
//! Two labs run at the same time; each test checks one step.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine, Report};
use microagent_tests::microagent::Host;
use microagent_tests::{Error, built_kernel, or_skip, soak, tool};

/// The environment of each script.
const SETTINGS: &str = "export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm \
                        XDG_RUNTIME_DIR=/run\nIMAGE=oci:/layout:latest\n\
                        run() { microagent --quiet run --image $IMAGE \"$@\"; }\n";

/// Two writable disks under mixed I/O by four threads each, for [`MIX_SECONDS`], on two vCPUs;
/// afterwards the host checks the file systems.
const MIX: &str = r#"
cp /disk /tmp/a.ext4; cp /disk /tmp/b.ext4
run --cpus 2 --memory 512 --disk a=/tmp/a.ext4:/a:rw --disk b=/tmp/b.ext4:/b:rw \
    --exec '/a/io mix /a SECONDS >/tmp/a & /b/io mix /b SECONDS; wait; cat /tmp/a' || exit
for disk in a b; do
    e2fsck -fn /tmp/$disk.ext4 >/tmp/fsck 2>&1 && echo "$disk clean" || cat /tmp/fsck
done
"#;

/// A guest appends records and prints the number of each durable one. It is killed after a hundred;
/// all reported records must exist afterwards.
const POWER_CUT: &str = r#"
cp /disk /tmp/cut.ext4
mkfifo reported
run --cpus 1 --disk cut=/tmp/cut.ext4:/cut:rw --exec '/cut/io records /cut/records' >reported 2>/tmp/errors &
run=$!
exec 4<reported
last=0
while [ "$last" -lt 100 ] && read -r last <&4; do :; done
kill -KILL $(pidof microagent-supervisor)
# Numbers that were printed before the kill count, even if they are read after it.
reported=$last
while read -r last <&4; do reported=$last; done
wait $run; echo "ended $?"
run --cpus 1 --disk cut=/tmp/cut.ext4:/cut:rw --exec "/cut/io check /cut/records $((reported + 1))" | sed 's/[0-9][0-9]*/N/'
e2fsck -fn /tmp/cut.ext4 >/tmp/fsck 2>&1 && echo clean || cat /tmp/fsck
"#;

/// Many consecutive VMs leave no process, open file or memory behind.
const MANY: &str = r#"
look() {
    echo 3 >/proc/sys/vm/drop_caches
    set -- $(cat /proc/sys/fs/file-nr); files=$1
    # Kernel threads have no executable; their number varies.
    processes=0; for exe in /proc/[0-9]*/exe; do [ -e $exe ] && processes=$((processes + 1)); done
    free=$(awk '/^MemFree:/ {print int($2 / 1024)}' /proc/meminfo)
}
one() { run --cpus 1 --memory 128 --exec true || echo "a run ended with $?"; }
gone() { while pidof microagent-supervisor >/dev/null; do usleep 10000; done; }
# Fill caches of the kernel that grow with the first few runs.
for i in 1 2 3 4 5; do one; done
gone; look; before="$files $processes $free"
for i in $(seq BOOTS); do one; done
gone; look
set -- $before
echo "processes $((processes - $2))"
[ $((files - $1)) -lt 32 ] && echo "files as before" || echo "files $1 then $files"
[ $(($3 - free)) -lt 16 ] && echo "memory as before" || echo "MiB free $3 then $free"
find /tmp/microagent* /run/microagent* /state/run -type f ! -name engine.json 2>/dev/null
"#;

/// Number of VMs in the suite, and the seconds that each takes in a lab on a busy host.
const BOOTS: u32 = 12;
const SECONDS_PER_BOOT: f64 = 6.0;

/// Duration of the mixed I/O in the suite, in seconds.
const MIX_SECONDS: u32 = 20;

const FOUR_CPUS: &str = r#"
run --cpus 4 --memory 256 --exec 'nproc
    grep -c "^siblings.*: 4$" /proc/cpuinfo
    grep -c "^cpu cores.*: 4$" /proc/cpuinfo
    grep "^physical id" /proc/cpuinfo | sort -u | wc -l
    grep "^apicid" /proc/cpuinfo | sort -u | wc -l
    grep -c " svm \| vmx " /proc/cpuinfo
    cat /sys/devices/system/clocksource/clocksource0/current_clocksource
    dmesg | grep -i "calibrati\|TSC unstable\|clocksource.*skew" | grep -vc skipped
    for cpu in 0 1 2 3; do taskset $((1 << cpu)) sh -c "i=0; while [ \$i -lt 20000 ]; do i=\$((i+1)); done; echo done" & done; wait'
"#;

/// 8 GiB, more than fits below the MMIO hole; memory above it is written.
const MUCH_MEMORY: &str = r#"
run --cpus 1 --memory 8192 --exec 'awk "/^MemTotal/ {print (\$2 > 8000000 && \$2 < 8388608)}" /proc/meminfo
    dd if=/dev/urandom of=/dev/shm/a bs=1M count=256 2>/dev/null
    cp /dev/shm/a /dev/shm/b && cmp /dev/shm/a /dev/shm/b && echo same
    grep -c "System RAM" /proc/iomem'
"#;

/// The resident memory of the monitor without the guest's RAM, while the guest runs. RAM is
/// recognised by its exclusion from core dumps, which also applies to a few KiB of kernel pages
/// (`vvar`).
const MEMORY: &str = r#"
mkfifo output
run --cpus 1 --memory 256 --exec 'echo up; dd if=/dev/vda of=/dev/null bs=64k 2>/dev/null; echo read; sleep 1000' >output 2>/dev/null &
run=$!
exec 4<output
read -r up <&4; read -r read <&4
awk '/^Size:/ { size = $2 } /^Rss:/ { rss = $2 }
     /^VmFlags:/ { if (/ dd( |$)/) ram += size; else sum += rss }
     END { print "RAM", int(ram / 1024), "MiB, KiB", sum }' \
    /proc/$(pidof microagent-supervisor)/smaps
kill -KILL $run
"#;

/// The ways a guest ends without an exit of its command.
const ENDS: &str = r#"
one() { run --cpus 1 --memory 128 "$@" 2>errors; echo "$?"; head -1 errors; }
one --exec 'echo c >/proc/sysrq-trigger'; sed -n 2p errors | grep -o 'Kernel panic.*'
one --exec 'echo b >/proc/sysrq-trigger'
one --exec 'echo o >/proc/sysrq-trigger; sleep 100'
one --timeout 5 --exec 'while :; do :; done'
"#;

/// A lab's memory in MiB: more than the largest VM in it can take.
const LAB_MIB: u32 = 10 << 10;

/// The name of a step, its script, and its time limit in seconds on a busy host.
type Step = (&'static str, String, u32);

/// The steps of both labs, which take about the same time.
fn steps() -> [Vec<Step>; 2] {
    let seconds = soak::size(MIX_SECONDS, 1.0);
    let boots = soak::size(BOOTS, SECONDS_PER_BOOT);
    let mix = MIX.replace("SECONDS", &seconds.to_string());
    let many = MANY.replace("BOOTS", &boots.to_string());
    [
        vec![
            ("mix", mix, 300 + 2 * seconds),
            ("power cut", POWER_CUT.into(), 400),
            ("ends", ENDS.into(), 400),
        ],
        vec![
            ("many boots", many, 300 + 30 * boots),
            ("memory", MEMORY.into(), 300),
            ("much memory", MUCH_MEMORY.into(), 400),
            ("four CPUs", FOUR_CPUS.into(), 400),
        ],
    ]
}

fn boot(prepared: &Prepared, steps: &[Step]) -> Result<Report, Error> {
    let seconds: u32 = steps.iter().map(|(.., seconds)| seconds).sum();
    // One processor: in a lab with two, one of four vCPUs hung while everything else continued, and
    // the harness only detects a lab that hangs as a whole.
    let mut lab = Lab::with_machine(Machine {
        cpus: 1,
        memory_mib: LAB_MIB,
        deadline: Duration::from_secs(u64::from(seconds)),
        ..Machine::default()
    })?;
    lab.microagent()?;
    lab.program(tool::find("e2fsck")?, "/usr/bin/e2fsck")?;
    lab.directory(&prepared.host.state(), "/state")?;
    lab.directory(prepared.layout.directory(), "/layout")?;
    lab.file(&prepared.disk, "/disk")?;
    for (name, script, seconds) in steps {
        lab.step(name, &format!("{SETTINGS}{script}"), *seconds);
    }
    lab.boot()
}

/// The files of both labs.
struct Prepared {
    layout: Layout,
    host: Host,
    disk: PathBuf,
    _work: tempfile::TempDir,
}

fn prepare() -> Result<Prepared, Error> {
    for program in ["rustc", "mkfs.ext4", "e2fsck"] {
        tool::find(program)?;
    }
    let work = tempfile::tempdir().expect("a temporary directory can be made");
    Ok(Prepared {
        layout: Layout::busybox()?,
        host: built_kernel::host()?,
        disk: disk(work.path())?,
        _work: work,
    })
}

fn boot_both() -> Result<[Result<Report, Error>; 2], Error> {
    let prepared = prepare()?;
    let [one, other] = steps();
    Ok(thread::scope(|scope| {
        let other = scope.spawn(|| boot(&prepared, &other));
        [
            boot(&prepared, &one),
            other.join().expect("a lab does not panic"),
        ]
    }))
}

/// The output of a step; both labs are booted at the first call.
fn printed(name: &str) -> Result<String, &'static Error> {
    static REPORTS: OnceLock<Result<[Result<Report, Error>; 2], Error>> = OnceLock::new();
    let reports = REPORTS.get_or_init(boot_both).as_ref()?;
    let of = steps()
        .iter()
        .position(|steps| steps.iter().any(|(step, ..)| *step == name));
    let report = reports[of.expect("a lab has this step")].as_ref()?;
    let step = report.step(name);
    println!("{:?}, {}", step.elapsed, step.errors());
    Ok(step.text())
}

/// A disk of 64 MiB with the program for the I/O.
fn disk(work: &Path) -> Result<PathBuf, Error> {
    let tree = work.join("tree");
    std::fs::create_dir(&tree).expect("the directory is empty");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/guest/io.rs");
    let mut compile = Command::new("rustc");
    compile.args([
        "--edition",
        "2024",
        "-O",
        "-C",
        "target-feature=+crt-static",
    ]);
    compile.arg("-o").arg(tree.join("io")).arg(source);
    tool::output(&mut compile)?;
    let disk = work.join("disk");
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-d"]).arg(&tree).arg(&disk).arg("64M");
    tool::output(&mut make)?;
    Ok(disk)
}

#[test]
fn disks_under_mixed_io_keep_every_byte() {
    let text = or_skip!(printed("mix"));
    let (mixed, rest): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("mixed "));
    assert_eq!(rest, ["a clean", "b clean"], "{text}");
    let operations = mixed
        .iter()
        .map(|line| line["mixed ".len()..].parse::<u64>());
    let operations: Vec<u64> = operations.map(|count| count.unwrap_or(0)).collect();
    assert_eq!(operations.len(), 2, "{text}");
    assert!(operations.iter().all(|&count| count >= 100), "{text}");
}

#[test]
fn a_power_cut_loses_no_flushed_data() {
    let text = or_skip!(printed("power cut"));
    assert_eq!(text, "ended 125\nall N\nclean\n");
}

#[test]
fn many_boots_leave_nothing_behind() {
    let text = or_skip!(printed("many boots"));
    assert_eq!(text, "processes 0\nfiles as before\nmemory as before\n");
}

#[test]
fn four_cpus_are_four_cores_of_one_package() {
    let text = or_skip!(printed("four CPUs"));
    assert_eq!(
        text,
        "4\n4\n4\n1\n4\n0\nkvm-clock\n0\ndone\ndone\ndone\ndone\n"
    );
}

#[test]
fn the_monitor_uses_little_memory() {
    let text = or_skip!(printed("memory"));
    let kib = text
        .trim()
        .strip_prefix("RAM 256 MiB, KiB ")
        .and_then(|kib| kib.parse().ok());
    let kib: u32 = kib.unwrap_or_else(|| panic!("{text}"));
    println!("{kib} KiB beside the guest's RAM");
    assert!((500..=5 << 10).contains(&kib), "{kib} KiB");
}

#[test]
fn memory_continues_above_the_hole() {
    let text = or_skip!(printed("much memory"));
    assert_eq!(text, "1\nsame\n3\n");
}

#[test]
fn the_ways_a_guest_ends_are_distinguished() {
    let text = or_skip!(printed("ends"));
    assert_eq!(
        text,
        "125\nmicroagent: the guest was reset before its command ended\n\
         Kernel panic - not syncing: sysrq triggered crash\n\
         125\nmicroagent: the guest was reset before its command ended\n\
         125\nmicroagent: the guest powered off before its command ended\n\
         124\nmicroagent: the command did not end within 5 s\n"
    );
}
