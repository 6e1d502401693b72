//! The harness of the end-to-end tests.
//!
//! The tests in `tests/tests/` start the built programs the way a person does and compare what
//! they do with what independent tools say. This crate holds what they share:
//!
//! | module | what it is |
//! |---|---|
//! | [`lab`] | a virtual machine with a real KVM inside, for the `kvm` engine |
//! | [`binaries`] | where the programs under test are |
//! | [`microagent`] | one run of the command line, and what it left behind |
//! | [`built_kernel`] | the guest kernel from source, compiled once |
//! | [`image`] | images made by `umoci` and `skopeo` |
//! | [`registry`] | a real registry on the loopback interface |
//! | [`certificate`] | a host's certificate and key |
//! | [`forward_proxy`] | a proxy as companies have them |
//! | [`fault_proxy`] | a registry that misbehaves, in front of the real one |
//! | [`file_server`] | a directory over plain HTTP |
//! | [`tree`] | file trees as text that can be compared |
//! | [`cache`] | what is expensive to make and kept between runs |
//! | [`program`] | programs that a test makes and then starts |
//! | [`tool`], [`watched`] | other people's programs: run to the end, or for as long as a test |
//! | [`suite`] | the runner behind `make test` |
//! | [`skip`] | the tests that cannot run on this host |
//!
//! Nothing here is a stand-in for a part of the product.

pub mod binaries;
pub mod built_kernel;
pub mod cache;
pub mod certificate;
mod error;
pub mod fault_proxy;
pub mod file_server;
pub mod forward_proxy;
pub mod image;
pub mod lab;
pub mod microagent;
pub mod program;
pub mod registry;
pub mod skip;
pub mod suite;
pub mod tool;
pub mod tree;
pub mod watched;

pub use error::Error;
pub use microagent_proto::error_chain;
