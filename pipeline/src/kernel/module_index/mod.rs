//! The files by which `modprobe` finds modules: what depmod(8) writes at the installation of a
//! kernel package, which does not contain them.
//!
//! | file | content, one line each (modules.dep(5)) |
//! |---|---|
//! | `modules.dep` | the module's path, and those of all modules that it needs, to be loaded from the last to the first |
//! | `modules.alias` | a pattern of names and the module to load for them |
//! | `modules.softdep` | modules to load before and after another one, if they exist |
//! | `modules.devname` | a device node whose driver is loaded when it is opened |
//!
//! The files `*.bin` have the same content as tries ([`trie`]), the only form that kmod reads.
//! `modules.symbols` is empty: only `symbol_request()` asks for modules by symbol.
//!
//! `depmod` itself is not used, so that a disk depends on nothing but the package, and the host
//! needs no kmod.

mod trie;

use std::collections::{BTreeMap, BTreeSet};

use self::trie::Trie;
use super::module::{ModuleInfo, module_name};

/// A module in the directory of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexedModule {
    /// Its file below the directory, such as `kernel/fs/fuse/fuse.ko`.
    pub(crate) path: String,
    /// What it says about itself.
    pub(crate) info: ModuleInfo,
}

/// What a package says about the modules that are built into its kernel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Builtin {
    /// `modules.builtin`: a path a line.
    pub(crate) list: Vec<u8>,
    /// `modules.builtin.modinfo`: NUL-terminated strings `module.key=value`.
    pub(crate) info: Vec<u8>,
}

/// Returns the files, by name. `modules` are in the order of `modules.order`, in which modprobe
/// prefers them.
pub(crate) fn files(
    modules: &[IndexedModule],
    builtin: &Builtin,
) -> BTreeMap<&'static str, Vec<u8>> {
    let named: BTreeMap<String, &IndexedModule> = modules
        .iter()
        .filter_map(|module| Some((module_name(&module.path)?, module)))
        .collect();
    let (mut dep, mut dep_trie) = (String::new(), Trie::default());
    let mut alias = "# Aliases extracted from modules themselves.\n".to_owned();
    let mut alias_trie = Trie::default();
    let mut softdep = "# Soft dependencies extracted from modules themselves.\n".to_owned();
    let mut devname = "# Device nodes to trigger on-demand module loading.\n".to_owned();
    for (index, module) in (0_u32..).zip(modules) {
        let Some(name) = module_name(&module.path) else {
            continue;
        };
        let line = dependency_line(&name, module, &named);
        dep_trie.insert(&name, &line, index);
        dep.push_str(&format!("{line}\n"));
        for pattern in &module.info.aliases {
            alias.push_str(&format!("alias {pattern} {name}\n"));
            alias_trie.insert(&normalized(pattern), &name, index);
        }
        for soft in &module.info.softdeps {
            softdep.push_str(&format!("softdep {name} {soft}\n"));
        }
        if let Some(node) = device_node(&module.info.aliases) {
            devname.push_str(&format!("{name} {node}\n"));
        }
    }
    let text = String::into_bytes;
    BTreeMap::from([
        ("modules.dep", text(dep)),
        ("modules.dep.bin", dep_trie.to_bytes()),
        ("modules.alias", text(alias)),
        ("modules.alias.bin", alias_trie.to_bytes()),
        ("modules.softdep", text(softdep)),
        ("modules.devname", text(devname)),
        ("modules.symbols", Vec::new()),
        ("modules.symbols.bin", Trie::default().to_bytes()),
        ("modules.builtin.bin", builtin_names(builtin).to_bytes()),
        (
            "modules.builtin.alias.bin",
            builtin_aliases(builtin).to_bytes(),
        ),
    ])
}

/// The line of `modules.dep`, without its end.
fn dependency_line(
    name: &str,
    module: &IndexedModule,
    named: &BTreeMap<String, &IndexedModule>,
) -> String {
    let mut line = format!("{}:", module.path);
    for needed in load_order(name, named).iter().rev() {
        if let Some(needed) = named.get(*needed).filter(|_| *needed != name) {
            line.push(' ');
            line.push_str(&needed.path);
        }
    }
    line
}

/// The module and all that it needs, each after what it needs itself. Iterative, because the
/// package determines the depth.
fn load_order<'m>(name: &'m str, named: &'m BTreeMap<String, &IndexedModule>) -> Vec<&'m str> {
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    let mut stack = vec![(name, false)];
    while let Some((name, is_done)) = stack.pop() {
        if is_done {
            order.push(name);
        } else if let Some(module) = named.get(name).filter(|_| seen.insert(name)) {
            stack.push((name, true));
            let depends = module.info.depends.iter().rev();
            stack.extend(depends.map(|name| (name.as_str(), false)));
        }
    }
    order
}

/// A pattern as kmod stores and looks it up: `-` is `_`, except in brackets.
fn normalized(pattern: &str) -> String {
    let mut in_brackets = false;
    pattern
        .chars()
        .map(|character| {
            match character {
                '[' => in_brackets = true,
                ']' => in_brackets = false,
                _ => {}
            }
            match character {
                '-' if !in_brackets => '_',
                other => other,
            }
        })
        .collect()
}

/// The node of a module that has both a name and a number for it: `fuse c10:229`.
fn device_node(aliases: &[String]) -> Option<String> {
    let name = aliases
        .iter()
        .find_map(|alias| alias.strip_prefix("devname:"))?;
    aliases.iter().find_map(|alias| {
        let (kind, numbers) = None
            .or_else(|| Some(('c', alias.strip_prefix("char-major-")?)))
            .or_else(|| Some(('b', alias.strip_prefix("block-major-")?)))?;
        let (major, minor) = numbers.split_once('-')?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        Some(format!("{name} {kind}{major}:{minor}"))
    })
}

fn builtin_names(builtin: &Builtin) -> Trie {
    let mut trie = Trie::default();
    for name in String::from_utf8_lossy(&builtin.list)
        .lines()
        .filter_map(module_name)
    {
        trie.insert(&name, "", 0);
    }
    trie
}

fn builtin_aliases(builtin: &Builtin) -> Trie {
    let mut trie = Trie::default();
    for entry in builtin.info.split(|&byte| byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        if let Some((name, alias)) = entry.split_once(".alias=") {
            trie.insert(&normalized(alias), &name.replace('-', "_"), 0);
        }
    }
    trie
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, depends: &[&str], aliases: &[&str]) -> IndexedModule {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        IndexedModule {
            path: path.to_owned(),
            info: ModuleInfo {
                depends: owned(depends),
                aliases: owned(aliases),
                softdeps: Vec::new(),
            },
        }
    }

    fn text(modules: &[IndexedModule], name: &str) -> String {
        String::from_utf8(files(modules, &Builtin::default())[name].clone()).unwrap()
    }

    #[test]
    fn needed_modules_are_listed_in_reverse_load_order() {
        let modules = [
            module("k/nf-nat.ko", &["nf_conntrack", "libcrc32c"], &[]),
            module(
                "k/nf_conntrack.ko",
                &["nf_defrag", "libcrc32c", "built_in"],
                &[],
            ),
            module("k/nf_defrag.ko", &[], &[]),
            module("k/libcrc32c.ko", &[], &[]),
            module("k/a.ko", &["b"], &[]),
            module("k/b.ko", &["a"], &[]),
        ];
        assert_eq!(
            text(&modules, "modules.dep"),
            "k/nf-nat.ko: k/nf_conntrack.ko k/libcrc32c.ko k/nf_defrag.ko\n\
             k/nf_conntrack.ko: k/libcrc32c.ko k/nf_defrag.ko\n\
             k/nf_defrag.ko:\nk/libcrc32c.ko:\nk/a.ko: k/b.ko\nk/b.ko: k/a.ko\n"
        );
    }

    #[test]
    fn a_device_node_needs_a_name_and_a_number() {
        let modules = [
            module("k/fuse.ko", &[], &["devname:fuse", "char-major-10-229"]),
            module(
                "k/loop.ko",
                &[],
                &["block-major-7-*", "devname:loop-control"],
            ),
            module("k/x.ko", &[], &["char-major-1-2"]),
            module("k/y.ko", &[], &["devname:y", "block-major-3-4"]),
        ];
        assert_eq!(
            text(&modules, "modules.devname"),
            "# Device nodes to trigger on-demand module loading.\n\
             fuse fuse c10:229\ny y b3:4\n"
        );
    }

    #[test]
    fn patterns_are_normalized_outside_brackets() {
        assert_eq!(normalized("net-pf-[0-9]-a-b"), "net_pf_[0-9]_a_b");
    }

    #[test]
    fn a_key_that_the_trie_cannot_hold_is_left_out() {
        let mut trie = Trie::default();
        for key in ["", "\u{e9}", "a\0b", &"x".repeat(513)] {
            trie.insert(key, "value", 0);
        }
        assert_eq!(trie.to_bytes(), Trie::default().to_bytes());
        trie.insert(&"x".repeat(512), "value", 0);
        assert_ne!(trie.to_bytes(), Trie::default().to_bytes());
    }
}
