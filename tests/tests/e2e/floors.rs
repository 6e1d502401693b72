//! The layers of docs/architecture.md ("floors"): a module imports only modules of lower floors.
//!
//! The document lists them, one block per crate. The test parses the `use` declarations and paths of
//! every source file and resolves them to modules, through re-exports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree};

/// A module of a crate: `kernel::build`; empty for the crate itself.
type Module = String;

/// A crate's floors, top first; each is a list of modules, including their submodules.
type Floors = Vec<Vec<Module>>;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The floors of each crate's source directory, from the blocks of the document that begin with
/// `floors of DIRECTORY`. Each line is one floor.
fn floors() -> BTreeMap<String, Floors> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut crates = BTreeMap::new();
    let blocks = text.split("```text\nfloors of ").skip(1);
    for block in blocks {
        let mut lines = block.split("```").next().unwrap().lines();
        let directory = lines.next().unwrap().trim().to_owned();
        let floor = |line: &str| line.split(',').map(|name| name.trim().to_owned()).collect();
        crates.insert(directory, lines.map(floor).collect());
    }
    crates
}

/// The imports and re-exports of a source file.
#[derive(Default)]
struct Source {
    /// Paths from the crate's root.
    imports: BTreeSet<Vec<String>>,
    exports: BTreeMap<String, Vec<String>>,
    /// Modules that are re-exported with a glob.
    globs: Vec<Vec<String>>,
}

/// Reads the file of the module `module`, without test code.
struct Reader {
    module: Vec<String>,
    source: Source,
}

pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|name| name == "test")
    };
    attributes.iter().any(is_test)
}

impl Reader {
    /// The path from the crate's root; `None` for a path into another crate.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut base = self.module.clone();
        match first.as_str() {
            "crate" => return Some(rest.to_vec()),
            "self" => base.extend_from_slice(rest),
            "super" => {
                base.pop();
                let mut rest = rest;
                while let Some((next, after)) = rest.split_first()
                    && next == "super"
                {
                    base.pop();
                    rest = after;
                }
                base.extend_from_slice(rest);
            }
            _ => return None,
        }
        Some(base)
    }

    fn tree(&mut self, tree: &UseTree, before: &mut Vec<String>, is_export: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before, is_export);
                before.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before, is_export);
                }
            }
            UseTree::Glob(_) => {
                let path = self.absolute(before);
                if is_export {
                    let child = [self.module.as_slice(), before].concat();
                    self.source.globs.push(path.clone().unwrap_or(child));
                }
                self.source.imports.extend(path);
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.leaf(before, &name, &name, is_export);
            }
            UseTree::Rename(rename) => {
                let (name, new) = (rename.ident.to_string(), rename.rename.to_string());
                self.leaf(before, &name, &new, is_export);
            }
        }
    }

    fn leaf(&mut self, before: &[String], name: &str, new: &str, is_export: bool) {
        let mut path = before.to_vec();
        if name != "self" {
            path.push(name.to_owned());
        }
        let absolute = self.absolute(&path);
        if is_export {
            // A path without a prefix is one into a child, or another crate.
            let child = [self.module.as_slice(), &path].concat();
            let target = absolute.clone().unwrap_or(child);
            self.source.exports.insert(new.to_owned(), target);
        }
        self.source.imports.extend(absolute);
    }
}

impl<'a> Visit<'a> for Reader {
    fn visit_item(&mut self, item: &'a Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Const(item) => &item.attrs,
            Item::Static(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        if item.content.is_some() {
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        let is_export = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&item.tree, &mut Vec::new(), is_export);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let path_of: Vec<_> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if path_of.len() > 1 {
            self.source.imports.extend(self.absolute(&path_of));
        }
        visit::visit_path(self, path);
    }
}

/// All modules of a crate that are files, without test modules.
fn sources(directory: &Path) -> BTreeMap<Module, Source> {
    let mut sources = BTreeMap::new();
    let mut waiting = vec![(directory.to_owned(), Vec::<String>::new())];
    while let Some((directory, module)) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut inner = module.clone();
            if !matches!(stem.as_str(), "lib" | "main" | "mod") {
                inner.push(stem.clone());
            }
            if path.is_dir() {
                // Separate programs.
                if stem != "bin" && stem != "tests" {
                    waiting.push((path, inner));
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "tests"
            {
                let text = fs::read_to_string(&path).unwrap();
                let file =
                    syn::parse_file(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
                if is_for_tests(&file.attrs) {
                    continue;
                }
                let name = inner.join("::");
                let source = Source::default();
                let mut reader = Reader {
                    module: inner,
                    source,
                };
                reader.visit_file(&file);
                sources.insert(name, reader.source);
            }
        }
    }
    sources
}

/// The module that contains the item at a path from the crate's root, resolved through re-exports.
fn module_of(sources: &BTreeMap<Module, Source>, path: &[String], depth: usize) -> Module {
    let length = (0..=path.len())
        .rev()
        .find(|&length| sources.contains_key(&path[..length].join("::")))
        .expect("the crate itself is a module");
    let module = path[..length].join("::");
    let (Some(name), source) = (path.get(length), &sources[&module]) else {
        return module;
    };
    if depth == 0 {
        return module;
    }
    if let Some(target) = source.exports.get(name) {
        return module_of(sources, target, depth - 1);
    }
    // A name may be from a glob or from the module itself; a single glob is assumed to provide it.
    match source.globs.as_slice() {
        [only] if sources.contains_key(&only.join("::")) => only.join("::"),
        _ => module,
    }
}

/// The floor of a module, and the matching entry of the list.
fn floor_of<'a>(floors: &'a Floors, module: &str) -> Option<(usize, &'a str)> {
    let is_part = |entry: &str| {
        entry == module
            || module
                .strip_prefix(entry)
                .is_some_and(|rest| rest.starts_with("::"))
    };
    let mut found: Option<(usize, &str)> = None;
    for (number, floor) in floors.iter().enumerate() {
        for entry in floor.iter().filter(|entry| is_part(entry)) {
            if found.is_none_or(|(_, longest)| entry.len() > longest.len()) {
                found = Some((number, entry));
            }
        }
    }
    found
}

/// The imports that violate the rule, one line each.
fn violations(floors: &Floors, sources: &BTreeMap<Module, Source>) -> Vec<String> {
    let mut violations = Vec::new();
    let root = |module: &str| match module {
        "" => "crate".to_owned(),
        module => module.to_owned(),
    };
    for (module, source) in sources {
        let Some((from, entry)) = floor_of(floors, &root(module)) else {
            violations.push(format!("{} is on no floor", root(module)));
            continue;
        };
        for path in &source.imports {
            let target = root(&module_of(sources, path, 8));
            match floor_of(floors, &target) {
                Some((to, other)) if other == entry || to > from => {}
                Some((to, _)) => violations.push(format!(
                    "{} (floor {from}) imports {} from {target} (floor {to})",
                    root(module),
                    path.join("::"),
                )),
                None => {}
            }
        }
    }
    violations
}

#[test]
fn a_module_imports_only_from_lower_floors() {
    let floors = floors();
    let crates: Vec<&str> = floors.keys().map(String::as_str).collect();
    let expected = [
        "cas/src",
        "cli/src",
        "cli/workspace/src",
        "pipeline/src",
        "vmm/egress/src",
    ];
    assert_eq!(crates, expected);
    for (directory, floors) in &floors {
        let sources = sources(&root().join(directory));
        assert!(sources.len() > 20, "{directory}: {} modules", sources.len());
        let entries: BTreeSet<&String> = floors.iter().flatten().collect();
        for entry in entries {
            let exists = entry == "crate" || sources.contains_key(entry);
            assert!(exists, "{directory} has no module {entry}");
        }
        let violations = violations(floors, &sources);
        assert!(
            violations.is_empty(),
            "{directory}:\n{}",
            violations.join("\n")
        );
    }
}

/// Checks `[dependencies]` of each crate against the table in docs/architecture.md.
#[test]
fn crates_depend_on_lower_crates_only() {
    let expected = [
        ("cas", vec![]),
        ("pipeline", vec!["cas"]),
        ("vmm/proto", vec![]),
        ("vmm/egress", vec![]),
        ("vmm/tree", vec!["proto"]),
        ("vmm", vec!["egress", "proto"]),
        ("vmm/guest", vec!["proto", "tree"]),
        (
            "cli/workspace",
            vec!["cas", "egress", "pipeline", "proto", "tree", "vmm"],
        ),
        (
            "cli",
            vec!["cas", "pipeline", "proto", "tree", "vmm", "workspace"],
        ),
    ];
    for (directory, expected) in expected {
        let manifest = fs::read_to_string(root().join(directory).join("Cargo.toml")).unwrap();
        let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or("");
        let section = section.split("\n[").next().unwrap();
        let mut ours: Vec<&str> = section
            .lines()
            .filter_map(|line| line.strip_prefix("microagent-"))
            .map(|rest| rest.split(['.', ' ', '=']).next().unwrap())
            .collect();
        ours.sort_unstable();
        assert_eq!(ours, expected, "{directory}");
    }
}

/// Tests the parser with a small crate.
#[test]
fn every_form_of_import_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "lib.rs",
        "mod low; mod high; mod other; pub use high::Thing;",
    );
    write(
        "high/mod.rs",
        "mod inner; pub struct Thing; pub use inner::Inner;",
    );
    write("high/inner.rs", "use super::Thing; pub struct Inner;");
    write("other.rs", "fn f() {}");
    let floors: Floors = vec![
        vec!["crate".into()],
        vec!["high".into()],
        vec!["low".into(), "other".into()],
    ];
    let check = |low: &str| {
        write("low.rs", low);
        violations(&floors, &sources(directory.path())).join("\n")
    };
    let found = |path: &str, module: &str, floor: usize| {
        format!("low (floor 2) imports {path} from {module} (floor {floor})")
    };
    for (low, expected) in [
        ("use crate::high::Thing;", found("high::Thing", "high", 1)),
        ("use crate::{Thing as Other};", found("Thing", "high", 1)),
        ("use crate::high::{self};", found("high", "high", 1)),
        (
            "use crate::high::Inner;",
            found("high::Inner", "high::inner", 1),
        ),
        ("use crate::high::*;", found("high", "high", 1)),
        ("use super::Thing;", found("Thing", "high", 1)),
        (
            "fn f() -> crate::Thing { crate::Thing }",
            found("Thing", "high", 1),
        ),
        (
            "mod a { use super::super::Thing; }",
            found("Thing", "high", 1),
        ),
        ("use crate::other::f;", found("other::f", "other", 2)),
        ("use crate::whatever;", found("whatever", "crate", 0)),
        ("use std::io; use self::io::Read;", String::new()),
        (
            "#[cfg(test)] mod tests { use crate::Thing; }",
            String::new(),
        ),
    ] {
        assert_eq!(check(low), expected, "{low}");
    }
    let floors: Floors = vec![vec!["crate".into(), "high".into()]];
    let unplaced = violations(&floors, &sources(directory.path()));
    assert_eq!(unplaced, ["low is on no floor", "other is on no floor"]);
}
