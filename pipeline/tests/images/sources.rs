//! The sources of images, and the cost of building one a second time.

use std::process::Command;

use microagent_pipeline::{Pipeline, RootfsOptions};
use microagent_tests::image::Layout;
use microagent_tests::registry::Registry;
use microagent_tests::{or_skip, tool};

use crate::support::{TestDir, build, build_with, chain, layer, list_image, push_index};

#[test]
fn every_source_yields_the_same_file_system() {
    let layout = or_skip!(Layout::busybox());
    layout
        .add_layer("latest", &layer("mkdir top; echo x >top/f", &[]))
        .unwrap();
    let registry = or_skip!(Registry::start());
    registry
        .push(&layout.reference("latest"), "some/image:1")
        .unwrap();
    let saved = tempfile::tempdir().unwrap();
    let file = |name: &str| saved.path().join(name).display().to_string();
    let oci = format!("oci-archive:{}", file("oci.tar"));
    let docker = format!("docker-archive:{}", file("docker.tar"));
    let zstd = format!("oci:{}:z", file("zstd"));
    layout.copy("latest", &format!("{oci}:t"), &[]).unwrap();
    layout
        .copy("latest", &format!("{docker}:local/name:t"), &[])
        .unwrap();
    let compression = ["--dest-compress-format", "zstd", "--dest-compress"];
    layout.copy("latest", &zstd, &compression).unwrap();
    let mut digests = Vec::new();
    for reference in [
        layout.reference("latest"),
        format!("{}/some/image:1", registry.address()),
        oci.clone(),
        format!("{oci}:t"),
        docker.clone(),
        format!("{docker}:local/name:t"),
        zstd,
    ] {
        // A new store each time, so that nothing is cached.
        let dir = TestDir::new();
        let rootfs = build(&dir, &reference)
            .unwrap_or_else(|error| panic!("{reference}: {}", chain(&error)));
        digests.push(rootfs.digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn a_compressed_archive_yields_the_same_file_system() {
    let layout = or_skip!(Layout::busybox());
    let saved = tempfile::tempdir().unwrap();
    let expected = build(&TestDir::new(), &layout.reference("latest")).unwrap();
    for (form, name) in [("oci-archive", ":t"), ("docker-archive", ":local/name:t")] {
        let file = saved.path().join(form).display().to_string();
        layout
            .copy("latest", &format!("{form}:{file}{name}"), &[])
            .unwrap();
        for program in ["gzip", "bzip2", "xz", "zstd"] {
            let status = Command::new("sh")
                .args(["-ec", "$1 -1 -c <$2 >$2.$1", "sh", program, &file])
                .status();
            assert!(status.unwrap().success());
            let reference = format!("{form}:{file}.{program}{name}");
            let built = build(&TestDir::new(), &reference)
                .unwrap_or_else(|error| panic!("{reference}: {}", chain(&error)));
            assert_eq!(built.digest, expected.digest, "{reference}");
        }
    }
}

#[test]
fn an_exported_layout_is_named_by_its_tag_and_imported_as_podman_names_it() {
    let layout = or_skip!(Layout::busybox());
    let saved = tempfile::tempdir().unwrap();
    let file = |name: &str| saved.path().join(name);
    let dir = TestDir::new();
    let reference = layout.reference("latest");
    build(&dir, &reference).unwrap();
    let exported = file("exported.tar");
    let output = std::fs::File::create(&exported).unwrap();
    let parsed = reference.parse().unwrap();
    dir.pipeline()
        .export_image(&parsed, &output, &exported)
        .unwrap();
    let index = Command::new("tar")
        .arg("-xOf")
        .arg(&exported)
        .arg("index.json")
        .output()
        .unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index.stdout).unwrap();
    let annotations = &index["manifests"][0]["annotations"];
    // What podman 4.3 accepts: it refuses `oci:DIR:latest`.
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "latest");
    assert_eq!(annotations["microagent.reference"], reference);
    let copy = format!("oci:{}:v1", file("copy").display());
    let arguments = [
        "copy",
        "--insecure-policy",
        &format!("oci-archive:{}:latest", exported.display()),
        &copy,
    ];
    tool::run("skopeo", arguments).unwrap();

    let bare = file("bare.tar").display().to_string();
    layout
        .copy("latest", &format!("oci-archive:{bare}:1.36"), &[])
        .unwrap();
    tool::run("gzip", [&*bare]).unwrap();
    let bare = format!("{bare}.gz");
    let dir = TestDir::new();
    let images = dir.pipeline().import_images(bare.as_ref()).unwrap();
    let names: Vec<_> = images
        .iter()
        .map(|image| image.reference.as_str())
        .collect();
    assert_eq!(names, ["localhost/1.36:latest"]);
}

#[test]
fn a_second_build_hits_the_cache_and_fetches_no_layers() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    registry.push(&layout.reference("latest"), "app:1").unwrap();
    let dir = TestDir::new();
    let reference = format!("{}/app:1", registry.address());
    let first = dir.pipeline();
    let one = build_with(&first, &reference, &RootfsOptions::default()).unwrap();
    let second = dir.pipeline();
    let two = build_with(&second, &reference, &RootfsOptions::default()).unwrap();
    assert_eq!((one.digest, &one.path), (two.digest, &two.path));
    assert_eq!((one.verified, two.verified), (true, false));
    let hits = |pipeline: &Pipeline| -> Vec<(String, bool)> {
        let reports = pipeline.reports().into_iter();
        reports.map(|report| (report.op, report.hit)).collect()
    };
    let nodes = |nodes: &[(&str, bool)]| -> Vec<(String, bool)> {
        (nodes.iter().map(|(op, hit)| ((*op).to_owned(), *hit))).collect()
    };
    let made = ["resolve", "fetch", "unpack", "rootfs"].map(|op| (op, false));
    assert_eq!(hits(&first), nodes(&made));
    // The layer nodes are not looked up.
    let found = [("resolve", false), ("rootfs", true)];
    assert_eq!(hits(&second), nodes(&found));
    assert_eq!(second.reports()[0].output, first.reports()[0].output);

    // A pinned reference needs no request to the registry.
    let image = first.resolve(&reference.parse().unwrap()).unwrap();
    drop(registry);
    assert!(image.resolved.contains("/app@sha256:"));
    let pinned = build(&dir, &image.resolved).unwrap();
    assert_eq!(pinned, two);
}

#[test]
fn other_tools_read_the_image_from_the_store() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    registry
        .push(&layout.reference("latest"), "some/app:1.0")
        .unwrap();
    let dir = TestDir::new();
    let reference = format!("{}/some/app:1.0", registry.address());
    build(&dir, &reference).unwrap();
    let name = format!("oci:{}:{reference}", dir.store().display());
    let skopeo = |arguments: &[&str]| {
        let output = Command::new("skopeo").args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(
        skopeo(&["inspect", "--format", "{{.Digest}}", &name]),
        layout.digest("latest").unwrap()
    );
    // A copy reads and verifies every blob.
    let copy = tempfile::tempdir().unwrap();
    let copy = format!("dir:{}", copy.path().display());
    skopeo(&["copy", "--quiet", "--insecure-policy", &name, &copy]);

    // A Docker manifest is tagged as the OCI manifest it was converted to.
    let docker = format!("{}/some/docker:1.0", registry.address());
    let flags = ["--dest-tls-verify=false", "--format", "v2s2"];
    layout
        .copy("latest", &format!("docker://{docker}"), &flags)
        .unwrap();
    let pushed = skopeo(&[
        "inspect",
        "--tls-verify=false",
        "--format",
        "{{.Digest}}",
        &format!("docker://{docker}"),
    ]);
    let image = dir.pipeline().resolve(&docker.parse().unwrap()).unwrap();
    assert_eq!(image.digest.to_string(), pushed);
    build(&dir, &docker).unwrap();
    let name = format!("oci:{}:{docker}", dir.store().display());
    skopeo(&[
        "copy",
        "--quiet",
        "--insecure-policy",
        &name,
        &format!("{copy}-docker"),
    ]);

    let local = dir
        .pipeline()
        .resolve(&layout.reference("latest").parse().unwrap())
        .unwrap();
    let pipeline = dir.pipeline();
    pipeline.rootfs(&local, &RootfsOptions::default()).unwrap();
    let name = format!("oci:{}:{}", dir.store().display(), local.digest);
    skopeo(&["inspect", &name]);
}

#[test]
fn the_image_for_this_platform_is_found_in_an_index() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    registry
        .push(&layout.reference("latest"), "multi:amd64")
        .unwrap();
    layout.tag("latest", "arm").unwrap();
    layout.configure("arm", &["--architecture=arm64"]).unwrap();
    registry
        .push(&layout.reference("arm"), "multi:arm64")
        .unwrap();
    let digest = push_index(
        &registry,
        "multi",
        &[("amd64", "amd64"), ("arm64", "arm64")],
        "both",
    );
    let dir = TestDir::new();
    let name = format!("{}/multi", registry.address());
    let image = dir
        .pipeline()
        .resolve(&format!("{name}:both").parse().unwrap())
        .unwrap();
    assert_eq!(image.digest.to_string(), layout.digest("latest").unwrap());
    assert_eq!(image.resolved, format!("{name}@{digest}"));
    let error = dir
        .pipeline()
        .resolve(&format!("{name}:arm64").parse().unwrap())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("image {name}:arm64 is for linux/arm64; this machine runs linux/amd64")
    );
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    let layout = or_skip!(Layout::empty());
    let dir = TestDir::new();
    let rootfs = build(&dir, &layout.reference("latest")).unwrap();
    assert_eq!(list_image(&rootfs.path), ["/ 040755 0:0"]);
}

#[test]
fn an_invalid_image_source_is_reported_with_the_available_images() {
    let layout = or_skip!(Layout::busybox());
    layout.tag("latest", "other").unwrap();
    let dir = TestDir::new();
    let directory = layout.directory().display().to_string();
    let refusal = |reference: &str| chain(&build(&dir, reference).unwrap_err());
    assert_eq!(
        refusal(&format!("oci:{directory}")),
        format!("cannot use {directory}: it contains more than one image: latest, other")
    );
    assert_eq!(
        refusal(&format!("oci:{directory}:none")),
        format!(
            "cannot use {directory}: it contains no image named \"none\"; available: latest, other"
        )
    );
    let index = format!("{directory}/index.json");
    for (form, expected) in [
        ("oci", "an OCI image layout directory"),
        ("oci-archive", "a tar file"),
        ("docker-archive", "a tar file"),
    ] {
        let message = refusal(&format!("{form}:{index}"));
        let expected = [
            format!("cannot use {index}: it is not {expected}"),
            format!("cannot use {index}: it is not a valid tar file: it is truncated at offset"),
        ];
        assert!(
            expected.iter().any(|text| message.starts_with(text)),
            "{message}"
        );
    }
    assert_eq!(
        refusal("oci:/no/such"),
        "cannot use /no/such: it does not exist"
    );
}

/// The chain of an error, and its remediation.
#[track_caller]
fn refused(dir: &TestDir, reference: &str) -> (String, String) {
    let error = dir.pipeline().resolve(&reference.parse().unwrap());
    let error = error.unwrap_err();
    (chain(&error), error.remediation().unwrap())
}

#[test]
fn images_without_a_name_are_selected_by_number() {
    let layout = or_skip!(Layout::busybox());
    layout.tag("latest", "other").unwrap();
    layout.configure("other", &["--author=second"]).unwrap();
    let digests = ["latest", "other"].map(|tag| layout.digest(tag).unwrap());
    let dir = TestDir::new();
    let resolved = |reference: &str| {
        let image = dir.pipeline().resolve(&reference.parse().unwrap());
        image.unwrap_or_else(|error| panic!("{reference}: {}", chain(&error)))
    };
    // The second entry loses its name.
    let file = layout.directory().join("index.json");
    let mut index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    index["manifests"][1]
        .as_object_mut()
        .unwrap()
        .remove("annotations");
    std::fs::write(&file, index.to_string()).unwrap();
    let directory = layout.directory().display().to_string();
    let append = "append a colon and one of them to the path";
    assert_eq!(
        refused(&dir, &format!("oci:{directory}")),
        (
            format!("cannot use {directory}: it contains more than one image: latest, @1"),
            append.into()
        )
    );
    for (name, digest) in [
        ("latest", &digests[0]),
        ("@0", &digests[0]),
        ("@1", &digests[1]),
    ] {
        let image = resolved(&format!("oci:{directory}:{name}"));
        assert_eq!(image.digest.to_string(), *digest, "{name}");
    }
    assert_eq!(
        refused(&dir, &format!("oci:{directory}:@2")).0,
        format!("cannot use {directory}: it contains no image named \"@2\"; available: latest, @1")
    );

    // Two images of one archive, of which one has no name.
    let saved = dir.path("saved");
    std::fs::create_dir(&saved).unwrap();
    let mut entries = Vec::new();
    for name in ["@0", "@1"] {
        let archive = dir.path("one.tar");
        let from = format!("oci:{directory}:{name}");
        // skopeo does not know `@N` in a layout.
        let from = match name {
            "@0" => format!("oci:{directory}:latest"),
            _ => {
                let other = Layout::copy_of(layout.directory()).unwrap();
                other.tag("latest", "x").unwrap();
                other.configure("x", &["--author=second"]).unwrap();
                assert!(from.ends_with("@1"));
                other
                    .copy("x", &format!("oci:{}:x", dir.path("other").display()), &[])
                    .unwrap();
                format!("oci:{}:x", dir.path("other").display())
            }
        };
        let output = Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", &from])
            .arg(format!("docker-archive:{}", archive.display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let untar = Command::new("tar")
            .args([
                "-xf",
                archive.to_str().unwrap(),
                "-C",
                saved.to_str().unwrap(),
            ])
            .status();
        assert!(untar.unwrap().success());
        let manifest = std::fs::read(saved.join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        entries.push(manifest[0].clone());
        std::fs::remove_file(&archive).unwrap();
    }
    entries[0]["RepoTags"] = serde_json::json!(["a/b:c"]);
    std::fs::write(
        saved.join("manifest.json"),
        serde_json::json!(entries).to_string(),
    )
    .unwrap();
    let both = dir.path("both.tar").display().to_string();
    let packed = Command::new("tar")
        .args(["-cf", &both, "-C", saved.to_str().unwrap(), "."])
        .status();
    assert!(packed.unwrap().success());
    assert_eq!(
        refused(&dir, &format!("docker-archive:{both}")),
        (
            format!("cannot use {both}: it contains more than one image: a/b:c, @1"),
            append.into()
        )
    );
    let numbered = |name: &str| resolved(&format!("docker-archive:{both}:{name}")).config_digest;
    assert_eq!(numbered("@0"), numbered("a/b:c"));
    assert_ne!(numbered("@0"), numbered("@1"));
}

/// umoci refuses them as well, and skopeo converts what it can read.
#[test]
fn sha512_digests_are_refused_with_a_conversion_that_works() {
    let layout = or_skip!(Layout::busybox());
    let dir = TestDir::new();
    let read = |path: &std::path::Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let directory = layout.directory();
    let sha512 = directory.join("blobs/sha512");
    std::fs::create_dir(&sha512).unwrap();
    let blob = |digest: &serde_json::Value| {
        let digest = digest.as_str().unwrap();
        directory.join("blobs").join(digest.replace(':', "/"))
    };
    // Copies a blob under its other digest.
    let renamed = |descriptor: &mut serde_json::Value| {
        let bytes = std::fs::read(blob(&descriptor["digest"])).unwrap();
        let output = Command::new("sha512sum")
            .arg(blob(&descriptor["digest"]))
            .output();
        let hex = String::from_utf8(output.unwrap().stdout).unwrap()[..128].to_owned();
        std::fs::write(sha512.join(&hex), bytes).unwrap();
        descriptor["digest"] = serde_json::json!(format!("sha512:{hex}"));
        format!("sha512:{}…", &hex[..20])
    };
    let index_file = directory.join("index.json");
    let original = read(&index_file);
    let reference = layout.reference("latest");
    let convert = |remediation: &str| {
        let command = remediation.split('`').nth(1).unwrap();
        let archive = dir.path("converted.tar");
        let archive = archive.display().to_string();
        let command = command.replace("FILE", &archive);
        let command = command.replace("skopeo copy", "skopeo copy --quiet --insecure-policy");
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        build(&dir, &format!("docker-archive:{archive}")).unwrap();
        std::fs::remove_file(archive).unwrap();
    };

    let mut index = original.clone();
    let shown = renamed(&mut index["manifests"][0]);
    std::fs::write(&index_file, index.to_string()).unwrap();
    let (message, remediation) = refused(&dir, &reference);
    assert!(
        message.ends_with(&format!("has the digest {shown}; only sha256 is supported")),
        "{message}"
    );
    convert(&remediation);

    for what in ["layer", "configuration"] {
        let mut manifest = read(&blob(&original["manifests"][0]["digest"]));
        let part = match what {
            "layer" => &mut manifest["layers"][0],
            _ => &mut manifest["config"],
        };
        let shown = renamed(part);
        let text = manifest.to_string();
        let digest = microagent_cas::Digest::of(text.as_bytes());
        std::fs::write(directory.join("blobs/sha256").join(digest.hex()), &text).unwrap();
        let mut index = original.clone();
        index["manifests"][0]["digest"] = serde_json::json!(digest.to_string());
        index["manifests"][0]["size"] = serde_json::json!(text.len());
        std::fs::write(&index_file, index.to_string()).unwrap();
        let (message, remediation) = refused(&dir, &reference);
        assert_eq!(
            message,
            format!("the {what} of {reference} has the digest {shown}; only sha256 is supported")
        );
        match what {
            "layer" => convert(&remediation),
            _ => assert_eq!(remediation, "build the image with sha256 digests"),
        }
    }
    std::fs::write(&index_file, original.to_string()).unwrap();
    build(&dir, &reference).unwrap();
}
