//! The end-to-end tests: the built programs, started as a user starts them.
//!
//! One program, so that the harness is linked once. docs/testing.md lists what each module tests.

mod bad_input;
mod blocked_output;
mod boots;
mod cache;
mod disk_failures;
mod faults;
mod floors;
mod harness;
mod host;
mod https;
mod images;
mod interrupt;
mod kernel_build;
mod lab;
mod locks;
mod make;
mod monitor_lab;
mod nothing_lost;
mod out_file;
mod perf_boot;
mod progress;
mod proxies;
mod remediations;
mod run_disks;
mod run_lab;
mod run_list;
mod run_qemu;
mod run_surroundings;
mod second_run;
mod store;
mod surroundings;
mod workspace_status;
mod workspaces;
