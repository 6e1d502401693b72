//! What `status` says of a workspace that does not run: whether it is what `create` recorded. And
//! `apply`, which changes what may be changed. No VM is started.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::registry::Registry;
use microagent_tests::{built_kernel, or_skip, tool};
use serde_json::{Value, json};

fn status(host: &Host, flags: &[&str]) -> Value {
    let mut words = vec!["--json", "--quiet", "status", "w"];
    words.extend(flags);
    host.microagent(words).finish().expect_code(0).json()
}

/// Changes a byte of a file, through its owner's eyes: the file is read-only.
fn flip(path: &Path, offset: u64) {
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let byte = &mut [0];
    file.read_exact_at(byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn each_artifact_that_is_not_what_create_recorded_is_named() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = r#"mkdir content && echo x >content/file && tar -C content -cf b.tar . && mke2fs -q own.ext4 4M
        microagent --quiet create w --image "$IMAGE" --bundle b=b.tar:/b:ro --disk own=own.ext4:/own:ro \
            --output out=/out --mediation 5000=127.0.0.1:1 --mediation-optional --network isolated"#;
    let mut create = host.shell(script);
    create.variable("MICROAGENT_ENGINE", "qemu");
    create.variable("IMAGE", layout.reference("latest"));
    create.finish().expect_code(0);
    let whole = status(&host, &[]);
    let verification = &whole["verification"];
    assert_eq!(verification["ok"], true, "{whole}");
    assert_eq!(
        verification["image"]["recorded"],
        layout.digest("latest").unwrap()
    );
    assert_eq!(verification["image"].get("current"), None);
    let names: Vec<_> = verification["disks"].as_array().unwrap().iter().collect();
    assert_eq!(names[0]["name"], "b");
    assert_eq!(
        names.last().unwrap(),
        &&json!({"name": "own", "digest": null, "ok": true})
    );
    let path = |name: &str| host.path(name).display().to_string();
    let inputs = json!([
        {"name": "own", "type": "disk", "path": path("own.ext4"), "mountpoint": "/own", "mode": "ro", "digest": null},
        {"name": "b", "type": "bundle", "path": path("b.tar"), "mountpoint": "/b", "mode": "ro", "digest": names[0]["digest"]},
    ]);
    let outputs = json!([{"name": "out", "path": "/out"}]);
    assert_eq!(
        whole["artifacts"],
        json!({"inputs": inputs, "outputs": outputs})
    );
    let mediation = json!({"port": 5000, "target": "127.0.0.1:1", "required": false});
    assert_eq!(whole["mediation"], mediation);
    let network = json!({"mode": "isolated", "publishes": []});
    assert_eq!(whole["network"], network);
    assert_eq!(
        (&whole["result"], &whole["quarantine"]),
        (&json!(null), &json!([]))
    );
    let readiness = &whole["readiness"];
    for probe in ["guestReady", "shellReady", "execReady"] {
        assert_eq!(readiness[probe]["detail"], "it is prepared", "{readiness}");
    }
    assert_eq!(
        readiness["resultReady"]["detail"],
        "the workspace has no workload"
    );

    let store = host.state().join("cas");
    for (artifact, digest, directory, offset) in [
        (
            "kernel",
            &verification["kernel"]["digest"],
            "blobs/sha256",
            100,
        ),
        ("init", &verification["init"]["digest"], "blobs/sha256", 100),
        ("rootfs", &verification["rootfs"]["digest"], "sparse", 1080),
        ("disk b", &names[0]["digest"], "sparse", 1080),
    ] {
        let digest = digest.as_str().unwrap();
        let path = store
            .join(directory)
            .join(digest.strip_prefix("sha256:").unwrap());
        flip(&path, offset);
        let damaged = &status(&host, &[])["verification"];
        assert_eq!(damaged["ok"], false, "{artifact}");
        let differs = damaged["divergence"].as_array().unwrap();
        assert_eq!(differs.len(), 1, "{damaged}");
        assert_eq!(differs[0]["artifact"], artifact);
        assert_eq!(
            (&differs[0]["field"], &differs[0]["expected"]),
            (&json!("digest"), &json!(digest))
        );
        if directory == "blobs/sha256" {
            let sum = tool::text("sha256sum", [path.as_os_str()]).unwrap();
            let sum = format!("sha256:{}", sum.split(' ').next().unwrap());
            assert_eq!(differs[0]["actual"], sum);
        }
        assert_ne!(differs[0]["actual"], digest);
        let text = host
            .microagent(["status", "w"])
            .finish()
            .expect_code(0)
            .text();
        assert!(
            text.contains(&format!("differs    {artifact}: digest is sha256:")),
            "{text}"
        );
        // It is where it was: telling changes nothing.
        flip(&path, offset);
        assert_eq!(status(&host, &[])["verification"]["ok"], true, "{artifact}");
    }
    // A repair says who has lost something.
    let rootfs = verification["rootfs"]["digest"].as_str().unwrap();
    let rootfs = rootfs.strip_prefix("sha256:").unwrap();
    flip(&store.join("sparse").join(rootfs), 1080);
    let repaired = host
        .microagent(["cache", "verify", "--repair"])
        .finish()
        .expect_code(0);
    let text = repaired.text();
    let lost = text.lines().last().unwrap();
    assert_eq!(
        lost,
        "workspace w has lost what it consists of; see what: microagent status w"
    );
    fs::remove_file(host.path("own.ext4")).unwrap();
    let absent = &status(&host, &[])["verification"]["divergence"];
    let is = |index: usize, name: &str| {
        let pair = (&absent[index]["artifact"], &absent[index]["actual"]);
        assert_eq!(pair, (&json!(name), &json!("absent")), "{absent}");
    };
    is(0, "rootfs");
    is(1, "disk own");
    host.microagent(["delete", "w"]).finish().expect_code(0);
    host.assert_clean();
}

#[test]
fn a_tag_that_moved_is_found_when_the_registry_is_asked() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    layout.tag("latest", "other").unwrap();
    layout.configure("other", &["--config.label=a=b"]).unwrap();
    let registry = or_skip!(Registry::start());
    registry
        .push(&layout.reference("latest"), "test/image:1")
        .unwrap();
    let host = or_skip!(built_kernel::host());
    let image = format!("{}/test/image:1", registry.address());
    let engine = |words: &[&str]| {
        let mut words = words.to_vec();
        words.insert(0, "--engine=qemu");
        host.microagent(words).finish().expect_code(0)
    };
    engine(&["create", "w", "--image", &image]);
    let same = status(&host, &["--refresh"]);
    assert_eq!(same["verification"]["ok"], true, "{same}");
    let recorded = same["verification"]["image"]["recorded"].clone();
    assert_eq!(same["verification"]["image"]["current"], recorded);

    registry
        .push(&layout.reference("other"), "test/image:1")
        .unwrap();
    // Nobody is asked, and nothing is known.
    assert_eq!(status(&host, &[])["verification"]["ok"], true);
    let moved = &status(&host, &["--refresh"])["verification"];
    assert_eq!(moved["ok"], false);
    let current = layout.digest("other").unwrap();
    assert_ne!(recorded, json!(current));
    assert_eq!(
        moved["divergence"],
        json!([{"artifact": "image", "field": "reference", "expected": recorded, "actual": current}])
    );
    drop(registry);
    let unknown = &status(&host, &["--refresh"])["verification"];
    assert_eq!(
        (&unknown["ok"], &unknown["image"]["current"]),
        (&json!(true), &json!("unknown"))
    );
    engine(&["delete", "w"]);
    host.assert_clean();
}

#[test]
fn apply_changes_what_may_be_changed_and_nothing_if_anything_else_differs() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = r#"exec 2>&1; w() { microagent --quiet "$@"; }
        cat >one.yaml <<END
name: w
image: $IMAGE
entrypoint: sleep 1000
env: {A: 1, B: 2}
resources: {memoryMiB: 128, sizeMiB: 64}
restart: on-failure
health: {exec: ["true"], intervalSeconds: 5}
bundles:
END
        echo >file; tar -cf bundle.tar file; for n in 1 2 3 4 5; do echo "- {name: b$n, path: bundle.tar, mountpoint: /b/$n}"; done >>one.yaml
        w create --file one.yaml; manifest="$MICROAGENT_STATE_DIR/workspaces/w/spec.json"
        field() { sed -n "s/^ *\"$1\": *\(.*[^,]\),*$/\1/p" "$manifest" | tr '\n' ' '; echo; }
        w --json apply --file one.yaml | tr -d ' \n'; echo; cp "$manifest" before
        sed 's/on-failure/always/; /health/d; s/128/160/; s/B: 2/C: 3/' one.yaml >two.yaml; w --json apply --file two.yaml | tr -d ' \n'; echo
        field restart; field memoryMiB; field C; grep -c -e health -e '"B"' "$manifest"
        for change in 's/1000/1001/' 's/64/65/' 's/^name.*/&\nhostname: other/' 's/env.*/&\nsetup: [ls]/' 's/ge: .*/ge: other/'; do
            sed "$change; s/always/never/" two.yaml >three.yaml; w apply --file three.yaml 2>&1 | head -n 1; done
        field restart; network() { sed "s/^name.*/&\nnetwork: {mode: $1, egress: [allow=any:80]}/" two.yaml >three.yaml; w --json apply --file three.yaml; }
        network isolated | tr -d ' \n'; echo; network user; grep -c '"mode": "user"' "$manifest"; w apply other --file two.yaml; w apply --file absent.yaml; w apply absent --file /dev/null
        printf 'name: w\nhealth: {exec: [a], httpGet: /}\n' >bad.yaml; w apply --file bad.yaml; w delete w"#;
    let mut shell = host.shell(script);
    shell.variable("MICROAGENT_ENGINE", "qemu");
    shell.variable("IMAGE", layout.reference("latest"));
    let expected = r#"w
{"workspace":"w","changed":[]}
{"workspace":"w","changed":["env","health","resources.memoryMiB","restart"]}
"always" 
160 160 
"3" 
0
microagent: entrypoint of a workspace cannot be changed
microagent: resources.sizeMiB of a workspace cannot be changed
microagent: hostname of a workspace cannot be changed
microagent: setup of a workspace cannot be changed
microagent: image of a workspace cannot be changed
"always" 
{"workspace":"w","changed":["network.egress"]}
{"error":{"kind":"unsupported","message":"engine qemu supports 4 additional disks beside a network, but 5 are given","remediation":"combine several of them into one disk","retryable":false}}
0
microagent: the name other conflicts with name w of the specification
  give one name
microagent: cannot read absent.yaml: No such file or directory (os error 2)
microagent: there is no workspace "absent"
  list them: microagent list
microagent: bad.yaml:2: health needs either exec, or httpGet with a path and port
  as in: health: {httpGet: /healthz, port: 8080}
w
"#;
    assert_eq!(shell.finish().text(), expected);
    host.assert_clean();
}

#[test]
fn apply_takes_the_network_that_a_specification_leaves_open_as_create_does() {
    or_skip!(tool::find("qemu-system-x86_64"));
    or_skip!(tool::find("passt"));
    let layout = or_skip!(Layout::busybox());
    let host = or_skip!(built_kernel::host());
    let script = r#"exec 2>&1; w() { microagent --quiet "$@"; }
        applied() { w --json apply --file "$1" | tr -d ' \n'; echo; }
        mode() { grep -o '"mode": "[a-z]*"' "$MICROAGENT_STATE_DIR/workspaces/w/spec.json"; }
        printf 'name: w\nimage: "%s"\n' "$IMAGE" >open.yaml
        echo 'restart: always' | cat open.yaml - >always.yaml
        echo 'network: {mode: user}' | cat open.yaml - >user.yaml
        w create --file user.yaml
        MICROAGENT_NETWORK=user applied always.yaml; mode
        MICROAGENT_NETWORK=isolated applied open.yaml; mode
        MICROAGENT_NETWORK=user applied always.yaml; mode
        w delete w"#;
    let mut shell = host.shell(script);
    shell.variable("MICROAGENT_ENGINE", "qemu");
    shell.variable("IMAGE", layout.reference("latest"));
    let expected = r#"w
{"workspace":"w","changed":["restart"]}
"mode": "user"
{"workspace":"w","changed":["network.mode","restart"]}
"mode": "isolated"
{"workspace":"w","changed":["network.mode","restart"]}
"mode": "user"
w
"#;
    assert_eq!(shell.finish().text(), expected);
    host.assert_clean();
}
