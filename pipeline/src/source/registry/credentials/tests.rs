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
        (path, serde_json::from_str(text).unwrap())
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
            Secret::IdentityToken(token) => format!("{}#{token}", found.user),
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
        "d.io":{"identitytoken":"refresh"}, "e.io":{}, "f.io":{"auth":""}}}"#;
    assert_eq!(known(&[file], "a.io/x"), "u:p:q");
    assert_eq!(known(&[file], "b.io/x"), "u:p:q");
    assert_eq!(known(&[file], "c.io/x"), "u#refresh");
    assert_eq!(known(&[file], "d.io/x"), "#refresh");
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
    for auth in ["%", "YQ=="] {
        let file = format!(r#"{{"auths":{{"a.b":{{"auth":"{auth}"}}}}}}"#);
        assert_eq!(
            known(&[&file], "a.b/c"),
            "cannot be used with the credentials file /file-0: the entry of a.b is not user:password in base64"
        );
        // An invalid entry of another registry is ignored.
        assert_eq!(known(&[&file], "b.b/c"), "-");
    }
}

#[test]
fn an_explicit_file_is_used_alone_and_must_exist() {
    let variables = |pairs: &'static [(&'static str, &'static str)]| {
        move |name: &str| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        }
    };
    assert_eq!(
        search_path(variables(&[
            ("REGISTRY_AUTH_FILE", "/a"),
            ("XDG_RUNTIME_DIR", "/run"),
            ("HOME", "/home")
        ])),
        SearchPath::Explicit("/a".into())
    );
    assert_eq!(
        search_path(variables(&[
            ("REGISTRY_AUTH_FILE", ""),
            ("XDG_RUNTIME_DIR", "/run"),
            ("HOME", "/home")
        ])),
        SearchPath::Default(vec![
            "/run/containers/auth.json".into(),
            "/home/.docker/config.json".into()
        ])
    );
    assert_eq!(
        search_path(variables(&[("DOCKER_CONFIG", "/d"), ("HOME", "/home")])),
        SearchPath::Default(vec!["/d/config.json".into()])
    );
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("none/auth.json");
    assert!(Keyring::read(SearchPath::Default(vec![absent.clone()])).is_ok());
    let problem = Keyring::read(SearchPath::Explicit(absent)).unwrap_err();
    assert!(
        matches!(problem, RegistryProblem::AuthFile { .. }),
        "{problem}"
    );
    let broken = directory.path().join("auth.json");
    std::fs::write(&broken, "{").unwrap();
    assert!(Keyring::read(SearchPath::Default(vec![broken])).is_err());
}

proptest! {
    #[test]
    fn no_file_causes_a_panic(key in "[ -~]{0,20}", auth in "[A-Za-z0-9+/=]{0,12}") {
        let file = serde_json::json!({ "auths": { key: { "auth": auth } } }).to_string();
        let _ = keyring(&[&file]).find(&image("a.b/c"));
        let _ = serde_json::from_str::<AuthFile>(&auth);
    }
}
