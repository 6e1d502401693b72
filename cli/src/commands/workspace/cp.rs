//! `microagent cp`.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use microagent_proto::agent::AGENT_PORT;
use microagent_proto::tree::WriteTree;
use microagent_tree::{Overrides, Source, TreeError};
use microagent_workspace::dir::is_name;
use microagent_workspace::machine::files::write_tree;
use rustix::fs::OFlags;
use serde::Serialize;

use super::files::{Files, last_name};
use super::short_boot::{self, Access, with_files};
use super::{client_failure, get};
use crate::args::CpArgs;
use crate::failure::Failure;
use crate::host_files;
use crate::settings::Settings;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    workspace: &'a str,
    source: &'a str,
    destination: &'a str,
    /// How many device files and sockets were left out.
    skipped: u64,
}

/// One side of a copy.
enum Side<'a> {
    Host(&'a str),
    Guest { name: &'a str, path: &'a str },
}

impl Side<'_> {
    /// A side is in a workspace if it is a name, a colon and a path. A path of the host that looks
    /// so is written with a slash, as in `./a:b`.
    fn parse(word: &str) -> Side<'_> {
        match word.split_once(':') {
            Some((name, path)) if is_name(name) => Side::Guest { name, path },
            _ => Side::Host(word),
        }
    }
}

/// Copies files between the host and a workspace.
pub fn cp(args: &CpArgs, settings: &Settings, termination: &Termination) -> Result<u8, Failure> {
    let sides = (Side::parse(&args.source), Side::parse(&args.destination));
    let (name, skipped) = match sides {
        (Side::Guest { name, path }, Side::Host(to)) => (
            name,
            out(args, name, path, Path::new(to), settings, termination)?,
        ),
        (Side::Host(from), Side::Guest { name, path }) => {
            (name, into(args, from, name, path, settings, termination)?)
        }
        _ => {
            return Err(Failure::usage(
                "exactly one of source and destination must be in a workspace",
            )
            .remediation("use microagent cp NAME:/PATH DESTINATION, or the other way round"));
        }
    };
    if settings.output.json {
        settings.output.document(&Document {
            workspace: name,
            source: &args.source,
            destination: &args.destination,
            skipped,
        })?;
    }
    Ok(0)
}

/// Whether a path means what is in a directory, not the directory.
fn means_contents(path: &str) -> bool {
    path.ends_with("/.") || path == "." || last_name(path.as_bytes()).is_none()
}

fn out(
    args: &CpArgs,
    name: &str,
    path: &str,
    to: &Path,
    settings: &Settings,
    termination: &Termination,
) -> Result<u64, Failure> {
    if to.as_os_str().is_empty() || path.is_empty() {
        return Err(empty());
    }
    let files = Files::of(name, settings, termination)?;
    let called = last_name(path.as_bytes()).unwrap_or(OsStr::new(name));
    let mut delivery = host_files::deliver(to, called, means_contents(path), termination)?;
    files.read(path.as_bytes(), args.follow_link, &mut delivery)?;
    let skipped = delivery.finish()?;
    host_files::report(&skipped, settings.output);
    Ok(skipped.count)
}

fn into(
    args: &CpArgs,
    from: &str,
    name: &str,
    path: &str,
    settings: &Settings,
    termination: &Termination,
) -> Result<u64, Failure> {
    if from.is_empty() || path.is_empty() {
        return Err(empty());
    }
    let (directory, source) = host_source(from, args.follow_link)?;
    let workspace = get(settings, name)?;
    let called = match std::path::absolute(from) {
        Ok(path) => path.file_name().map(OsStr::to_owned),
        Err(_) => None,
    };
    let request = WriteTree {
        path: path.as_bytes().to_vec(),
        name: called.unwrap_or_else(|| "root".into()).as_bytes().to_vec(),
        contents: means_contents(from),
        provision: false,
    };
    let source = Source {
        directory: &directory,
        name: &source,
        cross_mounts: true,
    };
    let client = match short_boot::access(&workspace, name, settings)? {
        Access::Agent(client) => client,
        Access::Stopped(lock) => {
            let detail = "booted to copy files into it";
            let write = |stream| write_tree(stream, request, source, Overrides::default());
            return with_files(&lock, &workspace, detail, settings, termination, write);
        }
    };
    let stream = client.connect(AGENT_PORT);
    let stream = stream.map_err(|error| client_failure(error, name))?;
    Ok(write_tree(stream, request, source, Overrides::default())?)
}

/// The directory that has a file of the host, and its name there.
fn host_source(from: &str, follow: bool) -> Result<(OwnedFd, OsString), Failure> {
    let failed = |error| Failure::from(TreeError::io("read", from.as_bytes(), error));
    let mut path = PathBuf::from(from);
    if follow || from.ends_with('/') {
        path = std::fs::canonicalize(&path).map_err(failed)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let open = |path: &Path| host_files::open(path, flags).map_err(failed);
    match (path.file_name(), from.ends_with("/.")) {
        (Some(name), false) => {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            Ok((open(parent.unwrap_or(Path::new(".")))?, name.to_owned()))
        }
        _ => Ok((open(&path)?, ".".into())),
    }
}

fn empty() -> Failure {
    Failure::usage("an empty path")
        .remediation("use microagent cp NAME:/PATH DESTINATION, or the other way round")
}
