//! A power cut of the host at any moment of a workspace's life, from `create` on: what the guest has
//! flushed is there, its file system is consistent, and the workspace starts.
//!
//! The host is a lab whose state directory is on a disk with a log of all writes. The log is cut at
//! random, where the writes since the last flush are lost or not, and the state directory is then used
//! on this host, on engine `qemu`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine, RecordedDisk};
use microagent_tests::microagent::Host;
use microagent_tests::numbers::Numbers;
use microagent_tests::write_log::WriteLog;
use microagent_tests::{Error, binaries, built_kernel, or_skip, root_or_skip, soak, tool};

/// Cuts in the suite, and seconds that each takes.
const CUTS: u32 = 4;
const SECONDS_PER_CUT: f64 = 6.0;

/// The disk, and its part with the file system, in MiB. Behind that, the host notes in the page with
/// its number which record is durable.
const DISK_MIB: u64 = 640;
const FS_MIB: u64 = 600;
const PAGE: u64 = 4096;

/// How many files the guest writes.
const RECORDS: u32 = 40;

/// Every fifth record is written in place of one that it removes.
const WRITE: &str = r#"mkdir /m && mount -t ext4 /dev/vda /m || exit
export MICROAGENT_STATE_DIR=/m/state MICROAGENT_ENGINE=kvm
w() { microagent --quiet "$@"; }
w create w --image oci:/layout:latest --memory 128 --cpus 1 --setup 'mkdir /d; sync' && w start w || exit
w exec w -- sh -c 'cd /d; for i in $(seq RECORDS); do
    [ $((i % 5)) != 0 ] || { rm $((i - 2)); dd if=/dev/urandom of=$((i - 3)) bs=4k count=3 conv=notrunc 2>/dev/null; }
    dd if=/dev/urandom of=$i bs=4k count=$((1 + i * 7 % 33)) conv=fsync 2>/dev/null && echo "$i $(sha256sum <$i)"; done' |
while read -r n sum rest; do
    echo "$n $sum"; echo $n | dd of=/dev/vda bs=4096 seek=$((FIRST + n)) conv=sync,notrunc,fsync 2>/dev/null
done"#;

/// Looks at the workspace after a cut.
const LOOK: &str = r#"mkdir m; mount -o loop "$CUT" m || exit
export MICROAGENT_STATE_DIR=$PWD/m/state MICROAGENT_ENGINE=qemu
w() { microagent --quiet "$@"; }
left() { ls -A $MICROAGENT_STATE_DIR/workspaces | wc -l; ls $MICROAGENT_STATE_DIR/cas/roots | grep -c workspace; }
w --json list | grep -c '"workspace": "w"' || { w delete w; left; exit 0; }
w --json list | sed -n 's/.*"state": "\(.*\)".*/\1/p'
"$FLAT" "$MICROAGENT_STATE_DIR" w view
e2fsck -p view >fsck 2>&1; [ $? -le 1 ] || cat fsck
e2fsck -fn view >fsck 2>&1 && echo consistent || cat fsck
w start w && w exec w -- sh -c 'cd /d 2>/dev/null && for f in *; do echo "$f $(sha256sum <$f)"; done; exit 0'
w stop w && w delete w; left"#;

/// A disk with the state directory of `host`.
fn disk(host: &Host, work: &Path) -> Result<PathBuf, Error> {
    let top = work.join("top");
    std::fs::create_dir(&top).map_err(|source| Error::File {
        path: top.clone(),
        source,
    })?;
    tool::run(
        "cp",
        [
            "-a".as_ref(),
            host.state().as_os_str(),
            top.join("state").as_os_str(),
        ],
    )?;
    let disk = work.join("disk");
    let mut make = Command::new(tool::find("mke2fs")?);
    make.args(["-q", "-t", "ext4", "-d"]).arg(&top).arg(&disk);
    tool::output(make.arg(format!("{FS_MIB}M")))?;
    tool::run(
        "truncate",
        [
            "-s".as_ref(),
            format!("{DISK_MIB}M").as_ref(),
            disk.as_os_str(),
        ],
    )?;
    Ok(disk)
}

/// The records, each with the checksum of its file.
fn records(text: &str) -> BTreeMap<u64, String> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(number, rest)| {
            let sum = rest.split(' ').next()?;
            Some((number.parse().ok()?, sum.to_owned()))
        })
        .collect()
}

/// What the guest writes in the lab; returns what it reported.
fn write(layout: &Layout, recorded: RecordedDisk) -> Result<String, Error> {
    let mut lab = Lab::with_machine(Machine {
        recorded: Some(recorded),
        deadline: Duration::from_secs(500),
        ..Machine::default()
    })?;
    lab.microagent()?;
    lab.directory(layout.directory(), "/layout")?;
    let script = WRITE
        .replace("RECORDS", &RECORDS.to_string())
        .replace("FIRST", &(FS_MIB * (1 << 20) / PAGE).to_string());
    lab.step("write", &script, 400);
    let report = lab.boot()?;
    let step = report.step("write");
    println!("{:?}: {}", step.elapsed, step.errors());
    Ok(step.text())
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_the_guest_flushed() {
    root_or_skip!();
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let work = tempfile::tempdir().unwrap();
    let image = or_skip!(disk(&host, work.path()));
    let log = work.path().join("log");
    let recorded = RecordedDisk {
        image: image.clone(),
        log: log.clone(),
    };
    let reported = records(&or_skip!(write(&layout, recorded)));
    assert_eq!(reported.len(), RECORDS as usize);
    let log = WriteLog::read(&log).unwrap();

    let given = std::env::var("MICROAGENT_TEST_SEED").ok();
    let seed = match given.map(|text| text.parse().unwrap()) {
        Some(seed) => seed,
        None => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs(),
    };
    println!("MICROAGENT_TEST_SEED={seed}, {} writes", log.len());
    for round in 0..soak::size(CUTS, SECONDS_PER_CUT) {
        let mut numbers = Numbers::of_round(seed, u64::from(round));
        let count = 1 + numbers.below(log.len() as u64) as usize;
        let cut = work.path().join("cut");
        let copy = [
            "--sparse=always".as_ref(),
            image.as_os_str(),
            cut.as_os_str(),
        ];
        tool::run("cp", copy).unwrap();
        log.cut(count, &mut numbers, &cut).unwrap();
        let durable = log.last_above(count, FS_MIB << 20);
        let durable = durable.map_or(0, |offset| offset / PAGE - (FS_MIB << 20) / PAGE);
        look(
            &cut,
            &reported,
            durable,
            &format!("seed {seed}, round {round}, {count} writes"),
        );
    }
}

/// Checks a disk after a cut before which `durable` records were reported.
fn look(cut: &Path, reported: &BTreeMap<u64, String>, durable: u64, what: &str) {
    let host = Host::new().unwrap();
    let mut looking = host.shell_with_mounts(LOOK);
    let flat = binaries::of_this_crate("flat");
    let looked = looking.variable("CUT", cut).variable("FLAT", flat).finish();
    let text = looked.text();
    let what = format!("{what}, {durable} records: {text}{}", looked.errors());
    println!("{what}");
    let mut lines = text.lines();
    if lines.next() == Some("0") {
        // `create` had not ended. What it left was removed.
        assert_eq!((durable, lines.collect()), (0, vec!["0", "0"]), "{what}");
        return;
    }
    let state = lines.next().unwrap_or_default();
    assert!(matches!(state, "failed" | "prepared"), "{what}");
    assert_eq!(lines.next(), Some("consistent"), "{what}");
    assert_eq!(lines.next(), Some("w"), "{what}");
    let rest: Vec<&str> = lines.collect();
    assert!(rest.ends_with(&["w", "w", "0", "0"]), "{what}");
    let found = records(&rest.join("\n"));
    for (number, sum) in reported.iter().filter(|(number, _)| **number <= durable) {
        // The next multiple of five removes one and writes in another one, which is not flushed.
        let next = number.next_multiple_of(5);
        match next - number {
            2 if next <= durable => assert_eq!(found.get(number), None, "{number}: {what}"),
            2 | 3 => {}
            _ => assert_eq!(found.get(number), Some(sum), "{number}: {what}"),
        }
    }
}
