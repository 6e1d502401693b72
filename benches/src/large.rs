//! The peak memory of builds of images that are larger than any memory should need to know.
//!
//! Each image is written, built from its layout and removed before the next. The largest takes
//! about 20 GiB of disk while it is built.

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::Error;
use crate::content::{add_file, add_tree};
use crate::layout::{LayoutWriter, Shipped};
use crate::ours::{Build, Microagent};

const GIB: u64 = 1 << 30;

/// An image and the build of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Large {
    /// What it is.
    pub image: &'static str,
    /// Its build.
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

/// Builds each of them, in a directory below `work`.
///
/// # Errors
/// When one cannot be made or built.
pub fn measure(
    microagent: &Microagent,
    work: &Path,
    say: &dyn Fn(&str),
) -> Result<Vec<Large>, Error> {
    let mut measured = Vec::new();
    for (image, fill) in IMAGES {
        say(&format!("memory: making {image}"));
        let directory = tempfile::tempdir_in(work).map_err(Error::file(work))?;
        let layout = directory.path().join("layout");
        let mut writer = LayoutWriter::new(&layout)?;
        let layer = writer.layer(Shipped::Gzip, fill)?;
        writer.image("latest", &[layer])?;
        writer.finish()?;
        let reference = format!("oci:{}:latest", layout.display());
        let state = directory.path().join("state");
        let (build, _) = microagent.build(&state, &reference, None)?;
        let (millis, peak) = (build.cost.wall_millis, build.cost.peak_rss >> 20);
        say(&format!("memory: {peak} MiB, {millis:.0} ms"));
        measured.push(Large { image, build });
    }
    Ok(measured)
}
