use super::*;
use crate::diagnosis::Diagnosis;
use proptest::prelude::*;

const HEX: &str = "9ae97d36d26566ff84e8893c64a6dc4fe8ca6d1144bf5b87b2b85a32def253c7";

fn full(text: &str) -> String {
    text.parse::<Reference>()
        .unwrap_or_else(|error| panic!("{error}"))
        .to_string()
}

#[test]
fn a_name_without_a_registry_is_on_docker_hub() {
    assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
    assert_eq!(full("busybox:1.36"), "docker.io/library/busybox:1.36");
    assert_eq!(full("user/app"), "docker.io/user/app:latest");
    assert_eq!(
        full("docker.io/busybox"),
        "docker.io/library/busybox:latest"
    );
    assert_eq!(full("index.docker.io/a/b"), "docker.io/a/b:latest");
    assert_eq!(full("docker://busybox"), "docker.io/library/busybox:latest");
}

#[test]
fn a_registry_has_a_dot_or_a_port_or_is_localhost() {
    assert_eq!(full("localhost/x"), "localhost/x:latest");
    assert_eq!(full("localhost:5000/x:t"), "localhost:5000/x:t");
    assert_eq!(full("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b:latest");
    assert_eq!(full("[::1]:5000/x:1"), "[::1]:5000/x:1");
    assert_eq!(full("ghcr.io/o/p__q/r-s.t:v1"), "ghcr.io/o/p__q/r-s.t:v1");
}

#[test]
fn a_digest_pins_the_image_and_its_tag_is_kept() {
    let pinned = format!("busybox@sha256:{HEX}");
    assert_eq!(
        full(&pinned),
        format!("docker.io/library/busybox@sha256:{HEX}")
    );
    let both = format!("ghcr.io/a/b:v1@sha256:{HEX}");
    assert_eq!(full(&both), both);
    let Ok(Reference::Registry(reference)) = both.parse() else {
        panic!("not a registry reference");
    };
    assert_eq!(reference.manifest_name(), format!("sha256:{HEX}"));
    assert!(!both.parse::<Reference>().unwrap().is_mutable());
    assert!("busybox".parse::<Reference>().unwrap().is_mutable());
}

#[test]
fn local_forms_split_at_the_first_colon() {
    assert_eq!(
        "oci:dir:a/b:c".parse(),
        Ok(Reference::OciLayout {
            path: "dir".into(),
            select: Selector::Name("a/b:c".into())
        })
    );
    assert_eq!(
        "docker-archive:f.tar:busybox:1".parse(),
        Ok(Reference::DockerArchive {
            path: "f.tar".into(),
            name: Some("busybox:1".into())
        })
    );
    assert_eq!(full(&format!("oci-archive:f@sha256:{HEX}")).len(), 14 + 71);
    assert_eq!(full("oci:dir"), "oci:dir");
}

#[test]
fn an_error_names_the_reference_and_has_a_remediation() {
    for (text, expected) in [
        ("", "\"\" is not an image reference: it is empty"),
        (
            "Busybox",
            "\"Busybox\" is not an image reference: the repository \"library/Busybox\" has upper-case letters",
        ),
        (
            "a:b c",
            "\"a:b c\" is not an image reference: \"b c\" is not a tag",
        ),
        (
            "a//b",
            "\"a//b\" is not an image reference: \"a//b\" is not a repository name",
        ),
        (
            "a@sha256:12",
            "\"a@sha256:12\" is not an image reference: \"sha256:12\" is not a sha256 digest",
        ),
        (
            "host:99999/x",
            "\"host:99999/x\" is not an image reference: the registry \"host:99999\" is not a host name with an optional port",
        ),
        (
            "oci:",
            "\"oci:\" is not an image reference: there is no path after \"oci:\"",
        ),
        (
            "dir:/saved",
            "\"dir:/saved\" is not an image reference: \"dir:\" is a transport of skopeo that is not supported",
        ),
        (
            "containers-storage:busybox",
            "\"containers-storage:busybox\" is not an image reference: \"containers-storage:\" is a transport of skopeo that is not supported",
        ),
        (
            "docker-daemon:busybox:1",
            "\"docker-daemon:busybox:1\" is not an image reference: \"docker-daemon:\" is a transport of skopeo that is not supported",
        ),
    ] {
        let error = text.parse::<Reference>().unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(error.remediation().is_some());
    }
}

#[test]
fn only_the_local_host_is_loopback() {
    let loopback = |text: &str| match text.parse() {
        Ok(Reference::Registry(reference)) => reference.is_loopback(),
        other => panic!("{other:?}"),
    };
    for text in [
        "localhost/x",
        "localhost:1/x",
        "127.0.0.1:5000/x",
        "127.9.9.9/x",
        "[::1]:5000/x",
    ] {
        assert!(loopback(text), "{text}");
    }
    for text in [
        "localhost.example.com/x",
        "127.0.0.1.example.com/x",
        "busybox",
        "10.0.0.1:5000/x",
    ] {
        assert!(!loopback(text), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = text.parse::<Reference>();
    }

    #[test]
    fn the_full_form_parses_to_itself(
        registry in "(localhost|[a-z]{1,8}\\.[a-z]{2,3})(:[1-9][0-9]{0,3})?",
        repository in "[a-z0-9]{1,6}(/[a-z0-9]{1,4}(-{1,2}|_|__|\\.)[a-z0-9]{1,4}){0,2}",
        tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
        pinned in any::<bool>(),
    ) {
        let mut text = format!("{registry}/{repository}");
        if let Some(tag) = tag { text = format!("{text}:{tag}"); }
        if pinned { text = format!("{text}@sha256:{HEX}"); }
        let parsed: Reference = text.parse().unwrap();
        prop_assert_eq!(&parsed.to_string().parse::<Reference>().unwrap(), &parsed);
        prop_assert!(parsed.to_string().starts_with(&text));
    }
}
