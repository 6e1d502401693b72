//! The build benchmark: results, and errors for invalid measurements.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use microagent_tests::image::Layout;
use microagent_tests::registry::Registry;
use microagent_tests::{binaries, or_skip, program, root_or_skip, tool};
use serde_json::Value;

fn build_bench(layout: &Layout, programs: &Path, flags: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_build-bench"))
        .args(["--rounds", "1", "--image"])
        .arg(format!("{}:latest", layout.directory().display()))
        .args(flags)
        .env("MICROAGENT_BIN_DIR", programs)
        .output()
        .expect("the harness can be started")
}

fn programs() -> std::path::PathBuf {
    binaries::microagent()
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned()
}

#[test]
fn one_round_of_a_small_image_gives_all_results_a_chart_and_a_table() {
    root_or_skip!();
    or_skip!(tool::find("skopeo"));
    or_skip!(tool::find("mke2fs"));
    or_skip!(Registry::start());
    let layout = or_skip!(Layout::busybox());
    let directory = tempfile::tempdir().unwrap();
    let [json, svg, markdown] = ["json", "svg", "md"].map(|name| directory.path().join(name));
    let marks = "before\n<!-- build-bench: begin -->\nstale\n<!-- build-bench: end -->\nafter\n";
    fs::write(&markdown, marks).unwrap();
    let flags = ["--json".as_ref(), &*json, "--svg".as_ref(), &*svg];
    let flags = [&flags[..], &["--markdown".as_ref(), &*markdown]].concat();
    let output = build_bench(&layout, &programs(), &flags);
    assert!(output.status.success(), "{output:?}");

    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    let targets = report["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 7, "{report}");
    for target in targets {
        let median = target["measured"]["median"].as_f64().unwrap();
        assert!(median > 0.0 && median.is_finite(), "{target}");
    }
    let round = &report["rounds"][0];
    let peers: Vec<&str> = round["peers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(peers, ["skopeo copy", "umoci unpack", "mke2fs -d"]);
    assert_eq!(round["cached"]["digest"].as_array().unwrap().len(), 10);

    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 8, "{text}");
    let drawn = fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"));
    for what in ["umoci unpack", "one small top layer changed", "peak memory"] {
        assert!(drawn.contains(what), "{what}");
    }
    let written = fs::read_to_string(&markdown).unwrap();
    assert!(written.starts_with("before\n<!-- build-bench: begin -->\n`make bench` on "));
    assert!(written.ends_with("<!-- build-bench: end -->\nafter\n"));
    assert!(!written.contains("stale"), "{written}");
}

/// Wraps the real program so that all builds share one state directory.
#[test]
fn a_cold_build_with_a_cache_hit_is_an_error() {
    root_or_skip!();
    or_skip!(Registry::start());
    let layout = or_skip!(Layout::busybox());
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let wrapper = directory.path().join("microagent");
    let script = format!(
        "#!/bin/sh\n\
         for word do shift\n\
         [ \"$previous\" = --state-dir ] && previous= && word='{}' || previous=$word\n\
         set -- \"$@\" \"$word\"\n\
         done\n\
         exec '{}' \"$@\"\n",
        state.display(),
        binaries::microagent().display()
    );
    program::write(&wrapper, 0o755, script).unwrap();
    let output = build_bench(&layout, directory.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    // The node of the warm-up build.
    let expected = "build-bench: invalid cold measurement: cache hit of a rootfs node\n";
    assert!(stderr.ends_with(expected), "{stderr}");
}

#[test]
fn a_missing_image_is_an_error_that_names_it() {
    or_skip!(tool::find("skopeo"));
    let layout = or_skip!(Layout::empty());
    let output = Command::new(env!("CARGO_BIN_EXE_build-bench"))
        .arg("--image")
        .arg(format!("{}:missing", layout.directory().display()))
        .env("MICROAGENT_BIN_DIR", programs())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(":missing"), "{stderr}");
}
