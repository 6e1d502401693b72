//! Runs a benchmark that writes its measurements as JSON and a section of a document.

use std::fs;
use std::process::Command;

use microagent_tests::binaries;
use serde_json::Value;

/// What a benchmark has written.
pub struct Written {
    /// Its measurements.
    pub report: Value,
    /// The document, whose section had the one word `stale`.
    pub markdown: String,
}

/// Runs `program`, the benchmark `name`, with the programs under test. It must succeed.
pub fn run(name: &str, program: &str, arguments: &[&str]) -> Written {
    let directory = tempfile::tempdir().expect("a directory");
    let [json, markdown] = ["json", "md"].map(|name| directory.path().join(name));
    let marks = format!("before\n<!-- {name}: begin -->\nstale\n<!-- {name}: end -->\n");
    fs::write(&markdown, marks).expect("a document");
    let output = Command::new(program)
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .arg("--markdown")
        .arg(&markdown)
        .env("MICROAGENT_BIN_DIR", binaries::directory())
        .output()
        .expect("the harness can be started");
    let printed = String::from_utf8_lossy(&output.stdout);
    println!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    let report = fs::read(&json).expect("measurements");
    Written {
        report: serde_json::from_slice(&report).expect("JSON"),
        markdown: fs::read_to_string(&markdown).expect("the document"),
    }
}
