//! From the command line to the exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use crate::args::{self, Command, KernelCommand, Parsed, PerfCommand, RootfsCommand};
use crate::commands;
use crate::ending::{self, Ending};
use crate::failure::{Failure, OURS};
use crate::output::Output;
use crate::settings::Settings;

/// Exit code of a failure of any command but `run`.
const FAILED: u8 = 1;

/// Does what was typed.
pub fn run(words: Vec<OsString>) -> ExitCode {
    if let Some(code) = ending::sweep(&words) {
        return code;
    }
    let cli = match args::parse(&words) {
        Ok(Parsed::Command(cli)) => cli,
        Ok(Parsed::Help(help)) => {
            let printed = Output::default().text(&help);
            return finish(Output::default(), FAILED, printed.map(|()| 0));
        }
        Err(failure) => {
            let output = Output {
                json: args::wants_json(&words),
                ..Output::default()
            };
            return finish(output, FAILED, Err(failure));
        }
    };
    let output = Output::from_args(&cli.global);
    start_logging(output);
    let general = match cli.command {
        Command::Run(_) => OURS,
        _ => FAILED,
    };
    let result = Settings::resolve(&cli.global).and_then(|settings| {
        let ending = Ending::install(settings.output)?;
        let result = dispatch(cli.command, &settings, &ending);
        ending.finish();
        result
    });
    finish(output, general, result)
}

fn dispatch(command: Command, settings: &Settings, ending: &Ending) -> Result<u8, Failure> {
    match command {
        Command::Run(args) => commands::run::run(*args, settings, ending),
        Command::Rootfs {
            command: RootfsCommand::Build(args),
        } => commands::rootfs::build(&args, settings, ending),
        Command::Kernel {
            command: KernelCommand::Install(args),
        } => commands::kernel::install(&args, settings, ending),
        Command::Kernel {
            command: KernelCommand::Build(args),
        } => commands::kernel::build(&args, settings, ending),
        Command::Image { command } => commands::image::image(command, settings, ending),
        Command::Cache { command } => commands::cache::cache(command, settings, ending),
        Command::Perf {
            command: PerfCommand::Boot(args),
        } => commands::perf::boot(args, settings, ending),
        Command::Doctor => commands::doctor::doctor(settings),
        Command::Version => commands::version::version(settings),
    }
}

fn finish(output: Output, general: u8, result: Result<u8, Failure>) -> ExitCode {
    ExitCode::from(result.unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.exit_code(general)
    }))
}

/// Logs are for whoever looks for a fault: from information on with `-v`, everything with `-vv`.
fn start_logging(output: Output) {
    let level = match output.verbose {
        0 => return,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(output.color)
        .with_target(false)
        .without_time()
        .with_writer(std::io::stderr)
        .init();
}
