//! The image to build, in a registry on the loopback interface.

use std::path::{Path, PathBuf};

use microagent_tests::image::{self, Layout, Tar};
use microagent_tests::registry::Registry;

use crate::Error;

/// An image, and a variant with one more layer that contains one small file.
#[derive(Debug)]
pub struct Subject {
    /// A description of the image, for the report.
    pub name: String,
    registry: Registry,
}

impl Subject {
    /// Pushes the image `LAYOUT:TAG`, or the Debian image of the tests, and its variant.
    ///
    /// # Errors
    /// When an image cannot be created or pushed.
    pub fn new(image: Option<&str>) -> Result<Subject, Error> {
        let (layout, tag, name) = match image {
            Some(image) => {
                let invalid = || Error::Image(image.to_owned());
                let (layout, tag) = image.rsplit_once(':').ok_or_else(invalid)?;
                if layout.is_empty() || tag.is_empty() || tag.contains('/') {
                    return Err(invalid());
                }
                (PathBuf::from(layout), tag.to_owned(), tag.to_owned())
            }
            None => {
                let name = "Debian with Python, four layers (tests/host/debian-image.sh)";
                (image::debian()?, "debian".to_owned(), name.to_owned())
            }
        };
        let registry = Registry::start()?;
        push(&registry, &layout, &tag, "base")?;
        let changed = Layout::copy_of(&layout)?;
        let tar = Tar::new()
            .directory("changed")
            .file("changed/file", b"one small file\n");
        changed.add_layer(&tag, &tar.finish())?;
        push(&registry, changed.directory(), &tag, "changed")?;
        Ok(Subject { name, registry })
    }

    /// The reference of the image.
    pub fn base(&self) -> String {
        format!("{}/bench/image:base", self.registry.address())
    }

    /// The reference of the variant with the small top layer.
    pub fn changed(&self) -> String {
        format!("{}/bench/image:changed", self.registry.address())
    }
}

fn push(registry: &Registry, layout: &Path, tag: &str, to: &str) -> Result<(), Error> {
    let image = format!("oci:{}:{tag}", layout.display());
    Ok(registry.push(&image, &format!("bench/image:{to}"))?)
}
