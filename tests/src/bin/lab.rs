//! Runs one script in the lab, a machine with a real KVM inside. See `docs/testing.md`.
//!
//! `lab [--program HOST[:GUEST]]… [--directory HOST:GUEST]… [--module NAME]… [--icount] [--cpus N]
//! [--memory MIB] [--disk IMAGE] [--seconds N] [--console] -- SCRIPT`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use microagent_tests::lab::{Lab, Machine};

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {}", microagent_tests::error_chain(&*error));
            ExitCode::from(125)
        }
    }
}

fn run() -> Result<u8, Box<dyn std::error::Error>> {
    let mut machine = Machine::default();
    let mut programs = Vec::new();
    let mut directories = Vec::new();
    let mut modules = Vec::new();
    let mut console = false;
    let mut arguments = std::env::args().skip(1);
    let script = loop {
        let flag = arguments.next().ok_or("no script: lab [FLAGS] -- SCRIPT")?;
        let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--program" => programs.push(value()?),
            "--directory" => directories.push(value()?),
            "--module" => modules.push(value()?),
            "--icount" => machine.deterministic_clock = true,
            "--cpus" => machine.cpus = value()?.parse()?,
            "--memory" => machine.memory_mib = value()?.parse()?,
            "--disk" => machine.disk = Some(PathBuf::from(value()?)),
            "--seconds" => machine.deadline = Duration::from_secs(value()?.parse()?),
            "--console" => console = true,
            "--" => break arguments.collect::<Vec<_>>().join(" "),
            other => return Err(format!("unknown flag: {other}").into()),
        }
    };
    let seconds = u32::try_from(machine.deadline.as_secs())?;
    let mut lab = Lab::with_machine(machine)?;
    for program in &programs {
        let (host, guest) = match program.split_once(':') {
            Some((host, guest)) => (host, guest.to_owned()),
            None => {
                let name = program.rsplit('/').next().unwrap_or(program);
                (program.as_str(), format!("/usr/bin/{name}"))
            }
        };
        lab.program(host, &guest)?;
    }
    for directory in &directories {
        let (host, guest) = directory
            .split_once(':')
            .ok_or(format!("--directory {directory}: expected HOST:GUEST"))?;
        lab.directory(host.as_ref(), guest)?;
    }
    lab.modules(&modules.iter().map(String::as_str).collect::<Vec<_>>())?;
    lab.step("script", &script, seconds);
    let report = lab.boot()?;
    let step = report.step("script");
    if console {
        eprint!("{}", report.console);
    }
    std::io::stderr().write_all(&step.stderr)?;
    std::io::stdout().write_all(&step.stdout)?;
    eprintln!(
        "lab: exit status {}, {:?} by its clock",
        step.code, step.elapsed
    );
    Ok(u8::try_from(step.code).unwrap_or(1))
}
