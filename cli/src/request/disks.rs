//! `--disk NAME=PATH:/MOUNT:ro|rw` and `--bundle NAME=TAR:/MOUNT:ro|rw`.

use std::path::{Component, Path, PathBuf};

use super::name;
use crate::failure::Failure;

/// Where the guest's kernel shows itself; a disk there would cover what every program needs.
const RESERVED_MOUNTS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A disk besides the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRequest {
    /// Its name.
    pub name: String,
    /// What is on it.
    pub source: DiskSource,
    /// Where it is mounted: an absolute path without `.`, `..` and double slashes.
    pub mount: String,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// The disk is this file.
    Image(PathBuf),
    /// The disk is made from this tar.
    Bundle(PathBuf),
}

/// Checks all of both kinds: images first, each kind in the order it was typed in.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(images: &[String], bundles: &[String]) -> Result<Vec<DiskRequest>, Failure> {
    let images = images
        .iter()
        .map(|word| parse("--disk", word, DiskSource::Image));
    let bundles = bundles
        .iter()
        .map(|word| parse("--bundle", word, DiskSource::Bundle));
    let disks = images.chain(bundles).collect::<Result<Vec<_>, _>>()?;
    for (index, disk) in disks.iter().enumerate() {
        for other in &disks[..index] {
            if other.name == disk.name {
                let name = &disk.name;
                return Err(Failure::usage(format!("two disks are called {name:?}"))
                    .remediation("give each of them a name of its own"));
            }
            if other.mount == disk.mount {
                return Err(Failure::usage(format!(
                    "the disks {:?} and {:?} are both to be mounted at {}",
                    other.name, disk.name, disk.mount
                ))
                .remediation("give each of them a directory of its own"));
            }
        }
    }
    Ok(disks)
}

fn parse(
    flag: &str,
    word: &str,
    source: impl FnOnce(PathBuf) -> DiskSource,
) -> Result<DiskRequest, Failure> {
    let file = if flag == "--bundle" { "TAR" } else { "PATH" };
    let form = format!("write {flag} NAME={file}:/MOUNT:ro, or :rw at its end");
    let wrong =
        |why: &str| Failure::usage(format!("{flag} {word:?} {why}")).remediation(form.clone());
    let (name, rest) = word.split_once('=').ok_or_else(|| wrong("has no name"))?;
    name::check(name, "a disk")?;
    // From the end: a path on this host may hold colons.
    let (rest, mode) = rest.rsplit_once(':').unwrap_or((rest, ""));
    let read_only = match mode {
        "ro" => true,
        "rw" => false,
        _ => return Err(wrong("does not end in :ro or :rw")),
    };
    let (path, mount) = rest
        .rsplit_once(':')
        .ok_or_else(|| wrong("does not say where to mount it"))?;
    if path.is_empty() {
        return Err(wrong("does not say which file"));
    }
    let path = std::path::absolute(path).map_err(|_| wrong("does not say which file"))?;
    Ok(DiskRequest {
        name: name.to_owned(),
        source: source(path),
        mount: mount_point(flag, mount)?,
        read_only,
    })
}

/// An absolute path in the guest, in its plainest form.
fn mount_point(flag: &str, typed: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!("{flag} cannot be mounted at {typed:?}: {why}"))
            .remediation("name a directory of its own in the guest, such as /data")
    };
    if !typed.starts_with('/') {
        return Err(wrong("it is not absolute"));
    }
    let mut plain = String::new();
    for part in Path::new(typed).components() {
        match part {
            Component::Normal(part) => {
                plain.push('/');
                plain.push_str(&part.to_string_lossy());
            }
            Component::ParentDir => return Err(wrong("it has ..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if plain.is_empty() {
        return Err(wrong("the root is the image's"));
    }
    let kernels = |own: &&&str| Path::new(&plain).starts_with(own);
    match RESERVED_MOUNTS.iter().find(kernels) {
        Some(own) => Err(wrong(&format!("{own} is the kernel's"))),
        None => Ok(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(images: &[&str], bundles: &[&str]) -> Result<Vec<DiskRequest>, Failure> {
        let owned = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        check(&owned(images), &owned(bundles))
    }

    #[test]
    fn both_kinds_are_understood_and_a_path_may_hold_colons_and_equals_signs() {
        let expected = |name: &str, source, mount: &str, read_only| DiskRequest {
            name: name.into(),
            source,
            mount: mount.into(),
            read_only,
        };
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            disks(
                &["a=x:/a:rw", "b=/c:/d=e:/f:ro"],
                &["t-1=/t.tar:/srv//./t/:ro"]
            )
            .unwrap(),
            [
                expected("a", DiskSource::Image(here.join("x")), "/a", false),
                expected("b", DiskSource::Image("/c:/d=e".into()), "/f", true),
                expected("t-1", DiskSource::Bundle("/t.tar".into()), "/srv/t", true),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_the_way_out() {
        let form = "write --disk NAME=PATH:/MOUNT:ro, or :rw at its end";
        let mount = "name a directory of its own in the guest, such as /data";
        let name =
            "use 1 to 63 lower-case letters, digits and hyphens, not beginning with a hyphen";
        for (word, message, remediation) in [
            ("/x:/a:ro", "--disk \"/x:/a:ro\" has no name", form),
            ("", "--disk \"\" has no name", form),
            ("A=/x:/a:ro", "\"A\" is no name for a disk", name),
            ("=/x:/a:ro", "\"\" is no name for a disk", name),
            (
                "a=/x:/a",
                "--disk \"a=/x:/a\" does not end in :ro or :rw",
                form,
            ),
            (
                "a=/x:/a:RO",
                "--disk \"a=/x:/a:RO\" does not end in :ro or :rw",
                form,
            ),
            ("a=", "--disk \"a=\" does not end in :ro or :rw", form),
            (
                "a=/x:ro",
                "--disk \"a=/x:ro\" does not say where to mount it",
                form,
            ),
            (
                "a=:/a:ro",
                "--disk \"a=:/a:ro\" does not say which file",
                form,
            ),
            (
                "a=/x:a:ro",
                "--disk cannot be mounted at \"a\": it is not absolute",
                mount,
            ),
            (
                "a=/x::ro",
                "--disk cannot be mounted at \"\": it is not absolute",
                mount,
            ),
            (
                "a=/x:/a/../..:ro",
                "--disk cannot be mounted at \"/a/../..\": it has ..",
                mount,
            ),
            (
                "a=/x://.:ro",
                "--disk cannot be mounted at \"//.\": the root is the image's",
                mount,
            ),
            (
                "a=/x:/proc/sys:ro",
                "--disk cannot be mounted at \"/proc/sys\": /proc is the kernel's",
                mount,
            ),
        ] {
            let failure = disks(&[word], &[]).unwrap_err();
            assert_eq!(
                failure,
                Failure::usage(message).remediation(remediation),
                "{word}"
            );
        }
        // Only the directory itself and what is in it.
        assert!(disks(&["a=/x:/process:ro"], &[]).is_ok());
    }

    #[test]
    fn two_disks_with_one_name_or_one_place_are_refused() {
        assert_eq!(
            disks(&["a=/x:/a:ro"], &["a=/y:/b:ro"]).unwrap_err().message,
            "two disks are called \"a\""
        );
        assert_eq!(
            disks(&["a=/x:/a:ro", "b=/y:/a/:ro"], &[])
                .unwrap_err()
                .message,
            "the disks \"a\" and \"b\" are both to be mounted at /a"
        );
    }
}
