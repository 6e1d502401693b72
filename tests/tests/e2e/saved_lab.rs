//! Snapshots of running workspaces, in one lab: what is saved goes on, as often as wanted, also as another
//! workspace.

use crate::lab_steps::{self, Step};
use microagent_tests::or_skip;

const SETTINGS: &str = r#"export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm XDG_RUNTIME_DIR=/run IMAGE=oci:/layout:latest
w() { microagent --quiet "$@"; }
# Until the workload of the workspace has counted beyond a number.
beyond() { until [ $(w exec $1 cat /count) -gt $2 ]; do usleep 20000; done; }
"#;

const STEPS: &[Step] = &[
    (
        "a running workspace is saved and goes on",
        r#"w create a --image $IMAGE --memory 256 --entrypoint 'echo 0 >/count; i=0; while :; do i=$((i + 1)); echo $i >/count; sleep 0.1; done' >/dev/null
        w start a >/dev/null; beyond a 2
        w exec a -- sh -c 'mkdir -p /run/t; mount -t tmpfs none /run/t; echo memory >/run/t/file; echo not flushed >/disk'
        w snapshot create a:one; w status a | sed -n 's/^state *//p'; now=$(w exec a cat /count); beyond a $now; echo counts
        w exec a -- sh -c 'echo after >/after; sync'; w snapshot create a:one; echo $?
        w snapshot create a:other; w snapshot delete a:other
        w --json snapshot ls | tr -d ' \n' | sed 's/"savedAt":"[^"]*"/T/; s/"bytes":[0-9]*/B/'; echo"#,
        150,
        "a:one\nrunning\ncounts\n1\na:other\na:other\n\
         [{\"snapshot\":\"a:one\",\"workspace\":\"a\",T,\"memoryMib\":256,\"cpuCount\":1,\"workload\":true,B}]\n",
    ),
    (
        "it goes on from there, with its memory and its disk",
        r#"w kill a >/dev/null; rm /tmp/count 2>/dev/null
        w start a --from-snapshot a:one; w exec a -- sh -c 'cat /run/t/file /disk; ls /after 2>&1'
        now=$(w exec a cat /count); beyond a $now; echo counts; w events a | grep -c 'goes on from what was saved'
        w exec a -- sh -c 'echo $(($(date +%s) / 100))' >/tmp/guest; echo $(($(date +%s) / 100)) | cmp - /tmp/guest && echo 'right time'"#,
        120,
        "a\nmemory\nnot flushed\nls: /after: No such file or directory\ncounts\n1\nright time\n",
    ),
    (
        "another workspace goes on from there beside it",
        r#"w create b --from-snapshot a:one; w start b --from-snapshot a:one >/dev/null
        for name in a b; do w exec $name -- sh -c 'hostname; cat /run/t/file; head -c 16 /dev/urandom | od -An -tx1 >/random; echo '$name' >/own'; done
        w exec a cat /random >/tmp/a; w exec b cat /random >/tmp/b; cmp -s /tmp/a /tmp/b || echo differ
        w exec a cat /own; w exec b cat /own; now=$(w exec b cat /count); beyond b $now; echo counts"#,
        120,
        "b\na\nmemory\nb\nmemory\ndiffer\na\nb\ncounts\n",
    ),
    (
        "a second generation",
        r#"w exec b -- sh -c 'echo second >>/run/t/file'; w snapshot create b:two; w stop b >/dev/null
        w start b --from-snapshot b:two; w exec b cat /run/t/file /own; now=$(w exec b cat /count); beyond b $now; echo counts
        w stop b >/dev/null; w start b >/dev/null; w exec b -- sh -c 'cat /own; ls /run/t/file 2>&1'"#,
        150,
        "b:two\nb\nmemory\nsecond\nb\ncounts\nb\nls: /run/t/file: No such file or directory\n",
    ),
    (
        "what cannot be is refused",
        r#"w start a --from-snapshot a:none; echo $?; w snapshot create absent; echo $?; w snapshot create a:Ä; echo $?
        w create c --image $IMAGE --memory 128 --size-mib 600 >/dev/null; w snapshot create c; echo $?; w start c --from-snapshot a:one; echo $?
        w --engine qemu start c --from-snapshot b:two; echo $?; w start c >/dev/null; w exec c true && echo whole
        w create d --from-snapshot a:one --memory 128; echo $?; w create --from-snapshot a:one; echo $?"#,
        120,
        "1\n1\n2\n1\n1\n1\nwhole\n2\n2\n",
    ),
    (
        "a monitor that was replaced is noticed before anything runs",
        r#"w kill b >/dev/null; monitor=$(find / -xdev -name microagent-supervisor 2>/dev/null | head -1); cp $monitor /tmp/saved; cp $monitor /tmp/m; echo >>/tmp/m; mv /tmp/m $monitor
        w start b --from-snapshot b:two 2>&1; echo $?; cp /tmp/saved /tmp/m; mv /tmp/m $monitor; w start b --from-snapshot b:two; w exec b cat /own"#,
        120,
        "microagent: the snapshot was taken with another microagent-supervisor, kernel or network, or on another host\n1\nb\nb\n",
    ),
    (
        "disks that were being replaced are replaced again",
        r#"w stop b >/dev/null; : >/state/workspaces/b/replacing-disks; w start b 2>&1; echo $?
        w start b --from-snapshot b:two; w exec b cat /own; w stop b >/dev/null; w start b"#,
        60,
        "microagent: the disks of workspace b were being replaced by those of a snapshot\n  repeat it: microagent start b --from-snapshot NAME:TAG\n1\nb\nb\nb\n",
    ),
    (
        "a snapshot that was changed is refused",
        r#"file=/state/snapshots/b/two/vm; chmod u+w $file; printf x | dd of=$file bs=1 seek=50000000 conv=notrunc 2>/dev/null
        w stop b >/dev/null; w start b --from-snapshot b:two 2>&1; echo $?; w start b"#,
        60,
        "microagent: snapshot b:two was changed since it was taken\n  delete it: microagent snapshot delete b:two\n1\nb\n",
    ),
    (
        "nothing is left of what is deleted",
        r#"w snapshot delete a:one b:two absent; ls -A /state/snapshots; w exec b cat /own
        w delete --force a b c >/dev/null; w --json snapshot ls | tr -d ' \n'; echo; ls /state/cas/roots | grep -c workspace"#,
        120,
        "a:one\nb:two\nb\n[]\n0\n",
    ),
];

#[test]
fn running_workspaces_go_on_from_snapshots() {
    let report = or_skip!(lab_steps::boot(SETTINGS, STEPS, |_| Ok(())));
    lab_steps::check(&report, STEPS);
}
