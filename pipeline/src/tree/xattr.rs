//! Selects the extended attributes of a layer that a file system gets, and
//! converts them to the form of ext4.
//!
//! - `security.selinux` is a label of the machine that built the layer. It has
//!   no meaning here and is dropped, as in umoci.
//! - `security.capability` is kept. Version 3 contains the user id of root in
//!   the namespace where it was created; in the guest root has id 0, so it is
//!   converted to version 2, which lacks that id (capabilities(7)).
//! - An access control list is what `setxattr(2)` makes of it ([`acl`]): the mode takes its
//!   permissions, and a list that says no more than the mode is not kept. Symbolic links have none.
//! - A name in a namespace unknown to Linux is dropped; setting it on a running
//!   system would fail too.
//! - What Linux does not let anybody set, because it is not valid, is an error, as in umoci and
//!   podman: a file with such an attribute could not be executed or read.

mod acl;

use crate::tar::entry::{Attributes, EntryKind, Xattr, display_name};

const CAPABILITY: &[u8] = b"security.capability";
const DROPPED: [&[u8]; 1] = [b"security.selinux"];
const USER: &[u8] = b"user.";
const NAMESPACES: [&[u8]; 3] = [USER, b"trusted.", b"security."];
const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `VFS_CAP_REVISION_MASK`, `_2`, `_3`, `VFS_CAP_FLAGS_EFFECTIVE` and the lengths of the two
/// versions.
const CAP_REVISION: u32 = 0xff00_0000;
const CAP_V2: u32 = 0x0200_0000;
const CAP_V3: u32 = 0x0300_0000;
const CAP_EFFECTIVE: u32 = 1;
const CAP_V2_LEN: usize = 20;
const CAP_V3_LEN: usize = 24;

/// The maximum length of a name (`XATTR_NAME_MAX`).
const MAX_NAME: usize = 255;

/// An extended attribute that a file of its type cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Impossible {
    /// Its name, for messages.
    pub(crate) name: String,
    /// The reason.
    pub(crate) reason: &'static str,
}

/// The attributes of a file of this type, reduced to the extended attributes that a file system
/// gets.
///
/// # Errors
/// If Linux would refuse one of them.
pub(crate) fn kept(kind: &EntryKind, mut attributes: Attributes) -> Result<Attributes, Impossible> {
    let mode = &mut attributes.mode;
    let mut xattrs = Vec::with_capacity(attributes.xattrs.len());
    for xattr in attributes.xattrs {
        let judged = judge(kind, xattr, mode);
        xattrs.extend(judged.map_err(|(name, reason)| Impossible {
            name: display_name(&name),
            reason,
        })?);
    }
    attributes.xattrs = xattrs;
    Ok(attributes)
}

/// The attribute as it is kept, if it is; the error is its name and the reason.
fn judge(
    kind: &EntryKind,
    mut xattr: Xattr,
    mode: &mut u16,
) -> Result<Option<Xattr>, (Vec<u8>, &'static str)> {
    let name = &*xattr.name;
    let problem = match name {
        ACCESS | DEFAULT => match (kind, acl::parse(&xattr.value)) {
            (EntryKind::Symlink { .. }, _) | (_, Ok(None)) => return Ok(None),
            (_, Err(())) => "the access control list is not valid",
            (EntryKind::Directory, Ok(Some(_))) if name == DEFAULT => return Ok(Some(xattr)),
            (_, Ok(Some(_))) if name == DEFAULT => "only a directory can have it",
            (_, Ok(Some(acl))) => {
                *mode = (*mode & 0o7000) | acl.mode;
                return Ok(Some(xattr).filter(|_| !acl.is_minimal));
            }
        },
        _ if DROPPED.contains(&name) => return Ok(None),
        _ if !NAMESPACES.iter().any(|space| name.starts_with(space)) => return Ok(None),
        _ if NAMESPACES.contains(&name) => "its name ends after the namespace",
        _ if name.len() > MAX_NAME => "its name is longer than 255 bytes",
        _ if std::str::from_utf8(name).is_err() => "its name is not UTF-8",
        _ if name.starts_with(USER)
            && !matches!(kind, EntryKind::Directory | EntryKind::File(_)) =>
        {
            "only a file or a directory can have it"
        }
        CAPABILITY => match without_root_id(&mut xattr.value) {
            true => return Ok(Some(xattr)),
            false => "it is not a file capability of version 2 or 3",
        },
        _ => return Ok(Some(xattr)),
    };
    Err((xattr.name, problem))
}

/// Converts a file capability to version 2; false if it is not valid (`cap_convert_nscap` in the
/// kernel's `security/commoncap.c`).
fn without_root_id(value: &mut Vec<u8>) -> bool {
    let Some(magic) = value.first_chunk::<4>() else {
        return false;
    };
    let magic = u32::from_le_bytes(*magic);
    match (magic & !CAP_EFFECTIVE, value.len()) {
        (CAP_V2, CAP_V2_LEN) => true,
        (CAP_V3, CAP_V3_LEN) => {
            let magic = (magic & !CAP_REVISION) | CAP_V2;
            value[..4].copy_from_slice(&magic.to_le_bytes());
            value.truncate(CAP_V2_LEN);
            true
        }
        _ => false,
    }
}

/// The maximum size of an inode's extended attributes: one block, less its header.
const MAX_STORED: usize = 4096 - 36;

/// Whether an ext4 inode can hold these attributes: each entry has 16 bytes, its name and its
/// value, both padded to 4 bytes.
pub(crate) fn fit_ext4(xattrs: &[Xattr]) -> bool {
    let mut total = 0;
    xattrs.iter().all(|xattr| {
        let Some(value) = stored_by_ext4(xattr) else {
            return false;
        };
        total += 16 + xattr.name.len().next_multiple_of(4) + value.len().next_multiple_of(4);
        total <= MAX_STORED
    })
}

/// The value in the form of ext4; `None` for a malformed list.
pub(crate) fn stored_by_ext4(xattr: &Xattr) -> Option<Vec<u8>> {
    match &*xattr.name {
        ACCESS | DEFAULT => acl::stored_by_ext4(&xattr.value),
        _ => Some(xattr.value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::entry::{Content, Device};

    const NO_ID: u32 = u32::MAX;

    /// The mode and the attribute of a file with this mode and this attribute.
    fn kept_of(
        kind: &EntryKind,
        mode: u16,
        name: &str,
        value: &[u8],
    ) -> Result<(u16, Option<Vec<u8>>), &'static str> {
        let attributes = Attributes {
            mode,
            xattrs: vec![Xattr {
                name: name.as_bytes().to_vec(),
                value: value.to_vec(),
            }],
            ..Attributes::default()
        };
        let mut kept = kept(kind, attributes).map_err(|error| {
            assert_eq!(error.name, display_name(name.as_bytes()));
            error.reason
        })?;
        assert!(
            kept.xattrs
                .iter()
                .all(|xattr| xattr.name == name.as_bytes())
        );
        Ok((kept.mode, kept.xattrs.pop().map(|xattr| xattr.value)))
    }

    fn file() -> EntryKind {
        EntryKind::File(Content::default())
    }

    fn symlink() -> EntryKind {
        EntryKind::Symlink {
            target: b"x".to_vec(),
        }
    }

    #[test]
    fn only_names_that_linux_knows_are_kept() {
        let names = [
            ("user.a", true),
            ("trusted.overlay.x", true),
            ("security.selinux", false),
            ("security.ima", true),
            ("system.nfs4_acl", false),
            ("system.posix_acl_accessX", false),
            ("com.apple.quarantine", false),
        ];
        for (name, expected) in names {
            let expected = expected.then(|| b"v".to_vec());
            assert_eq!(kept_of(&file(), 0, name, b"v"), Ok((0, expected)), "{name}");
        }
    }

    #[test]
    fn a_name_or_a_type_that_linux_refuses_is_an_error() {
        let long = format!("user.{}", "n".repeat(250));
        assert!(kept_of(&file(), 0, &long, b"").is_ok());
        let refused = |kind: &EntryKind, name: &str| kept_of(kind, 0, name, b"1").unwrap_err();
        assert_eq!(
            refused(&file(), &format!("{long}n")),
            "its name is longer than 255 bytes"
        );
        for name in ["user.", "trusted.", "security."] {
            assert_eq!(refused(&file(), name), "its name ends after the namespace");
        }
        let device = EntryKind::CharDevice(Device { major: 1, minor: 3 });
        for kind in [symlink(), EntryKind::Fifo, device] {
            let expected = "only a file or a directory can have it";
            assert_eq!(refused(&kind, "user.a"), expected);
            assert!(kept_of(&kind, 0, "trusted.a", b"1").is_ok());
            assert!(kept_of(&kind, 0, "security.a", b"1").is_ok());
        }
        assert!(kept_of(&EntryKind::Directory, 0, "user.a", b"1").is_ok());
        let not_utf8 = Attributes {
            xattrs: vec![Xattr {
                name: b"user.\xff".to_vec(),
                value: Vec::new(),
            }],
            ..Attributes::default()
        };
        let refused = kept(&file(), not_utf8).unwrap_err();
        assert_eq!(refused.reason, "its name is not UTF-8");
    }

    /// cap_net_raw+ep as setcap writes it.
    const V2: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn a_capability_loses_the_root_id_of_its_namespace() {
        // Outside and inside a user namespace.
        let mut v3 = V2.to_vec();
        v3[3] = 3;
        v3.extend(100_000u32.to_le_bytes());
        for value in [&V2[..], &v3] {
            let kept = kept_of(&file(), 0o755, "security.capability", value);
            assert_eq!(kept, Ok((0o755, Some(V2.to_vec()))));
        }
    }

    #[test]
    fn a_capability_that_cannot_be_executed_is_an_error() {
        let with = |at: usize, byte: u8| {
            let mut value = V2.to_vec();
            value[at] = byte;
            value
        };
        let bad = [
            b"zz".to_vec(),
            Vec::new(),
            V2[..12].to_vec(),
            V2[..19].to_vec(),
            [&V2[..], &[0; 4]].concat(),
            with(3, 3),
            with(0, 3),
            // Version 1, in its own length.
            with(3, 1)[..12].to_vec(),
        ];
        for value in bad {
            assert_eq!(
                kept_of(&file(), 0o755, "security.capability", &value),
                Err("it is not a file capability of version 2 or 3"),
                "{value:?}"
            );
        }
    }

    /// Each result is that of umoci and podman on ext4.
    #[test]
    fn the_mode_and_an_access_list_agree() {
        let minimal = acl::list(&[(1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)]);
        let extended = acl::list(&[
            (1, 6, NO_ID),
            (2, 4, 1000),
            (4, 4, NO_ID),
            (16, 7, NO_ID),
            (32, 0, NO_ID),
        ]);
        let access = |kind: &EntryKind, mode, value: &[u8]| {
            kept_of(kind, mode, "system.posix_acl_access", value)
        };
        let default = |kind: &EntryKind, mode, value: &[u8]| {
            kept_of(kind, mode, "system.posix_acl_default", value)
        };
        assert_eq!(access(&file(), 0o4600, &minimal), Ok((0o4644, None)));
        assert_eq!(
            access(&file(), 0o600, &extended),
            Ok((0o670, Some(extended.clone())))
        );
        assert_eq!(
            access(&EntryKind::Directory, 0o1755, &extended),
            Ok((0o1670, Some(extended.clone())))
        );
        // An empty list, one of another version, and one of a symbolic link.
        let mut version = extended.clone();
        version[0] = 1;
        for value in [&b""[..], &acl::list(&[]), &version] {
            assert_eq!(access(&file(), 0o600, value), Ok((0o600, None)));
            assert_eq!(default(&file(), 0o600, value), Ok((0o600, None)));
        }
        assert_eq!(access(&symlink(), 0o777, &extended), Ok((0o777, None)));
        assert_eq!(
            access(&file(), 0o600, &extended[..extended.len() - 8]),
            Err("the access control list is not valid")
        );
        // A default list says nothing about the directory itself.
        for value in [&minimal, &extended] {
            assert_eq!(
                default(&EntryKind::Directory, 0o700, value),
                Ok((0o700, Some(value.clone())))
            );
        }
        assert_eq!(
            default(&file(), 0o600, &minimal),
            Err("only a directory can have it")
        );
    }
}
