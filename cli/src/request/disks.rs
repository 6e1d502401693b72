//! `--disk NAME=PATH:/MOUNT:ro|rw` and `--bundle NAME=TAR:/MOUNT:ro|rw`.

use microagent_workspace::plan::disks::mount_point;
use microagent_workspace::plan::name;
use microagent_workspace::spec::{Access, Disk};

use crate::failure::Failure;

/// Parses the values of `--disk` and `--bundle`.
///
/// # Errors
/// The first invalid value.
pub(super) fn parse_all(
    images: &[String],
    bundles: &[String],
) -> Result<(Vec<Disk>, Vec<Disk>), Failure> {
    let all = |flag, words: &[String]| words.iter().map(|word| parse(flag, word)).collect();
    let images: Result<_, Failure> = all("--disk", images);
    Ok((images?, all("--bundle", bundles)?))
}

fn parse(flag: &str, word: &str) -> Result<Disk, Failure> {
    let file = if flag == "--bundle" { "TAR" } else { "PATH" };
    let form = format!("use {flag} NAME={file}:/MOUNT:ro, or :rw at the end");
    let invalid =
        |why: &str| Failure::usage(format!("{flag} {word:?} {why}")).remediation(form.clone());
    let (name, rest) = word.split_once('=').ok_or_else(|| invalid("has no name"))?;
    name::check(name, "disk")?;
    // From the end: a host path may contain colons.
    let (rest, mode) = rest.rsplit_once(':').unwrap_or((rest, ""));
    let mode = match mode {
        "ro" => Access::Ro,
        "rw" => Access::Rw,
        _ => return Err(invalid("does not end with :ro or :rw")),
    };
    let (path, mount) = rest
        .rsplit_once(':')
        .ok_or_else(|| invalid("has no mount point"))?;
    if path.is_empty() {
        return Err(invalid("has no file"));
    }
    let path = std::path::absolute(path).map_err(|_| invalid("has no file"))?;
    Ok(Disk {
        name: name.to_owned(),
        path,
        mountpoint: mount_point(flag, mount)?,
        mode,
    })
}

#[cfg(test)]
mod tests {
    use microagent_workspace::plan::disks::{DiskRequest, DiskSource, check};

    use super::*;

    fn disks(images: &[&str], bundles: &[&str]) -> Result<Vec<DiskRequest>, Failure> {
        let owned = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        let (images, bundles) = parse_all(&owned(images), &owned(bundles))?;
        Ok(check(&images, &bundles)?)
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
