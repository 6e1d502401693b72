//! Workspaces that are suspended and go on, and clones of running ones, in one lab.

use crate::lab_steps::{self, Step};
use microagent_tests::or_skip;

const SETTINGS: &str = r#"export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm XDG_RUNTIME_DIR=/run IMAGE=oci:/layout:latest
w() { microagent --quiet "$@"; }
# Until the workload of the workspace has counted beyond a number.
beyond() { until [ $(w exec $1 cat /count) -gt $2 ]; do usleep 20000; done; }
state() { w status $1 | sed -n 's/^state *//p'; }
until_suspended() { until [ "$(state $1)" = suspended ]; do usleep 50000; done; }
vm_files() { ls /state/workspaces/$1 | grep -E '^(vm|vm.json)$'; }
COUNT='trap exit TERM; echo 0 >/count; i=0; while :; do i=$((i + 1)); echo $i >/count; sleep 0.1; done'
"#;

const STEPS: &[Step] = &[
    (
        "a clone of a running workspace is another branch of it",
        r#"w create a --image $IMAGE --memory 256 --entrypoint "$COUNT" >/dev/null; w start a >/dev/null; beyond a 2
        w exec a -- sh -c 'mkdir -p /run/t; mount -t tmpfs none /run/t; echo memory >/run/t/file; echo not flushed >/disk'
        w clone a b; w clone a c; w ps | cut -d ' ' -f 1
        for name in a b c; do
            w exec $name -- sh -c 'hostname; cat /run/t/file /disk; head -c 16 /dev/urandom | od -An -tx1 >/random; echo '$name' >/own'
            now=$(w exec $name cat /count); beyond $name $now; w exec $name cat /own /random >/tmp/$name
        done
        cat /tmp/a /tmp/b /tmp/c | sort -u | wc -l; vm_files b
        for name in a b c; do w --json status $name; done | grep -o '"runtimeId": *"[^"]*"' | sort -u | wc -l
        w clone a b 2>&1; w pause a >/dev/null; w clone a d; w resume a >/dev/null; w exec d cat /own; w delete --force b c d >/dev/null
        ls /state/workspaces; ls /state/cas/roots | grep -c workspace"#,
        200,
        "b\nc\nNAME\na\nb\nc\na\nmemory\nnot flushed\nb\nmemory\nnot flushed\nc\nmemory\nnot flushed\n6\n3\n\
         microagent: workspace \"b\" already exists\n  use another name, or delete it first: microagent delete b\nd\na\na\n1\n",
    ),
    (
        "a clone that cannot be is refused and leaves nothing",
        r#"w rootfs build --image $IMAGE --allow-mutable --out /tmp/data.ext4 >/dev/null
        w create e --image $IMAGE --memory 128 --disk data=/tmp/data.ext4:/data:rw >/dev/null; w start e >/dev/null
        w clone e f 2>&1; echo $?; w stop e; w clone e f; w delete e f >/dev/null; ls /state/workspaces"#,
        100,
        "microagent: workspace e: its disk /tmp/data.ext4 is written to directly, and would not be part of the snapshot\n  \
         stop it first: microagent stop e\n1\ne\nf\na\n",
    ),
    (
        "an idle workspace is suspended and goes on when it is used",
        r#"w kill a >/dev/null; w delete a >/dev/null
        w create s --image $IMAGE --memory 256 --ttl 1 --on-idle suspend --entrypoint "$COUNT" >/dev/null; w start s >/dev/null; beyond s 2
        w exec s -- sh -c 'mkdir -p /run/t; mount -t tmpfs none /run/t; echo memory >/run/t/file; echo not flushed >/disk; cat /count' >/tmp/before
        until_suspended s; w ps; ps | grep '[m]icroagent'; vm_files s; w events s | tail -n 1 | grep -o 'suspended.*'
        w exec s cat /run/t/file /disk; vm_files s; state s; beyond s $(cat /tmp/before); echo counts
        w exec s -- sh -c 'echo $(($(date +%s) / 100))' >/tmp/guest; echo $(($(date +%s) / 100)) | cmp - /tmp/guest && echo 'right time'
        w events s | grep -q 'goes on from what was saved at' && echo recorded"#,
        150,
        "NAME  STATE  EXIT  SINCE  IMAGE  CREATED\nvm\nvm.json\nsuspended    it was idle for 1 s\nmemory\nnot flushed\nrunning\ncounts\nright time\nrecorded\n",
    ),
    (
        "other commands wake it, or say what to do",
        r#"until_suspended s; echo text >/tmp/file; w cp /tmp/file s:/copied; state s; until_suspended s; w cp s:/copied /tmp/back; cat /tmp/back
        until_suspended s; w start s; state s; until_suspended s; w resume s; until_suspended s
        w exec s echo 1 >/tmp/1 & w exec s echo 2 >/tmp/2; wait; cat /tmp/1 /tmp/2; until_suspended s
        for command in 'pause s' 'clone s t' 'diff s' 'snapshot create s' 'start s --memory 128' 'stats s'; do w $command 2>&1; done
        w wait s; echo $?; w list | grep '^s ' | grep -c suspended; state s"#,
        200,
        "running\ntext\ns\nrunning\ns\n1\n2\n\
         microagent: workspace s is not running\n  start it first: microagent start s\n\
         microagent: workspace s is suspended\n  stop it first: microagent stop s\n\
         microagent: workspace s is suspended\n  stop it first: microagent stop s\n\
         microagent: workspace s is not running\n  start it first: microagent start s\n\
         microagent: workspace s is suspended, and goes on as it was\n  stop it first: microagent stop s\n\
         microagent: workspace s is not running\n  start it first: microagent start s\n\
         s\n0\n1\nsuspended\n",
    ),
    (
        "stop shuts it down, and kill forgets its memory",
        r#"w exec s -- sh -c 'echo written >/late'; until_suspended s; w stop s; state s; vm_files s; w diff s | grep late
        w start s >/dev/null; w exec s -- sh -c 'cat /late; mkdir -p /run/t; mount -t tmpfs none /run/t; echo lost >/run/t/file'; until_suspended s
        w kill s; state s; vm_files s; w start s >/dev/null; w exec s -- sh -c 'cat /late; ls /run/t/file 2>&1'"#,
        150,
        "s\nstopped\nA /late\nwritten\ns\nstopped\nwritten\nls: /run/t/file: No such file or directory\n",
    ),
    (
        "who supervises it waits for it to be woken",
        r#"w create u --image $IMAGE --memory 128 --restart always --ttl 3 --on-idle suspend >/dev/null; w start u >/dev/null
        microagent supervise u >/dev/null 2>/tmp/said & until grep -q 'u: is suspended' /tmp/said; do usleep 50000; done; state u
        w exec u true; until [ $(grep -c 'u: is running' /tmp/said) = 2 ]; do usleep 50000; done; echo again
        w halt u; wait $!; echo $?; state u; w delete u"#,
        100,
        "suspended\nagain\nu\n0\nhalted\nu\n",
    ),
    (
        "what cannot go on says so and boots without its memory",
        r#"until_suspended s; monitor=$(find / -xdev -name microagent-supervisor 2>/dev/null | head -1); cp $monitor /tmp/saved; cp $monitor /tmp/m; echo >>/tmp/m; mv /tmp/m $monitor
        w start s 2>&1; echo $?; state s; w exec s true 2>&1; echo $?
        w start s --no-snapshot; w exec s cat /late; cp /tmp/saved /tmp/m; mv /tmp/m $monitor; vm_files s
        until_suspended s; printf x >>/state/workspaces/s/vm; state s; w start s; w exec s cat /late"#,
        150,
        "microagent: the snapshot was taken with another microagent-supervisor, kernel or network, or on another host\n  \
         boot it without its memory: microagent start s --no-snapshot\n1\nsuspended\n\
         microagent: the snapshot was taken with another microagent-supervisor, kernel or network, or on another host\n  \
         boot it without its memory: microagent start s --no-snapshot\n125\ns\nwritten\nfailed\ns\nwritten\n",
    ),
    (
        "one that cannot be saved now goes on, and is suspended later",
        r#"w delete --force s >/dev/null; mount -t tmpfs -o size=8m none /state/workspaces
        w create s --image $IMAGE --memory 256 --ttl 1 --on-idle suspend >/dev/null; w start s >/dev/null; w exec s -- sh -c 'echo memory >/dev/shm/file || echo memory >/tmp/file'
        until w events s | grep -q 'cannot be suspended: '; do usleep 50000; done; state s; vm_files s; w events s | tail -n 1 | grep -o 'cannot.*'
        mount -o remount,size=200m /state/workspaces; until_suspended s; w exec s -- sh -c 'cat /dev/shm/file /tmp/file 2>/dev/null'
        w delete --force s; ls /state/workspaces; umount /state/workspaces; ls /state/workspaces; ls /state/cas/roots | grep -c workspace"#,
        150,
        "running\ncannot be suspended: the VM cannot be saved: cannot write guest memory: No space left on device (os error 28)\nmemory\ns\n0\n",
    ),
];

#[test]
fn workspaces_are_suspended_and_cloned_while_they_run() {
    let report = or_skip!(lab_steps::boot(SETTINGS, STEPS, |_| Ok(())));
    lab_steps::check(&report, STEPS);
}
