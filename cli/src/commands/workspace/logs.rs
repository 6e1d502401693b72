//! `microagent logs`, `events`, `result` and `spec`.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use microagent_pipeline::ErrorKind;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::event::{self, Event};
use microagent_workspace::follow::{FollowError, Follower};
use microagent_workspace::log;
use microagent_workspace::result::WorkloadResult;
use microagent_workspace::spec::schema;
use microagent_workspace::state::State;
use serde::Serialize;

use super::{get, state_of};
use crate::args::{EventsArgs, LogsArgs, NameArgs, SpecArgs};
use crate::failure::{EXIT_SIGPIPE, Failure, kind_of};
use crate::settings::Settings;
use crate::table::table;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Logs<'a> {
    workspace: &'a str,
    text: String,
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        kind_of(error),
        format!("cannot read {}: {error}", path.display()),
    )
}

/// Prints the end of what the workload wrote, or of the guest's console.
pub fn logs(args: &LogsArgs, settings: &Settings) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    let path = match args.console {
        true => directory.console(),
        false => directory.output(),
    };
    let document = |bytes: &[u8]| Logs {
        workspace: &args.name,
        text: String::from_utf8_lossy(bytes).into_owned(),
    };
    if args.follow {
        let output = &settings.output;
        let follower = Follower::new(&directory, &path);
        return follow(follower, output.json, |bytes| match output.json {
            true => output.line(&document(bytes)),
            false => output.stream(bytes),
        });
    }
    let bytes = log::read(&path).map_err(|error| unreadable(&path, &error))?;
    match settings.output.json {
        true => settings.output.document(&document(&bytes))?,
        false => settings.output.bytes(&bytes)?,
    }
    Ok(0)
}

/// The longest line that is kept until its end has arrived, in bytes.
const MAX_LINE: usize = 64 << 10;

/// Passes what a log still has to `print`, until the workspace has ended or nobody reads: then `print`
/// returns false. With `whole_lines`, a line is passed when its end has arrived.
pub fn follow(
    mut follower: Follower,
    whole_lines: bool,
    mut print: impl FnMut(&[u8]) -> Result<bool, Failure>,
) -> Result<u8, Failure> {
    let stdout = io::stdout();
    let mut line = Vec::new();
    while let Some(bytes) = follower.next(stdout.as_fd())? {
        line.extend(bytes);
        let complete = match line.iter().rposition(|&byte| byte == b'\n') {
            Some(end) if whole_lines => end + 1,
            None if whole_lines && line.len() < MAX_LINE => 0,
            _ => line.len(),
        };
        if complete > 0 && !print(&line[..complete])? {
            return Ok(EXIT_SIGPIPE);
        }
        line.drain(..complete);
    }
    if !line.is_empty() {
        print(&line)?;
    }
    Ok(0)
}

impl From<FollowError> for Failure {
    fn from(error: FollowError) -> Failure {
        let kind = match &error {
            FollowError::Read { source, .. } => kind_of(source),
            _ => ErrorKind::Host,
        };
        Failure::caused(kind, &error)
    }
}

/// Prints the history of a workspace.
pub fn events(args: &EventsArgs, settings: &Settings) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    let output = &settings.output;
    if args.follow {
        let path = directory.path().join(event::HISTORY);
        let follower = Follower::new(&directory, &path);
        return follow(follower, true, |lines| {
            for event in lines.split(|&byte| byte == b'\n').filter_map(event::parse) {
                let read = match output.json {
                    true => output.line(&event)?,
                    false => output.stream(table(&[row(event)]).as_bytes())?,
                };
                if !read {
                    return Ok(false);
                }
            }
            Ok(true)
        });
    }
    let events =
        event::history(directory.path()).map_err(|error| unreadable(directory.path(), &error))?;
    if output.json {
        output.document(&events)?;
        return Ok(0);
    }
    output.text(&table(&events.into_iter().map(row).collect::<Vec<_>>()))?;
    Ok(0)
}

fn row(event: Event) -> Vec<String> {
    // As wide as the longest state, so that lines that are printed one by one are aligned.
    let state = format!("{:11}", event.state);
    vec![event.observed_at, state, event.detail.unwrap_or_default()]
}

/// Prints how the workload ended.
pub fn result(args: &NameArgs, settings: &Settings) -> Result<u8, Failure> {
    let directory = get(settings, &args.name)?;
    let path = directory.result();
    let result = WorkloadResult::read(&path).map_err(|error| unreadable(&path, &error))?;
    let Some(result) = result else {
        return Err(no_result(&args.name, &directory)?);
    };
    settings.output.document(&result)?;
    Ok(0)
}

/// Why there is no result.
fn no_result(name: &str, directory: &WorkspaceDir) -> Result<Failure, Failure> {
    let absent = |message| Failure::new(ErrorKind::NotFound, message);
    let recorded = directory.known_spec()?.recorded;
    if recorded.is_some_and(|recorded| recorded.argv.is_empty()) {
        return Ok(absent(format!("workspace {name} has no workload")));
    }
    let (state, last) = state_of(directory)?;
    // Of the end, and not of something before it.
    let why = last.filter(|event| event.state == state);
    Ok(match state {
        State::Prepared => absent(format!("the workload of {name} has not been started"))
            .remediation(format!("start it first: microagent start {name}")),
        state if state.is_live() => absent(format!("the workload of {name} has not ended yet"))
            .remediation(format!("wait for it: microagent wait {name}")),
        _ => absent(match why.and_then(|event| event.detail) {
            Some(why) => format!("the workload of {name} has no result: {why}"),
            None => format!("the workload of {name} was killed with its VM"),
        }),
    })
}

/// Prints the JSON Schema of specifications.
pub fn spec(_: &SpecArgs, settings: &Settings) -> Result<u8, Failure> {
    settings.output.document(&schema())?;
    Ok(0)
}
