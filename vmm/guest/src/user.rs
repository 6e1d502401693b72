//! The user of a command: `user[:group]`, resolved with the image's `/etc/passwd` and `/etc/group`.
//!
//! The rules are those of container engines:
//! - each part is looked up as a name, then as a number; a number needs no entry;
//! - without a group, the user's primary group is used (0 for a number without an entry), and all
//!   groups that list the user's name are supplementary;
//! - with a group, there are no supplementary groups;
//! - `HOME` is the home directory of the entry, or `/`.
//!
//! Invalid lines are skipped, as in the C library.

use std::io;
use std::path::Path;

/// The maximum numeric id, as in container engines.
const MAX_ID: u32 = i32::MAX as u32;

/// The maximum size of a database, in bytes; the rest is ignored.
const MAX_DATABASE: u64 = 4 << 20;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

impl Identity {
    /// Root without supplementary groups.
    pub fn root() -> Identity {
        Identity {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_owned(),
        }
    }
}

/// Why a user could not be resolved.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// Neither an entry nor a number.
    #[error("the image has no user {0:?} in /etc/passwd")]
    UnknownUser(String),
    /// Neither an entry nor a number.
    #[error("the image has no group {0:?} in /etc/group")]
    UnknownGroup(String),
}

/// Resolves `spec` with the databases in `/etc`.
pub fn look_up(spec: &str) -> Result<Identity, UserError> {
    resolve(
        spec,
        &read_database(Path::new("/etc/passwd")),
        &read_database(Path::new("/etc/group")),
    )
}

/// Reads a database. One that is missing, unreadable or not a regular file counts as empty.
fn read_database(path: &Path) -> Vec<u8> {
    fn read(path: &Path) -> io::Result<Vec<u8>> {
        // Checked before opening, because opening a FIFO would block.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(std::fs::File::open(path)?, MAX_DATABASE),
            &mut bytes,
        )?;
        Ok(bytes)
    }
    read(path).unwrap_or_default()
}

struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    let (user_part, group_part) = match spec.split_once(':') {
        Some((user, group)) => (user, (!group.is_empty()).then_some(group)),
        None => (spec, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };

    let number = id(user_part);
    let user = users(passwd)
        .find(|user| user.name == user_part)
        .or_else(|| users(passwd).find(|user| Some(user.uid) == number));
    let mut identity = match (&user, number) {
        (Some(user), _) => Identity {
            uid: user.uid,
            gid: user.gid,
            groups: Vec::new(),
            home: user.home.clone(),
        },
        (None, Some(uid)) => Identity {
            uid,
            gid: 0,
            groups: Vec::new(),
            home: String::new(),
        },
        (None, None) => return Err(UserError::UnknownUser(user_part.to_owned())),
    };
    if identity.home.is_empty() {
        identity.home.push('/');
    }

    match (group_part, user) {
        (Some(part), _) => {
            identity.gid = groups(group)
                .find(|group| group.name == part)
                .map(|group| group.gid)
                .or_else(|| id(part))
                .ok_or_else(|| UserError::UnknownGroup(part.to_owned()))?;
        }
        (None, Some(user)) => {
            identity.groups = groups(group)
                .filter(|group| group.members.contains(&user.name))
                .map(|group| group.gid)
                .collect();
        }
        (None, None) => {}
    }
    Ok(identity)
}

fn id(text: &str) -> Option<u32> {
    // `parse` accepts a plus sign, which is not allowed here.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let id = digits.then(|| text.parse().ok())??;
    (id <= MAX_ID).then_some(id)
}

fn lines(database: &[u8]) -> impl Iterator<Item = Vec<String>> {
    database.split(|&byte| byte == b'\n').map(|line| {
        String::from_utf8_lossy(line)
            .split(':')
            .map(str::to_owned)
            .collect()
    })
}

/// `name:password:uid:gid:comment:home:shell` (passwd(5)).
fn users(passwd: &[u8]) -> impl Iterator<Item = User> {
    lines(passwd).filter_map(|fields| match fields.as_slice() {
        [name, _, uid, gid, rest @ ..] if !name.is_empty() => Some(User {
            name: name.clone(),
            uid: id(uid)?,
            gid: id(gid)?,
            home: rest.get(1).cloned().unwrap_or_default(),
        }),
        _ => None,
    })
}

/// `name:password:gid:member,…` (group(5)).
fn groups(group: &[u8]) -> impl Iterator<Item = Group> {
    lines(group).filter_map(|fields| match fields.as_slice() {
        [name, _, gid, rest @ ..] if !name.is_empty() => Some(Group {
            name: name.clone(),
            gid: id(gid)?,
            members: rest
                .first()
                .map(|members| {
                    members
                        .split(',')
                        .map(|name| name.trim().to_owned())
                        .collect()
                })
                .unwrap_or_default(),
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a comment\n\
        www:x:33:34:www:/var/www:/bin/false\n\
        short:x:40:41\n\
        broken:x:many:1::/:/bin/sh\n\
        77:x:50:51::/number:/bin/sh\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwheel:x:10:root,www\nwww:x:34:\nlog:x:35:www\nhuge:x:4294967295:www\n";

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<Identity, UserError> {
        Ok(Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        })
    }

    #[test]
    fn users_and_groups_are_resolved_as_container_engines_do() {
        for (spec, expected) in [
            ("", identity(0, 0, &[10], "/root")),
            ("root", identity(0, 0, &[10], "/root")),
            ("www", identity(33, 34, &[10, 35], "/var/www")),
            ("33", identity(33, 34, &[10, 35], "/var/www")),
            ("www:log", identity(33, 35, &[], "/var/www")),
            ("www:99", identity(33, 99, &[], "/var/www")),
            (":log", identity(0, 35, &[], "/root")),
            ("www:", identity(33, 34, &[10, 35], "/var/www")),
            ("1000", identity(1000, 0, &[], "/")),
            ("1000:1001", identity(1000, 1001, &[], "/")),
            ("short", identity(40, 41, &[], "/")),
            ("77", identity(50, 51, &[], "/number")),
            ("broken", Err(UserError::UnknownUser("broken".into()))),
            ("nobody", Err(UserError::UnknownUser("nobody".into()))),
            ("+1", Err(UserError::UnknownUser("+1".into()))),
            (
                "2147483648",
                Err(UserError::UnknownUser("2147483648".into())),
            ),
            ("www:none", Err(UserError::UnknownGroup("none".into()))),
        ] {
            assert_eq!(resolve(spec, PASSWD, GROUP), expected, "{spec:?}");
        }
    }

    #[test]
    fn without_databases_numbers_still_work() {
        assert_eq!(resolve("5:6", b"", b""), identity(5, 6, &[], "/"));
        assert_eq!(resolve("", b"", b""), identity(0, 0, &[], "/"));
    }

    proptest! {
        #[test]
        fn arbitrary_databases_and_specifications_do_not_panic(
            spec in "[a-z0-9:+-]{0,12}",
            passwd in proptest::collection::vec(any::<u8>(), 0..256),
            group in proptest::collection::vec(any::<u8>(), 0..256),
        ) {
            let _ = resolve(&spec, &passwd, &group);
        }

        #[test]
        fn an_entry_is_found_at_any_position(
            before in "[a-z0-9:,\n]{0,64}",
            after in "[a-z0-9:,\n]{0,64}",
            uid in 0..=MAX_ID,
            gid in 0..=MAX_ID,
        ) {
            let passwd = format!("{before}\nWeb:x:{uid}:{gid}::/home/web:/bin/sh\n{after}");
            let found = resolve("Web", passwd.as_bytes(), b"").unwrap();
            prop_assert_eq!(found, identity(uid, gid, &[], "/home/web").unwrap());
        }
    }
}
