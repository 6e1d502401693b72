//! Arbitrary stacks of layers, built into file systems by the pipeline and
//! compared with what an independent model, `umoci`, `e2fsck` and the kernel
//! make of them.
//!
//! | question | module |
//! |---|---|
//! | what a layer is made of | `member` |
//! | which layers there are | `strategy`, `tame` |
//! | how they become a tar, and an image | `archive`, `layout` |
//! | what they mean | `model` |
//! | what a file system or a directory holds | `image`, `directory`, `tree` |
//! | what others say | `kernel`, `umoci` |
//! | what must be the same | `check` |
//!
//! `PROPTEST_CASES` sets the number of cases of each test. A failure prints the
//! smallest stack that fails, and its seed goes to `regressions.txt` beside this
//! file: every later run begins with it.

// Clippy knows test functions, not what they call.
#![allow(clippy::unwrap_used)]

mod archive;
mod check;
mod directory;
mod image;
mod kernel;
mod layout;
mod member;
mod model;
mod strategy;
mod tame;
mod tree;
mod umoci;

use microagent_tests::{or_skip, root_or_skip, tool};

use crate::check::check;
use crate::strategy::Manner;

#[test]
fn any_stack_is_the_tree_that_the_model_makes_of_it() {
    check(2000, Manner::Wild, check::model);
}

#[test]
fn any_file_system_is_whole_and_the_kernel_lists_what_the_model_says() {
    root_or_skip!();
    check(400, Manner::Wild, check::kernel);
}

#[test]
fn a_stack_that_tools_would_write_is_the_tree_that_umoci_unpacks() {
    root_or_skip!();
    or_skip!(tool::find("umoci"));
    check(400, Manner::Tame, check::umoci);
}
