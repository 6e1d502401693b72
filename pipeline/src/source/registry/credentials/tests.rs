use super::*;
use proptest::prelude::*;

fn image(text: &str) -> RegistryReference {
    match text.parse() {
        Ok(crate::Reference::Registry(reference)) => reference,
        other => panic!("{other:?}"),
    }
}

fn keyring(files: &[&str]) -> Keyring {
    let read = |(number, text): (usize, &&str)| {
        let path = PathBuf::from(format!("/file-{number}"));
        (path, parse(text.as_bytes(), false))
    };
    Keyring {
        files: files.iter().enumerate().map(read).collect(),
    }
}

/// `user:password`, `user#identity token`, `!helper` or `-`.
fn known(files: &[&str], of: &str) -> String {
    match keyring(files).find(&image(of)) {
        Ok(Lookup::None) => "-".into(),
        Ok(Lookup::Helper { helper, .. }) => format!("!{helper}"),
        Ok(Lookup::Credentials(found)) => match found.secret {
            Secret::Password(joined) => {
                let pair = String::from_utf8(STANDARD.decode(joined).unwrap()).unwrap();
                assert!(pair.starts_with(&format!("{}:", found.user)));
                pair
            }
            Secret::IdentityToken { token, password } => {
                let password = password.map(|_| "*").unwrap_or_default();
                format!("{}#{token}{password}", found.user)
            }
        },
        Err(problem) => problem.to_string(),
    }
}

#[test]
fn the_longest_prefix_wins() {
    let file = r#"{"auths":{"q.io":{"auth":"YTox"},"q.io/x":{"auth":"YjoxCg=="},"q.io/x/y":{"auth":"Yzox"}}}"#;
    assert_eq!(known(&[file], "q.io/x/y"), "c:1");
    assert_eq!(known(&[file], "q.io/x/z"), "b:1\n");
    assert_eq!(known(&[file], "q.io/xx/z"), "a:1");
    assert_eq!(known(&[file], "other.io/x"), "-");
    assert_eq!(known(&["{}"], "q.io/x"), "-");
    assert_eq!(known(&[r#"{"auths":null}"#], "q.io/x"), "-");
}

#[test]
fn each_name_of_docker_hub_is_recognised() {
    for key in [
        "https://index.docker.io/v1/",
        "index.docker.io/v1/",
        "index.docker.io",
        "https://registry-1.docker.io",
        "docker.io",
        "docker.io/library",
    ] {
        let file = format!(r#"{{"auths":{{"{key}":{{"auth":"YTox"}}}}}}"#);
        assert_eq!(known(&[&file], "busybox"), "a:1", "{key}");
        assert_eq!(known(&[&file], "index.example/x"), "-", "{key}");
    }
    let file = r#"{"auths":{"https://reg.example:5000/v2/":{"auth":"YTox"}}}"#;
    assert_eq!(known(&[file], "reg.example:5000/x"), "a:1");
    assert_eq!(known(&[file], "reg.example/x"), "-");
}

#[test]
fn each_form_of_an_entry_is_parsed() {
    let file = r#"{"auths":{
        "a.io":{"username":"u","password":"p:q"},
        "b.io":{"auth":"dTpwOnE=","username":"other","password":"other"},
        "c.io":{"auth":"dTo=","identitytoken":"refresh"},
        "d.io":{"identitytoken":"refresh"}, "e.io":{}, "f.io":{"auth":""},
        "g.io":{"auth":"dTpw","identitytoken":"refresh"}}}"#;
    assert_eq!(known(&[file], "a.io/x"), "u:p:q");
    assert_eq!(known(&[file], "b.io/x"), "u:p:q");
    assert_eq!(known(&[file], "c.io/x"), "u#refresh");
    assert_eq!(known(&[file], "d.io/x"), "#refresh");
    // With the password for registries that do not use tokens.
    assert_eq!(known(&[file], "g.io/x"), "u#refresh*");
    assert_eq!(known(&[file], "e.io/x"), "-");
    assert_eq!(known(&[file], "f.io/x"), "-");
}

#[test]
fn a_helper_is_reported_only_if_no_file_has_an_entry() {
    let helpers = r#"{"credHelpers":{"a.io":"ecr-login","b.io":"gcr"},"auths":{"a.io":{},"c.io":{"auth":"YTox"}}}"#;
    let store = r#"{"credsStore":"desktop","auths":{"https://index.docker.io/v1/":{}}}"#;
    assert_eq!(known(&[helpers], "a.io/x"), "!ecr-login");
    assert_eq!(known(&[helpers], "c.io/x"), "a:1");
    assert_eq!(known(&[helpers], "d.io/x"), "-");
    assert_eq!(known(&[store], "busybox"), "!desktop");
    assert_eq!(known(&[store, helpers], "c.io/x"), "a:1");
    assert_eq!(known(&[helpers, store], "b.io/x"), "!gcr");
}

#[test]
fn the_error_for_an_invalid_entry_names_file_and_key_but_not_the_secret() {
    for (auth, reason) in [
        (
            r#"{"auth":"%"}"#,
            "the entry of a.b is not user:password in base64",
        ),
        (
            r#"{"auth":"YTox="}"#,
            "the entry of a.b is not user:password in base64",
        ),
        (
            r#"{"auth":5}"#,
            "the entry of a.b: invalid type: integer `5`, expected a string at line 1 column 9",
        ),
    ] {
        let file = format!(r#"{{"auths":{{"a.b":{auth}}}}}"#);
        let problem = format!("cannot be used with the credentials file /file-0: {reason}");
        assert_eq!(known(&[&file], "a.b/c"), problem);
        // Another file may have an entry.
        assert_eq!(
            known(&[&file, r#"{"auths":{"a.b":{"auth":"YTox"}}}"#], "a.b/c"),
            "a:1"
        );
    }
    let broken = known(&["{"], "a.b/c");
    assert!(
        broken.starts_with("cannot be used with the credentials file /file-0: "),
        "{broken}"
    );
    assert_eq!(
        known(&["{", r#"{"auths":{"a.b":{"auth":"YTox"}}}"#], "a.b/c"),
        "a:1"
    );
    // Docker and skopeo ignore an `auth` without a colon.
    assert_eq!(
        known(&[r#"{"auths":{"a.b":{"auth":"YQ=="}}}"#], "a.b/c"),
        "-"
    );
}

#[test]
fn an_entry_for_another_registry_never_matters() {
    for other in [
        "null",
        "5",
        "[]",
        "\"x\"",
        r#"{"auth":"%"}"#,
        r#"{"auth":5}"#,
        r#"{"auth":null}"#,
        r#"{"email":5}"#,
    ] {
        let file = format!(
            r#"{{"auths":{{"other.io":{other},"a.b":{{"auth":"YTox","email":null}}}},
                "credHelpers":{{"other.io":{other}}},"credsStore":{other},"HttpHeaders":{other}}}"#
        );
        assert_eq!(known(&[&file], "a.b/c"), "a:1", "{other}");
        let public = known(&[&file], "c.d/e");
        assert!(["-", "!x"].contains(&&*public), "{other}: {public}");
    }
    for file in [
        "",
        "\n",
        "{}",
        "null",
        r#"{"auths":null,"credHelpers":null}"#,
        r#"{"auths":{"a.b":null}}"#,
    ] {
        assert_eq!(known(&[file], "a.b/c"), "-", "{file}");
    }
}

#[test]
fn base64_may_be_wrapped_and_passwords_padded() {
    // `base64` without `-w0`: a line feed after 76 characters and at the end.
    let password = "p".repeat(80);
    let joined = STANDARD.encode(format!("u:{password}"));
    let (first, second) = joined.split_at(76);
    for wrapped in [
        format!("{first}\n{second}\n"),
        format!("{first}\r\n{second}"),
    ] {
        let file = serde_json::json!({ "auths": { "a.b": { "auth": wrapped } } });
        assert_eq!(
            known(&[&file.to_string()], "a.b/c"),
            format!("u:{password}")
        );
    }
    // Go does not look at the bits that are not in use.
    let file = r#"{"auths":{"a.b":{"auth":"dTpwcH=="}}}"#;
    assert_eq!(known(&[file], "a.b/c"), "u:pp");
    let padded = STANDARD.encode("u:p\0\0");
    let file = serde_json::json!({ "Auths": { "a.b": { "AUTH": padded } } });
    assert_eq!(known(&[&file.to_string()], "a.b/c"), "u:p");
}

#[test]
fn user_and_password_are_bytes() {
    for (auth, expected) in [
        (&b"u:a:b::"[..], &b"u:a:b::"[..]),
        (b":p", b":p"),
        (b"u:", b"u:"),
        (b"u: p\n", b"u: p\n"),
        (b"\xff:\xfe\xfb?>", b"\xff:\xfe\xfb?>"),
        (b"u:\0p\0", b"u:p"),
    ] {
        let file = serde_json::json!({ "auths": { "a.b": { "auth": STANDARD.encode(auth) } } });
        let Ok(Lookup::Credentials(found)) = keyring(&[&file.to_string()]).find(&image("a.b/c"))
        else {
            panic!("{auth:?}");
        };
        let basic = format!("Basic {}", STANDARD.encode(expected));
        assert_eq!(found.basic(), Some(basic), "{auth:?}");
    }
}

#[test]
fn the_files_are_those_of_skopeo_in_its_order() {
    let paths = |pairs: &[(&str, &str)]| {
        let variable = |name: &str| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        match search_path(variable, 7) {
            SearchPath::Explicit(path) => vec![format!("only {}", path.display())],
            SearchPath::Default(places) => places
                .iter()
                .map(|place| place.path.display().to_string())
                .collect(),
        }
    };
    assert_eq!(
        paths(&[
            ("REGISTRY_AUTH_FILE", "/a"),
            ("XDG_RUNTIME_DIR", "/run"),
            ("HOME", "/home")
        ]),
        ["only /a"]
    );
    assert_eq!(
        paths(&[
            ("REGISTRY_AUTH_FILE", ""),
            ("XDG_RUNTIME_DIR", "/run"),
            ("HOME", "/home")
        ]),
        [
            "/run/containers/auth.json",
            "/home/.config/containers/auth.json",
            "/home/.docker/config.json",
            "/home/.dockercfg",
        ]
    );
    assert_eq!(
        paths(&[
            ("DOCKER_CONFIG", "/d"),
            ("HOME", "/home"),
            ("XDG_CONFIG_HOME", "/c")
        ]),
        [
            "/run/containers/7/auth.json",
            "/c/containers/auth.json",
            "/d/config.json",
            "/home/.dockercfg",
        ]
    );
    assert_eq!(paths(&[]), ["/run/containers/7/auth.json"]);
}

#[test]
fn an_explicit_file_must_exist_and_the_oldest_file_has_only_entries() {
    let directory = tempfile::tempdir().unwrap();
    let place = |path: &Path, is_legacy| Place {
        path: path.to_owned(),
        is_legacy,
    };
    let absent = directory.path().join("none/auth.json");
    let none = Keyring::read(SearchPath::Default(vec![place(&absent, false)])).unwrap();
    assert!(none.files.is_empty());
    let problem = Keyring::read(SearchPath::Explicit(absent)).unwrap_err();
    assert!(
        matches!(problem, RegistryProblem::AuthFile { .. }),
        "{problem}"
    );
    let legacy = directory.path().join(".dockercfg");
    std::fs::write(
        &legacy,
        r#"{"https://a.b/v1/":{"auth":"YTox","email":"x"}}"#,
    )
    .unwrap();
    let keyring = Keyring::read(SearchPath::Default(vec![place(&legacy, true)])).unwrap();
    let found = keyring.find(&image("a.b/c")).unwrap();
    assert!(matches!(found, Lookup::Credentials(found) if found.user == "a"));
    let directory = Keyring::read(SearchPath::Explicit(directory.path().to_owned())).unwrap();
    assert!(directory.find(&image("a.b/c")).is_err());
}

proptest! {
    #[test]
    fn no_file_causes_a_panic(key in "[ -~]{0,20}", auth in "[A-Za-z0-9+/=]{0,12}") {
        let file = serde_json::json!({ "auths": { key: { "auth": auth } } }).to_string();
        let _ = keyring(&[&file]).find(&image("a.b/c"));
        let _ = parse(auth.as_bytes(), true);
    }
}
