//! Walks over the verbs of workspaces at random: see `microagent_tests::chaos`.
//!
//! `chaos [--seed=N] [--from=ROUND] [--rounds=N] [--faults=N] [--seconds=N] [--own-file-system]
//! [--own-clock] [--qemu]`, with `microagent` in `$PATH`, and `$MICROAGENT_STATE_DIR` and `$IMAGE`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use microagent_tests::chaos::{Options, Surroundings, walk};
use microagent_tests::tool;

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("chaos: {message}");
            return ExitCode::from(2);
        }
    };
    println!("seed {}", options.seed);
    match walk(options, |round| println!("round {round}")) {
        Ok((rounds, tally)) => {
            let tally: Vec<_> = tally
                .iter()
                .map(|(what, times)| format!("{what} {times}"))
                .collect();
            println!("{rounds} rounds: {}", tally.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("${name} is not set"));
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let (mut seed, mut from, mut rounds, mut end) = (now.unwrap_or_default().as_secs(), 0, 5, None);
    let mut faults = 2;
    let mut surroundings = Surroundings::default();
    for argument in std::env::args().skip(1) {
        let (word, value) = match argument.split_once('=') {
            Some((word, value)) => (word, Some(value)),
            None => (&*argument, None),
        };
        let number = || -> Result<u64, String> {
            let value = value.ok_or(format!("{word} needs a number"))?;
            value
                .parse()
                .map_err(|_| format!("{value} is not a number"))
        };
        match word {
            "--seed" => seed = number()?,
            "--from" => from = number()?,
            "--rounds" => rounds = number()?,
            "--faults" => faults = number()?,
            "--seconds" => end = Some(Instant::now() + Duration::from_secs(number()?)),
            "--own-file-system" => surroundings.own_file_system = true,
            "--own-clock" => surroundings.own_clock = true,
            "--qemu" => surroundings.qemu = true,
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(Options {
        program: tool::find("microagent").map_err(|error| error.to_string())?,
        state: PathBuf::from(variable("MICROAGENT_STATE_DIR")?),
        image: variable("IMAGE")?,
        seed,
        rounds: from..from.saturating_add(rounds),
        faults,
        end,
        surroundings,
    })
}
