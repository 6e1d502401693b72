//! Random stacks of layers, built into file systems by the pipeline and compared
//! with an independent model and with `umoci`, `e2fsck` and the kernel.
//!
//! | task | module |
//! |---|---|
//! | description of a layer | `member` |
//! | generation of random layers | `strategy`, `portable` |
//! | encoding as tar and as OCI image | `archive`, `layout` |
//! | expected result | `model` |
//! | reading a file system or a directory | `image`, `directory`, `tree` |
//! | other implementations | `kernel`, `umoci` |
//! | the properties | `check` |
//!
//! `PROPTEST_CASES` sets the number of cases of each test. A failure prints the
//! smallest failing stack and appends its seed to `regressions.txt` beside this
//! file; every later run replays it first.

// Clippy exempts test functions, but not the functions they call.
#![allow(clippy::unwrap_used)]

mod archive;
mod check;
mod directory;
mod image;
mod kernel;
mod layout;
mod member;
mod model;
mod portable;
mod strategy;
mod tree;
mod umoci;

use microagent_tests::{or_skip, root_or_skip, tool};

use crate::check::check;
use crate::strategy::Scope;

#[test]
fn any_stack_builds_the_tree_of_the_model() {
    check(2000, Scope::Full, check::model);
}

#[test]
fn any_stack_passes_e2fsck_and_the_kernel_lists_the_tree_of_the_model() {
    root_or_skip!();
    check(400, Scope::Full, check::kernel);
}

#[test]
fn a_portable_stack_builds_the_tree_that_umoci_unpacks() {
    root_or_skip!();
    or_skip!(tool::find("umoci"));
    check(400, Scope::Portable, check::umoci);
}
