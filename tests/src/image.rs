//! Images created with `umoci` and copied with `skopeo`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Error, cache, tool};

/// The directory of the scripts that create images.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/host");

/// An OCI image layout in a temporary directory, deleted on drop.
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

    /// A layout with one image, `latest`, without layers.
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

    /// A copy of another layout, which may be changed.
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

    /// Its path.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The reference of an image for skopeo and microagent: `oci:DIR:TAG`.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.directory.display())
    }

    /// Tags the image `from` as `to` as well. Later changes to either do not affect the other.
    pub fn tag(&self, from: &str, to: &str) -> Result<(), Error> {
        self.umoci(&["tag"], from, &[to])
    }

    /// Adds an uncompressed tar as a layer, which umoci compresses with gzip.
    pub fn add_layer(&self, tag: &str, tar: &[u8]) -> Result<(), Error> {
        let file = tempfile::NamedTempFile::new().map_err(Error::file(std::env::temp_dir()))?;
        fs::write(file.path(), tar).map_err(Error::file(file.path()))?;
        self.umoci(&["raw", "add-layer"], tag, &[&text(file.path())])
    }

    /// Changes the configuration with flags of `umoci config`.
    pub fn configure(&self, tag: &str, flags: &[&str]) -> Result<(), Error> {
        self.umoci(&["config"], tag, flags)
    }

    /// Copies an image to a skopeo destination with additional flags of `skopeo copy`.
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

/// Returns a cached layout with a Debian image of several layers, `oci:DIR:debian`, created with
/// debootstrap. It is shared and must not be changed. Creating it needs root.
pub fn debian() -> Result<PathBuf, Error> {
    distribution("debian-image", &["setfattr", "setcap"])
}

/// Returns a cached layout with an image of the host's distribution that has apt, curl, git, pip,
/// ping and openssl, `oci:DIR:clients`. As [`debian`].
pub fn clients() -> Result<PathBuf, Error> {
    distribution("clients-image", &["busybox"])
}

/// The cached layout that a script makes with debootstrap, umoci and these programs.
fn distribution(name: &str, programs: &[&str]) -> Result<PathBuf, Error> {
    for program in ["debootstrap", "umoci"].iter().chain(programs) {
        tool::find(program)?;
    }
    let script = Path::new(SCRIPTS).join(name).with_extension("sh");
    let bytes = fs::read(&script).map_err(Error::file(&script))?;
    let release = fs::read("/etc/os-release").map_err(Error::file("/etc/os-release"))?;
    let key =
        crate::tree::sha256(&mut (&bytes[..]).chain(&release[..])).map_err(Error::file(&script))?;
    let entry = cache::entry(&format!("{name}-{}", &key[..16]), |directory| {
        let mut command = Command::new("sh");
        command.arg(&script).arg(directory.join("layout"));
        tool::output(&mut command).map(drop)
    })?;
    Ok(entry.join("layout"))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Builds a tar archive entry by entry, with names that well-behaved tools do not write.
#[derive(Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// An archive without entries.
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

    /// Adds an entry of any type. Name and target are stored unchanged; they are at most 100 bytes
    /// long.
    #[must_use]
    pub fn entry(mut self, name: &str, kind: tar::EntryType, target: &str, contents: &[u8]) -> Tar {
        let mut header = tar::Header::new_gnu();
        // `set_path` rejects the names that this type exists for.
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

    /// Returns the bytes of the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}
