//! The benchmark of workspaces, and the check that they do not become more expensive.

use std::fs;
use std::process::Command;

use microagent_tests::{binaries, or_skip, tool};
use serde_json::Value;

/// The most that each figure may be, with development programs. A target that is met is the limit;
/// others are a little above what was measured (docs/benchmarks.md).
const LIMITS: [(&str, f64); 4] = [
    ("createByVersion", 3.0),
    ("startByRun", 1.3),
    ("execMillis", 9.0),
    ("supervisorMib", 3.0),
];

#[test]
fn workspaces_cost_no_more_than_before() {
    for program in ["qemu-system-x86_64", "make", "gcc", "flex", "bison", "bc"] {
        or_skip!(tool::find(program));
    }
    let directory = tempfile::tempdir().unwrap();
    let [json, markdown] = ["json", "md"].map(|name| directory.path().join(name));
    let marks = "before\n<!-- workspace-bench: begin -->\nstale\n<!-- workspace-bench: end -->\n";
    fs::write(&markdown, marks).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_workspace-bench"))
        .args(["--rounds", "1", "--json"])
        .arg(&json)
        .arg("--markdown")
        .arg(&markdown)
        .env("MICROAGENT_BIN_DIR", binaries::directory())
        .output()
        .expect("the harness can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    println!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());

    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(report["measured"]["exec"].as_array().unwrap().len(), 3);
    for (name, limit) in LIMITS {
        let figure = report["figures"][name].as_f64().unwrap();
        assert!((0.01..=limit).contains(&figure), "{name}: {figure}");
    }
    let markdown = fs::read_to_string(&markdown).unwrap();
    assert!(markdown.contains("| `create` ÷ `version` |") && !markdown.contains("stale"));
}
