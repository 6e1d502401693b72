//! `cache` and `image`: listing, explanation, verification, collection, transfer and drift.

mod boot_objects;
mod damage;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use microagent_tests::image::{Layout, Tar};
use microagent_tests::microagent::{Finished, Host};
use microagent_tests::registry::Registry;
use microagent_tests::{built_kernel, or_skip, tool};
use serde_json::Value;

fn build(host: &Host, image: &str) -> Finished {
    host.microagent(["--json", "rootfs", "build", "--allow-mutable", "--image"])
        .argument(image)
        .finish()
        .expect_code(0)
}

fn json(host: &Host, words: &[&str]) -> Value {
    let mut invocation = host.microagent(["--json"]);
    for word in words {
        invocation.argument(*word);
    }
    invocation.finish().expect_code(0).json()
}

fn ops(document: &Value) -> Vec<(String, bool)> {
    let nodes = document["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| (node["op"].as_str().unwrap().to_owned(), node["hit"] == true))
        .collect()
}

fn blobs(host: &Host) -> Vec<PathBuf> {
    let dir = host.state().join("cas/blobs/sha256");
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// The records of these operations.
fn records(host: &Host, ops: &[&str]) -> Vec<PathBuf> {
    let listing = json(host, &["cache", "ls"]);
    let nodes = listing["nodes"].as_array().unwrap().iter();
    nodes
        .filter(|node| ops.contains(&node["op"].as_str().unwrap()))
        .map(|node| {
            let hex = node["key"].as_str().unwrap().split_once(':').unwrap().1;
            host.state().join(format!("cas/nodes/{hex}.json"))
        })
        .collect()
}

fn remove_all(paths: &[PathBuf]) {
    for path in paths {
        let _ = fs::remove_file(path);
    }
}

fn layout_with(content: &[u8]) -> Result<Layout, microagent_tests::Error> {
    let layout = Layout::busybox()?;
    let tar = Tar::new().file("content", content).finish();
    layout.add_layer("latest", &tar)?;
    Ok(layout)
}

#[test]
fn the_listing_shows_size_use_and_image_of_every_node() {
    let layout = or_skip!(layout_with(b"one"));
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let image = format!("{}/app:1", registry.address());
    let host = or_skip!(Host::new());
    let built = build(&host, &image).json();

    let listing = json(&host, &["cache", "ls"]);
    assert_eq!(listing["images"][0]["name"], image.as_str());
    assert_eq!(listing["images"][0]["cached"], true);
    let nodes = listing["nodes"].as_array().unwrap();
    let mut listed: Vec<_> = nodes
        .iter()
        .map(|node| node["op"].as_str().unwrap())
        .collect();
    listed.sort_unstable();
    assert_eq!(
        listed,
        ["fetch", "fetch", "resolve", "rootfs", "unpack", "unpack"]
    );
    for node in nodes {
        assert_eq!(node["whole"], true, "{node}");
        assert_eq!(node["purpose"], image.as_str(), "{node}");
        assert_eq!(node["heldBy"].as_array().unwrap().len(), 0, "{node}");
    }
    let rootfs = nodes.iter().find(|node| node["op"] == "rootfs").unwrap();
    assert_eq!(rootfs["size"], built["rootfs"]["size"]);
    let path = built["rootfs"]["path"].as_str().unwrap();
    let on_disk = tool::text("stat", ["--format=%b", path]).unwrap();
    let map = fs::metadata(host.state().join(format!(
        "cas/blobs/sha256/{}",
        built["rootfs"]["digest"].as_str().unwrap().split_once(':').unwrap().1
    )))
    .unwrap();
    let map = std::os::unix::fs::MetadataExt::blocks(&map);
    let blocks = on_disk.parse::<u64>().unwrap() + map;
    assert_eq!(rootfs["allocated"], blocks * 512);

    // du equals the allocated blocks of all blobs and sparse files.
    let usage = json(&host, &["cache", "du"]);
    let cas = host.state().join("cas");
    let mut total = 0;
    for dir in ["blobs/sha256", "sparse"] {
        for file in fs::read_dir(cas.join(dir)).unwrap() {
            let metadata = file.unwrap().metadata().unwrap();
            total += std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
        }
    }
    assert_eq!(usage["total"], total);
    assert_eq!(usage["garbage"], 0);
    assert_eq!(usage["reclaimable"], total);
    assert_eq!(usage["ops"]["unpack"]["nodes"], 2);
}

#[test]
fn the_same_content_under_another_tag_rebuilds_nothing() {
    let layout = or_skip!(layout_with(b"one"));
    let registry = or_skip!(Registry::start());
    for tag in ["app:1", "other/name:2"] {
        registry.push(&layout.reference("latest"), tag).unwrap();
    }
    let host = or_skip!(Host::new());
    build(&host, &format!("{}/app:1", registry.address()));
    let again = build(&host, &format!("{}/other/name:2", registry.address())).json();
    assert_eq!(
        ops(&again),
        [("resolve".to_owned(), false), ("rootfs".to_owned(), true)]
    );
    // A shared layer is fetched and unpacked only once.
    let tar = Tar::new().file("more", b"more").finish();
    layout.add_layer("latest", &tar).unwrap();
    registry.push(&layout.reference("latest"), "app:2").unwrap();
    let more = build(&host, &format!("{}/app:2", registry.address())).json();
    let count = |op: &str, hit| {
        let wanted = (op.to_owned(), hit);
        ops(&more).iter().filter(|node| **node == wanted).count()
    };
    assert_eq!((count("fetch", false), count("unpack", false)), (1, 1));
    assert_eq!(count("unpack", true), 2);
}

#[test]
fn explain_names_the_layer_that_changed() {
    let layout = or_skip!(layout_with(b"one"));
    let registry = or_skip!(Registry::start());
    let image = format!("{}/app:1", registry.address());
    let push = || registry.push(&layout.reference("latest"), "app:1").unwrap();
    push();
    let host = or_skip!(Host::new());
    let failure = host
        .microagent(["cache", "explain", &image])
        .finish()
        .expect_code(1);
    assert_eq!(
        failure.errors(),
        format!(
            "microagent: {image} has not been resolved in this store\n  \
             resolve it first: microagent image resolve {image}\n"
        )
    );

    let first = build(&host, &image).json();
    let explained = json(&host, &["cache", "explain", &image]);
    let rootfs = &explained["node"]["inputs"][0];
    assert_eq!(explained["node"]["op"], "resolve");
    assert_eq!(
        (&rootfs["op"], &rootfs["hit"]),
        (&"rootfs".into(), &true.into())
    );
    assert_eq!(rootfs["moved"].as_array().unwrap().len(), 0);
    let steps = rootfs["inputs"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    assert!(steps.iter().all(|step| step["op"] == "unpack"
        && step["hit"] == true
        && step["inputs"][0]["op"] == "fetch"));

    let tar = Tar::new().file("more", b"more").finish();
    layout.add_layer("latest", &tar).unwrap();
    push();
    let second = host
        .microagent(["rootfs", "build", "--allow-mutable", "--image", &image])
        .finish()
        .expect_code(0);
    assert!(
        second.errors().contains("has moved since"),
        "{}",
        second.errors()
    );
    let explained = json(&host, &["cache", "explain", &image]);
    let moved = &explained["node"]["inputs"][0]["moved"];
    assert_eq!(moved.as_array().unwrap().len(), 1, "{moved}");
    assert_eq!(moved[0]["what"], "input");
    assert_eq!(
        (&moved[0]["name"], &moved[0]["place"]),
        (&"layer".into(), &3.into())
    );
    assert!(moved[0]["from"].is_null());
    let text = host
        .microagent(["cache", "explain", &image])
        .finish()
        .expect_code(0)
        .text();
    assert!(
        text.contains("rebuilt because layer 3 changed from none to "),
        "{text}"
    );

    // A changed size is a reason as well.
    host.microagent([
        "--quiet",
        "rootfs",
        "build",
        "--allow-mutable",
        "--size-mib",
        "100",
    ])
    .argument("--image")
    .argument(&image)
    .finish()
    .expect_code(0);
    let text = host
        .microagent(["cache", "explain", &image])
        .finish()
        .expect_code(0)
        .text();
    assert!(
        text.contains("rebuilt because sizeMiB changed from null to 100"),
        "{text}"
    );
    assert_ne!(first["image"]["digest"], explained["image"]["digest"]);
}

#[test]
fn collection_keeps_recently_used_nodes_and_frees_the_others() {
    let host = or_skip!(Host::new());
    let layouts = [
        or_skip!(layout_with(&[1; 3 << 20])),
        or_skip!(layout_with(&[2; 3 << 20])),
    ];
    let digests = layouts
        .each_ref()
        .map(|layout| build(&host, &layout.reference("latest")).json()["rootfs"]["digest"].clone());
    // Make the first one look unused for two hours.
    let nodes = host.state().join("cas/nodes");
    let listing = json(&host, &["cache", "ls"]);
    let first = layouts[0].reference("latest");
    for node in listing["nodes"].as_array().unwrap() {
        if node["purpose"].as_str().unwrap().contains(&first) {
            let hex = node["key"].as_str().unwrap().split_once(':').unwrap().1;
            let file = fs::File::open(nodes.join(format!("{hex}.json"))).unwrap();
            let then = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
            file.set_modified(then).unwrap();
        }
    }
    let dry = json(&host, &["cache", "gc", "--older-than", "1h", "--dry-run"]);
    let collected = json(&host, &["cache", "gc", "--older-than", "1h"]);
    assert_eq!(dry["nodes"], collected["nodes"]);
    assert_eq!(dry["freed"], collected["freed"]);
    let gone: Vec<_> = (collected["nodes"].as_array().unwrap().iter())
        .map(|node| node["op"].as_str().unwrap())
        .collect();
    assert_eq!(gone.len(), 2, "its resolve and its rootfs: {gone:?}");
    // The second is still a hit; the first is rebuilt with the same digest.
    let hit = build(&host, &layouts[1].reference("latest")).json();
    assert_eq!(ops(&hit)[1], ("rootfs".to_owned(), true));
    let rebuilt = build(&host, &first).json();
    assert_eq!(ops(&rebuilt).last().unwrap(), &("rootfs".to_owned(), false));
    assert_eq!(rebuilt["rootfs"]["digest"], digests[0]);

    // A maximum size of 0 leaves nothing, not even the names for other tools.
    let all = json(&host, &["cache", "gc", "--max-size", "0"]);
    assert_eq!((&all["kept"], &all["held"]), (&0.into(), &0.into()));
    assert_eq!(blobs(&host).len(), 0);
    assert_eq!(
        json(&host, &["cache", "ls"])["images"],
        Value::Array(vec![])
    );
    host.microagent(["cache", "gc", "--max-size", "some"])
        .finish()
        .expect_code(2);
    host.assert_clean();
}

#[test]
fn an_image_written_by_another_tool_is_never_collected() {
    let layout = or_skip!(layout_with(b"theirs"));
    let host = or_skip!(Host::new());
    json(&host, &["cache", "gc"]);
    let store = format!("oci:{}:theirs", host.state().join("cas").display());
    layout.copy("latest", &store, &[]).unwrap();
    let report = json(
        &host,
        &["cache", "gc", "--max-size", "0", "--older-than", "0s"],
    );
    assert_eq!(report["kept"], report["held"]);
    let digest = tool::text("skopeo", ["inspect", "--format", "{{.Digest}}", &store]).unwrap();
    assert_eq!(digest, layout.digest("latest").unwrap());
}

#[test]
fn an_exported_image_is_read_by_skopeo_and_builds_in_another_store_without_its_registry() {
    let layout = or_skip!(layout_with(b"exported"));
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let image = format!("{}/app:1", registry.address());
    let host = or_skip!(Host::new());
    let built = build(&host, &image).json();
    let archive = host.path("image.tar");
    let exported = json(
        &host,
        &[
            "cache",
            "export",
            &image,
            "--out",
            archive.to_str().unwrap(),
        ],
    );
    assert_eq!(exported["size"], fs::metadata(&archive).unwrap().len());
    let again = host.path("again.tar");
    json(
        &host,
        &["cache", "export", &image, "--out", again.to_str().unwrap()],
    );
    assert!(fs::read(&archive).unwrap() == fs::read(&again).unwrap());

    let name = format!("oci-archive:{}", archive.display());
    let digest = tool::text("skopeo", ["inspect", "--format", "{{.Digest}}", &name]).unwrap();
    assert_eq!(digest, layout.digest("latest").unwrap());

    drop(registry);
    let other = or_skip!(Host::new());
    let imported = json(&other, &["cache", "import", archive.to_str().unwrap()]);
    assert_eq!(imported["images"][0]["reference"], image.as_str());
    let pinned = built["image"]["resolved"].as_str().unwrap();
    let offline = other
        .microagent(["--json", "rootfs", "build", "--image", pinned])
        .finish()
        .expect_code(0)
        .json();
    assert_eq!(offline["rootfs"]["digest"], built["rootfs"]["digest"]);
    let name = format!("oci:{}:{image}", other.state().join("cas").display());
    tool::text("skopeo", ["inspect", &name]).unwrap();

    // A truncated archive is refused and leaves no incomplete object.
    let bytes = fs::read(&archive).unwrap();
    let cut = other.path("cut.tar");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    other
        .microagent(["cache", "import", cut.to_str().unwrap()])
        .finish()
        .expect_code(1);
    assert_eq!(json(&other, &["cache", "verify"])["ok"], true);
}

#[test]
fn drift_compares_recorded_and_current_digests() {
    let layout = or_skip!(layout_with(b"one"));
    let registry = or_skip!(Registry::start());
    let image = format!("{}/app:1", registry.address());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let host = or_skip!(Host::new());
    let first = json(&host, &["image", "resolve", &image]);
    assert!(first["recorded"].is_null());
    assert_eq!(first["layers"].as_array().unwrap().len(), 2);
    assert_eq!(first["image"]["digest"], layout.digest("latest").unwrap());

    let drift = |code| {
        host.microagent(["--json", "image", "drift"])
            .finish()
            .expect_code(code)
            .json()
    };
    let report = drift(0);
    assert_eq!(
        (&report["ok"], &report["images"][0]["state"]),
        (&true.into(), &"same".into())
    );

    let tar = Tar::new().file("more", b"more").finish();
    layout.add_layer("latest", &tar).unwrap();
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let report = drift(1);
    assert_eq!(report["ok"], false);
    assert_eq!(report["images"][0]["state"], "moved");
    assert_eq!(report["images"][0]["recorded"], first["image"]["digest"]);
    assert_eq!(
        report["images"][0]["current"],
        layout.digest("latest").unwrap()
    );
    // Reporting drift does not record it; only resolving does.
    assert_eq!(drift(1)["images"][0]["state"], "moved");
    let second = json(&host, &["image", "resolve", &image]);
    assert_eq!(
        (&second["moved"], &second["recorded"]),
        (&true.into(), &first["image"]["digest"])
    );
    assert_eq!(drift(0)["images"][0]["state"], "same");

    // An unreachable registry means unknown, never ok.
    drop(registry);
    let report = drift(1);
    assert_eq!(
        (&report["ok"], &report["images"][0]["state"]),
        (&false.into(), &"unknown".into())
    );
    assert!(report["images"][0]["current"].is_null());
    assert!(report["images"][0]["why"].is_string());
}

#[test]
fn drift_detects_a_changed_layout_and_a_changed_kernel_file() {
    let layout = or_skip!(layout_with(b"one"));
    let host = or_skip!(Host::new());
    let image = layout.reference("latest");
    build(&host, &image);
    let drift = |code| {
        host.microagent(["--json", "image", "drift"])
            .finish()
            .expect_code(code)
            .json()
    };
    assert_eq!(drift(0)["images"][0]["state"], "same");
    let tar = Tar::new().file("more", b"more").finish();
    layout.add_layer("latest", &tar).unwrap();
    assert_eq!(drift(1)["images"][0]["state"], "moved");
    fs::remove_dir_all(layout.directory()).unwrap();
    assert_eq!(drift(1)["images"][0]["state"], "gone");
    assert_eq!(drift(1)["ok"], false);

    let host = or_skip!(built_kernel::host());
    let kernel = host.state().join("cas/blobs/sha256");
    let largest = fs::read_dir(kernel)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let file = host.path("vmlinux");
    fs::copy(largest, &file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    json(
        &host,
        &["kernel", "install", "--from", file.to_str().unwrap()],
    );
    // The initially installed kernel is listed as well.
    let state = |report: &Value| {
        let files = report["files"].as_array().unwrap().iter();
        let mut files = files.filter(|entry| entry["name"] == file.to_str().unwrap());
        files.next().unwrap()["state"].clone()
    };
    assert_eq!(state(&json(&host, &["image", "drift"])), "same");
    let size = fs::metadata(&file).unwrap().len();
    let end = fs::File::options().write(true).open(&file).unwrap();
    end.write_all_at(b"changed", size).unwrap();
    let drift = || {
        host.microagent(["--json", "image", "drift"])
            .finish()
            .expect_code(1)
            .json()
    };
    assert_eq!(state(&drift()), "moved");
    fs::remove_file(&file).unwrap();
    assert_eq!(state(&drift()), "gone");
}

/// The name of an archived image is a claim of whoever made the archive.
#[test]
fn an_import_believes_no_false_name() {
    let layout = or_skip!(layout_with(b"one"));
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let image = format!("{}/app:1", registry.address());
    let host = or_skip!(Host::new());
    build(&host, &image);
    let zeros = "0".repeat(64);
    let script = format!(
        "microagent cache export {image} --out right.tar && mkdir x && tar -C x -xf right.tar && \
         sed -i 's,/app:1,/app@sha256:{zeros},' x/index.json && tar -C x -cf false.tar ."
    );
    host.shell(&script).finish().expect_code(0);
    let fresh = or_skip!(Host::new());
    let import = |name: &str| {
        let path = host.path(name);
        let mut import = fresh.microagent(["cache", "import"]);
        import.argument(path).finish()
    };
    let refused = import("false.tar").expect_code(1).errors();
    let claimed = format!("{}/app@sha256:{zeros}", registry.address());
    assert_eq!(
        refused.lines().last().unwrap().trim(),
        "do not trust this archive, or use it directly: run oci-archive:FILE"
    );
    assert!(
        refused.contains(&format!("names an image {claimed}, which is not")),
        "{refused}"
    );
    drop(registry);
    fresh
        .microagent(["image", "resolve", &claimed])
        .finish()
        .expect_code(1);
    import("right.tar").expect_code(0);
}
