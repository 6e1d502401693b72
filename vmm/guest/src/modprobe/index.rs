//! Which files to load for a name, from the index files of a modules directory (modules.dep(5)).

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;

use super::pattern;

/// The index files, as text.
#[derive(Debug, Default)]
pub struct Index {
    /// `PATH: NEEDED…`, to be loaded from the last to the first.
    dependencies: String,
    /// `alias PATTERN MODULE`.
    aliases: String,
    /// `softdep MODULE pre: NAME… post: NAME…`.
    soft: String,
}

impl Index {
    /// Reads the files in `directory`.
    ///
    /// # Errors
    /// If there is no `modules.dep`.
    pub fn read(directory: &Path) -> io::Result<Index> {
        let optional = |name: &str| std::fs::read_to_string(directory.join(name));
        Ok(Index {
            dependencies: optional("modules.dep")?,
            aliases: optional("modules.alias").unwrap_or_default(),
            soft: optional("modules.softdep").unwrap_or_default(),
        })
    }

    /// The files to load for `name`, a module or an alias, in order.
    pub fn modules_for(&self, name: &str) -> Vec<String> {
        let lines = self.dependencies.lines();
        let mut plan = Plan {
            index: self,
            modules: lines
                .filter_map(|line| {
                    let (path, needed) = line.split_once(':')?;
                    Some((module_name(path), (path, needed)))
                })
                .collect(),
            visited: HashSet::new(),
            files: Vec::new(),
        };
        plan.add(name);
        plan.files
    }
}

struct Plan<'i> {
    index: &'i Index,
    /// By name: the file, and the files that it needs.
    modules: HashMap<String, (&'i str, &'i str)>,
    /// Names and modules that were added, because soft dependencies can be cyclic.
    visited: HashSet<String>,
    files: Vec<String>,
}

impl Plan<'_> {
    fn add(&mut self, name: &str) {
        let name = name.replace('-', "_");
        if self.visited.insert(name.clone()) {
            match self.modules.contains_key(&name) {
                true => self.add_module(&name),
                false => self.add_aliased(&name),
            }
        }
    }

    fn add_aliased(&mut self, name: &str) {
        let index = self.index;
        for line in index.aliases.lines() {
            let mut words = line.split(' ');
            if let (Some("alias"), Some(alias), Some(module)) =
                (words.next(), words.next(), words.next())
                && pattern::matches(alias, name)
            {
                self.add(module);
            }
        }
    }

    fn add_module(&mut self, name: &str) {
        let Some(&(path, needed)) = self.modules.get(name) else {
            return;
        };
        let needed: Vec<&str> = needed.split_whitespace().rev().collect();
        let names = needed.iter().map(|path| module_name(path));
        for module in names.chain([name.to_owned()]) {
            self.add_soft(&module, "pre:");
        }
        for file in needed.into_iter().chain([path]) {
            if !self.files.iter().any(|known| known == file) {
                self.files.push(file.to_owned());
            }
        }
        self.add_soft(name, "post:");
    }

    /// Adds what is to be loaded before or after a module.
    fn add_soft(&mut self, module: &str, when: &str) {
        let index = self.index;
        for line in index.soft.lines() {
            let mut words = line.split_whitespace();
            if words.next() != Some("softdep") || words.next() != Some(module) {
                continue;
            }
            let mut applies = false;
            for word in words {
                match word {
                    "pre:" | "post:" => applies = word == when,
                    name if applies => self.add(name),
                    _ => {}
                }
            }
        }
    }
}

/// The kernel's name for a module file.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    let name = file.split('.').next().unwrap_or_default();
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        Index {
            dependencies: "kernel/fs/overlayfs/overlay.ko:\n\
                 kernel/net/nf_nat.ko: kernel/net/nf_conntrack.ko kernel/lib/libcrc32c.ko\n\
                 kernel/net/nf_conntrack.ko: kernel/lib/libcrc32c.ko\n\
                 kernel/lib/libcrc32c.ko:\n\
                 kernel/crypto/crc32c_generic.ko:\n\
                 kernel/arch/crc32c-intel.ko:\n\
                 kernel/a.ko:\nkernel/b.ko:\n"
                .to_owned(),
            aliases: "# comment\nalias fs-overlay overlay\n\
                 alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\n\
                 alias char-major-21-* a\nalias net-pf-16-proto-1[24]* b\n"
                .to_owned(),
            soft: "softdep libcrc32c pre: crypto-crc32c\nsoftdep a post: b\nsoftdep b pre: a missing\n"
                .to_owned(),
        }
    }

    #[test]
    fn modules_follow_what_they_need_and_what_they_wish_for() {
        let modules = |name: &str| index().modules_for(name).join(" ");
        assert_eq!(modules("overlay"), "kernel/fs/overlayfs/overlay.ko");
        assert_eq!(modules("fs-overlay"), "kernel/fs/overlayfs/overlay.ko");
        assert_eq!(
            modules("nf-nat"),
            "kernel/arch/crc32c-intel.ko kernel/crypto/crc32c_generic.ko \
             kernel/lib/libcrc32c.ko kernel/net/nf_conntrack.ko kernel/net/nf_nat.ko"
        );
        // Cyclic soft dependencies.
        assert_eq!(modules("char-major-21-7"), "kernel/a.ko kernel/b.ko");
        assert_eq!(modules("net-pf-16-proto-12"), "kernel/a.ko kernel/b.ko");
        for unknown in ["net-pf-16-proto-13", "fs-xfs", "", "alias"] {
            assert_eq!(modules(unknown), "");
        }
    }
}
