//! kmod's index files: a trie over strings, of which modprobe reads only the nodes on its way.
//!
//! Numbers are 32 bits, big-endian. The file begins with a magic number, a version and the
//! reference of the root. A reference is the offset of a node, and in its upper bits which parts
//! the node has, in this order (`shared/index` and `libkmod-index` of kmod):
//!
//! - a prefix: bytes that all keys below the node have next, and a NUL;
//! - children: the first and last byte by which they are told apart, and a reference for each byte
//!   in that range, 0 for none;
//! - values of the key that ends here: their number, and for each a priority and a string with a
//!   NUL.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xb007_f457;
/// Version 2.1.
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 1 << 31;
const HAS_VALUES: u32 = 1 << 30;
const HAS_CHILDREN: u32 = 1 << 29;

/// The maximum length of a key, in bytes, which bounds the depth of the recursion. The kernel's
/// requests have at most 56 (`MODULE_NAME_LEN`), aliases of devices some hundred.
const MAX_KEY: usize = 512;

/// A map from keys to values in the order of their priorities.
#[derive(Debug, Default)]
pub(super) struct Trie {
    children: BTreeMap<u8, Trie>,
    values: Vec<(u32, String)>,
}

impl Trie {
    /// Adds a value. Keys that the format cannot hold are left out: empty, longer than [`MAX_KEY`],
    /// or not ASCII.
    pub(super) fn insert(&mut self, key: &str, value: &str, priority: u32) {
        let storable = |byte: u8| byte.is_ascii() && byte != 0;
        if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(storable) {
            return;
        }
        let mut node = self;
        for byte in key.bytes() {
            node = node.children.entry(byte).or_default();
        }
        let value = (priority, value.replace('\0', ""));
        if !node.values.contains(&value) {
            let at = node.values.partition_point(|(other, _)| *other <= priority);
            node.values.insert(at, value);
        }
    }

    /// The file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut file = Vec::new();
        for number in [MAGIC, VERSION, 0] {
            file.extend(number.to_be_bytes());
        }
        // The root never has a prefix.
        let root = self.write("", &mut file);
        file[8..12].copy_from_slice(&root.to_be_bytes());
        file
    }

    /// Appends the node with its prefix, after its children; returns its reference.
    fn write(&self, prefix: &str, file: &mut Vec<u8>) -> u32 {
        let mut references = Vec::new();
        let range = self.children.keys().next().zip(self.children.keys().last());
        if let Some((&first, &last)) = range {
            references.resize(usize::from(last - first) + 1, 0);
            for (byte, child) in &self.children {
                let (prefix, node) = child.compressed();
                references[usize::from(byte - first)] = node.write(&prefix, file);
            }
        }
        let mut reference = u32::try_from(file.len()).unwrap_or(u32::MAX);
        if !prefix.is_empty() {
            file.extend(prefix.bytes().chain([0]));
            reference |= HAS_PREFIX;
        }
        if let Some((first, last)) = range {
            file.extend([first, last]);
            file.extend(references.iter().flat_map(|number| number.to_be_bytes()));
            reference |= HAS_CHILDREN;
        }
        if !self.values.is_empty() {
            let count = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
            file.extend(count.to_be_bytes());
            for (priority, value) in &self.values {
                file.extend(priority.to_be_bytes());
                file.extend(value.bytes().chain([0]));
            }
            reference |= HAS_VALUES;
        }
        reference
    }

    /// Follows nodes that have one child and no value; returns the bytes on the way, and the last.
    fn compressed(&self) -> (String, &Trie) {
        let (mut prefix, mut node) = (String::new(), self);
        while node.values.is_empty()
            && node.children.len() == 1
            && let Some((&byte, child)) = node.children.first_key_value()
        {
            prefix.push(char::from(byte));
            node = child;
        }
        (prefix, node)
    }
}
