//! What others must not see: the values of a workspace's variables, and its files. And what a collection
//! of garbage beside workspaces must not remove.

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::{built_kernel, or_skip, tool};

fn output(host: &Host, script: &str, image: &str) -> String {
    let script = format!("exec 2>&1\nw() {{ microagent --quiet --engine qemu \"$@\"; }}\n{script}");
    let mut shell = host.shell(&script);
    shell.variable("IMAGE", image).finish().text()
}

/// The value is in `variables` and, for `grep -f`, in `pattern`: no command line of this test has it.
#[test]
fn a_value_of_a_variable_is_in_the_manifest_alone_and_that_is_private() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let script = r#"umask 0; state="$MICROAGENT_STATE_DIR"
        head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n' >pattern; (printf 'SECRET='; cat pattern; echo) >variables
        entrypoint='echo "$SECRET" | wc -c; until test -e /dev/shm/go; do sleep 0.1; done; exit 3'
        w create s --image "$IMAGE" --memory 128 --cpus 1 --env-file variables --setup 'test -n "$SECRET"' --entrypoint "$entrypoint"
        microagent --engine qemu -vv start s >log 2>&1; w exec --env-file variables s -- sh -c 'echo "$SECRET" | wc -c'
        seen() { grep -la -f pattern $1 2>/dev/null | grep -v "/$$/" | wc -l; }
        seen '/proc/[0-9]*/cmdline'; seen '/proc/[0-9]*/environ'
        for verb in 'status s' 'events s' 'logs s' 'logs --console s' 'list' 'ps' 'stats s' 'artifacts list s'; do w --json $verb; done >shown; wc -l <shown | awk '{print ($1 > 50)}'; seen shown; seen log
        # Errors about the variable, and about a command that has it.
        (printf '{"name": "x", "env": {"SECRET": "'; cat pattern; printf '\\u0000"}}') | w create --json - >errors 2>&1; echo $?
        (printf 'name: x\nenv:\n  SECRET: ['; cat pattern; echo ']') | w create --request - >>errors 2>&1
        (printf 'A='; cat pattern; head -c 200000 /dev/zero | tr '\0' x) >long; w exec --env-file long s true >>errors 2>&1; w exec --env-file variables s /none >>errors 2>&1
        grep -c ^microagent: errors; grep -o 'env.SECRET: .*' errors; seen errors
        w exec s touch /dev/shm/go; w wait s; echo $?; cd "$state/workspaces"; stat -c '%a %n' . s s/spec.json s/result.json
        # Nobody but the owner reaches what is in it.
        cd "$state"; grep -rla -f "$HOME/pattern" . ; w quarantine s 2>&1 | head -n 1
        w clone s c; stat -c '%a %n' workspaces/c workspaces/c/spec.json; w start c; w quarantine c; find workspaces/c/quarantine -mindepth 1 -maxdepth 1 -exec stat -c %a {} \;; find workspaces/c/quarantine -name spec.json -exec stat -c %a {} \;
        w commit s oci:$HOME/out:1 | cut -c1-4; grep -rla -f "$HOME/pattern" "$HOME/out"; w delete -f s c"#;
    let expected = "s\n25\n0\n0\n1\n0\n0\n\
                    2\n4\nenv.SECRET: the value of variable SECRET contains a NUL byte\n0\n\
                    s\n1\n700 .\n700 s\n600 s/spec.json\n600 s/result.json\n\
                    ./workspaces/s/spec.json\nmicroagent: workspace s is not running\n\
                    c\n700 workspaces/c\n600 workspaces/c/spec.json\nc\nc\n700\n600\n\
                    oci:\ns\nc\n";
    let text = output(&host, script, &layout.reference("latest"));
    assert_eq!(text, expected);
    host.assert_clean();
}

#[test]
fn a_collection_keeps_what_a_stopped_workspace_needs_and_frees_it_after_its_deletion() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(built_kernel::host());
    let layout = or_skip!(Layout::busybox());
    let script = r#"cd "$MICROAGENT_STATE_DIR"; base() { sed -n 's/^ *"rootfs": "sha256:\(.*\)",/\1/p' workspaces/$1/spec.json; }
        w create a --image "$IMAGE" --memory 128 --cpus 1; w create b --image "$IMAGE" --size-mib 64
        w start a; w exec a -- sh -c 'echo kept >/root/kept'; w stop a; a=$(base a) b=$(base b); [ $a != $b ] && echo differ
        files() { (cd cas; find blobs sparse -type f | sort); }; gc() { w cache gc --max-size 0 >/dev/null; }
        ok() { w --json status $1 | tr -d ' \n' | grep -o '"verification":{"ok":[a-z]*'; }
        gc; files >one; grep -c -e sparse/$a -e sparse/$b one; ok a; ok b
        w delete b; files | cmp - one && echo garbage; gc; files >two; diff one two | grep '^[<>]' | sed "s#$b#BASE#"
        ok a; w start a; w exec a cat /root/kept; w stop a
        w delete a; gc; files | grep -c -e sparse/$a"#;
    let ok = "\"verification\":{\"ok\":true";
    let expected = format!(
        "a\nb\na\na\ndiffer\n2\n{ok}\n{ok}\nb\ngarbage\n< blobs/sha256/BASE\n< sparse/BASE\n{ok}\na\nkept\na\na\n0\n"
    );
    let text = output(&host, script, &layout.reference("latest"));
    assert_eq!(text, expected);
    host.assert_clean();
}
