//! Kernel modules: what a file says of itself, and which modules a microVM needs.
//!
//! Dependencies come from each module's own `.modinfo` section (`depends=…`, written by modpost),
//! not from `modules.dep`: that file is made on the installing machine and is in no package.
//! Everything here is pure; the bytes are foreign.

use std::collections::{BTreeMap, BTreeSet};

use elf::ElfBytes;
use elf::endian::LittleEndian;

/// What a microVM cannot do without, as a module or built in: the transport, the root disk, the
/// agent's line, the root's file system.
pub(crate) const REQUIRED: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "vmw_vsock_virtio_transport",
    "ext4",
];

/// Taken along where the kernel has it as a module. `virtio_rng` feeds the entropy pool early;
/// `crc32c_generic` is what ext4 asks the crypto API for by alias, which needs no modprobe then.
pub(crate) const OPTIONAL: &[&str] = &["virtio_rng", "crc32c_generic"];

/// The name the kernel gives to a module file: without directory and suffixes, `-` as `_`. `None`
/// when it is no module file.
pub(crate) fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = [".ko", ".ko.zst", ".ko.xz", ".ko.gz"]
        .iter()
        .find_map(|end| file.strip_suffix(end));
    stem.filter(|stem| !stem.is_empty())
        .map(|stem| stem.replace('-', "_"))
}

/// The names a module depends on, from its `.modinfo`.
///
/// # Errors
/// One line on why it is no module.
pub(crate) fn dependencies(module: &[u8]) -> Result<Vec<String>, String> {
    let damaged = |error: elf::ParseError| format!("damaged ELF file: {error}");
    let file = ElfBytes::<LittleEndian>::minimal_parse(module).map_err(damaged)?;
    let section = file
        .section_header_by_name(".modinfo")
        .map_err(damaged)?
        .ok_or_else(|| "it has no .modinfo section".to_owned())?;
    let (info, _) = file.section_data(&section).map_err(damaged)?;
    let depends = info
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="));
    let names = std::str::from_utf8(depends.unwrap_or_default())
        .map_err(|_| "its dependencies are not text".to_owned())?;
    Ok(names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect())
}

/// Why a selection of modules failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SelectError<E> {
    /// This one is neither a module nor built in.
    Missing(String),
    /// `load` failed.
    Load(E),
}

/// Chooses the modules a microVM needs, every one after all it depends on.
///
/// `available` are the kernel's modules by name; `builtin` the names in `modules.builtin`; `load`
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

/// Depth first with an explicit stack: the depth is the package's to choose.
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
    fn modules_come_after_what_they_depend_on_and_builtin_ones_not_at_all() {
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
    fn a_required_module_that_is_nowhere_is_named_and_an_optional_one_is_not_missed() {
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
    fn a_cycle_ends() {
        let modules = graph(&[("ext4", &["a"]), ("a", &["b"]), ("b", &["a", "ext4"])]);
        let builtin = ["virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport"];
        assert_eq!(choose(&modules, &builtin).unwrap(), ["b", "a", "ext4"]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_module_and_no_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let _ = dependencies(&bytes);
            let mut elf = b"\x7fELF\x02\x01\x01\0".to_vec();
            elf.extend_from_slice(&bytes);
            let _ = dependencies(&elf);
        }
    }
}
