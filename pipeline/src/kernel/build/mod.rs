//! Building the guest kernel from source.
//!
//! | subject | module |
//! |---|---|
//! | requested options, and dropped ones | [`fragment`], `microvm.config` |
//! | required programs and their versions | [`toolchain`] |
//! | unpacking the source | [`source`] |
//! | running make and reporting its errors | [`make`] |
//! | removing padding from the image | [`padding`] |
//!
//! The node is in `nodes::kernel::build`.

pub(crate) mod error;
pub(crate) mod fragment;
pub(crate) mod make;
pub(crate) mod padding;
pub(crate) mod source;
pub(crate) mod toolchain;

use std::fs;
use std::path::Path;

use self::error::{KernelBuildError, KernelBuildFailure, file};
use self::fragment::Fragment;
use self::make::Build;

/// The distribution's package with the source that `microvm.config` is written for.
pub(crate) const SOURCE_PACKAGE: &str = "linux-source-6.1";

/// Configures the tree with `allnoconfig` and the fragment, and checks that no option was dropped.
/// Returns the complete configuration.
pub(crate) fn configure(
    tree: &Path,
    make: &mut Build<'_>,
    fragment: &Fragment,
) -> Result<String, KernelBuildFailure> {
    const FRAGMENT: &str = "microagent.config";
    let path = tree.join(FRAGMENT);
    fs::write(&path, fragment.text()).map_err(file("write", &path))?;
    let allconfig = format!("KCONFIG_ALLCONFIG={FRAGMENT}");
    make.make("allnoconfig", &[&allconfig], |_| {})?;
    let path = tree.join(".config");
    let config = fs::read_to_string(&path).map_err(file("read", &path))?;
    match fragment.dropped(&config) {
        None => Ok(config),
        Some(dropped) => Err(KernelBuildError::OptionDropped {
            option: dropped.option,
            requested: dropped.requested,
            actual: dropped.actual,
        }
        .into()),
    }
}
