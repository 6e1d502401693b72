//! The content of a modules disk: all modules of a package, uncompressed, and the files by which
//! modprobe finds them ([`module_index`]).

use std::collections::HashMap;
use std::os::unix::fs::FileExt;

use microagent_cas::{Scratch, Store, StoreError};

use super::error::KernelFailure;
use super::module;
use super::module_index::{self, Builtin, IndexedModule};
use super::package::Unpacked;

/// The files of a release's directory, `/lib/modules/<release>`.
pub(crate) struct ModuleFiles {
    /// Their contents, one after the other.
    pub(crate) data: Scratch,
    /// The files, in an order that depends only on the package.
    pub(crate) files: Vec<ModuleFile>,
}

/// A file, and where its content is in the data.
pub(crate) struct ModuleFile {
    /// Its path below the directory.
    pub(crate) path: String,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// Decompresses and indexes all modules. They must be of one release.
pub(crate) fn collect(store: &Store, unpacked: &Unpacked) -> Result<ModuleFiles, KernelFailure> {
    let mut collected = Collected {
        data: store.scratch()?,
        end: 0,
        files: Vec::new(),
    };
    let mut modules = Vec::new();
    let mut releases: Option<String> = None;
    unpacked.each_module(|release, path, bytes| {
        let first = releases.get_or_insert_with(|| release.to_owned());
        if first != release {
            let why = format!("it contains modules of two releases, {first} and {release}");
            return Err(unpacked.bad(why).into());
        }
        let info = module::info(bytes).map_err(|why| unpacked.bad(format!("{path}: {why}")))?;
        collected.add(path, bytes)?;
        modules.push(IndexedModule {
            path: path.to_owned(),
            info,
        });
        Ok(())
    })?;
    let lists = unpacked.lists();
    let order = String::from_utf8_lossy(&lists.order);
    let order: HashMap<&str, usize> = order.lines().zip(0..).collect();
    modules.sort_by(|a, b| {
        let position = |module: &IndexedModule| order.get(&*module.path).copied();
        let key = |module| (position(module).unwrap_or(usize::MAX), &module.path);
        key(a).cmp(&key(b))
    });
    let builtin = Builtin {
        list: lists.builtin.clone(),
        info: lists.builtin_info.clone(),
    };
    for (name, content) in module_index::files(&modules, &builtin) {
        collected.add(name, &content)?;
    }
    collected.add("modules.order", &lists.order)?;
    collected.add("modules.builtin", &builtin.list)?;
    collected.add("modules.builtin.modinfo", &builtin.info)?;
    Ok(ModuleFiles {
        data: collected.data,
        files: collected.files,
    })
}

struct Collected {
    data: Scratch,
    end: u64,
    files: Vec<ModuleFile>,
}

impl Collected {
    fn add(&mut self, path: &str, content: &[u8]) -> Result<(), StoreError> {
        let written = self.data.file().write_all_at(content, self.end);
        written.map_err(|error| StoreError::io("write to", self.data.path(), error))?;
        let size = content.len() as u64;
        self.files.push(ModuleFile {
            path: path.to_owned(),
            offset: self.end,
            size,
        });
        self.end += size;
        Ok(())
    }
}
