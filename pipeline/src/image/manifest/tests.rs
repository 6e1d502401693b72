use super::*;
use proptest::prelude::*;
use serde_json::json;

const HEX: &str = "9ae97d36d26566ff84e8893c64a6dc4fe8ca6d1144bf5b87b2b85a32def253c7";

fn manifest_document(layers: usize) -> serde_json::Value {
    let layer = json!({ "mediaType": OCI_LAYER, "digest": format!("sha256:{HEX}"), "size": 5 });
    json!({
        "schemaVersion": 2,
        "config": { "mediaType": OCI_CONFIG, "digest": format!("sha256:{HEX}"), "size": 5 },
        "layers": vec![layer; layers],
    })
}

fn manifest(layers: usize) -> Manifest {
    match parse(manifest_document(layers).to_string().as_bytes(), None, "x").unwrap() {
        Document::Manifest(manifest) => *manifest,
        other => panic!("{other:?}"),
    }
}

fn config(
    document: serde_json::Value,
    layers: usize,
) -> Result<(ImageConfig, Vec<LayerDescriptor>), String> {
    let bytes = document.to_string();
    let read = read_config(bytes.as_bytes(), &manifest(layers), "x");
    let read = read.map_err(|error| error.to_string())?;
    Ok((read.config, read.layers))
}

#[test]
fn a_configuration_written_by_docker_is_read() {
    let document = json!({
        "architecture": "amd64", "os": "linux", "created": null, "history": null,
        "config": {
            "Env": ["A=b"], "Cmd": ["sh"], "Entrypoint": null, "WorkingDir": "", "User": null,
            "ExposedPorts": { "80/tcp": null }, "Volumes": null, "OnBuild": [], "Labels": null,
            "Healthcheck": { "Test": ["NONE"] }, "StopSignal": "SIGQUIT",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{HEX}")] },
    });
    let (config, layers) = config(document, 1).unwrap();
    assert_eq!(config.env, ["A=b"]);
    assert_eq!(config.cmd, ["sh"]);
    assert!(config.entrypoint.is_empty() && config.user.is_empty());
    assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(layers[0].diff_id.hex(), HEX);
}

#[test]
fn a_configuration_that_does_not_match_is_rejected() {
    let document = |architecture: &str, diff_ids: &[&str]| {
        json!({
            "architecture": architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
    };
    assert_eq!(
        config(document("arm64", &[]), 0).unwrap_err(),
        "image x is for linux/arm64; this machine runs linux/amd64"
    );
    assert_eq!(
        config(document("amd64", &[]), 1).unwrap_err(),
        "the configuration of x is not valid: it has 0 layers, the manifest has 1"
    );
    assert!(config(document("amd64", &["sha256:x"]), 1).is_err());
    // What is beyond the layers does not matter, to podman and umoci.
    let digest = format!("sha256:{HEX}");
    let (_, layers) = config(document("amd64", &[&digest, "sha256:x"]), 1).unwrap();
    assert_eq!(layers.len(), 1);
    assert!(
        config(document("", &[]), 0).is_ok(),
        "old images say nothing"
    );
}

#[test]
fn every_spelling_of_a_platform_is_understood() {
    use CpuLevel::{V1, V3};
    let fit = |os: &str, architecture: &str, variant: &str| {
        let document = json!({
            "os": os, "architecture": architecture, "variant": variant,
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        let read = read_config(document.to_string().as_bytes(), &manifest(0), "x");
        read.map(|read| read.fit).map_err(|error| error.to_string())
    };
    for architecture in ["amd64", "x86_64", "x86-64", "AMD64", "X86_64", ""] {
        for os in ["linux", "Linux", "LINUX", ""] {
            assert_eq!(fit(os, architecture, ""), Ok(Fit::Bits64(V1)));
        }
    }
    assert_eq!(fit("linux", "amd64", "v3"), Ok(Fit::Bits64(V3)));
    for architecture in ["386", "i386", "i486", "i586", "i686", "I686"] {
        assert_eq!(fit("linux", architecture, ""), Ok(Fit::Bits32));
    }
    for (os, architecture, variant, shown) in [
        ("linux", "arm", "v7", "linux/arm/v7"),
        ("linux", "amd64", "v5", "linux/amd64/v5"),
        ("windows", "amd64", "", "windows/amd64"),
        ("linux", "x86", "", "linux/x86"),
    ] {
        assert_eq!(
            fit(os, architecture, variant).unwrap_err(),
            format!("image x is for {shown}; this machine runs linux/amd64")
        );
    }
}

#[test]
fn the_kind_of_a_document_is_detected() {
    let kind = |document: serde_json::Value, media_type| match parse(
        document.to_string().as_bytes(),
        media_type,
        "x",
    ) {
        Ok(Document::Index(_)) => "index".to_owned(),
        Ok(Document::Manifest(_)) => "manifest".to_owned(),
        Err(error) => error.to_string(),
    };
    let index = json!({ "schemaVersion": 2, "manifests": [] });
    assert_eq!(kind(index.clone(), None), "index");
    assert_eq!(kind(index, Some(DOCKER_LIST)), "index");
    let whole = manifest_document(1);
    assert_eq!(kind(whole.clone(), Some(DOCKER_MANIFEST)), "manifest");
    assert_eq!(kind(whole.clone(), None), "manifest");
    let mut chart = whole;
    chart["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    assert_eq!(
        kind(chart, None),
        "x is not a container image but application/vnd.cncf.helm.config.v1+json"
    );
    assert_eq!(
        kind(json!({ "schemaVersion": 1, "fsLayers": [] }), None),
        "image x has a manifest in Docker schema 1, which is not supported"
    );
    assert!(kind(json!([]), None).starts_with("the manifest of x is not valid"));
}

#[test]
fn old_and_careless_manifests_are_taken_for_what_docker_takes_them() {
    let read = |change: &dyn Fn(&mut serde_json::Value), announced| {
        let mut document = manifest_document(1);
        change(&mut document);
        match parse(document.to_string().as_bytes(), announced, "x") {
            Ok(Document::Index(_)) => "index".to_owned(),
            Ok(Document::Manifest(found)) if found.is_oci() => "oci".to_owned(),
            Ok(Document::Manifest(found)) => {
                let oci = as_oci(&found);
                assert_eq!(oci["mediaType"], OCI_MANIFEST);
                assert_eq!(oci["config"]["mediaType"], OCI_CONFIG);
                assert_eq!(oci["layers"][0]["digest"], format!("sha256:{HEX}"));
                format!("docker {}", oci["layers"][0]["mediaType"].as_str().unwrap())
            }
            Err(error) => error.to_string(),
        }
    };
    let gzip = format!("docker {OCI_LAYER_GZIP}");
    // distribution/distribution#1621: the type that a registry gave a configuration at its upload.
    for config in [
        DOCKER_CONFIG,
        "application/octet-stream",
        "application/json",
        "text/html",
    ] {
        let docker = |document: &mut serde_json::Value| {
            document["mediaType"] = json!(DOCKER_MANIFEST);
            document["config"]["mediaType"] = json!(config);
            document["layers"][0]["mediaType"] =
                json!("application/vnd.docker.image.rootfs.diff.tar.gzip");
        };
        assert_eq!(read(&docker, Some(DOCKER_MANIFEST)), gzip);
        // A wrong or missing `Content-Type`.
        for announced in [
            None,
            Some("application/json"),
            Some("text/plain"),
            Some(OCI_INDEX),
        ] {
            assert_eq!(read(&docker, announced), gzip, "{config} {announced:?}");
        }
    }
    let bare = |document: &mut serde_json::Value| {
        for descriptor in ["/config", "/layers/0"] {
            let descriptor = document.pointer_mut(descriptor).unwrap();
            descriptor.as_object_mut().unwrap().remove("mediaType");
        }
        document.as_object_mut().unwrap().remove("schemaVersion");
    };
    assert_eq!(read(&bare, None), gzip);
    assert_eq!(read(&bare, Some(DOCKER_MANIFEST)), gzip);
    assert_eq!(
        read(&bare, Some(OCI_MANIFEST)),
        "x is not a container image but without a media type"
    );
    assert_eq!(read(&|_| {}, Some("text/plain")), "oci");
    // Fields in another case, and `null` for what is not there.
    let other_case = |document: &mut serde_json::Value| {
        document["Layers"] = document["layers"].take();
        document.as_object_mut().unwrap().remove("layers");
        document["manifests"] = json!(null);
        document["annotations"] = json!(null);
        document["config"]["urls"] = json!(null);
        document["config"]["platform"] = json!(null);
    };
    assert_eq!(read(&other_case, None), "oci");
    // An artifact in an OCI manifest.
    let artifact = |document: &mut serde_json::Value| {
        document["mediaType"] = json!(OCI_MANIFEST);
        document["config"]["mediaType"] = json!("application/octet-stream");
    };
    assert_eq!(
        read(&artifact, None),
        "x is not a container image but application/octet-stream"
    );
    // CVE-2021-41190.
    let ambiguous =
        "the manifest of x is not valid: it has the fields of an index and of a manifest";
    for media_type in ["", OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST, DOCKER_LIST] {
        let both = |document: &mut serde_json::Value| {
            document["mediaType"] = json!(media_type);
            document["Manifests"] = json!([]);
        };
        assert_eq!(read(&both, None), ambiguous, "{media_type}");
    }
    let wrong = |document: &mut serde_json::Value| document["mediaType"] = json!(OCI_INDEX);
    assert_eq!(read(&wrong, None), ambiguous);
    assert_eq!(
        read(&|document| document["config"] = json!(null), None),
        "the manifest of x is not valid: it does not name a configuration"
    );
    assert_eq!(
        read(&|document| document["schemaVersion"] = json!("2"), None),
        "the manifest of x is not valid: invalid type: string \"2\", expected i64 at line 1 column 336"
    );
}

#[test]
fn the_strings_of_a_document_are_escaped_and_cut_in_messages() {
    let message = |document: serde_json::Value| {
        let parsed = parse(document.to_string().as_bytes(), None, "x");
        parsed.unwrap_err().to_string()
    };
    let mut document = manifest_document(0);
    document["config"]["mediaType"] = json!("a\x1b]0;title\x07\nb");
    assert_eq!(
        message(document),
        "x is not a container image but a\\u{1b}]0;title\\u{7}\\nb"
    );
    let mut document = manifest_document(0);
    document["schemaVersion"] = json!("\x1b".repeat(100_000));
    let text = message(document);
    assert!(text.len() < 300 && !text.contains('\x1b'), "{text}");
}

#[test]
fn a_negative_size_is_refused() {
    let mut document = manifest_document(1);
    document["layers"][0]["size"] = json!(-1);
    let Ok(Document::Manifest(manifest)) = parse(document.to_string().as_bytes(), None, "x") else {
        panic!("{document}");
    };
    let config = json!({ "rootfs": { "diff_ids": [format!("sha256:{HEX}")] } });
    let error = read_config(config.to_string().as_bytes(), &manifest, "x").unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the manifest of x is not valid: sha256:{HEX} has the size -1")
    );
}

proptest! {
    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, None, "x");
        let _ = read_config(&bytes, &manifest(1), "x");
    }
}

/// Docker schema 1 is told by its fields, not by the version: podman and umoci read OCI documents
/// with the version 1.
#[test]
fn the_version_alone_does_not_make_docker_schema_1() {
    let oci = |media_type: Option<&str>| {
        let mut document = manifest_document(1);
        document["schemaVersion"] = json!(1);
        if let Some(media_type) = media_type {
            document["mediaType"] = json!(media_type);
        }
        document
    };
    let index = json!({ "schemaVersion": 1, "mediaType": OCI_INDEX, "manifests": [] });
    let old = json!({ "schemaVersion": 1, "name": "x", "fsLayers": [], "history": [] });
    let schema_1 = format!("{DOCKER_SCHEMA_1}+prettyjws");
    for (document, announced, expected) in [
        (oci(None), None, "manifest"),
        (oci(Some(OCI_MANIFEST)), None, "manifest"),
        (oci(None), Some(&*schema_1), "manifest"),
        (index, None, "index"),
        (old.clone(), None, "schema 1"),
        (old.clone(), Some("application/json"), "schema 1"),
        (oci(Some(&schema_1)), None, "schema 1"),
    ] {
        let found = match parse(document.to_string().as_bytes(), announced, "x") {
            Ok(Document::Manifest(_)) => "manifest",
            Ok(Document::Index(_)) => "index",
            Err(ManifestError::Schema1 { .. }) => "schema 1",
            Err(error) => panic!("{error}"),
        };
        assert_eq!(found, expected, "{document}");
    }
}
