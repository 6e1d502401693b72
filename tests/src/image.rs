//! Images made by `umoci` and copied by `skopeo`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Error, cache, tool};

/// Where the scripts that make images are.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/host");

/// An OCI layout, gone when this value is.
#[derive(Debug)]
pub struct Layout {
    directory: PathBuf,
    _owner: TempDir,
}

impl Layout {
    /// A layout with one image, `latest`: the host's busybox with its applets, a shell, users
    /// `root` and `user` (1000, also in the group `extra`, 2000), and `sh` as its command.
    pub fn busybox() -> Result<Layout, Error> {
        tool::find("busybox")?;
        tool::find("umoci")?;
        let owner = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let directory = owner.path().join("layout");
        let mut script = Command::new("sh");
        script.arg(Path::new(SCRIPTS).join("busybox-image.sh"));
        tool::output(script.arg(&directory))?;
        Ok(Layout {
            directory,
            _owner: owner,
        })
    }

    /// A layout with one image, `latest`, that has no layer.
    pub fn empty() -> Result<Layout, Error> {
        let owner = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let directory = owner.path().join("layout");
        tool::run("umoci", ["init", "--layout", &text(&directory)])?;
        let layout = Layout {
            directory,
            _owner: owner,
        };
        layout.umoci(&["new"], "latest", &[])?;
        layout.configure("latest", &["--architecture=amd64", "--os=linux"])?;
        Ok(layout)
    }

    /// A copy of another layout, to be changed.
    pub fn copy_of(other: &Path) -> Result<Layout, Error> {
        let owner = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let directory = owner.path().join("layout");
        tool::run(
            "cp",
            ["-a".as_ref(), other.as_os_str(), directory.as_os_str()],
        )?;
        Ok(Layout {
            directory,
            _owner: owner,
        })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The reference of one of its images: `oci:DIR:TAG`, for skopeo and for us.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.directory.display())
    }

    /// Gives the image `from` a second name; what is done to either leaves the other.
    pub fn tag(&self, from: &str, to: &str) -> Result<(), Error> {
        self.umoci(&["tag"], from, &[to])
    }

    /// Adds a layer, byte for byte (compressed with gzip).
    pub fn add_layer(&self, tag: &str, tar: &[u8]) -> Result<(), Error> {
        let file = tempfile::NamedTempFile::new().map_err(Error::file(std::env::temp_dir()))?;
        fs::write(file.path(), tar).map_err(Error::file(file.path()))?;
        self.umoci(&["raw", "add-layer"], tag, &[&text(file.path())])
    }

    /// Changes the configuration, with the flags of `umoci config`.
    pub fn configure(&self, tag: &str, flags: &[&str]) -> Result<(), Error> {
        self.umoci(&["config"], tag, flags)
    }

    /// Copies an image to where skopeo's `destination` says, with more flags of `skopeo copy`.
    pub fn copy(&self, tag: &str, destination: &str, flags: &[&str]) -> Result<(), Error> {
        let mut arguments = vec!["copy", "--quiet", "--insecure-policy"];
        arguments.extend_from_slice(flags);
        let reference = self.reference(tag);
        arguments.extend_from_slice(&[&reference, destination]);
        tool::run("skopeo", arguments).map(drop)
    }

    /// The digest of an image's manifest: `sha256:…`.
    pub fn digest(&self, tag: &str) -> Result<String, Error> {
        let reference = self.reference(tag);
        tool::text("skopeo", ["inspect", "--format", "{{.Digest}}", &reference])
    }

    fn umoci(&self, command: &[&str], tag: &str, rest: &[&str]) -> Result<(), Error> {
        let image = format!("{}:{tag}", self.directory.display());
        let mut arguments = command.to_vec();
        arguments.extend_from_slice(&["--image", &image]);
        arguments.extend_from_slice(rest);
        tool::run("umoci", arguments).map(drop)
    }
}

/// The image of several layers from a debootstrap tree, `oci:DIR:debian`, from the cache. It is
/// shared: do not change it. Needs root to be made.
pub fn debian() -> Result<PathBuf, Error> {
    for program in ["debootstrap", "umoci", "setfattr", "setcap"] {
        tool::find(program)?;
    }
    let script = Path::new(SCRIPTS).join("debian-image.sh");
    let bytes = fs::read(&script).map_err(Error::file(&script))?;
    let release = fs::read("/etc/os-release").map_err(Error::file("/etc/os-release"))?;
    let key =
        crate::tree::sha256(&mut (&bytes[..]).chain(&release[..])).map_err(Error::file(&script))?;
    let entry = cache::entry(&format!("debian-image-{}", &key[..16]), |directory| {
        let mut command = Command::new("sh");
        command.arg(&script).arg(directory.join("layout"));
        tool::output(&mut command).map(drop)
    })?;
    Ok(entry.join("layout"))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A tar archive put together entry by entry, with names that no decent tool would write.
#[derive(Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// One without entries.
    pub fn new() -> Tar {
        Tar::default()
    }

    /// Adds a regular file of mode 0644.
    #[must_use]
    pub fn file(self, name: &str, contents: &[u8]) -> Tar {
        self.entry(name, tar::EntryType::Regular, "", contents)
    }

    /// Adds a directory of mode 0755.
    #[must_use]
    pub fn directory(self, name: &str) -> Tar {
        self.entry(name, tar::EntryType::Directory, "", &[])
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(name, tar::EntryType::Symlink, target, &[])
    }

    /// Adds a hard link.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Tar {
        self.entry(name, tar::EntryType::Link, target, &[])
    }

    /// Adds any entry. The names go into the header as they are, at most 100 bytes.
    #[must_use]
    pub fn entry(mut self, name: &str, kind: tar::EntryType, target: &str, contents: &[u8]) -> Tar {
        let mut header = tar::Header::new_gnu();
        // Not `set_path`, which refuses the names that this is for.
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == tar::EntryType::Directory {
            0o755
        } else {
            0o644
        });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(contents.len() as u64);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// The archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}
