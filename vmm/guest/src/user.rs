//! The user of a command: `user[:group]`, resolved with the image's `/etc/passwd` and `/etc/group`.
//!
//! The rules are those of container engines, which read the databases leniently:
//! - a number is always an id, never a name; it needs no entry;
//! - of several entries the first one counts; a field that is missing or not a number is 0;
//! - without a group, the user's primary group is used (0 for a number without an entry), and all
//!   groups that list the user's name are supplementary; with a group, none of them is;
//! - the group itself is always supplementary, too, so that a setgid program does not lose it;
//! - `HOME` is the home directory of the entry, or `/`.

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
    /// Supplementary group ids, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

impl Identity {
    /// Root without other groups.
    pub fn root() -> Identity {
        Identity {
            uid: 0,
            gid: 0,
            groups: vec![0],
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
    /// The id is negative or too large.
    #[error("the id {0} of user {1:?} is not between 0 and {MAX_ID}")]
    Range(i64, String),
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
    uid: i64,
    gid: i64,
    home: String,
}

struct Group {
    name: String,
    gid: i64,
    members: Vec<String>,
}

fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    let mut parts = spec.split(':');
    let user_part = parts.next().filter(|part| !part.is_empty()).unwrap_or("0");
    let group_part = parts.next().filter(|part| !part.is_empty());

    let number = number(user_part);
    let user = users(passwd).find(|user| match number {
        Some(number) => user.uid == number,
        None => user.name == user_part,
    });
    let (uid, gid, home) = match (&user, number) {
        (Some(user), _) => (user.uid, user.gid, &*user.home),
        (None, Some(uid)) => (uid, 0, ""),
        (None, None) => return Err(UserError::UnknownUser(user_part.to_owned())),
    };
    let (gid, others) = match (group_part, &user) {
        (Some(part), _) => (group_id(part, group)?, Vec::new()),
        (None, Some(user)) => {
            let member = |group: &Group| group.members.contains(&user.name);
            (
                gid,
                groups(group)
                    .filter(member)
                    .map(|group| group.gid)
                    .collect(),
            )
        }
        (None, None) => (gid, Vec::new()),
    };
    let id = |id: i64| match u32::try_from(id) {
        Ok(id) if id <= MAX_ID => Ok(id),
        _ => Err(UserError::Range(id, spec.to_owned())),
    };
    let mut identity = Identity {
        uid: id(uid)?,
        gid: id(gid)?,
        groups: vec![id(gid)?],
        home: if home.is_empty() { "/" } else { home }.to_owned(),
    };
    for other in others {
        let other = id(other)?;
        if !identity.groups.contains(&other) {
            identity.groups.push(other);
        }
    }
    Ok(identity)
}

/// The id of the group `part`, a name or a number.
fn group_id(part: &str, group: &[u8]) -> Result<i64, UserError> {
    if let Some(number) = number(part) {
        return Ok(number);
    }
    groups(group)
        .find(|group| group.name == part)
        .map(|group| group.gid)
        .ok_or_else(|| UserError::UnknownGroup(part.to_owned()))
}

/// The value of decimal digits, with a sign or without. A number that does not fit is the nearest
/// one that does.
fn number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let bound = if negative { i64::MIN } else { i64::MAX };
    Some(text.parse().unwrap_or(bound))
}

/// The fields of each line that is not empty.
fn lines(database: &[u8]) -> impl Iterator<Item = Vec<String>> {
    database
        .split(|&byte| byte == b'\n')
        .map(|line| String::from_utf8_lossy(line).trim().to_owned())
        .filter(|line| !line.is_empty())
        .map(|line| line.split(':').map(str::to_owned).collect())
}

fn field(fields: &[String], index: usize) -> &str {
    fields.get(index).map_or("", String::as_str)
}

/// `name:password:uid:gid:comment:home:shell` (passwd(5)).
fn users(passwd: &[u8]) -> impl Iterator<Item = User> {
    lines(passwd).map(|fields| User {
        name: field(&fields, 0).to_owned(),
        uid: number(field(&fields, 2)).unwrap_or(0),
        gid: number(field(&fields, 3)).unwrap_or(0),
        home: field(&fields, 5).to_owned(),
    })
}

/// `name:password:gid:member,…` (group(5)).
fn groups(group: &[u8]) -> impl Iterator<Item = Group> {
    lines(group).map(|fields| Group {
        name: field(&fields, 0).to_owned(),
        gid: number(field(&fields, 2)).unwrap_or(0),
        members: field(&fields, 3).split(',').map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        www:x:33:34:www:/var/www:/bin/false\n\
        short:x:40:41\n\
        \x20 blank:x:42:43::/blank:/bin/sh \n\
        app:x:1500\n\
        odd:x:60:many::/odd:/bin/sh\n\
        huge:x:4294967295:1::/:/bin/sh\n\
        77:x:50:51::/number:/bin/sh\n\
        www:x:90:90::/second:/bin/sh\n";
    const GROUP: &[u8] =
        b"root:x:0:\nwheel:x:10:root,www\nwww:x:34:www\nlog:x:35:www\nadm:x\n55:x:99:\n";

    fn identity(uid: u32, groups: &[u32], home: &str) -> Result<Identity, UserError> {
        Ok(Identity {
            uid,
            gid: groups[0],
            groups: groups.to_vec(),
            home: home.to_owned(),
        })
    }

    #[test]
    fn users_and_groups_are_resolved_as_container_engines_do() {
        let range = |id, spec: &str| Err(UserError::Range(id, spec.into()));
        for (spec, expected) in [
            ("", identity(0, &[0, 10], "/root")),
            ("root", identity(0, &[0, 10], "/root")),
            ("www", identity(33, &[34, 10, 35], "/var/www")),
            ("33", identity(33, &[34, 10, 35], "/var/www")),
            ("+33", identity(33, &[34, 10, 35], "/var/www")),
            ("www:log", identity(33, &[35], "/var/www")),
            ("www:99", identity(33, &[99], "/var/www")),
            // A number is never a name.
            ("www:55", identity(33, &[55], "/var/www")),
            ("77", identity(77, &[0], "/")),
            (":log", identity(0, &[35], "/root")),
            ("www:", identity(33, &[34, 10, 35], "/var/www")),
            ("1000", identity(1000, &[0], "/")),
            ("+1000", identity(1000, &[0], "/")),
            ("1000:1001", identity(1000, &[1001], "/")),
            ("short", identity(40, &[41], "/")),
            ("blank", identity(42, &[43], "/blank")),
            ("app", identity(1500, &[0], "/")),
            ("odd", identity(60, &[0], "/odd")),
            ("www:adm", identity(33, &[0], "/var/www")),
            ("nobody", Err(UserError::UnknownUser("nobody".into()))),
            ("www:none", Err(UserError::UnknownGroup("none".into()))),
            ("2147483648", range(2_147_483_648, "2147483648")),
            ("-1", range(-1, "-1")),
            ("1:-5", range(-5, "1:-5")),
            ("huge", range(4_294_967_295, "huge")),
            (
                "99999999999999999999",
                range(i64::MAX, "99999999999999999999"),
            ),
        ] {
            assert_eq!(resolve(spec, PASSWD, GROUP), expected, "{spec:?}");
        }
    }

    #[test]
    fn without_databases_numbers_still_work() {
        assert_eq!(resolve("5:6", b"", b""), identity(5, &[6], "/"));
        assert_eq!(resolve("", b"", b""), identity(0, &[0], "/"));
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
            prop_assert_eq!(found, identity(uid, &[gid], "/home/web").unwrap());
        }
    }
}
