//! Selects the extended attributes of a layer that a file system gets, and
//! converts them to the form of ext4.
//!
//! - `security.selinux` is a label of the machine that built the layer. It has
//!   no meaning here and is dropped, as in umoci.
//! - `security.capability` is kept. Version 3 contains the user id of root in
//!   the namespace where it was created; in the guest root has id 0, so it is
//!   converted to version 2, which lacks that id (capabilities(7)).
//! - ext4 stores access control lists in another form than `getxattr(2)` and
//!   tars (`fs/ext4/acl.h`, `linux/posix_acl_xattr.h`).
//! - A name in a namespace unknown to Linux is dropped; setting it on a running
//!   system would fail too.

use crate::tar::entry::{Attributes, Xattr};

const CAPABILITY: &[u8] = b"security.capability";
const DROPPED: [&[u8]; 1] = [b"security.selinux"];
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// `VFS_CAP_REVISION_MASK`, `_2`, `_3` and the lengths of the two versions.
const CAP_REVISION: u32 = 0xff00_0000;
const CAP_V2: u32 = 0x0200_0000;
const CAP_V3: u32 = 0x0300_0000;
const CAP_V2_LEN: usize = 20;
const CAP_V3_LEN: usize = 24;

/// The attributes, reduced to the extended attributes that a file system gets.
pub(crate) fn kept(mut attributes: Attributes) -> Attributes {
    attributes.xattrs.retain(|xattr| {
        let known = NAMESPACES.iter().any(|namespace| {
            xattr.name.len() > namespace.len() && xattr.name.starts_with(namespace)
        });
        (known || ACLS.contains(&&*xattr.name)) && !DROPPED.contains(&&*xattr.name)
    });
    for xattr in &mut attributes.xattrs {
        if xattr.name == CAPABILITY {
            without_root_id(xattr);
        }
    }
    attributes
}

/// Converts a file capability from version 3 to version 2.
fn without_root_id(xattr: &mut Xattr) {
    let Some((magic, rest)) = xattr.value.split_first_chunk::<4>() else {
        return;
    };
    let magic = u32::from_le_bytes(*magic);
    if magic & CAP_REVISION == CAP_V3 && xattr.value.len() == CAP_V3_LEN {
        let magic = (magic & !CAP_REVISION) | CAP_V2;
        let mut value = magic.to_le_bytes().to_vec();
        value.extend(&rest[..CAP_V2_LEN - 4]);
        xattr.value = value;
    }
}

/// The maximum size of an inode's extended attributes: one block, less its header.
const MAX_STORED: usize = 4096 - 36;
/// The maximum length of a name without its namespace (`ext4_xattr_entry.e_name_len`).
const MAX_NAME: usize = 255;

/// Whether an ext4 inode can hold these attributes: each entry has 16 bytes, its name and its
/// value, both padded to 4 bytes.
pub(crate) fn fit_ext4(xattrs: &[Xattr]) -> bool {
    let mut total = 0;
    xattrs.iter().all(|xattr| {
        let Some(value) = stored_by_ext4(xattr) else {
            return false;
        };
        let prefix = xattr.name.iter().position(|byte| *byte == b'.');
        let name = xattr.name.len() - prefix.map_or(0, |dot| dot + 1);
        total += 16 + xattr.name.len().next_multiple_of(4) + value.len().next_multiple_of(4);
        total <= MAX_STORED && name <= MAX_NAME && std::str::from_utf8(&xattr.name).is_ok()
    })
}

/// The value in the form of ext4; `None` for a malformed list.
pub(crate) fn stored_by_ext4(xattr: &Xattr) -> Option<Vec<u8>> {
    match ACLS.contains(&&*xattr.name) {
        true => acl(&xattr.value),
        false => Some(xattr.value.clone()),
    }
}

/// Converts `posix_acl_xattr_header` and entries of (tag, permissions, id) to
/// `ext4_acl_header` and entries that have an id only for named users and
/// groups. Both are little-endian.
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    const XATTR_VERSION: u32 = 2;
    const EXT4_VERSION: u32 = 1;
    const ACL_USER: u16 = 0x02;
    const ACL_GROUP: u16 = 0x08;
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != XATTR_VERSION {
        return None;
    }
    let mut stored = EXT4_VERSION.to_le_bytes().to_vec();
    let (entries, rest) = entries.as_chunks::<8>();
    for [tag_low, tag_high, perm_low, perm_high, id @ ..] in entries.iter().copied() {
        stored.extend([tag_low, tag_high, perm_low, perm_high]);
        let tag = u16::from_le_bytes([tag_low, tag_high]);
        if matches!(tag, ACL_USER | ACL_GROUP) {
            stored.extend(id);
        }
    }
    rest.is_empty().then_some(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(xattrs: &[(&str, &[u8])]) -> Attributes {
        let xattrs = xattrs.iter().map(|(name, value)| Xattr {
            name: name.as_bytes().to_vec(),
            value: value.to_vec(),
        });
        Attributes {
            xattrs: xattrs.collect(),
            ..Attributes::default()
        }
    }

    #[test]
    fn only_names_that_linux_accepts_are_kept() {
        let names = [
            ("user.a", true),
            ("user.", false),
            ("trusted.overlay.x", true),
            ("security.capability", true),
            ("security.selinux", false),
            ("security.ima", true),
            ("system.posix_acl_access", true),
            ("system.nfs4_acl", false),
            ("com.apple.quarantine", false),
        ];
        for (name, expected) in names {
            let kept = kept(attributes(&[(name, b"")]));
            assert_eq!(!kept.xattrs.is_empty(), expected, "{name}");
        }
    }

    #[test]
    fn a_capability_loses_the_root_id_of_its_namespace() {
        // What setcap writes for cap_net_raw+ep, outside and inside a user namespace.
        let v2 = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut v3 = v2.to_vec();
        v3[3] = 3;
        v3.extend(100_000u32.to_le_bytes());
        for value in [&v2[..], &v3] {
            let kept = kept(attributes(&[("security.capability", value)]));
            assert_eq!(kept.xattrs[0].value, v2);
        }
    }

    #[test]
    fn a_list_is_stored_without_unused_ids() {
        let mut value = 2u32.to_le_bytes().to_vec();
        value.extend([1, 0, 6, 0, 255, 255, 255, 255]);
        value.extend([2, 0, 4, 0, 0xe8, 3, 0, 0]);
        let xattr = Xattr {
            name: ACLS[0].to_vec(),
            value,
        };
        let stored = stored_by_ext4(&xattr).unwrap();
        assert_eq!(stored, [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 0xe8, 3, 0, 0]);
        let cut = Xattr {
            value: xattr.value[..9].to_vec(),
            ..xattr
        };
        assert_eq!(stored_by_ext4(&cut), None);
    }
}
