//! The public handle of the crate: an engine, and the configuration of
//! registries. Every method delegates to the module that implements it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use microagent_cas::{Digest, Store, StoreError};

use crate::engine::progress::{Progress, Stage};
use crate::engine::{Engine, NodeReport};
use crate::error::Error;
use crate::image::platform::GuestCpu;
use crate::image::reference::{Reference, RegistryReference};
use crate::kernel::{self, Kernel, KernelSource};
use crate::nodes::bundle::{self, Bundle, BundleOptions};
use crate::nodes::image_archive;
use crate::nodes::initramfs::{self, Initramfs};
use crate::nodes::kernel::build::{self, BuiltKernel, KernelBuild};
use crate::nodes::layer;
use crate::nodes::resolve::{self, Image};
use crate::nodes::rootfs::{self, Rootfs, RootfsOptions};
use crate::nodes::snapshot::{self, Snapshot, SnapshotInputs};
use crate::report::drift::{self, DriftReport};
use crate::report::explain::{self, Step};
use crate::source::{self, Registries, Upstream};

/// The build pipeline. A clone shares its store, progress listener and reports.
#[derive(Debug, Clone)]
pub struct Pipeline {
    engine: Engine,
    registries: Registries,
    cpu: GuestCpu,
}

impl Pipeline {
    /// A pipeline that keeps everything in `store` and reports to `progress`.
    pub fn new(store: Store, progress: Arc<dyn Progress>) -> Pipeline {
        Pipeline {
            engine: Engine::new(store, progress),
            registries: Registries::default(),
            cpu: GuestCpu::default(),
        }
    }

    /// The same pipeline with a configuration of registries: mirrors, and which
    /// registries are insecure.
    #[must_use]
    pub fn with_registries(self, registries: Registries) -> Pipeline {
        Pipeline { registries, ..self }
    }

    /// The same pipeline for guests with this processor, which decides between the images of an
    /// index; the default is the processor of this machine.
    #[must_use]
    pub fn with_cpu(self, cpu: GuestCpu) -> Pipeline {
        Pipeline { cpu, ..self }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        self.engine.store()
    }

    /// The nodes requested so far, in the order in which the requests finished.
    pub fn reports(&self) -> Vec<NodeReport> {
        self.engine.reports()
    }

    /// Resolves `reference` for this platform.
    ///
    /// # Errors
    /// Those of the source ([`crate::RegistryError`], [`crate::ArchiveError`])
    /// and [`crate::ManifestError`].
    pub fn resolve(&self, reference: &Reference) -> Result<Image, Error> {
        Ok(resolve::resolve(
            &self.engine,
            &self.registries,
            reference,
            &self.cpu,
        )?)
    }

    /// The digest that `reference` named when it was last resolved; `None` if
    /// it never was.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recorded_root(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        Ok(resolve::recorded_root(self.store(), reference)?)
    }

    /// The image that `reference` named when it was last resolved, from the
    /// store alone; `None` if it never was, or if its documents have been
    /// removed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recorded_image(&self, reference: &Reference) -> Result<Option<Image>, Error> {
        Ok(resolve::recorded_image(self.store(), reference)?)
    }

    /// Builds the root file system of an image, or finds it in the store. A
    /// root file system in the store needs no layer; otherwise missing layers
    /// are fetched and unpacked.
    ///
    /// # Errors
    /// Those of fetching, unpacking and merging, and [`crate::DiskError`].
    pub fn rootfs(&self, image: &Image, options: &RootfsOptions) -> Result<Rootfs, Error> {
        Ok(rootfs::rootfs(&self.engine, image, options)?)
    }

    /// Reads the result of [`Pipeline::rootfs`] and verifies it, unless this
    /// process has built it: for a copy that outlives the store. A damaged file
    /// system is built again.
    ///
    /// # Errors
    /// Those of [`Pipeline::rootfs`].
    pub fn verified_rootfs(
        &self,
        image: &Image,
        options: &RootfsOptions,
        found: Rootfs,
    ) -> Result<Rootfs, Error> {
        Ok(rootfs::verified(&self.engine, image, options, found)?)
    }

    /// Builds the disk of a tar, or finds it in the store.
    ///
    /// # Errors
    /// [`crate::BundleError`], and those of the store.
    pub fn bundle(&self, options: &BundleOptions) -> Result<Bundle, Error> {
        Ok(bundle::bundle(&self.engine, options)?)
    }

    /// Puts a kernel into the store, or finds it there.
    ///
    /// # Errors
    /// [`crate::KernelError`] when the file is not a kernel, a package is not
    /// usable, or the package client or the server fails; and those of the
    /// store.
    pub fn kernel(&self, source: &KernelSource) -> Result<Kernel, Error> {
        Ok(crate::nodes::kernel::kernel(&self.engine, source)?)
    }

    /// Builds the guest kernel from source, or finds it in the store.
    ///
    /// # Errors
    /// [`crate::KernelBuildError`] when a program is missing, the source or the
    /// fragment is not usable, or the build fails; [`crate::KernelError`] when
    /// the distribution's package cannot be fetched; and those of the store.
    pub fn build_kernel(&self, build: &KernelBuild) -> Result<BuiltKernel, Error> {
        Ok(build::build_kernel(&self.engine, build)?)
    }

    /// Makes a kernel of the store the default.
    ///
    /// # Errors
    /// When one of its blobs is missing or the record cannot be written.
    pub fn set_default_kernel(&self, kernel: &Kernel) -> Result<(), Error> {
        Ok(kernel::default::set(self.store(), kernel)?)
    }

    /// The default kernel; `None` if none is set or its blobs are damaged.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn default_kernel(&self) -> Result<Option<Kernel>, Error> {
        Ok(kernel::default::get(self.store())?)
    }

    /// Packs the agent at `agent` and the kernel's modules into an initramfs,
    /// or finds it in the store.
    ///
    /// # Errors
    /// [`crate::InitramfsError`] when the agent is not a static x86-64
    /// executable or the modules are damaged, and those of the store.
    pub fn initramfs(&self, agent: &Path, kernel: &Kernel) -> Result<Initramfs, Error> {
        Ok(initramfs::initramfs(&self.engine, agent, kernel)?)
    }

    /// Finds the snapshot of an idle booted VM; `None` if there is none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find_snapshot(&self, inputs: &SnapshotInputs) -> Result<Option<Snapshot>, Error> {
        Ok(snapshot::find(&self.engine, inputs)?)
    }

    /// Finds such a snapshot, or lets `save` write it to an empty file; with `again` the latter in any
    /// case.
    ///
    /// # Errors
    /// Those of `save` and of the store.
    pub fn snapshot<E: From<StoreError>>(
        &self,
        inputs: &SnapshotInputs,
        again: bool,
        save: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Snapshot, E> {
        snapshot::snapshot(&self.engine, inputs, again, save)
    }

    /// Fetches the layers of an image whose blobs are not in the store, as they
    /// are distributed.
    ///
    /// # Errors
    /// Those of fetching and unpacking.
    pub fn fetch_layers(&self, image: &Image) -> Result<(), Error> {
        let mut image = image.clone();
        // One that was resolved before has only the store as its source.
        if let Ok(reference) = image.resolved.parse()
            && let Ok(source) = source::open(&reference, &self.registries, self.store())
        {
            image.source = source;
        }
        Ok(layer::fetch_layers(&self.engine, &image)?)
    }

    /// Pushes an image to a registry: the blobs that it does not have, then the
    /// manifest.
    ///
    /// # Errors
    /// [`crate::RegistryError`].
    pub fn push(&self, reference: &RegistryReference, image: &Upstream<'_>) -> Result<(), Error> {
        let name = reference.to_string();
        self.engine.stage(Stage::Push, &name, None, |advance| {
            source::push(reference, &self.registries, image, advance)
        })?;
        Ok(())
    }

    /// Writes the image that `reference` named when it was last resolved to
    /// `output`, which may be a pipe, as an OCI archive; returns its size in
    /// bytes. Missing layers are fetched again. `path` is used in error
    /// messages.
    ///
    /// # Errors
    /// [`crate::ImageArchiveError`], and those of fetching.
    pub fn export_image(
        &self,
        reference: &Reference,
        output: &File,
        path: &Path,
    ) -> Result<(Image, u64), Error> {
        let (engine, registries) = (&self.engine, &self.registries);
        Ok(image_archive::export(
            engine, registries, reference, output, path,
        )?)
    }

    /// Imports every named image of an OCI archive, as if it had been pulled
    /// under its name. Returns the resolved images.
    ///
    /// # Errors
    /// [`crate::ImageArchiveError`], and those of reading and unpacking the
    /// archive.
    pub fn import_images(&self, path: &Path) -> Result<Vec<Image>, Error> {
        Ok(image_archive::import(&self.engine, path, &self.cpu)?)
    }

    /// Compares the recorded digests of these references, or of every resolved
    /// reference and every local input file, with the current ones.
    ///
    /// # Errors
    /// When the store cannot be read. A source that cannot be asked is part of
    /// the report.
    pub fn drift(&self, only: &[Reference]) -> Result<DriftReport, Error> {
        Ok(drift::drift(self.store(), &self.registries, only)?)
    }

    /// The digest that a reference names now; `None` if it no longer exists. Nothing is recorded.
    ///
    /// # Errors
    /// When its source cannot be asked.
    pub fn current_root(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        Ok(drift::current(self.store(), &self.registries, reference)?)
    }

    /// The nodes behind a reference as it was last resolved; `None` if it never
    /// was. Nothing is fetched or computed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn explain(&self, reference: &Reference) -> Result<Option<(Image, Step)>, Error> {
        Ok(explain::explain(self.store(), reference)?)
    }
}
