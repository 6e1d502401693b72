//! What each command about workspaces prints with `--json`, in the order of a workspace's life.

use microagent_tests::image::Layout;
use microagent_tests::{built_kernel, or_skip, tool};
use serde_json::{Value, json};

/// Numbers that are the host's.
const MEASURED: [&str; 6] = [
    "uptimeMillis",
    "cpuMicros",
    "memoryBytes",
    "readBytes",
    "writtenBytes",
    "pid",
];

/// The workload, which writes what `out` is, and ends at its stop signal.
const WORKLOAD: &str = "echo out >/out; echo hello; trap 'exit 3' TERM; sleep 1000 & wait";

/// Replaces what differs each time: times, identities, digests, measured numbers, paths.
fn masked(value: &mut Value, here: &str) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match MEASURED.contains(&&**name) && value.is_u64() {
                    true => *value = "NUMBER".into(),
                    false => masked(value, here),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| masked(value, here)),
        Value::String(text) => {
            let is_time = text.len() == 24 && text.ends_with('Z') && text[10..].starts_with('T');
            let is_hex = text.chars().all(|digit| digit.is_ascii_hexdigit());
            if is_time {
                *text = "TIME".into();
            } else if text.len() == 16 && is_hex {
                *text = "ID".into();
            } else if text.starts_with("sha256:") {
                *text = "DIGEST".into();
            } else {
                *text = text.replace(here, "HERE");
            }
        }
        _ => {}
    }
}

/// Checks a document. Fields that an object with the field `"*"` does not name are ignored.
#[track_caller]
fn assert_is(words: &[&str], document: &Value, expected: &Value) {
    fn pruned(value: &mut Value, expected: &Value) {
        match (value, expected) {
            (Value::Object(fields), Value::Object(wanted)) => {
                if wanted.contains_key("*") {
                    fields.retain(|name, _| wanted.contains_key(name));
                    fields.insert("*".into(), wanted["*"].clone());
                }
                for (name, value) in fields {
                    pruned(value, &expected[&**name]);
                }
            }
            (Value::Array(values), Value::Array(wanted)) => {
                for (value, wanted) in values.iter_mut().zip(wanted) {
                    pruned(value, wanted);
                }
            }
            _ => {}
        }
    }
    let mut compared = document.clone();
    pruned(&mut compared, expected);
    assert_eq!(&compared, expected, "{words:?}: {document}");
}

#[test]
fn each_command_prints_its_document() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let image = layout.reference("latest");
    std::fs::write(host.path("in"), "in\n").unwrap();
    let here = host.path("").display().to_string();
    let here = here.trim_end_matches('/');
    let invoke = |words: &[&str]| {
        let mut invocation = host.microagent(["--json", "--quiet", "--engine", "qemu"]);
        for word in words {
            invocation.argument(*word);
        }
        invocation.finish()
    };
    let says = |words: &[&str], code: i32, expected: Value| {
        let finished = invoke(words).expect_code(code);
        let mut document = finished.json();
        masked(&mut document, here);
        assert_is(words, &document, &expected);
    };
    // Of several workspaces those that are deleted are listed, whatever becomes of the others.
    let fails = |words: &[&str], code: i32, expected: Value| {
        let finished = invoke(words).expect_code(code);
        let printed = if words[0] == "delete" { "[]\n" } else { "" };
        assert_eq!(finished.text(), printed, "{words:?}");
        let document: Value = serde_json::from_str(&finished.errors()).unwrap();
        assert_is(words, &document, &json!({"error": expected}));
    };
    let is = |state: &str| json!({"workspace": "w", "state": state});
    let row = |state: &str, engine: Value, exit_code: Value| {
        json!({
            "workspace": "w", "state": state, "since": "TIME", "runtimeId": "ID", "role": "mine",
            "engine": engine, "memoryMiB": 128, "cpuCount": 1, "restart": "on-failure",
            "exitCode": exit_code, "signal": null, "image": image, "createdAt": "TIME",
        })
    };
    let end = |code: Option<u32>| {
        json!({
            "*": null, "workspace": "w", "exitCode": code, "signal": null, "outOfMemory": false,
            "timedOut": code.is_none(), "truncated": false,
        })
    };

    says(
        &[
            "create",
            "w",
            "--image",
            &image,
            "--memory",
            "128",
            "--cpus",
            "1",
            "--role",
            "mine",
            "--restart",
            "on-failure",
            "--output",
            "out=/out",
            "--entrypoint",
            WORKLOAD,
        ],
        0,
        json!({
            "*": null, "workspace": "w", "state": "prepared",
            "image": {"*": null, "reference": image, "digest": "DIGEST"},
            "resources": {"memoryMiB": 128, "cpuCount": 1, "sizeMiB": null, "profile": null},
        }),
    );
    says(&["wait", "w"], 0, is("prepared"));
    says(
        &["ls"],
        0,
        json!([row("prepared", json!(null), json!(null))]),
    );
    says(&["ps"], 0, json!([]));
    let event =
        |state: &str| json!({"*": null, "role": "mine", "state": state, "observedAt": "TIME"});
    says(
        &["inspect", "w"],
        0,
        json!({"*": null, "workspace": "w", "state": "prepared", "event": event("prepared")}),
    );
    fails(
        &["result", "w"],
        1,
        json!({
            "kind": "notFound", "message": "the workload of w has not been started",
            "remediation": "start it first: microagent start w", "retryable": false,
        }),
    );
    fails(
        &["exec", "w", "true"],
        125,
        json!({
            "kind": "conflict", "message": "workspace w is not running",
            "remediation": "start it first: microagent start w", "retryable": false,
        }),
    );

    says(&["start", "w"], 0, is("running"));
    says(
        &["ps"],
        0,
        json!([row("running", json!("qemu"), json!(null))]),
    );
    let mut exited = end(Some(4));
    exited["stdout"] = "a\n".into();
    exited["stderr"] = "b\n".into();
    says(
        &["exec", "w", "sh", "-c", "echo a; echo b >&2; exit 4"],
        4,
        exited,
    );
    says(
        &["exec", "--timeout", "1", "w", "sleep", "1000"],
        124,
        end(None),
    );
    says(
        &["exec", "-d", "w", "true"],
        0,
        json!({"workspace": "w", "pid": "NUMBER"}),
    );
    says(&["connect", "w", "--send", "exit 5"], 5, end(Some(5)));
    says(
        &["cp", "in", "w:/in"],
        0,
        json!({"workspace": "w", "source": "in", "destination": "w:/in", "skipped": 0}),
    );
    let disk = |name: &str| json!({"name": name, "readBytes": "NUMBER", "writtenBytes": "NUMBER"});
    says(
        &["stats", "w"],
        0,
        json!([{
            "workspace": "w", "state": "running", "uptimeMillis": "NUMBER", "cpuMicros": "NUMBER",
            "memoryBytes": "NUMBER", "memoryMiB": 128, "readBytes": "NUMBER",
            "writtenBytes": "NUMBER", "disks": [disk("root")],
        }]),
    );
    says(
        &["network", "ls", "w"],
        0,
        json!({"workspace": "w", "publishes": []}),
    );
    says(&["pause", "w"], 0, is("paused"));
    fails(
        &["connect", "w", "--send", "true"],
        125,
        json!({
            "kind": "conflict", "message": "workspace w: it is paused",
            "remediation": "let it run again: microagent resume w", "retryable": false,
        }),
    );
    says(&["resume", "w"], 0, is("running"));
    fails(
        &["wait", "w", "--timeout", "1"],
        124,
        json!({
            "kind": "timeout", "message": "workspace w has not ended within 1 s",
            "remediation": null, "retryable": true,
        }),
    );
    fails(
        &["delete", "w"],
        1,
        json!({"*": null, "kind": "conflict", "message": "workspace w is running"}),
    );
    says(&["halt", "w", "--reason", "for a test"], 0, is("halted"));
    says(&["wait", "w"], 0, is("halted"));
    says(
        &["list"],
        0,
        json!([row("halted", json!("qemu"), json!(3))]),
    );
    says(
        &["result", "w"],
        0,
        json!({
            "startedAt": "TIME", "completedAt": "TIME", "exitCode": 3, "signal": null,
            "outOfMemory": false,
        }),
    );
    says(
        &["logs", "w"],
        0,
        json!({"workspace": "w", "text": "hello\n"}),
    );
    let states: Vec<_> = [
        "prepared", "starting", "running", "paused", "running", "stopping", "halted",
    ]
    .map(event)
    .to_vec();
    says(&["events", "w"], 0, Value::Array(states));
    let output = json!({"name": "out", "path": "/out", "digest": "DIGEST", "size": 4});
    let with = |name: &str, value: &str| {
        let mut output = output.clone();
        output[name] = value.into();
        output
    };
    says(
        &["artifacts", "list", "w"],
        0,
        json!([with("type", "file")]),
    );
    says(
        &["artifacts", "get", "w", "out"],
        0,
        with("copy", "HERE/out"),
    );
    says(
        &["diff", "w"],
        0,
        json!([{"path": "/in", "change": "added"}, {"path": "/out", "change": "added"}]),
    );
    says(
        &["commit", "w", "oci:made:v1"],
        0,
        json!({"workspace": "w", "reference": "oci:made:v1", "digest": "DIGEST", "changes": 2}),
    );
    says(
        &["clone", "w", "c"],
        0,
        json!({"workspace": "c", "state": "prepared"}),
    );
    // What it is already is no change.
    for verb in ["stop", "halt"] {
        says(&[verb, "w"], 0, is("halted"));
    }

    says(&["start", "w"], 0, is("running"));
    says(&["quarantine", "w"], 0, is("quarantined"));
    says(&["wait", "w"], 1, is("quarantined"));
    says(&["kill", "w"], 0, is("stopped"));
    fails(
        &["result", "w"],
        1,
        json!({
            "kind": "notFound", "message": "the workload of w was killed with its VM",
            "remediation": null, "retryable": false,
        }),
    );
    says(
        &["rm", "w", "c", "absent"],
        0,
        json!([
            {"workspace": "w", "deleted": true},
            {"workspace": "c", "deleted": true},
            {"workspace": "absent", "deleted": false},
        ]),
    );
    says(&["list"], 0, json!([]));

    // A workload that cannot be executed.
    let text = format!("name: w\nimage: {image}\nentrypoint: [/absent]\n");
    std::fs::write(host.path("absent.yaml"), text).unwrap();
    invoke(&["create", "--file", "absent.yaml"]).expect_code(0);
    let none = |message: &str| json!({"kind": "notFound", "message": message, "remediation": null, "retryable": false});
    fails(&["start", "w"], 1, none("the image has no /absent"));
    let message = "the workload of w has no result: the image has no /absent";
    fails(&["result", "w"], 1, none(message));
    says(
        &["delete", "w"],
        0,
        json!([{"workspace": "w", "deleted": true}]),
    );
    host.assert_clean();
}
