//! The commands about a workspace that exists, with wrong values: nothing of it changes.

use super::*;

/// The words after `microagent --quiet --engine qemu`, the exit code, and what the refusal names.
type Refusal = (&'static [&'static str], i32, &'static [&'static str]);

/// A failure of `exec` and `connect`, which otherwise exit with the command's code.
const NOT_THE_COMMANDS: i32 = 125;

/// Of the workspace `w`, which does not run. A value that is wrong is found first.
const REFUSALS: &[Refusal] = &[
    (
        &["start", "w", "--wait=x"],
        2,
        &["--wait \"x\"", "--wait 60"],
    ),
    (&["start", "w", "--wait=0"], 2, &["--wait 0", "1 second"]),
    (&["start", "w", "--memory", "1"], 2, &["--memory 1", "32"]),
    (&["start", "w", "--cpus", "65"], 2, &["--cpus 65", "64"]),
    (
        &["start", "w", "--profile", "x"],
        2,
        &["\"x\"", "tiny, small"],
    ),
    (
        &["start", "w", "--kernel", "/no/file"],
        1,
        &["/no/file", "No such file"],
    ),
    (&["start", "A_b"], 1, &["no workspace \"A_b\"", "list"]),
    (&["start", "w", "x"], 2, &["x", "start --help"]),
    (
        &["exec", "--timeout", "0", "w", "true"],
        2,
        &["--timeout 0", "1 second"],
    ),
    (
        &["exec", "--timeout", "-1", "w", "true"],
        2,
        &["-1", "exec --help"],
    ),
    (
        &["exec", "-e", "=x", "w", "true"],
        2,
        &["--env", "KEY=VALUE"],
    ),
    (
        &["exec", "--env-file", "/no/file", "w", "true"],
        NOT_THE_COMMANDS,
        &["--env-file /no/file", "No such file"],
    ),
    (&["exec", "w"], 2, &["COMMAND", "exec --help"]),
    (
        &["exec", "-d", "-t", "w", "true"],
        2,
        &["--detach", "--tty"],
    ),
    (
        &["exec", "-t", "w", "true"],
        2,
        &["not a terminal", "omit -t"],
    ),
    (
        &["exec", "w", "true"],
        NOT_THE_COMMANDS,
        &["w is not running", "microagent start w"],
    ),
    (
        &["exec", "A_b", "true"],
        NOT_THE_COMMANDS,
        &["no workspace \"A_b\"", "list"],
    ),
    (
        &["connect", "w", "--send", "true", "--timeout", "x"],
        2,
        &["--timeout \"x\"", "--timeout 60"],
    ),
    (
        &["connect", "w", "--timeout", "3"],
        2,
        &["--send", "connect --help"],
    ),
    (
        &["connect", "w", "--console", "--send", "x"],
        2,
        &["--console", "--send"],
    ),
    (&["connect", "w"], 2, &["not a terminal", "--send LINE"]),
    (
        &["wait", "w", "--timeout", "x"],
        2,
        &["--timeout \"x\"", "--timeout 60"],
    ),
    (
        &["wait", "w", "--timeout", "0"],
        2,
        &["--timeout 0", "1 second"],
    ),
    (&["wait", "A_b"], 1, &["no workspace \"A_b\""]),
    (
        &["supervise", "w", "--max-restarts", "x"],
        2,
        &["--max-restarts \"x\"", "--max-restarts 5"],
    ),
    (&["supervise", "w", "A_b"], 1, &["no workspace \"A_b\""]),
    (&["supervise"], 2, &["NAME", "supervise --help"]),
    (
        &["supervise", "w", "--install", "--uninstall"],
        2,
        &["--install", "--uninstall"],
    ),
    (&["stats", "A_b"], 1, &["no workspace \"A_b\""]),
    (
        &["stats", "w"],
        1,
        &["w is not running", "microagent start w"],
    ),
    (
        &["clone", "w", "A_b"],
        2,
        &["workspace name \"A_b\"", "lowercase"],
    ),
    (
        &["clone", "w", "w"],
        1,
        &["\"w\" already exists", "delete w"],
    ),
    (&["clone", "A_b", "c"], 1, &["no workspace \"A_b\""]),
    (&["clone", "w"], 2, &["NEW", "clone --help"]),
    (
        &["commit", "w", "docker.io/x/y:z"],
        2,
        &["docker.io/x/y:z", "oci:DIR:TAG"],
    ),
    (&["commit", "w", "oci:x"], 2, &["oci:x", "oci:DIR:TAG"]),
    (&["commit", "w", "B AD", "--push"], 1, &["B AD"]),
    (&["cp", "a", "b"], 2, &["exactly one", "NAME:/PATH"]),
    (&["cp", "w:/a", "w:/b"], 2, &["exactly one", "NAME:/PATH"]),
    (&["cp", "w:/none", "x"], 1, &["/none"]),
    (
        &["cp", "/no/file", "w:/x"],
        1,
        &["/no/file", "No such file"],
    ),
    (&["cp", "x:/none", "x"], 1, &["no workspace \"x\""]),
    (
        &["artifacts", "get", "w", "none"],
        1,
        &["no output \"none\"", "artifacts list w"],
    ),
    (&["artifacts"], 2, &["artifacts --help"]),
    (&["diff", "A_b"], 1, &["no workspace \"A_b\""]),
    (&["result", "w"], 1, &["w has no workload"]),
    (&["logs", "A_b"], 1, &["no workspace \"A_b\""]),
    (&["events", "A_b"], 1, &["no workspace \"A_b\""]),
    (&["status", "A_b"], 1, &["no workspace \"A_b\""]),
    (&["stop", "A_b"], 1, &["no workspace \"A_b\""]),
    (&["stop"], 2, &["NAME", "stop --help"]),
    (&["halt", "A_b"], 1, &["no workspace \"A_b\""]),
    (&["kill", "w"], 1, &["w is not running"]),
    (&["pause", "w"], 1, &["w is not running"]),
    (&["resume", "w"], 1, &["w is not running"]),
    (&["quarantine", "w"], 1, &["w is not running"]),
    (&["delete"], 2, &["NAME", "delete --help"]),
    (&["apply", "w"], 2, &["--file", "apply --help"]),
    (
        &["apply", "w", "--file", "/no/file"],
        1,
        &["/no/file", "No such file"],
    ),
    (&["completions", "csh"], 2, &["csh", "bash, zsh, fish"]),
    (&["man"], 2, &["DIR", "man --help"]),
    (&["spec"], 2, &["--schema", "spec --help"]),
];

/// What is known of the workspace; `None` for a file that is not there.
fn record(host: &Host) -> [Option<Vec<u8>>; 3] {
    let directory = host.state().join("workspaces/w");
    ["spec.json", "events.jsonl", "root.presence"]
        .map(|name| std::fs::read(directory.join(name)).ok())
}

#[test]
fn a_wrong_value_of_a_command_about_a_workspace_is_named() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let host = or_skip!(Host::with_kernel());
    let layout = or_skip!(Layout::busybox());
    let microagent = |words: &[&str]| {
        let mut invocation = host.microagent(["--quiet", "--engine", "qemu"]);
        for word in words {
            invocation.argument(*word);
        }
        invocation.finish()
    };
    // A label is the caller's own: any text is kept as it is.
    let role = "a \"label\"\n\u{7}";
    let image = layout.reference("latest");
    microagent(&["create", "w", "--image", &image, "--role", role]).expect_code(0);
    let before = record(&host);
    for (words, code, names) in REFUSALS {
        let finished = microagent(words);
        let (text, errors) = (finished.text(), finished.errors());
        let shown = format!("{words:?}: {text}{errors}");
        assert_eq!((finished.code, &*text), (Some(*code), ""), "{shown}");
        assert!(errors.starts_with("microagent: "), "{shown}");
        assert!((1..=2).contains(&errors.lines().count()), "{shown}");
        for name in *names {
            assert!(errors.contains(name), "{name:?} is not named: {shown}");
        }
        assert!(before == record(&host), "the workspace changed: {shown}");
    }
    let listed = microagent(&["--json", "list"]).json();
    let names: Vec<_> = (listed.as_array().unwrap().iter())
        .map(|row| (&row["workspace"], &row["state"]))
        .collect();
    assert_eq!(names, [(&"w".into(), &"prepared".into())]);
    let events = microagent(&["--json", "events", "w"]);
    let first: serde_json::Value = events.json();
    assert_eq!(first[0]["role"], role, "{first}");
    microagent(&["delete", "w"]).expect_code(0);
    host.assert_clean();
}
