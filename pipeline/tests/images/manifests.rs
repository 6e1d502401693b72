//! The kinds of manifests and layers found in registries, created by common tools;
//! edited and pushed by the test where no tool creates them.

use microagent_cas::Digest;
use microagent_pipeline::{CpuLevel, ErrorKind, GuestCpu, Reference};
use microagent_tests::image::Layout;
use microagent_tests::registry::{Registry, Setup};
use microagent_tests::{or_skip, tool};
use serde_json::{Value, json};

use crate::support::{TestDir, build, chain, layer};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A registry with an image of two layers as `app:oci`.
struct Pushed {
    registry: Registry,
    layout: Layout,
    /// The file system built from the image's layout.
    rootfs: Digest,
}

impl Pushed {
    fn new(setup: &Setup<'_>) -> Result<Pushed, microagent_tests::Error> {
        let layout = Layout::busybox()?;
        layout.add_layer("latest", &layer("mkdir top; echo x >top/f", &[]))?;
        let registry = Registry::with_setup(setup)?;
        registry.push(&layout.reference("latest"), "app:oci")?;
        let rootfs = build(&TestDir::new(), &layout.reference("latest"))
            .unwrap()
            .digest;
        Ok(Pushed {
            registry,
            layout,
            rootfs,
        })
    }

    fn reference(&self, tag: &str) -> String {
        format!("{}/app:{tag}", self.registry.address())
    }

    /// Pushes with skopeo and additional flags.
    fn copy(&self, tag: &str, flags: &[&str]) {
        let mut all = vec!["--dest-tls-verify=false"];
        all.extend_from_slice(flags);
        let destination = format!("docker://{}", self.reference(tag));
        self.layout.copy("latest", &destination, &all).unwrap();
    }

    fn url(&self, what: &str) -> String {
        format!("http://{}/v2/app/{what}", self.registry.address())
    }

    /// Downloads a manifest.
    fn get(&self, tag: &str, media_type: &str) -> Value {
        let mut response = ureq::get(self.url(&format!("manifests/{tag}")))
            .header("Accept", media_type)
            .call()
            .unwrap();
        serde_json::from_slice(&response.body_mut().read_to_vec().unwrap()).unwrap()
    }

    /// Pushes a manifest and returns its descriptor.
    fn put(&self, tag: &str, media_type: &str, document: &Value) -> Value {
        let text = document.to_string();
        ureq::put(self.url(&format!("manifests/{tag}")))
            .header("Content-Type", media_type)
            .send(&text)
            .unwrap();
        json!({
            "mediaType": media_type, "size": text.len(),
            "digest": Digest::of(text.as_bytes()).to_string(),
        })
    }

    /// Pushes a blob and returns its descriptor.
    fn put_blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes).to_string();
        let started = ureq::post(self.url("blobs/uploads/")).send_empty().unwrap();
        let location = started.headers()["location"].to_str().unwrap();
        ureq::put(format!("{location}&digest={digest}"))
            .header("Content-Type", "application/octet-stream")
            .send(bytes)
            .unwrap();
        json!({ "mediaType": media_type, "size": bytes.len(), "digest": digest })
    }

    #[track_caller]
    fn assert_builds(&self, tag: &str) {
        let built = build(&TestDir::new(), &self.reference(tag));
        let built = built.unwrap_or_else(|error| panic!("{tag}: {}", chain(&error)));
        assert_eq!(built.digest, self.rootfs, "{tag}");
    }
}

fn with_platform(descriptor: &Value, os: &str, architecture: &str) -> Value {
    let mut descriptor = descriptor.clone();
    descriptor["platform"] = json!({ "os": os, "architecture": architecture });
    descriptor
}

#[test]
fn manifest_format_and_compression_do_not_change_the_file_system() {
    let pushed = or_skip!(Pushed::new(&Setup::default()));
    pushed.assert_builds("oci");
    pushed.copy("docker", &["--format", "v2s2"]);
    // In a direct push, skopeo would reuse the gzip layers in the registry.
    let directory = tempfile::tempdir().unwrap();
    let copy = format!("oci:{}:zstd", directory.path().display());
    let flags = ["--dest-compress", "--dest-compress-format", "zstd"];
    pushed.layout.copy("latest", &copy, &flags).unwrap();
    pushed.registry.push(&copy, "app:zstd").unwrap();
    let types = |tag, media_type| -> Vec<String> {
        let manifest = pushed.get(tag, media_type);
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers
            .map(|layer| layer["mediaType"].as_str().unwrap().to_owned())
            .collect()
    };
    // The pushed manifests have the intended types.
    let docker = types("docker", DOCKER_MANIFEST);
    assert!(
        docker
            .iter()
            .all(|t| t == "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        "{docker:?}"
    );
    let zstd = types("zstd", OCI_MANIFEST);
    assert!(zstd.iter().all(|t| t.ends_with("tar+zstd")), "{zstd:?}");
    for tag in ["docker", "zstd"] {
        pushed.assert_builds(tag);
    }
}

#[test]
fn attestations_in_an_index_are_ignored() {
    let pushed = or_skip!(Pushed::new(&Setup::default()));
    // BuildKit attaches provenance as a manifest for an unknown platform.
    let image = pushed.get("oci", OCI_MANIFEST);
    let image = pushed.put("again", OCI_MANIFEST, &image);
    let statement = pushed.put_blob("application/vnd.in-toto+json", br#"{"_type":"statement"}"#);
    let config = json!({ "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [statement["digest"]] } });
    let config = pushed.put_blob(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let attestation = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": config, "layers": [statement] });
    let attestation = pushed.put("attestation", OCI_MANIFEST, &attestation);
    let mut attestation = with_platform(&attestation, "unknown", "unknown");
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image["digest"] });
    let ours = with_platform(&image, "linux", "amd64");
    let index = |manifests: &[&Value]| json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    pushed.put("first", OCI_INDEX, &index(&[&attestation, &ours]));
    pushed.put("last", OCI_INDEX, &index(&[&ours, &attestation]));
    pushed.assert_builds("first");
    pushed.assert_builds("last");
    // A single-platform image may have no platform in its descriptor.
    pushed.put("no-platform", OCI_INDEX, &index(&[&attestation, &image]));
    pushed.assert_builds("no-platform");

    pushed.put("none", OCI_INDEX, &index(&[&attestation]));
    let error = build(&TestDir::new(), &pushed.reference("none")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let expected = format!(
        "image {} is for no platform at all; this machine runs linux/amd64",
        pushed.reference("none")
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn the_image_is_found_in_a_docker_manifest_list() {
    let pushed = or_skip!(Pushed::new(&Setup::default()));
    pushed.copy("docker", &["--format", "v2s2"]);
    let image = pushed.get("docker", DOCKER_MANIFEST);
    let image = pushed.put("again", DOCKER_MANIFEST, &image);
    let mut arm = with_platform(&image, "linux", "arm");
    arm["platform"]["variant"] = json!("v7");
    let manifests = [arm, with_platform(&image, "linux", "amd64")];
    let list = json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": manifests });
    pushed.put("list", DOCKER_LIST, &list);
    pushed.assert_builds("list");
}

#[test]
fn fields_of_oci_1_1_are_ignored() {
    let pushed = or_skip!(Pushed::new(&Setup::default()));
    let mut manifest = pushed.get("oci", OCI_MANIFEST);
    let subject = pushed.put("subject", OCI_MANIFEST, &manifest);
    manifest["artifactType"] = json!("application/vnd.example.app");
    manifest["subject"] = subject;
    manifest["annotations"] = json!({ "a": "b" });
    manifest["layers"][0]["annotations"] = json!({ "c": "d" });
    manifest["layers"][0]["data"] = json!("aWdub3JlZA==");
    let descriptor = pushed.put("new", OCI_MANIFEST, &manifest);
    pushed.assert_builds("new");
    let mut entry = with_platform(&descriptor, "linux", "amd64");
    entry["artifactType"] = json!("application/vnd.example.app");
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry],
        "artifactType": "application/vnd.example.apps", "subject": descriptor });
    pushed.put("index", OCI_INDEX, &index);
    pushed.assert_builds("index");

    // An artifact is not an image; the error names its type.
    let empty = pushed.put_blob("application/vnd.oci.empty.v1+json", b"{}");
    let artifact = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.example.sbom", "config": empty, "layers": [empty] });
    pushed.put("artifact", OCI_MANIFEST, &artifact);
    let error = build(&TestDir::new(), &pushed.reference("artifact")).unwrap_err();
    let expected = format!(
        "{} is not a container image but application/vnd.oci.empty.v1+json",
        pushed.reference("artifact")
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_foreign_layer_is_used_if_the_registry_has_it_and_refused_otherwise() {
    let pushed = or_skip!(Pushed::new(&Setup::default()));
    for (media_type, tag) in [
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "oci",
        ),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "docker",
        ),
    ] {
        let (format, document_type) = match tag {
            "oci" => ("oci", OCI_MANIFEST),
            _ => ("v2s2", DOCKER_MANIFEST),
        };
        pushed.copy(tag, &["--format", format]);
        let mut manifest = pushed.get(tag, document_type);
        manifest["layers"][1]["mediaType"] = json!(media_type);
        manifest["layers"][1]["urls"] = json!(["http://127.0.0.1:1/never-asked"]);
        pushed.put("foreign", document_type, &manifest);
        pushed.assert_builds("foreign");

        let gone = Digest::of(tag.as_bytes()).to_string();
        manifest["layers"][1]["digest"] = json!(gone);
        pushed.put("gone", document_type, &manifest);
        let error = build(&TestDir::new(), &pushed.reference("gone")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", chain(&error));
        let expected = format!(
            "layer {gone} of {} has the unsupported media type {media_type}",
            pushed.reference("gone")
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_schema_1_manifest_is_refused_with_a_remediation() {
    let pushed = or_skip!(Pushed::new(&Setup {
        schema_1: true,
        ..Setup::default()
    }));
    pushed.copy("old", &["--format", "v2s1"]);
    let error = build(&TestDir::new(), &pushed.reference("old")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let expected = format!(
        "image {} has a manifest in Docker schema 1, which is not supported",
        pushed.reference("old")
    );
    assert_eq!(error.to_string(), expected);
    let copied = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}:v1", copied.path().join("layout").display());
    let source = format!("docker://{}", pushed.reference("old"));
    let expected =
        format!("convert it with `skopeo copy {source} oci:DIR:TAG` and use oci:DIR:TAG");
    assert_eq!(error.remediation(), Some(expected));
    let flags = ["copy", "--insecure-policy", "--src-tls-verify=false"];
    tool::run("skopeo", flags.into_iter().chain([&*source, &*layout])).unwrap();
    let rootfs = build(&TestDir::new(), &layout).unwrap();
    assert_eq!(rootfs.digest, pushed.rootfs);
}

#[test]
fn a_manifest_of_an_old_registry_builds() {
    let pushed = or_skip!(Pushed::new(&Setup::default()));
    pushed.copy("docker", &["--format", "v2s2"]);
    let mut manifest = pushed.get("docker", DOCKER_MANIFEST);
    manifest["config"]["mediaType"] = json!("application/octet-stream");
    pushed.put("old", DOCKER_MANIFEST, &manifest);
    pushed.assert_builds("old");
}

/// A layout with an index of images without layers, each for the platform of its entry (`os`,
/// `architecture`, `variant`; none for `null`) and with the platform of its configuration.
fn layout_of(directory: &std::path::Path, images: &[(Value, Value)]) -> Vec<Digest> {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |media_type: &str, document: &Value| {
        let text = document.to_string();
        let digest = Digest::of(text.as_bytes());
        std::fs::write(blobs.join(digest.hex()), &text).unwrap();
        json!({ "mediaType": media_type, "size": text.len(), "digest": digest.to_string() })
    };
    let mut entries = Vec::new();
    for (number, (platform, configured)) in images.iter().enumerate() {
        let mut config = json!({
            "author": number.to_string(), "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        for (key, value) in configured.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let config = blob("application/vnd.oci.image.config.v1+json", &config);
        let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": config, "layers": [] });
        let mut entry = blob(OCI_MANIFEST, &manifest);
        if !platform.is_null() {
            entry["platform"] = platform.clone();
        }
        entries.push(entry);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    let mut root = blob(OCI_INDEX, &index);
    root["annotations"] = json!({ "org.opencontainers.image.ref.name": "it" });
    let index = json!({ "schemaVersion": 2, "manifests": [root] });
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
    std::fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    let digests = entries
        .iter()
        .map(|entry| entry["digest"].as_str().unwrap());
    digests.map(|digest| digest.parse().unwrap()).collect()
}

/// The number of the image that is chosen, or the error, on a processor of this level.
fn chosen(level: CpuLevel, images: &[(Value, Value)]) -> Result<usize, String> {
    let dir = TestDir::new();
    let digests = layout_of(&dir.path("layout"), images);
    let pipeline = dir.pipeline().with_cpu(GuestCpu::new(move || level));
    let reference = format!("oci:{}:it", dir.path("layout").display());
    let reference: Reference = reference.parse().unwrap();
    let error = |error: microagent_pipeline::Error| {
        let name = reference.to_string();
        error.to_string().replace(&name, "IMAGE")
    };
    let image = pipeline.resolve(&reference).map_err(error)?;
    let number = digests.iter().position(|digest| *digest == image.digest);
    // The record leads to the same image, whatever the processor.
    let again = dir.pipeline().recorded_image(&reference).unwrap().unwrap();
    assert_eq!((again.digest, again.root), (image.digest, image.root));
    assert_eq!(again.resolved, image.resolved);
    Ok(number.unwrap())
}

#[test]
fn the_image_of_an_index_is_the_best_that_the_guest_can_run() {
    use CpuLevel::{V1, V2, V3, V4};
    let for_platform = |architecture: &str, variant: &str| {
        let platform = json!({ "os": "linux", "architecture": architecture, "variant": variant });
        (platform.clone(), platform)
    };
    let levels = [
        for_platform("amd64", "v4"),
        for_platform("amd64", ""),
        for_platform("x86_64", "v3"),
        for_platform("386", ""),
    ];
    assert_eq!(chosen(V1, &levels), Ok(1));
    assert_eq!(chosen(V2, &levels), Ok(1));
    assert_eq!(chosen(V3, &levels), Ok(2));
    assert_eq!(chosen(V4, &levels), Ok(0));
    // 64-bit images are preferred; 32-bit ones run.
    let i386 = for_platform("i386", "");
    assert_eq!(
        chosen(V4, &[i386.clone(), for_platform("X86-64", "")]),
        Ok(1)
    );
    assert_eq!(
        chosen(V4, &[for_platform("arm64", ""), i386.clone()]),
        Ok(1)
    );
    let too_new = [for_platform("amd64", "v4"), for_platform("arm", "v7")];
    assert_eq!(
        chosen(V3, &too_new).unwrap_err(),
        "image IMAGE is for linux/amd64/v4, linux/arm/v7; this machine runs linux/amd64"
    );
}

#[test]
fn the_configuration_decides_where_an_index_says_nothing() {
    use CpuLevel::V3;
    let config = |architecture: &str, variant: &str| json!({ "os": "linux", "architecture": architecture, "variant": variant });
    let ours = config("amd64", "");
    let arm = config("arm64", "");
    let none = || Value::Null;
    let empty = || json!({});
    // Two entries without a platform; empty platforms; a part of a platform.
    assert_eq!(
        chosen(V3, &[(none(), arm.clone()), (none(), ours.clone())]),
        Ok(1)
    );
    assert_eq!(
        chosen(V3, &[(none(), ours.clone()), (none(), ours.clone())]),
        Ok(0)
    );
    assert_eq!(
        chosen(V3, &[(empty(), arm.clone()), (ours.clone(), ours.clone())]),
        Ok(1)
    );
    assert_eq!(
        chosen(V3, &[(empty(), ours.clone()), (arm.clone(), arm.clone())]),
        Ok(0)
    );
    assert_eq!(
        chosen(V3, &[(json!({ "os": "linux" }), ours.clone())]),
        Ok(0)
    );
    assert_eq!(
        chosen(V3, &[(json!({ "architecture": "amd64" }), none())]),
        Ok(0)
    );
    // An old configuration says nothing either.
    assert_eq!(chosen(V3, &[(none(), none())]), Ok(0));
    // The best of them.
    let several = [
        (none(), config("386", "")),
        (none(), config("amd64", "v4")),
        (none(), config("amd64", "v2")),
        (none(), config("amd64", "v3")),
        (none(), ours.clone()),
    ];
    assert_eq!(chosen(V3, &several), Ok(3));
    assert_eq!(chosen(CpuLevel::V1, &several), Ok(4));
    assert_eq!(chosen(CpuLevel::V4, &several), Ok(1));
    // An entry that says one thing and whose configuration says another is left out.
    assert_eq!(
        chosen(V3, &[(ours.clone(), arm.clone()), (none(), ours.clone())]),
        Ok(1)
    );
    let attestation = json!({ "os": "unknown", "architecture": "unknown" });
    assert_eq!(
        chosen(V3, &[(attestation.clone(), attestation), (none(), arm)]).unwrap_err(),
        "image IMAGE is for linux/arm64; this machine runs linux/amd64"
    );
    let many: Vec<_> = (0..33).map(|_| (none(), config("arm64", ""))).collect();
    assert_eq!(
        chosen(V3, &many).unwrap_err(),
        "the index of IMAGE is not valid: more than 32 of its entries may be for this machine"
    );
}
