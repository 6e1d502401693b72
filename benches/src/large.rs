//! Peak memory of builds of very large images.
//!
//! Each image is written, built from its layout and removed before the next one. The largest needs
//! about 20 GiB of disk space.

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::Error;
use crate::content::{add_file, add_tree};
use crate::layout::{Compression, LayoutWriter};
use crate::ours::{Build, Microagent};

const GIB: u64 = 1 << 30;

/// A large image and its build.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Large {
    /// A description of the image.
    pub image: &'static str,
    /// The build.
    #[serde(flatten)]
    pub build: Build,
}

type Fill = fn(&mut tar::Builder<&mut dyn io::Write>) -> io::Result<()>;

const IMAGES: [(&str, Fill); 3] = [
    ("a layer of 500 000 files", |tar| {
        add_tree(tar, "tree", 500_000)
    }),
    ("a layer of 2 GiB that does not compress", |tar| {
        add_file(tar, "noise", 2 * GIB, 1)
    }),
    ("a layer of 10 GiB that compresses well", |tar| {
        add_file(tar, "sparse-noise", 10 * GIB, 64)
    }),
];

/// Creates and builds each image in a directory below `work`. `progress` receives status lines.
///
/// # Errors
/// When an image cannot be created or built.
pub fn measure(
    microagent: &Microagent,
    work: &Path,
    progress: &dyn Fn(&str),
) -> Result<Vec<Large>, Error> {
    let mut measured = Vec::new();
    for (image, fill) in IMAGES {
        progress(&format!("memory: creating {image}"));
        let directory = tempfile::tempdir_in(work).map_err(Error::file(work))?;
        let layout = directory.path().join("layout");
        let mut writer = LayoutWriter::new(&layout)?;
        let layer = writer.layer(Compression::Gzip, fill)?;
        writer.image("latest", &[layer])?;
        writer.finish()?;
        let reference = format!("oci:{}:latest", layout.display());
        let state = directory.path().join("state");
        let (build, _) = microagent.build(&state, &reference, None)?;
        let (millis, peak) = (build.cost.wall_millis, build.cost.peak_rss >> 20);
        progress(&format!("memory: {peak} MiB, {millis:.0} ms"));
        measured.push(Large { image, build });
    }
    Ok(measured)
}
