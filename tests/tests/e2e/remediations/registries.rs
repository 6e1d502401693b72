//! Registries that cannot be used. `$REGISTRY` works; `$FAULTY` is the same with faults in the
//! repositories that are named after them; `$PRIVATE` wants `$USERNAME` and `$PASSWORD`; `$FILES` is
//! an HTTP server that is no registry.

use microagent_tests::fault_proxy::{Fault, Rule};

use super::remedy::Remedy;

/// The faults of `$FAULTY`. The number is that of the attempts of one command.
pub fn faults() -> Vec<Rule> {
    let rule = |path: &str, fault, times| Rule {
        path: path.to_owned(),
        fault,
        times,
    };
    let location = |target: &str| vec![format!("Location: {target}")];
    vec![
        rule("/v2/busy/manifests/", Fault::Status(500, Vec::new()), None),
        rule(
            "/v2/loop/manifests/",
            Fault::Status(307, location("/v2/loop/manifests/1")),
            None,
        ),
        // The configuration, which is shorter, and the start of the layer; then no progress.
        rule("/v2/cut/blobs/", Fault::CutAfter(5000), Some(2)),
        rule("/v2/cut/blobs/", Fault::CutAfter(0), Some(ATTEMPTS)),
        rule(
            "/v2/nonsense/manifests/",
            Fault::Status(307, location("ftp://nowhere/")),
            None,
        ),
        rule("/v2/gone/manifests/", Fault::Drop, Some(ATTEMPTS)),
    ]
}

/// How often a request is made before the command fails.
const ATTEMPTS: u32 = 4;

/// `in_net SCRIPT` runs a script in a mount namespace where the name `name.test` is this host.
pub const FUNCTIONS: &str = r#"
in_net() {
    echo "127.0.0.1 localhost name.test" >hosts
    unshare --mount sh -c "mount --bind hosts /etc/hosts; $1"
}
# Runs the command with the password, which it would ask for.
log_in() { eval "skopeo login --tls-verify=false -u $USERNAME -p '$PASSWORD' ${1#skopeo login}"; }
port() { echo ${1##*:}; }
"#;

/// Errors of registries.
pub const REGISTRIES: &[Remedy] = &[
    Remedy {
        command: "resolve 127.0.0.1:1/app:1",
        says: "check that a registry listens on {}",
        follow: "! busybox wget -q -O - http://$1/v2/; busybox wget -q -O - http://$REGISTRY/v2/",
        works: "resolve $REGISTRY/app:1",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve $FAULTY/nonsense:1",
        says: "check that {} is a registry",
        follow: "test $1 = $FAULTY; busybox wget -q -O - http://$REGISTRY/v2/",
        works: "resolve $REGISTRY/app:1",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve $REGISTRY/ap:1",
        says: "check the spelling; a private image may need credentials in $REGISTRY_AUTH_FILE",
        works: "resolve $REGISTRY/app:1",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve $REGISTRY/app:2",
        says: "check the spelling; a private image may need credentials in $REGISTRY_AUTH_FILE",
        works: "resolve $REGISTRY/app:1",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve $PRIVATE/app:1",
        says: "check the image's name; if it is private, log in with `skopeo login --authfile FILE {}` and set REGISTRY_AUTH_FILE=FILE",
        follow: "login=$(echo \"$SAID\" | cut -d '`' -f 2 | sed 's/FILE/auth.json/'); \
                 log_in \"$login\"; export REGISTRY_AUTH_FILE=auth.json",
        ..Remedy::NEW
    },
    Remedy {
        given: "echo '{' >broken.json",
        command: "REGISTRY_AUTH_FILE=broken.json resolve $PRIVATE/app:1",
        says: "create it again with `skopeo login --authfile FILE {}`, and set REGISTRY_AUTH_FILE=FILE",
        follow: "login=$(echo \"$SAID\" | cut -d '`' -f 2 | sed 's/FILE/again.json/'); \
                 log_in \"$login\"",
        works: "REGISTRY_AUTH_FILE=again.json resolve $PRIVATE/app:1",
        ..Remedy::NEW
    },
    Remedy {
        command: "HTTPS_PROXY=nonsense://x resolve name.test/app:1",
        says: "set it to http://HOST:PORT, or unset {}",
        follow: "test $1 = HTTPS_PROXY",
        // Without it, the name is looked for.
        works: "unset $1; ! resolve name.test/app:1 2>&1 | grep 'proxy URL'; \
                ! HTTPS_PROXY=http://$FILES resolve name.test/app:1 2>&1 | grep 'proxy URL'",
        ..Remedy::NEW
    },
    Remedy {
        given: "echo '{\"registries\":{\"name.test:'$(port $REGISTRY)'\":{\"insecure\":true}}}' >insecure.json",
        command: "in_net \"MICROAGENT_REGISTRIES=insecure.json HTTP_PROXY=http://127.0.0.1:1 microagent image resolve name.test:$(port $REGISTRY)/app:1\"",
        says: "check the proxy, or exclude {} with NO_PROXY",
        works: "in_net \"NO_PROXY=$1 MICROAGENT_REGISTRIES=insecure.json HTTP_PROXY=http://127.0.0.1:1 microagent image resolve name.test:$(port $REGISTRY)/app:1\"",
        ..Remedy::NEW
    },
    Remedy {
        command: "MICROAGENT_REGISTRIES=insecure.json resolve name.test:$(port $REGISTRY)/app:1",
        says: "check the registry's name and the DNS configuration of this host",
        works: "in_net \"MICROAGENT_REGISTRIES=insecure.json microagent image resolve name.test:$(port $REGISTRY)/app:1\"",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve $FAULTY/busy:1",
        says: "try again later, or use another registry",
        works: "resolve $REGISTRY/app:1",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve $FAULTY/gone:1",
        says: "try again later, or use another registry",
        ..Remedy::NEW
    },
    Remedy {
        command: "resolve $FAULTY/loop:1",
        says: "check the redirects configured for {}",
        follow: "test $1 = $FAULTY; busybox wget -S -O /dev/null http://$1/v2/loop/manifests/1 2>&1 | grep -q 'Location: /v2/loop/manifests/1'",
        works: "resolve $REGISTRY/app:1",
        ..Remedy::NEW
    },
    Remedy {
        command: "rm -rf $STATE; build $FAULTY/cut:1",
        says: "try again: the transfer resumes where it stopped; if it stops there again, push or save the image again",
        works: "build $FAULTY/cut:1",
        ..Remedy::NEW
    },
    Remedy {
        given: "rm -r $STATE; find $STORAGE -path '*blobs/sha256*' -name data -size +100k -delete",
        command: "build $REGISTRY/app:1",
        says: "the image is damaged in the registry; push it again",
        follow: "find $STORAGE -path '*_layers*' -name link -delete; skopeo_copy $LAYOUT docker://$REGISTRY/app:1",
        ..Remedy::NEW
    },
];
