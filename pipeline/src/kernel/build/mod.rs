//! The guest kernel built from source: the node `kernelBuild`.
//!
//! | question | module |
//! |---|---|
//! | what is asked of the configuration, and did it come true | [`fragment`], `microvm.config` |
//! | which programs build it, and are they there | [`toolchain`] |
//! | how does the source get into a directory | [`source`] |
//! | how is it built, and what does a failure tell | [`make`] |
//! | what of the image is not for a guest to load | [`padding`] |
//!
//! Inputs are the source (a `.deb` or a tar, by its digest) and the fragment (by the digest of its
//! options in order, so that comments do not count); parameters are the first lines of what the
//! compiler and the linker say of their versions. Outputs are the image (`kernel`), its
//! `description`, and the whole configuration that it was built with (`config`). The build runs in
//! an environment of its own (see [`make`]), so the same key gives the same bytes.

mod error;
mod fragment;
mod make;
mod padding;
mod source;
mod toolchain;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use microagent_cas::{Digest, ScratchDir};

pub use error::KernelBuildError;

use super::apt::{Apt, Candidate};
use super::{Kernel, MAX_KERNEL};
use crate::engine::node::{NodeOutcome, NodeSpec, Outputs};
use crate::engine::progress::{Event, Stage};
use crate::error::Error;
use crate::pipeline::Pipeline;
use fragment::Fragment;
use make::Build;

/// The options of the guest kernel, each with its reason.
const MICROVM: &str = include_str!("microvm.config");

/// The distribution's package with the source that [`MICROVM`] is written for.
const SOURCE_PACKAGE: &str = "linux-source-6.1";

/// The operation's name.
const OP: &str = "kernelBuild";

/// Rises whenever other bytes come out of the same inputs.
const OP_VERSION: u32 = 2;

/// The largest fragment that is read, in bytes. A whole distribution's `.config` has 300 KiB.
const MAX_FRAGMENT: u64 = 4 << 20;

/// What to build a kernel from, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelBuild {
    /// A `.deb` with a kernel's source, or a tar of it. The distribution's package otherwise.
    pub source: Option<PathBuf>,
    /// A fragment whose options come after our own, so that they count.
    pub config: Option<PathBuf>,
    /// How many processes compile at once.
    pub jobs: usize,
    /// Where everything that the build says is written.
    pub log: PathBuf,
}

/// A kernel that was built, now or before.
#[derive(Debug)]
pub struct BuiltKernel {
    /// The kernel.
    pub kernel: Kernel,
    /// The node.
    pub node: NodeOutcome,
    /// How long the answer took, in milliseconds.
    pub millis: f64,
}

/// Where the source of this build comes from.
enum Origin<'a> {
    Path(&'a Path),
    Apt(Apt, Candidate),
}

impl Pipeline {
    /// Builds the guest kernel, or finds it in the store.
    ///
    /// # Errors
    /// [`Error::KernelBuild`] says which program is missing, what is wrong with the source or the
    /// fragment, or which error the compiler gave. [`Error::Kernel`] when the distribution's package
    /// cannot be had.
    pub fn build_kernel(&self, build: &KernelBuild) -> Result<BuiltKernel, Error> {
        let started = Instant::now();
        let fragment = whole_fragment(build.config.as_deref())?;
        let [compiler, linker] = toolchain::identity()?;
        let (origin, digest, name) = match &build.source {
            Some(path) => {
                let (digest, name) = self.local_source(path)?;
                (Origin::Path(path), digest, name)
            }
            None => {
                let (apt, package) = self.source_package()?;
                let name = format!("{} {}", package.name, package.version);
                let digest = package.digest;
                (Origin::Apt(apt, package), digest, name)
            }
        };
        let text = fragment.text();
        let spec = NodeSpec {
            op: OP,
            op_version: OP_VERSION,
            params: serde_json::json!({ "compiler": compiler, "linker": linker }),
            inputs: vec![
                ("source".to_owned(), digest),
                ("fragment".to_owned(), Digest::of(text.as_bytes())),
            ],
            platform: Some("linux/amd64".to_owned()),
        };
        let node = self.node(spec, || {
            toolchain::check()?;
            self.compile(build, &origin, &name, &fragment)
        })?;
        if let Origin::Path(path) = origin {
            self.record_local_file(path, &digest)?;
        }
        let digest = node.output("kernel")?.digest();
        let description = node.output("description")?.digest();
        let kernel = Kernel {
            digest,
            path: self.store().blob_path(&digest),
            modules: None,
            version: self.describe(&description)?.version,
            source: name,
        };
        let millis = started.elapsed().as_secs_f64() * 1000.0;
        Ok(BuiltKernel {
            kernel,
            node,
            millis,
        })
    }

    fn local_source(&self, path: &Path) -> Result<(Digest, String), Error> {
        let name = path.display().to_string();
        let metadata = fs::metadata(path).map_err(file("read", path))?;
        let why = match metadata.len() {
            _ if !metadata.is_file() => "it is no regular file",
            0 => "it is empty",
            size if size > MAX_KERNEL => "it is larger than any kernel's source",
            _ => return Ok((self.store().digest_known(path)?.0, name)),
        };
        let why = why.to_owned();
        Err(KernelBuildError::BadSource { name, why }.into())
    }

    /// The distribution's package as the host's lists have it, else as fresh ones do.
    fn source_package(&self) -> Result<(Apt, Candidate), Error> {
        let host = Apt::of_host();
        if let Some(package) = host.package(SOURCE_PACKAGE)? {
            return Ok((host, package));
        }
        self.tell(Event::Notice(
            "fetching the distribution's package lists".to_owned(),
        ));
        let private = Apt::updated(self.store())?;
        let package = private.package(SOURCE_PACKAGE)?;
        let package = package.ok_or(KernelBuildError::NoSourcePackage {
            package: SOURCE_PACKAGE,
        })?;
        Ok((private, package))
    }

    fn compile(
        &self,
        build: &KernelBuild,
        origin: &Origin<'_>,
        name: &str,
        fragment: &Fragment,
    ) -> Result<Outputs, Error> {
        let dir = self.store().scratch_dir()?;
        let source = match origin {
            Origin::Path(path) => File::open(path).map_err(file("read", path))?,
            Origin::Apt(apt, package) => self.stage(&package.name, Some(package.size), |_| {
                Ok(apt.download(package, dir.path())?.file)
            })?,
        };
        let size = source.metadata().ok().map(|metadata| metadata.len());
        let tree = self.stage("source", size, |advance| {
            source::unpack(name, source, dir.path(), advance)
        })?;
        let mut make = Build::new(&tree, build.jobs.max(1), &build.log)?;
        let config = self.configure(&tree, &mut make, fragment)?;
        self.stage("compile", None, |advance| {
            make.make("vmlinux", &[], advance)
        })?;
        self.finish_build(&tree, &config, dir)
    }

    /// `allnoconfig` with the fragment, and a look at whether all of it came true.
    fn configure(
        &self,
        tree: &Path,
        make: &mut Build<'_>,
        fragment: &Fragment,
    ) -> Result<String, Error> {
        const FRAGMENT: &str = "microagent.config";
        let path = tree.join(FRAGMENT);
        fs::write(&path, fragment.text()).map_err(file("write", &path))?;
        let asked = format!("KCONFIG_ALLCONFIG={FRAGMENT}");
        make.make("allnoconfig", &[&asked], |_| {})?;
        let path = tree.join(".config");
        let config = fs::read_to_string(&path).map_err(file("read", &path))?;
        match fragment.dropped(&config) {
            None => Ok(config),
            Some(dropped) => Err(KernelBuildError::OptionDropped {
                option: dropped.option,
                asked: dropped.asked,
                got: dropped.got,
            }
            .into()),
        }
    }

    /// The image without the symbols that only a debugger reads and without padding, and what it was
    /// made with.
    fn finish_build(&self, tree: &Path, config: &str, dir: ScratchDir) -> Result<Outputs, Error> {
        let stripped = dir.path().join("vmlinux");
        super::tool::Tool::new("strip", &["--strip-all"])
            .args([Path::new("-o"), &stripped, &tree.join("vmlinux")])
            .output()?;
        let image = fs::read(&stripped).map_err(file("read", &stripped))?;
        let image = padding::without_padding(&image).unwrap_or(image);
        let mut outputs = self.store_image("vmlinux", image.len() as u64, &image[..])?;
        let config = self.store().put_bytes(config.as_bytes())?;
        outputs.insert("config".to_owned(), config.into());
        Ok(outputs)
    }

    /// One stage, told from its start to its end.
    fn stage<T>(
        &self,
        detail: &str,
        total_bytes: Option<u64>,
        work: impl FnOnce(&mut dyn FnMut(u64)) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (stage, detail) = (Stage::Kernel, detail.to_owned());
        self.tell(Event::StageStarted {
            stage,
            detail: detail.clone(),
            total_bytes,
        });
        let done = work(&mut |bytes| {
            let detail = detail.clone();
            self.tell(Event::Advanced {
                stage,
                detail,
                bytes,
            });
        })?;
        self.tell(Event::StageDone { stage, detail });
        Ok(done)
    }
}

/// Our own fragment, and the one at `path` after it.
fn whole_fragment(path: Option<&Path>) -> Result<Fragment, Error> {
    let parse = |name: String, text: &str| {
        Fragment::parse(text).map_err(|line| KernelBuildError::BadFragment {
            name,
            number: line.number,
            text: line.text,
        })
    };
    let mut fragment = parse("microvm.config".to_owned(), MICROVM)?;
    if let Some(path) = path {
        let size = fs::metadata(path).map_err(file("read", path))?.len();
        let text = match size {
            size if size > MAX_FRAGMENT => Err(std::io::ErrorKind::FileTooLarge.into()),
            _ => fs::read_to_string(path),
        };
        let text = text.map_err(file("read", path))?;
        fragment.extend(parse(path.display().to_string(), &text)?);
    }
    Ok(fragment)
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KernelBuildError {
    let path = path.to_owned();
    move |source| KernelBuildError::File {
        action,
        path,
        source,
    }
}
