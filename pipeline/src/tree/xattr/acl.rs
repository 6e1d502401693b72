//! Access control lists: in the form of `getxattr(2)` and of tars (`linux/posix_acl_xattr.h`) and
//! in that of ext4 (`fs/ext4/acl.h`). Both are little-endian.

/// The version of a list in the form of tars (`POSIX_ACL_XATTR_VERSION`) and of ext4.
const XATTR_VERSION: u32 = 2;
const EXT4_VERSION: u32 = 1;
/// The tags of entries (`linux/posix_acl.h`).
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of no user or group.
const NO_ID: u32 = u32::MAX;

/// A valid list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Acl {
    /// The permission bits of a file with this list, at most `0o777`.
    pub(super) mode: u16,
    /// Whether the permission bits say all that it says.
    pub(super) is_minimal: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// The entries of a list: (tag, permissions, id), of 2, 2 and 4 bytes.
fn entries(value: &[u8]) -> impl Iterator<Item = Entry> {
    let (entries, _) = value.as_chunks::<8>();
    entries.iter().map(|[t0, t1, p0, p1, id @ ..]| Entry {
        tag: u16::from_le_bytes([*t0, *t1]),
        permissions: u16::from_le_bytes([*p0, *p1]),
        id: u32::from_le_bytes(*id),
    })
}

/// Reads a list as `setxattr(2)` does (`posix_acl_from_xattr`, `posix_acl_valid` and
/// `posix_acl_equiv_mode` in the kernel's `fs/posix_acl.c`): the entries in the order of their tags,
/// the first, third and last kind once, a mask if there are named users or groups. `Ok(None)` is no
/// list: an empty one, or one of another version, which Linux does not support.
///
/// # Errors
/// The list is not valid.
pub(super) fn parse(value: &[u8]) -> Result<Option<Acl>, ()> {
    if value.is_empty() {
        return Ok(None);
    }
    let (version, list) = value.split_first_chunk::<4>().ok_or(())?;
    if u32::from_le_bytes(*version) != XATTR_VERSION || list.is_empty() {
        return Ok(None);
    }
    if !list.len().is_multiple_of(8) {
        return Err(());
    }
    // The tag that a next entry has at least.
    let mut next = USER_OBJ;
    let mut needs_mask = false;
    let (mut owner, mut group, mut mask, mut other) = (0, 0, None, 0);
    for Entry {
        tag,
        permissions,
        id,
    } in entries(list)
    {
        if permissions > 7 || (matches!(tag, USER | GROUP) && id == NO_ID) {
            return Err(());
        }
        next = match (next, tag) {
            (USER_OBJ, USER_OBJ) => {
                owner = permissions;
                USER
            }
            (USER, USER) | (GROUP, GROUP) => {
                needs_mask = true;
                tag
            }
            (USER, GROUP_OBJ) => {
                group = permissions;
                GROUP
            }
            (GROUP, MASK) => {
                mask = Some(permissions);
                OTHER
            }
            (GROUP, OTHER) if needs_mask => return Err(()),
            (GROUP | OTHER, OTHER) => {
                other = permissions;
                0
            }
            _ => return Err(()),
        };
    }
    match next {
        0 => Ok(Some(Acl {
            mode: owner << 6 | mask.unwrap_or(group) << 3 | other,
            is_minimal: mask.is_none(),
        })),
        _ => Err(()),
    }
}

/// Converts a list to the form of ext4, whose entries have an id only for named users and groups.
/// `None` if it is malformed.
pub(super) fn stored_by_ext4(value: &[u8]) -> Option<Vec<u8>> {
    let (version, list) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != XATTR_VERSION || !list.len().is_multiple_of(8) {
        return None;
    }
    let mut stored = EXT4_VERSION.to_le_bytes().to_vec();
    for Entry {
        tag,
        permissions,
        id,
    } in entries(list)
    {
        stored.extend(tag.to_le_bytes());
        stored.extend(permissions.to_le_bytes());
        if matches!(tag, USER | GROUP) {
            stored.extend(id.to_le_bytes());
        }
    }
    Some(stored)
}

/// A list of (tag, permissions, id) in the form of tars.
#[cfg(test)]
pub(super) fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = XATTR_VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each result is that of `setxattr(2)` on ext4 (Linux 6.12).
    #[test]
    fn a_list_is_read_as_by_the_kernel() {
        let valid = |mode, is_minimal| Ok(Some(Acl { mode, is_minimal }));
        type Entries<'a> = &'a [(u16, u16, u32)];
        let cases: &[(Entries<'_>, Result<Option<Acl>, ()>)] = &[
            (&[], Ok(None)),
            (
                &[(1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)],
                valid(0o644, true),
            ),
            // The id of these entries does not matter.
            (&[(1, 6, 0), (4, 4, 5), (32, 4, 0)], valid(0o644, true)),
            (
                &[
                    (1, 6, NO_ID),
                    (2, 4, 1000),
                    (4, 0, NO_ID),
                    (16, 7, NO_ID),
                    (32, 1, NO_ID),
                ],
                valid(0o671, false),
            ),
            (
                &[
                    (1, 7, NO_ID),
                    (2, 4, 9),
                    (2, 4, 1),
                    (4, 5, NO_ID),
                    (8, 4, 7),
                    (8, 4, 7),
                    (16, 0, NO_ID),
                    (32, 0, NO_ID),
                ],
                valid(0o700, false),
            ),
            // A mask without anything that it masks.
            (
                &[(1, 6, NO_ID), (4, 4, NO_ID), (16, 2, NO_ID), (32, 0, NO_ID)],
                valid(0o620, false),
            ),
            // Without the mask, the owner, the others.
            (
                &[(1, 6, NO_ID), (2, 4, 1000), (4, 0, NO_ID), (32, 1, NO_ID)],
                Err(()),
            ),
            (
                &[(1, 6, NO_ID), (4, 0, NO_ID), (8, 4, 1000), (32, 1, NO_ID)],
                Err(()),
            ),
            (&[(4, 4, NO_ID), (32, 4, NO_ID)], Err(())),
            (&[(1, 6, NO_ID), (4, 4, NO_ID)], Err(())),
            // Not in order, twice, unknown, after the end.
            (
                &[
                    (1, 6, NO_ID),
                    (4, 0, NO_ID),
                    (2, 4, 1000),
                    (16, 7, NO_ID),
                    (32, 1, NO_ID),
                ],
                Err(()),
            ),
            (
                &[(1, 6, NO_ID), (1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)],
                Err(()),
            ),
            (
                &[(1, 6, NO_ID), (4, 4, NO_ID), (64, 4, NO_ID), (32, 4, NO_ID)],
                Err(()),
            ),
            (
                &[(1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID), (32, 4, NO_ID)],
                Err(()),
            ),
            // Permissions and a user that do not exist.
            (&[(1, 8, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)], Err(())),
            (
                &[
                    (1, 6, NO_ID),
                    (2, 4, NO_ID),
                    (4, 0, NO_ID),
                    (16, 7, NO_ID),
                    (32, 1, NO_ID),
                ],
                Err(()),
            ),
        ];
        for (entries, expected) in cases {
            assert_eq!(parse(&list(entries)), *expected, "{entries:?}");
        }
        let mut other_version = list(&[(1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)]);
        assert_eq!(parse(&other_version[..11]), Err(()));
        other_version[0] = 1;
        assert_eq!(parse(&other_version), Ok(None));
        assert_eq!(parse(b""), Ok(None));
        assert_eq!(parse(b"\x02\0\0"), Err(()));
    }

    #[test]
    fn a_list_is_stored_without_unused_ids() {
        let value = list(&[(1, 6, NO_ID), (2, 4, 1000)]);
        let stored = stored_by_ext4(&value).unwrap();
        assert_eq!(stored, [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 0xe8, 3, 0, 0]);
        assert_eq!(stored_by_ext4(&value[..9]), None);
    }
}
