//! What an error tells the user to do is done, and then the command works.

mod command_line;
mod elsewhere;
mod host;
mod images;
mod kernels;
mod registries;
mod remedy;
mod sources;
mod store;
mod vms;
mod workspaces;

use std::collections::{BTreeMap, BTreeSet};

use microagent_tests::fault_proxy::FaultProxy;
use microagent_tests::file_server::FileServer;
use microagent_tests::image::Layout;
use microagent_tests::microagent::Host;
use microagent_tests::registry::{CREDENTIALS, Registry};
use microagent_tests::{Error, built_kernel, lab, or_skip, root_or_skip, tool};

use remedy::{Remedy, Scene};

/// The tables whose entries make a command fail, follow what it prints, and run it again.
const TABLES: &[&[Remedy]] = &[
    command_line::COMMANDS,
    host::HOST,
    images::IMAGES,
    kernels::BUILDS,
    kernels::KERNELS,
    registries::REGISTRIES,
    store::STORE,
    vms::RUNS,
    workspaces::WORKSPACES,
];

/// A scene with the variables of all tables: `$IMAGE` is a tag in the registry `$REGISTRY`,
/// `$LAYOUT` the same image in the layout `$DIRECTORY`, `$STATE` the state directory.
fn scene(host: Host, layout: &Layout, registry: &Registry) -> Result<Scene, Error> {
    registry.push(&layout.reference("latest"), "app:1")?;
    let variables = vec![
        ("STATE", host.state().display().to_string()),
        ("LAYOUT", layout.reference("latest")),
        ("DIRECTORY", layout.directory().display().to_string()),
        ("REGISTRY", registry.address().to_owned()),
        ("STORAGE", registry.storage().display().to_string()),
        ("IMAGE", format!("{}/app:1", registry.address())),
    ];
    Ok(Scene {
        host,
        functions: "",
        variables,
    })
}

/// Adds `$DEB` and `$VMLINUZ`, the distribution's kernel.
fn add_kernel(scene: &mut Scene) -> Result<(), Error> {
    let kernel = lab::kernel()?;
    let variables = &mut scene.variables;
    variables.push(("DEB", kernel.package.display().to_string()));
    variables.push(("VMLINUZ", kernel.image.display().to_string()));
    Ok(())
}

#[test]
fn usage_errors() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    let scene = or_skip!(scene(or_skip!(Host::new()), &layout, &registry));
    scene.follow(command_line::COMMANDS);
}

#[test]
fn images_and_archives() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    let mut scene = or_skip!(scene(or_skip!(Host::new()), &layout, &registry));
    scene.functions = images::FUNCTIONS;
    scene.follow(images::IMAGES);
}

#[test]
fn the_host() {
    root_or_skip!();
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    let mut scene = or_skip!(scene(or_skip!(Host::new()), &layout, &registry));
    or_skip!(add_kernel(&mut scene));
    scene.functions = host::FUNCTIONS;
    scene.follow(host::HOST);
}

#[test]
fn registries() {
    root_or_skip!();
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    let private = or_skip!(Registry::with_password());
    let mut scene = or_skip!(scene(or_skip!(Host::new()), &layout, &registry));
    for name in ["busy:1", "gone:1", "loop:1", "cut:1"] {
        registry.push(&layout.reference("latest"), name).unwrap();
    }
    private.push(&layout.reference("latest"), "app:1").unwrap();
    let faulty = or_skip!(FaultProxy::start(registry.address(), registries::faults()));
    let files = or_skip!(FileServer::bind());
    let (user, password) = CREDENTIALS;
    scene.variables.extend([
        ("PRIVATE", private.address().to_owned()),
        ("FAULTY", faulty.address().to_owned()),
        ("FILES", files.address().to_owned()),
        ("USERNAME", user.to_owned()),
        ("PASSWORD", password.to_owned()),
    ]);
    let _serving = or_skip!(files.serve(&scene.host.path("")));
    scene.functions = registries::FUNCTIONS;
    scene.follow(registries::REGISTRIES);
}

#[test]
fn kernels() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    let mut scene = or_skip!(scene(or_skip!(Host::new()), &layout, &registry));
    or_skip!(add_kernel(&mut scene));
    let files = or_skip!(FileServer::bind());
    scene.variables.push(("FILES", files.address().to_owned()));
    let _serving = or_skip!(files.serve(&scene.host.path("")));
    scene.functions = kernels::FUNCTIONS;
    scene.follow(kernels::KERNELS);
}

#[test]
fn the_store() {
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    let mut scene = or_skip!(scene(or_skip!(Host::new()), &layout, &registry));
    or_skip!(add_kernel(&mut scene));
    scene.follow(store::STORE);
}

#[test]
fn runs() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    let mut scene = or_skip!(scene(or_skip!(built_kernel::host()), &layout, &registry));
    or_skip!(add_kernel(&mut scene));
    for batch in vms::BATCHES {
        let mut corrected = String::new();
        let mut failed = Vec::new();
        for flaw in batch.flaws {
            let command = format!("vm {} --image $IMAGE --exec true", flaw.flags);
            let script = format!(
                "{{ {}\n}} >&2\nprintf '%s' \"{}\"",
                flaw.follow, flaw.corrected
            );
            match scene.provoke(flaw.given, &command, flaw.code, flaw.says, &script) {
                Ok(flags) => corrected.push_str(&format!(" {flags}")),
                Err(why) => failed.push(why),
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n\n"));
        let run = format!("set --{corrected}\n{}", batch.run);
        let output = scene.script(&run, &[]);
        assert_eq!(
            output.text(),
            batch.output,
            "{corrected}: {}",
            output.errors()
        );
    }
    let source = or_skip!(built_kernel::source()).display().to_string();
    scene.variables.push(("SOURCE", source));
    scene.functions = kernels::FUNCTIONS;
    scene.follow(kernels::BUILDS);
    scene.follow(vms::RUNS);
}

#[test]
fn workspaces() {
    or_skip!(tool::find("qemu-system-x86_64"));
    let layout = or_skip!(Layout::busybox());
    let registry = or_skip!(Registry::start());
    let mut scene = or_skip!(scene(or_skip!(built_kernel::host()), &layout, &registry));
    scene.functions = workspaces::FUNCTIONS;
    scene.follow(workspaces::WORKSPACES);
}

/// A new remediation without a test fails here, by its text.
#[test]
fn every_remediation_is_executed_by_a_test() {
    let root = crate::floors::root();
    let found = sources::collect(&root);
    assert!(found.texts.len() > 100, "{:?}", found.texts);
    let nothing = BTreeSet::new();
    assert_eq!(
        found.hidden, nothing,
        "set a remediation that the test does not see"
    );

    let remedies = TABLES.iter().copied().flatten().map(|remedy| remedy.says);
    let flaws = vms::BATCHES.iter().flat_map(|batch| batch.flaws);
    let followed = remedies.chain(flaws.map(|flaw| flaw.says));
    let elsewhere = elsewhere::ELSEWHERE.iter().map(|entry| entry.says);
    let hints = elsewhere::HINTS.iter().map(|(says, _)| *says);
    let covered: BTreeSet<&str> = followed.chain(elsewhere).chain(hints).collect();

    let uncovered: BTreeMap<_, _> = (found.texts.iter())
        .filter(|(text, _)| !covered.contains(text.as_str()))
        .collect();
    assert!(
        uncovered.is_empty(),
        "no test executes these remediations: {uncovered:#?}"
    );
    let unknown: Vec<_> = (covered.iter())
        .filter(|text| !found.texts.contains_key(**text))
        .collect();
    assert!(unknown.is_empty(), "no program prints these: {unknown:#?}");
    for entry in elsewhere::ELSEWHERE {
        entry.assert_exists(&root);
    }
}

#[test]
fn templates() {
    let gaps = |template, text| remedy::gaps(template, text);
    let owned = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
    assert_eq!(gaps("omit it", "omit it"), owned(&[]));
    assert_eq!(gaps("omit it", "omit it: x"), None);
    assert_eq!(gaps("use {} or more", "use 5 or more"), owned(&["5"]));
    assert_eq!(gaps("use {} or more", "use 5 or less"), None);
    assert_eq!(gaps("{} and {}", "a b and c"), owned(&["a b", "c"]));
    assert_eq!(gaps("see {}", "see "), owned(&[""]));
    assert_eq!(gaps("see {}", "omit it"), None);
}

/// Each way to write a remediation is found, and one that is not is reported.
#[test]
fn the_sources_are_read() {
    let collect = |text: &str| {
        let found = sources::collect_from([("a.rs".to_owned(), text.to_owned())].into_iter());
        let texts: Vec<String> = found.texts.into_keys().collect();
        (texts, found.hidden.len())
    };
    for (source, texts) in [
        (r#"fn f() { x.remediation("do it"); }"#, &["do it"][..]),
        (
            r#"fn f() { x.remediation(format!("do {it}, {}", 1)); }"#,
            &["do {}, {}"],
        ),
        (
            r#"fn f() { x.maybe_remediation(y.then(|| "do it".into())); }"#,
            &["do it"],
        ),
        (
            r#"fn f() { let form = "do it"; x.remediation(form.clone()); }"#,
            &["do it"],
        ),
        (
            r#"const IT: &str = "do it"; fn f() { x.remediation(IT); }"#,
            &["do it"],
        ),
        (
            r#"fn remediation() -> String { match x { _ => "do it".into() } }"#,
            &["do it"],
        ),
        (
            r#"impl X { fn remediation(&self) -> &str { "do {{it}}" } }"#,
            &["do {{it}}"],
        ),
        (
            r#"fn f() -> X { X { remediation: Some("do it") } }"#,
            &["do it"],
        ),
        (
            r#"fn f() { let (what, remediation) = match x { 1 => ("a a", "do it"), _ => ("b b", "or not") }; }"#,
            &["do it", "or not"],
        ),
        (r#"fn f() { x.remediation(error.remediation()); }"#, &[]),
        (
            r#"impl X { fn remediation(&self, p: &P) -> String { format!("do {p}") } }
               fn f() { x.remediation(&self.p); }"#,
            &["do {}"],
        ),
        (
            r#"#[cfg(test)] mod tests { fn f() { x.remediation("do it"); } }"#,
            &[],
        ),
    ] {
        let expected: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        assert_eq!(collect(source), (expected, 0), "{source}");
    }
    assert_eq!(collect("fn f() { x.remediation(g()); }"), (Vec::new(), 1));
    assert_eq!(collect("fn f() { x.remediation(&y.z); }"), (Vec::new(), 1));
}
