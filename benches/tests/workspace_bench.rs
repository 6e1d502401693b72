//! The benchmark of workspaces, and the check that they do not become more expensive.

mod harness;

use harness::Written;
use microagent_tests::{or_skip, tool};

/// The most that each figure may be, with development programs. A target that is met is the limit;
/// others are a little above what was measured (docs/benchmarks.md).
const LIMITS: [(&str, f64); 4] = [
    ("createByVersion", 3.0),
    ("startByRun", 1.3),
    ("execMillis", 9.0),
    ("supervisorMib", 3.3),
];

#[test]
fn workspaces_cost_no_more_than_before() {
    for program in ["qemu-system-x86_64", "make", "gcc", "flex", "bison", "bc"] {
        or_skip!(tool::find(program));
    }
    let program = env!("CARGO_BIN_EXE_workspace-bench");
    let Written { report, markdown } =
        harness::run("workspace-bench", program, &["--only-lab", "--rounds", "1"]);
    assert_eq!(
        report["lab"]["measured"]["exec"].as_array().unwrap().len(),
        3
    );
    for (name, limit) in LIMITS {
        let figure = report["lab"]["figures"][name].as_f64().unwrap();
        assert!((0.01..=limit).contains(&figure), "{name}: {figure}");
    }
    assert!(markdown.contains("| `create` ÷ `version` |") && !markdown.contains("stale"));
}
