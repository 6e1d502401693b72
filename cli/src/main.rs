//! The `microagent` command.
//!
//! Two stages, then work: [`args`] is what was typed; [`request`] and [`settings`] are what it
//! means, checked, without touching anything; [`commands`] do it.
//!
//! | question | module |
//! |---|---|
//! | what may be typed, and what is refused with a hint | [`args`] |
//! | state directory, output form, engine choice | [`settings`] |
//! | what a `run` was asked for | [`request`] |
//! | what each command does | [`commands`] |
//! | how a `run` goes from image to exit code | [`run`] |
//! | one VM's process and its control socket | [`supervisor`] |
//! | one agent session | [`session`] |
//! | what a boot costs, and where | [`perf`] |
//! | which engine `auto` takes | [`engine`] |
//! | where a VM's sockets are, and how leftovers go | [`run_dir`], [`termination`] |
//! | what people and scripts see | [`output`], [`table`], [`progress`], [`failure`] |

mod app;
mod args;
mod commands;
mod disk_copy;
mod document;
mod engine;
mod failure;
mod install;
mod output;
mod perf;
mod progress;
mod request;
mod run;
mod run_dir;
mod session;
mod settings;
mod supervisor;
mod table;
mod termination;
mod timeline;

use std::process::ExitCode;

fn main() -> ExitCode {
    app::run(std::env::args_os().collect())
}
