//! The harness of the end-to-end tests.
//!
//! The tests in `tests/tests/e2e/` start the built programs as a user does and compare the results
//! with those of independent tools. This crate holds the shared parts:
//!
//! | module | purpose |
//! |---|---|
//! | [`lab`] | a virtual machine with a real KVM inside, for the `kvm` engine |
//! | [`binaries`] | paths of the programs under test |
//! | [`microagent`] | runs the command line and finds what it left behind |
//! | [`built_kernel`] | the guest kernel built from source, once |
//! | [`namespaces`] | two network namespaces, for what crosses a network |
//! | [`image`] | images created with `umoci` and `skopeo` |
//! | [`registry`] | a real registry on the loopback interface |
//! | [`certificate`] | a certificate and key for a host |
//! | [`forward_proxy`] | an HTTP forward proxy with authentication |
//! | [`fault_proxy`] | a proxy that injects faults in front of a registry |
//! | [`file_server`] | a directory served over plain HTTP |
//! | [`tree`] | file trees as comparable text |
//! | [`cache`] | expensive artifacts, kept between runs |
//! | [`program`] | executables written by a test |
//! | [`tool`], [`scoped_process`] | external programs: run to completion, or in the background of a test |
//! | [`session`] | whether a process leads a session |
//! | [`soak`] | rounds and durations of tests that `make soak` runs for longer |
//! | [`numbers`] | pseudo-random numbers that follow from a seed |
//! | [`chaos`] | a random walk over the verbs of workspaces, with faults |
//! | [`flat_disk`] | the disk of a workspace's guest as one file |
//! | [`write_log`] | what a lab wrote to its disk, and what a power cut leaves of it |
//! | [`suite`] | the runner behind `make test` |
//! | [`skip`] | records tests that cannot run on this host |
//!
//! Nothing here replaces a part of the product.

pub mod binaries;
pub mod built_kernel;
pub mod cache;
pub mod certificate;
pub mod chaos;
mod error;
pub mod fault_proxy;
pub mod file_server;
pub mod flat_disk;
pub mod forward_proxy;
pub mod image;
pub mod lab;
pub mod microagent;
pub mod namespaces;
pub mod numbers;
pub mod program;
pub mod registry;
pub mod scoped_process;
pub mod session;
pub mod skip;
pub mod soak;
pub mod suite;
pub mod tool;
pub mod tree;
pub mod write_log;

pub use error::Error;
pub use microagent_proto::error_chain;
