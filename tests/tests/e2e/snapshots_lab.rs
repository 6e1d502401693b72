//! Runs whose VM is restored from a snapshot, in one lab. That they do what runs that boot do is tested by the
//! cases of `run_list`, which `run_lab` executes both ways.

use crate::lab_steps::{self, Step};
use microagent_tests::lab::Lab;
use microagent_tests::{Error, or_skip, tool};

/// The environment of each script. `run FLAGS… -- COMMAND` prints what the command prints, and then whether
/// its VM was restored.
const SETTINGS: &str = r#"export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm MICROAGENT_SNAPSHOT=on \
    XDG_RUNTIME_DIR=/run IMAGE=oci:/layout:latest
run() {
    microagent --quiet --json run --memory 256 --image $IMAGE "$@" >/tmp/run.json || echo "exit code $?"
    sed -n 's/.*"stdout": *"\([^"]*\)".*/\1/p' /tmp/run.json
    sed -n 's/.*"restored": *\([a-z]*\).*/restored: \1/p' /tmp/run.json
}
warm() { microagent --quiet --json warm --memory 256 "$@" | sed -n 's/.*"hit": *\([a-z]*\).*/hit: \1/p'; }
# Until no process takes a snapshot.
taken() { while pidof microagent >/dev/null; do usleep 20000; done; }
snapshots() { microagent --json cache ls | grep -c '"op": *"snapshot"'; }
"#;

const STEPS: &[Step] = &[
    (
        "the first run takes the snapshot for the second",
        r#"run --exec 'echo one'; taken; run --exec 'echo two'; snapshots; warm"#,
        120,
        "one\\n\nrestored: false\ntwo\\n\nrestored: true\n1\nhit: true\n",
    ),
    (
        "two runs share no secret",
        r#"what='cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid'
        run --exec "$what" | head -1 | sed 's/\\n/\n/g' >/tmp/one
        run --exec "$what" | head -1 | sed 's/\\n/\n/g' >/tmp/two
        wc -l </tmp/one; sort /tmp/one /tmp/two | uniq | wc -l"#,
        60,
        "4\n7\n",
    ),
    (
        "the clock is that of the host",
        r#"before=$(date +%s); then=$(run --exec 'date +%s' | head -1 | tr -dc 0-9); after=$(date +%s)
        [ $((before - 1)) -le $then ] && [ $then -le $((after + 1)) ] && echo right"#,
        60,
        "right\n",
    ),
    (
        "flags and a variable switch it off",
        r#"run --no-snapshot --exec 'echo one'; MICROAGENT_SNAPSHOT=off run --exec 'echo two'
        MICROAGENT_SNAPSHOT=never microagent version; echo $?"#,
        90,
        "one\\n\nrestored: false\ntwo\\n\nrestored: false\n2\n",
    ),
    (
        "another monitor has another snapshot",
        r#"cp $(which microagent-supervisor 2>/dev/null || find / -xdev -name microagent-supervisor 2>/dev/null | head -1) /tmp/monitor
        echo >>/tmp/monitor
        run --supervisor /tmp/monitor --exec 'echo one'; taken; snapshots
        run --supervisor /tmp/monitor --exec 'echo two'"#,
        120,
        "one\\n\nrestored: false\n2\ntwo\\n\nrestored: true\n",
    ),
    (
        "disks and processors make other snapshots",
        r#"cp /disk /tmp/disk; with="--disk data=/tmp/disk:/data:rw --cpus 2"
        run $with --exec 'nproc; echo kept >/data/file'; taken
        run $with --exec 'nproc; cat /data/file; cat /sys/block/vdb/size'
        snapshots"#,
        120,
        "2\\n\nrestored: false\n2\\nkept\\n65536\\n\nrestored: true\n3\n",
    ),
    (
        "a changed snapshot is not used",
        r#"for file in /state/cas/sparse/*; do
            [ $(stat -c %s $file) -gt 268435456 ] && [ $(stat -c %s $file) -lt 300000000 ] || continue
            printf x | dd of=$file bs=1 seek=50000000 conv=notrunc 2>/dev/null
        done
        run --exec 'echo one'; taken; run --exec 'echo two'"#,
        120,
        "one\\n\nrestored: false\ntwo\\n\nrestored: true\n",
    ),
    (
        "a state that the monitor refuses is not used again",
        r#"microagent --quiet cache gc --max-size 0 >/dev/null; run --exec 'echo one'; taken
        for file in /state/cas/sparse/*; do
            [ $(stat -c %s $file) -gt 268435456 ] || continue
            printf x | dd of=$file bs=1 seek=268435456 conv=notrunc 2>/dev/null
            # As if the disk had decayed.
            touch -d '2000-01-01 00:00:00' $file
        done
        run --exec 'echo two'
        microagent -v run --memory 256 --image $IMAGE --exec 'echo three' 2>&1 | sed -n 's/^ *INFO *\(the VM\)/\1/p; /^three/p'
        warm; run --exec 'echo four'"#,
        150,
        "one\\n\nrestored: false\ntwo\\n\nrestored: false\n\
         the VM boots, because its snapshot recently failed: the saved state of the VM cannot be used: it is not a state file\nthree\n\
         hit: false\nfour\\n\nrestored: true\n",
    ),
    (
        "file systems can be unmounted right after a restored run",
        r#"mkdir -p /tmp/state /tmp/tmpfs; mount -t tmpfs none /tmp/tmpfs; cp /disk /tmp/tmpfs/disk
        for i in 1 2 3; do
            mount --bind /state /tmp/state
            (cd /tmp/tmpfs; MICROAGENT_STATE_DIR=/tmp/state run --exec 'sync')
            umount /tmp/state && echo unmounted
        done
        run --disk data=/tmp/tmpfs/disk:/data:rw --exec 'true' >/dev/null; taken
        run --disk data=/tmp/tmpfs/disk:/data:rw --exec 'echo x >/data/x'; umount /tmp/tmpfs && echo unmounted"#,
        120,
        "\nrestored: true\nunmounted\n\nrestored: true\nunmounted\n\nrestored: true\nunmounted\n\
         \nrestored: true\nunmounted\n",
    ),
    (
        "workspaces are restored, each with its own disk and name",
        r#"w() { microagent --quiet "$@"; }; restored() { w events $1 | grep -c 'restored from a snapshot'; }
        for name in a b; do w create $name --image $IMAGE --memory 256 --hostname host-$name >/dev/null; done
        w start a >/dev/null; w exec a -- sh -c 'echo first >/file'
        while grep -q '__take-sna[p]shot' /proc/[0-9]*/cmdline 2>/dev/null; do usleep 20000; done
        w halt a >/dev/null; restored a
        w start a >/dev/null; w start b >/dev/null; restored a; restored b
        for name in a b; do w exec $name -- sh -c 'hostname; cat /file 2>&1; echo again >/file; cat /proc/sys/kernel/random/boot_id >/id'; done
        w exec a -- cat /id >/tmp/a; w exec b -- cat /id >/tmp/b; cmp -s /tmp/a /tmp/b || echo differ
        w halt a >/dev/null; w kill b >/dev/null; w start a --no-snapshot >/dev/null; restored a; w exec a -- cat /file
        w delete --force a b >/dev/null; taken"#,
        150,
        "0\n1\n1\nhost-a\nfirst\nhost-b\ncat: can't open '/file': No such file or directory\ndiffer\n1\nagain\n",
    ),
    (
        "a capture that is killed leaves nothing",
        r#"microagent --quiet cache gc --max-size 0 >/dev/null
        for after in 50000 200000 400000 600000; do
            microagent --quiet warm --memory 256 >/dev/null 2>&1 & usleep $after; kill -KILL $!; wait $! 2>/dev/null
            while pidof microagent-supervisor >/dev/null; do usleep 20000; done
        done
        warm; run --exec 'echo one'
        find /state/cas/tmp /tmp/microagent* /run/microagent* -type f 2>/dev/null"#,
        150,
        "hit: false\none\\n\nrestored: true\n",
    ),
    (
        "many at once",
        r#"for i in $(seq 6); do
            microagent --quiet run --memory 256 --image $IMAGE --exec "echo $i; head -c 16 /dev/urandom | od -An -tx1" >/tmp/many.$i &
        done
        wait; cat /tmp/many.* | grep -c '^[1-6]$'; cat /tmp/many.* | grep ' ' | sort -u | wc -l"#,
        150,
        "6\n6\n",
    ),
    (
        "eight at once share their memory",
        r#"for i in $(seq 8); do microagent --quiet run --memory 256 --image $IMAGE --exec 'echo up; sleep 1000' >/tmp/up.$i & done
        until [ $(cat /tmp/up.* | grep -c up) = 8 ]; do usleep 100000; done
        # Of a VM that has booted it is several times as much.
        for pid in $(pidof microagent-supervisor); do sed -n 's/^Private_Dirty: *\([0-9]*\) kB/\1/p' /proc/$pid/smaps_rollup; done | sort -n >/tmp/private
        wc -l </tmp/private; most=$(tail -n 1 /tmp/private); echo "at most $most KiB" >&2; [ "$most" -lt 8192 ] && echo little
        kill $(pidof microagent); wait; pidof microagent microagent-supervisor"#,
        120,
        "8\nlittle\n",
    ),
];

/// An empty file system.
fn add_disk(lab: &mut Lab) -> Result<(), Error> {
    let disk = tempfile::NamedTempFile::new().unwrap();
    let words = ["-q", "-t", "ext4", "-F"].map(std::ffi::OsStr::new);
    let size = std::ffi::OsStr::new("32M");
    tool::run(
        "mke2fs",
        words.into_iter().chain([disk.path().as_os_str(), size]),
    )?;
    lab.file(disk.path(), "/disk")
}

#[test]
fn runs_go_on_from_snapshots() {
    let report = or_skip!(lab_steps::boot(SETTINGS, STEPS, add_disk));
    lab_steps::check(&report, STEPS);
}
