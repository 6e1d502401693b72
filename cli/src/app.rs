//! Parse, dispatch, exit code.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::process::Signal;
use tracing_subscriber::filter::LevelFilter;

use crate::args::{self, Command, KernelCommand, Parsed, PerfCommand, RootfsCommand};
use crate::commands;
use crate::commands::workspace::{self, End};
use crate::failure::{EXIT_FAILED, EXIT_RUN_FAILED, Failure};
use crate::output::Output;
use crate::settings::Settings;
use crate::terminal_guard;
use crate::termination::{self, Termination};

/// Runs the command line `words` and returns the process's exit code.
pub fn run(words: Vec<OsString>) -> ExitCode {
    // What this process creates, it must be able to use: a umask hides nothing from the owner.
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask - Mode::RWXU);
    survive_file_size_limit();
    if let Some(code) = terminal_guard::run_guard_mode(&words) {
        return code;
    }
    if let Some(code) = termination::run_sweep_mode(&words) {
        return code;
    }
    if let Some(code) = commands::workspace::run_shim_mode(&words) {
        return code;
    }
    if let Some(code) = commands::warm::run_take_mode(&words) {
        return code;
    }
    let cli = match args::parse(&words) {
        Ok(Parsed::Command(cli)) => cli,
        Ok(Parsed::Help(help)) => {
            let printed = Output::default().text(&help);
            return finish(Output::default(), EXIT_FAILED, printed.map(|()| 0));
        }
        Err(failure) => {
            let output = Output {
                json: args::wants_json(&words),
                ..Output::default()
            };
            return finish(output, EXIT_FAILED, Err(failure));
        }
    };
    let output = Output::from_args(&cli.global);
    start_logging(output);
    let default_code = match &cli.command {
        Command::Run(_) | Command::Exec(_) | Command::Connect(_) => EXIT_RUN_FAILED,
        Command::Start(args) if args.wait.is_some() => EXIT_RUN_FAILED,
        _ => EXIT_FAILED,
    };
    let result = Settings::resolve(&cli.global).and_then(|settings| {
        let termination = Termination::install(settings.output)?;
        let result = dispatch(cli.command, &settings, &termination);
        termination.disarm();
        result
    });
    finish(output, default_code, result)
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) fail; otherwise SIGXFSZ would end this
/// process without a message. By a handler, because ignoring a signal needs unsafe code.
fn survive_file_size_limit() {
    // Fails only for signals that cannot be handled.
    let _ = signal_hook::flag::register(Signal::XFSZ.as_raw(), Arc::default());
}

fn dispatch(
    command: Command,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    match command {
        Command::Run(args) => commands::run::run(*args, settings, termination),
        Command::Create(args) => workspace::create(*args, settings, termination),
        Command::Start(args) => workspace::start(&args, settings, termination),
        Command::Exec(args) => workspace::exec(args, settings, termination),
        Command::Connect(args) => workspace::connect(args, settings, termination),
        Command::Cp(args) => workspace::cp(&args, settings, termination),
        Command::Artifacts { command } => workspace::artifacts(command, settings, termination),
        Command::Clone(args) => workspace::clone(&args, settings, termination),
        Command::Snapshot { command } => workspace::snapshot(&command, settings, termination),
        Command::Diff(args) => workspace::diff(&args, settings, termination),
        Command::Commit(args) => workspace::commit(&args, settings, termination),
        Command::Stop(args) => workspace::end(End::Stop, args, settings),
        Command::Halt(args) => workspace::end(End::Halt, args, settings),
        Command::Kill(args) => workspace::end(End::Kill, args, settings),
        Command::Pause(args) => workspace::pause(&args, settings),
        Command::Resume(args) => workspace::resume(&args, settings),
        Command::Quarantine(args) => workspace::quarantine(args, settings),
        Command::Stats(args) => workspace::stats(&args, settings),
        Command::Delete(args) => workspace::delete(&args, settings),
        Command::Status(args) => workspace::status(&args, settings, termination),
        Command::Ps => workspace::list(true, settings),
        Command::List => workspace::list(false, settings),
        Command::Logs(args) => workspace::logs(&args, settings),
        Command::Events(args) => workspace::events(&args, settings),
        Command::Result(args) => workspace::result(&args, settings),
        Command::Wait(args) => workspace::wait(&args, settings),
        Command::Network { command } => workspace::network(&command, settings),
        Command::Supervise(args) => workspace::supervise(&args, settings),
        Command::Apply(args) => workspace::apply(&args, settings),
        Command::Profiles => commands::profiles::profiles(settings),
        Command::Completions(args) => commands::manual::completions(&args, settings),
        Command::Man(args) => commands::manual::man(&args, settings),
        Command::Spec(args) => workspace::spec(&args, settings),
        Command::Rootfs {
            command: RootfsCommand::Build(args),
        } => commands::rootfs::build(&args, settings, termination),
        Command::Kernel {
            command: KernelCommand::Install(args),
        } => commands::kernel::install(&args, settings, termination),
        Command::Kernel {
            command: KernelCommand::Build(args),
        } => commands::kernel::build(&args, settings, termination),
        Command::Image { command } => commands::image::image(command, settings, termination),
        Command::Cache { command } => commands::cache::cache(command, settings, termination),
        Command::Warm(args) => commands::warm::warm(&args, settings, termination),
        Command::Perf {
            command: PerfCommand::Boot(args),
        } => commands::perf::boot(args, settings, termination),
        Command::Doctor => commands::doctor::doctor(settings),
        Command::Version => commands::version::version(settings),
    }
}

fn finish(output: Output, default_code: u8, result: Result<u8, Failure>) -> ExitCode {
    ExitCode::from(result.unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.exit_code(default_code)
    }))
}

/// Logs to standard error: from level info with `-v`, from debug with `-vv`, otherwise nothing.
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
