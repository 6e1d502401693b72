use super::*;

/// An archive with these files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// The digests of the image's layers, or why there are none.
fn layers(archive: &[u8], name: Option<&str>) -> Result<Vec<Digest>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    std::fs::write(&path, archive).unwrap();
    let store = Store::open(&dir.path().join("cas")).unwrap();
    let image = DockerArchive::open(&path, name, &store).map_err(|error| {
        let source = std::error::Error::source(&error);
        source.map_or_else(|| error.to_string(), ToString::to_string)
    })?;
    Ok(image.layers.into_keys().collect())
}

/// Each is an image to `podman pull`.
#[test]
fn the_documents_are_read_as_by_podman() {
    let layer = archive(&[("file", b"x")]);
    let digest = Digest::of(&layer);
    let rootfs = format!(r#""rootfs":{{"type":"layers","diff_ids":["{digest}"]}}"#);
    let config = |rootfs: &str| format!(r#"{{"architecture":"amd64","os":"linux",{rootfs}}}"#);
    let plain = config(&rootfs);
    let manifest = r#"[{"Config":"c.json","RepoTags":["foo:1"],"Layers":["l0/layer.tar"]}]"#;
    let cases = [
        (manifest, &*plain),
        // Paths in other spellings.
        (&manifest.replace("c.json", "./c.json"), &plain),
        (&manifest.replace("l0/", "./l0//"), &plain),
        (&manifest.replace("l0/", "/x/../l0/"), &plain),
        // Keys in another case, repeated keys, values that are null.
        (&manifest.to_lowercase(), &plain),
        (&manifest.replace("Layers", "LAYERS"), &plain),
        (manifest, &plain.replace("rootfs", "RootFS")),
        (manifest, &config(&format!("{rootfs},{rootfs}"))),
        (
            &manifest.replace(r#""Config""#, r#""Config":"x","Config""#),
            &plain,
        ),
        (&manifest.replace(r#"["foo:1"]"#, "null"), &plain),
        (manifest, &plain.replace(r#""layers""#, "null")),
    ];
    for (manifest, config) in cases {
        let files = [
            ("l0/layer.tar", &*layer),
            ("c.json", config.as_bytes()),
            ("manifest.json", manifest.as_bytes()),
        ];
        let found = layers(&archive(&files), None);
        assert_eq!(found, Ok(vec![digest]), "{manifest} {config}");
    }
    let with_null = manifest.replace("[{", "[null,{");
    let files = [
        ("l0/layer.tar", &*layer),
        ("c.json", plain.as_bytes()),
        ("manifest.json", with_null.as_bytes()),
    ];
    assert_eq!(layers(&archive(&files), Some("foo:1")), Ok(vec![digest]));
    assert_eq!(
        layers(&archive(&files), None).unwrap_err(),
        "it contains more than one image: @0, foo:1"
    );
}

#[test]
fn a_value_of_another_type_is_refused() {
    for manifest in [
        r#"{"Config":"c.json"}"#,
        r#"[{"Config":["c.json"]}]"#,
        r#"[{"Config":"c.json","Layers":"l0"}]"#,
        r#"[{"Config":"c.json"}] x"#,
    ] {
        let files = [("manifest.json", manifest.as_bytes()), ("c.json", b"{}")];
        let refused = layers(&archive(&files), None).unwrap_err();
        let expected = "it contains an invalid manifest.json: ";
        assert!(refused.starts_with(expected), "{refused}");
    }
}
