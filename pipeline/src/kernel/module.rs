//! Kernel modules: their names and dependencies, and the selection of those a microVM requires.
//!
//! Dependencies are read from each module's `.modinfo` section (`depends=…`, written by modpost).
//! `modules.dep` is not part of a package; it is generated at installation. The functions here are
//! pure; their input is untrusted.

use std::collections::{BTreeMap, BTreeSet};

use elf::ElfBytes;
use elf::endian::LittleEndian;

/// Drivers that a microVM requires, as modules or built in: the virtio transport, the root disk,
/// the connection to the agent, the root file system.
pub(crate) const REQUIRED: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "vmw_vsock_virtio_transport",
    "ext4",
];

/// Modules that are included if the kernel has them. `virtio_rng` fills the entropy pool early;
/// ext4 requests `crc32c_generic` from the crypto API by an alias, which would need modprobe; a VM
/// whose devices are all in use has no disk with modules from which `virtio_net` could be loaded.
pub(crate) const OPTIONAL: &[&str] = &["virtio_rng", "crc32c_generic", "virtio_net"];

/// The kernel's name for a module file: without directory and suffixes, with `-` replaced by `_`.
/// `None` if it is not a module file.
pub(crate) fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = [".ko", ".ko.zst", ".ko.xz", ".ko.gz"]
        .iter()
        .find_map(|end| file.strip_suffix(end));
    stem.filter(|stem| !stem.is_empty())
        .map(|stem| stem.replace('-', "_"))
}

/// What a module says about itself, in its `.modinfo` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ModuleInfo {
    /// The names of the modules that it needs.
    pub(crate) depends: Vec<String>,
    /// Patterns of names for which it is loaded, in the order of the section.
    pub(crate) aliases: Vec<String>,
    /// Modules to load before and after it, if they exist (`pre: a post: b`).
    pub(crate) softdeps: Vec<String>,
}

/// The maximum number of aliases of a module. A driver for many devices has some hundred.
const MAX_ALIASES: usize = 20_000;

/// Reads a module's `.modinfo`.
///
/// # Errors
/// One line with the reason why the file is not a module.
pub(crate) fn info(module: &[u8]) -> Result<ModuleInfo, String> {
    let damaged = |error: elf::ParseError| format!("damaged ELF file: {error}");
    let file = ElfBytes::<LittleEndian>::minimal_parse(module).map_err(damaged)?;
    let section = file
        .section_header_by_name(".modinfo")
        .map_err(damaged)?
        .ok_or_else(|| "it has no .modinfo section".to_owned())?;
    let (bytes, _) = file.section_data(&section).map_err(damaged)?;
    let mut info = ModuleInfo::default();
    for entry in bytes.split(|&byte| byte == 0) {
        let Ok(entry) = std::str::from_utf8(entry) else {
            continue;
        };
        // A value with a line break could not be written to a line of an index.
        match entry.split_once('=') {
            Some(("depends", names)) => info.depends.extend(
                names
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(|name| name.replace('-', "_")),
            ),
            Some(("alias", alias)) if !alias.contains(char::is_whitespace) => {
                info.aliases.push(alias.to_owned());
            }
            Some(("softdep", soft)) if !soft.contains('\n') => info.softdeps.push(soft.to_owned()),
            _ => {}
        }
    }
    match info.aliases.len() {
        count if count > MAX_ALIASES => Err(format!("it has {count} aliases")),
        _ => Ok(info),
    }
}

/// Why a selection of modules failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SelectError<E> {
    /// A required driver is neither a module nor built in.
    Missing(String),
    /// `load` failed.
    Load(E),
}

/// Selects the modules a microVM requires, each after its dependencies.
///
/// `available` holds the kernel's modules by name, `builtin` the names in `modules.builtin`; `load`
/// reads a module's dependencies.
pub(crate) fn select<T, E>(
    available: &BTreeMap<String, T>,
    builtin: &BTreeSet<String>,
    mut load: impl FnMut(&str, &T) -> Result<Vec<String>, E>,
) -> Result<Vec<String>, SelectError<E>> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    let required = REQUIRED.iter().map(|name| (name, true));
    for (name, needed) in required.chain(OPTIONAL.iter().map(|name| (name, false))) {
        if needed || available.contains_key(*name) {
            visit(name, available, builtin, &mut load, &mut seen, &mut order)?;
        }
    }
    Ok(order)
}

/// Depth-first search with an explicit stack, because the package determines the depth.
fn visit<T, E>(
    name: &str,
    available: &BTreeMap<String, T>,
    builtin: &BTreeSet<String>,
    load: &mut impl FnMut(&str, &T) -> Result<Vec<String>, E>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<(), SelectError<E>> {
    enum Step {
        Enter(String),
        Leave(String),
    }
    let mut stack = vec![Step::Enter(name.to_owned())];
    while let Some(step) = stack.pop() {
        match step {
            Step::Leave(name) => order.push(name),
            Step::Enter(name) => {
                if builtin.contains(&name) || !seen.insert(name.clone()) {
                    continue;
                }
                let Some(module) = available.get(&name) else {
                    return Err(SelectError::Missing(name));
                };
                let depends = load(&name, module).map_err(SelectError::Load)?;
                stack.push(Step::Leave(name));
                stack.extend(depends.into_iter().rev().map(Step::Enter));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn graph(edges: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        edges
            .iter()
            .map(|(name, depends)| ((*name).to_owned(), owned(depends)))
            .collect()
    }

    fn choose(
        modules: &BTreeMap<String, Vec<String>>,
        builtin: &[&str],
    ) -> Result<Vec<String>, SelectError<()>> {
        let builtin = builtin.iter().map(|name| (*name).to_owned()).collect();
        select(modules, &builtin, |_, depends| Ok(depends.clone()))
    }

    #[test]
    fn file_names_become_module_names() {
        assert_eq!(
            module_name("./lib/modules/6/x/virtio-rng.ko").as_deref(),
            Some("virtio_rng")
        );
        assert_eq!(module_name("ext4.ko.zst").as_deref(), Some("ext4"));
        assert_eq!(module_name("a/b.ko.xz").as_deref(), Some("b"));
        for other in ["modules.builtin", "x/.ko", "vmlinuz", "a.ko/", "a.ko.bz2"] {
            assert_eq!(module_name(other), None, "{other}");
        }
    }

    #[test]
    fn modules_follow_their_dependencies_and_builtin_ones_are_omitted() {
        let modules = graph(&[
            ("virtio_mmio", &["virtio", "virtio_ring"]),
            ("virtio_blk", &["virtio", "virtio_ring"]),
            ("virtio_ring", &[]),
            ("virtio", &[]),
            ("vmw_vsock_virtio_transport", &["common", "virtio", "vsock"]),
            ("common", &["vsock"]),
            ("vsock", &[]),
            ("unrelated", &[]),
        ]);
        assert_eq!(
            choose(&modules, &["ext4"]).unwrap(),
            [
                "virtio",
                "virtio_ring",
                "virtio_mmio",
                "virtio_blk",
                "vsock",
                "common",
                "vmw_vsock_virtio_transport"
            ]
        );
    }

    #[test]
    fn a_missing_required_module_is_an_error_and_a_missing_optional_one_is_not() {
        let modules = graph(&[("virtio_rng", &[])]);
        let builtin = [
            "virtio_mmio",
            "virtio_blk",
            "vmw_vsock_virtio_transport",
            "ext4",
        ];
        assert_eq!(choose(&modules, &builtin).unwrap(), ["virtio_rng"]);
        assert_eq!(choose(&graph(&[]), &builtin).unwrap(), [""; 0]);
        let missing = choose(&modules, &builtin[..2]);
        assert_eq!(
            missing,
            Err(SelectError::Missing("vmw_vsock_virtio_transport".into()))
        );
    }

    #[test]
    fn a_dependency_cycle_terminates() {
        let modules = graph(&[("ext4", &["a"]), ("a", &["b"]), ("b", &["a", "ext4"])]);
        let builtin = ["virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport"];
        assert_eq!(choose(&modules, &builtin).unwrap(), ["b", "a", "ext4"]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_cause_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let _ = info(&bytes);
            let mut elf = b"\x7fELF\x02\x01\x01\0".to_vec();
            elf.extend_from_slice(&bytes);
            let _ = info(&elf);
        }
    }
}
