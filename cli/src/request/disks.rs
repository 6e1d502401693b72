//! `--disk NAME=PATH:/MOUNT:ro|rw` and `--bundle NAME=TAR:/MOUNT:ro|rw`.

use std::path::{Component, Path, PathBuf};

use super::name;
use crate::failure::Failure;

/// Kernel file systems of the guest, which a disk must not hide.
const RESERVED_MOUNTS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// An additional disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRequest {
    /// Its name.
    pub name: String,
    /// Its content.
    pub source: DiskSource,
    /// Mount point in the guest: an absolute path without `.`, `..` and double slashes.
    pub mount: String,
    /// Attached read-only.
    pub read_only: bool,
}

/// The content of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// An image file or block device.
    Image(PathBuf),
    /// A tar archive, from which the disk is built.
    Bundle(PathBuf),
}

/// Validates the values of `--disk` and `--bundle`. Images come first, each kind in order.
///
/// # Errors
/// The first invalid value.
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
                return Err(Failure::usage(format!("two disks are named {name:?}"))
                    .remediation("use a unique name for each disk"));
            }
            if other.mount == disk.mount {
                return Err(Failure::usage(format!(
                    "disks {:?} and {:?} have the same mount point {}",
                    other.name, disk.name, disk.mount
                ))
                .remediation("use a unique mount point for each disk"));
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
    let form = format!("use {flag} NAME={file}:/MOUNT:ro, or :rw at the end");
    let invalid =
        |why: &str| Failure::usage(format!("{flag} {word:?} {why}")).remediation(form.clone());
    let (name, rest) = word.split_once('=').ok_or_else(|| invalid("has no name"))?;
    name::check(name, "disk")?;
    // From the end: a host path may contain colons.
    let (rest, mode) = rest.rsplit_once(':').unwrap_or((rest, ""));
    let read_only = match mode {
        "ro" => true,
        "rw" => false,
        _ => return Err(invalid("does not end with :ro or :rw")),
    };
    let (path, mount) = rest
        .rsplit_once(':')
        .ok_or_else(|| invalid("has no mount point"))?;
    if path.is_empty() {
        return Err(invalid("has no file"));
    }
    let path = std::path::absolute(path).map_err(|_| invalid("has no file"))?;
    Ok(DiskRequest {
        name: name.to_owned(),
        source: source(path),
        mount: mount_point(flag, mount)?,
        read_only,
    })
}

/// Validates and normalizes an absolute path in the guest.
fn mount_point(flag: &str, path: &str) -> Result<String, Failure> {
    let invalid = |why: &str| {
        Failure::usage(format!("{flag}: invalid mount point {path:?}: {why}"))
            .remediation("use a separate directory in the guest, such as /data")
    };
    if !path.starts_with('/') {
        return Err(invalid("not an absolute path"));
    }
    let mut normal = String::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => {
                normal.push('/');
                normal.push_str(&part.to_string_lossy());
            }
            Component::ParentDir => return Err(invalid("contains ..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if normal.is_empty() {
        return Err(invalid("the root belongs to the image"));
    }
    let below = |own: &&&str| Path::new(&normal).starts_with(own);
    match RESERVED_MOUNTS.iter().find(below) {
        Some(own) => Err(invalid(&format!("{own} belongs to the kernel"))),
        None => Ok(normal),
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
    fn both_kinds_are_parsed_and_a_path_may_contain_colons_and_equals_signs() {
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
    fn invalid_values_are_named_with_a_remediation() {
        let form = "use --disk NAME=PATH:/MOUNT:ro, or :rw at the end";
        let mount = "use a separate directory in the guest, such as /data";
        let name = "use 1 to 63 lowercase letters, digits and hyphens, not starting with a hyphen";
        for (word, message, remediation) in [
            ("/x:/a:ro", "--disk \"/x:/a:ro\" has no name", form),
            ("", "--disk \"\" has no name", form),
            ("A=/x:/a:ro", "invalid disk name \"A\"", name),
            ("=/x:/a:ro", "invalid disk name \"\"", name),
            (
                "a=/x:/a",
                "--disk \"a=/x:/a\" does not end with :ro or :rw",
                form,
            ),
            (
                "a=/x:/a:RO",
                "--disk \"a=/x:/a:RO\" does not end with :ro or :rw",
                form,
            ),
            ("a=", "--disk \"a=\" does not end with :ro or :rw", form),
            ("a=/x:ro", "--disk \"a=/x:ro\" has no mount point", form),
            ("a=:/a:ro", "--disk \"a=:/a:ro\" has no file", form),
            (
                "a=/x:a:ro",
                "--disk: invalid mount point \"a\": not an absolute path",
                mount,
            ),
            (
                "a=/x::ro",
                "--disk: invalid mount point \"\": not an absolute path",
                mount,
            ),
            (
                "a=/x:/a/../..:ro",
                "--disk: invalid mount point \"/a/../..\": contains ..",
                mount,
            ),
            (
                "a=/x://.:ro",
                "--disk: invalid mount point \"//.\": the root belongs to the image",
                mount,
            ),
            (
                "a=/x:/proc/sys:ro",
                "--disk: invalid mount point \"/proc/sys\": /proc belongs to the kernel",
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
        // Only the directory itself and paths below it are reserved.
        assert!(disks(&["a=/x:/process:ro"], &[]).is_ok());
    }

    #[test]
    fn duplicate_names_and_mount_points_are_rejected() {
        assert_eq!(
            disks(&["a=/x:/a:ro"], &["a=/y:/b:ro"]).unwrap_err().message,
            "two disks are named \"a\""
        );
        assert_eq!(
            disks(&["a=/x:/a:ro", "b=/y:/a/:ro"], &[])
                .unwrap_err()
                .message,
            "disks \"a\" and \"b\" have the same mount point /a"
        );
    }
}
