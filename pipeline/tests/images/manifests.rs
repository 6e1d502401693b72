//! The kinds of manifests and layers found in registries, created by common tools;
//! edited and pushed by the test where no tool creates them.

use microagent_cas::Digest;
use microagent_pipeline::ErrorKind;
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
