//! Progress of fetching and building an image: bars, lines, events, or nothing.

use microagent_tests::image::{Layout, Tar};
use microagent_tests::microagent::Host;
use microagent_tests::{or_skip, tool};
use serde_json::Value;

/// The busybox image with one more layer.
fn layout() -> Result<Layout, microagent_tests::Error> {
    let layout = Layout::busybox()?;
    layout.add_layer("latest", &Tar::new().file("more", &[7; 300_000]).finish())?;
    Ok(layout)
}

/// Short digest and size of the layers.
fn layers(layout: &Layout) -> Vec<(String, u64)> {
    let reference = layout.reference("latest");
    let manifest = tool::text("skopeo", ["inspect", "--raw", &reference]).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| {
            let digest = layer["digest"].as_str().unwrap();
            let short = digest["sha256:".len()..][..12].to_owned();
            (short, layer["size"].as_u64().unwrap())
        })
        .collect()
}

fn words(image: &str) -> [&str; 5] {
    ["rootfs", "build", "--allow-mutable", "--image", image]
}

#[test]
fn without_a_terminal_each_piece_of_work_has_a_line_and_cached_ones_have_none() {
    let layout = or_skip!(layout());
    let host = or_skip!(Host::new());
    let image = layout.reference("latest");
    let first = host.microagent(words(&image)).finish().expect_code(0);
    let mut expected = vec![format!("microagent: rootfs {image}: done")];
    for (layer, _) in layers(&layout) {
        expected.push(format!("microagent: fetch {layer}: done"));
        expected.push(format!("microagent: fetch {layer}: "));
        expected.push(format!("microagent: unpack {layer}: done"));
    }
    let errors = first.errors();
    assert_eq!(errors.lines().count(), expected.len(), "{errors}");
    for line in expected {
        assert!(
            errors.lines().any(|shown| shown.starts_with(&line)),
            "{line}: {errors}"
        );
    }
    let second = host.microagent(words(&image)).finish().expect_code(0);
    assert_eq!(second.errors(), "");
}

#[test]
fn quiet_prints_nothing() {
    let layout = or_skip!(layout());
    let host = or_skip!(Host::new());
    let image = layout.reference("latest");
    for flags in [&["--quiet"][..], &["--quiet", "--json"]] {
        let mut invocation = host.microagent(flags.iter().copied());
        words(&image).into_iter().for_each(|word| {
            invocation.argument(word);
        });
        assert_eq!(invocation.finish().expect_code(0).errors(), "");
        host.microagent(["cache", "gc", "--max-size", "0"])
            .finish()
            .expect_code(0);
    }
}

#[test]
fn with_json_every_line_is_an_event() {
    let layout = or_skip!(layout());
    let host = or_skip!(Host::new());
    let image = layout.reference("latest");
    let mut invocation = host.microagent(["--json"]);
    words(&image).into_iter().for_each(|word| {
        invocation.argument(word);
    });
    let built = invocation.finish().expect_code(0);
    built.json();
    let events: Vec<Value> = (built.errors().lines())
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone())
        .collect();
    let find = |kind: &str, stage: &str, detail: &str| {
        let mut found = (events.iter()).filter(|event| {
            event["kind"] == kind && event["stage"] == stage && event["detail"] == detail
        });
        let event = found
            .next()
            .unwrap_or_else(|| panic!("no {kind} {stage} {detail}"));
        assert!(found.next().is_none(), "{kind} {stage} {detail} twice");
        event.clone()
    };
    for (layer, size) in layers(&layout) {
        assert_eq!(find("started", "fetch", &layer)["totalBytes"], size);
        assert_eq!(find("done", "fetch", &layer)["bytes"], size);
        assert!(find("started", "unpack", &layer)["totalBytes"].is_null());
        assert!(find("done", "unpack", &layer)["bytes"].as_u64().unwrap() >= size);
    }
    find("started", "resolve", &image);
    find("done", "resolve", &image);
    assert!(find("done", "rootfs", &image)["bytes"].as_u64().unwrap() > 300_000);
}

#[test]
fn on_a_terminal_there_is_a_bar_for_each_layer() {
    let script = or_skip!(tool::find("script"));
    let layout = or_skip!(layout());
    let host = or_skip!(Host::new());
    let image = layout.reference("latest");
    let mut terminal = host.program(&script);
    let command = format!("microagent {}", words(&image).join(" "));
    for word in ["--quiet", "--return", "--command", &command, "/dev/null"] {
        terminal.argument(word);
    }
    terminal.variable("TERM", "xterm");
    let shown = terminal.finish().expect_code(0).text();
    for (layer, _) in layers(&layout) {
        assert!(shown.contains(&layer), "{shown:?}");
    }
    // Bars are redrawn and finally cleared; there are no plain lines.
    assert!(shown.contains('\u{1b}'), "{shown:?}");
    assert!(!shown.contains("done,"), "{shown:?}");
}
