//! The `microagent` command.
//!
//! [`args`] parses the command line, [`settings`] and [`request`] validate it without side effects,
//! and [`commands`] execute it. The library crates return typed errors; only this crate prints,
//! logs and chooses exit codes.
//!
//! Modules are arranged in floors. A module imports only from floors below its own; the rows inside
//! a folder are floors too. docs/architecture.md lists the numbered ones, and a test checks the
//! imports against that list. Top to bottom:
//!
//! | floor | modules | purpose |
//! |---|---|---|
//! | 1 | `main`, [`app`] | parse, dispatch, exit code |
//! | 2 | [`commands`]: `run`, `perf`, `rootfs`, `kernel`, `image`, `cache`, `doctor`, `version` | one module per command: check, call, print |
//! | | `cache::{ls, gc, verify, explain, archive}` | one module per subcommand |
//! | | `workspace::{create, start, exec, connect, cp, artifacts, clone, diff, commit, end, delete, status, logs}` | one module per command for workspaces |
//! | | `cache::purpose`, `pipeline`, `format` | open the pipeline; values as text |
//! | 3 | [`perf`]: `report` | the result of `perf boot` |
//! | | `monitors`, `waterfall` | comparison with other monitors; phases of a boot |
//! | | `monitors::{ours, peers}` | boot one guest with one monitor |
//! | | `iteration`, `statistics`, `monitors::{guest, reset_stub}` | one measured run; summaries; the guests |
//! | 4 | [`run`]: `vm` | boot, configure, set up, execute |
//! | | `artifacts`, `kept`, `network`, `sink`, `deadline` | what a VM boots; the workspace of `--keep`; how it is connected; command output; `--timeout` |
//! | | `warnings`, `outputs` | what went wrong on the host; declared outputs |
//! | | `disks` | additional disks |
//! | | `document` | the JSON document of a run |
//! | | `phases` | phase durations |
//! | 5 | [`request`] | a validated `run` |
//! | | `create` | a validated `create` |
//! | | `disks`, `outputs`, `mediation`, `resources` | its flags |
//! | 6 | [`engine`] | engine selection |
//! | 7 | [`disk_copy`], [`host_files`] | disk image copies; files from and for guests |
//! | 8 | [`out_file`] | files that the user names |
//! | 9 | [`settings`], [`termination`], [`install`], [`document`] | resolved global flags; signals and cleanup; helper programs; shared JSON |
//! | 10 | [`progress`] | progress reports |
//! | | `bars`, `lines`, `events` | their forms |
//! | | [`terminal`], [`terminal_guard`] | the mode and size of the terminal; who restores it when this process is killed |
//! | 11 | [`output`] | results, notices, events, errors |
//! | 12 | [`args`] | the command-line grammar |
//! | | `cache`, `perf`, `usage_error` | |
//! | | `global`, `image`, `kernel`, `rootfs`, `run` | |
//! | 13 | [`failure`], [`table`] | message, remediation, exit code; text columns |
//! | 14 | [`printable`], [`host_limit`] | text from elsewhere, safe for a terminal; what to do about limits of the process |

mod app;
mod args;
mod commands;
mod disk_copy;
mod document;
mod engine;
mod failure;
mod host_files;
mod host_limit;
mod install;
mod out_file;
mod output;
mod perf;
mod printable;
mod progress;
mod request;
mod run;
mod settings;
mod table;
mod terminal;
mod terminal_guard;
mod termination;

use std::process::ExitCode;

fn main() -> ExitCode {
    app::run(std::env::args_os().collect())
}
