//! `microagent diff`.

use std::collections::HashSet;

use microagent_cas::Store;
use microagent_workspace::dir::WorkspaceDir;
use microagent_workspace::root_fs::{Change, Changed, RootFs, changes};
use microagent_workspace::spec::Spec;
use microagent_workspace::state::State;
use microagent_workspace::view;
use serde::Serialize;

use super::files::{on_disk, view_failure};
use super::{get, not_stopped, state_of};
use crate::args::NameArgs;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    /// With a slash in front. Invalid UTF-8 is replaced by U+FFFD.
    path: String,
    /// `added`, `changed` or `removed`.
    change: &'static str,
}

/// A workspace that does not run, and its image.
#[derive(Debug)]
pub(super) struct Compared {
    /// What it is.
    pub(super) spec: Spec,
    /// That of the workspace.
    pub(super) workspace: RootFs,
    /// What differs.
    pub(super) changed: Vec<Changed>,
}

/// Compares the workspace `name` with its image.
pub(super) fn compare(
    name: &str,
    settings: &Settings,
    store: &Store,
    termination: &Termination,
) -> Result<Compared, Failure> {
    let directory: WorkspaceDir = get(settings, name)?;
    let (state, _) = state_of(&directory)?;
    if state.is_live() || state == State::Suspended {
        let state = match state {
            State::Suspended => state,
            _ => State::Running,
        };
        return Err(not_stopped(state, name));
    }
    let spec = directory.known_spec()?;
    let failed = |error| view_failure(&error, name);
    let workspace = on_disk(&directory, name, settings, termination, || {
        view::root(&directory, &spec, store)
    })?;
    let image = view::image(&spec, store).map_err(failed)?;
    let found = changes(&image, &workspace, &is_written_at_start)?;
    let changed = without_mount_points(found, &spec);
    Ok(Compared {
        spec,
        workspace,
        changed,
    })
}

/// Prints what a workspace has changed in its image.
pub fn diff(
    args: &NameArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let store = Store::open(&settings.store_dir())?;
    let compared = compare(&args.name, settings, &store, termination)?;
    if settings.output.json {
        let documents: Vec<_> = compared.changed.iter().map(document).collect();
        settings.output.document(&documents)?;
        return Ok(0);
    }
    let mut text = String::new();
    for changed in &compared.changed {
        let letter = match changed.change {
            Change::Added => 'A',
            Change::Changed => 'C',
            Change::Removed => 'D',
        };
        // A name may contain a line feed.
        let path = String::from_utf8_lossy(&changed.path).replace('\n', "\\n");
        text.push_str(&format!("{letter} /{path}\n"));
    }
    settings.output.text(&text)?;
    Ok(0)
}

fn document(changed: &Changed) -> Document {
    Document {
        path: format!("/{}", String::from_utf8_lossy(&changed.path)),
        change: match changed.change {
            Change::Added => "added",
            Change::Changed => "changed",
            Change::Removed => "removed",
        },
    }
}

/// The files that the guest agent writes at each start.
pub(super) fn is_written_at_start(path: &[u8]) -> bool {
    matches!(path, b"etc/hosts" | b"etc/hostname" | b"etc/resolv.conf")
}

/// Leaves out the directories that the guest agent has made to mount something there.
fn without_mount_points(mut found: Vec<Changed>, spec: &Spec) -> Vec<Changed> {
    let disks = spec.disks.iter().chain(&spec.bundles);
    let disks = disks.map(|disk| disk.mountpoint.trim_start_matches('/').as_bytes());
    let own: Vec<&[u8]> = [&b"proc"[..], b"sys", b"dev", b"etc"]
        .into_iter()
        .chain(disks)
        .collect();
    let is_modules = |path: &[u8]| {
        path.strip_prefix(b"lib/modules/")
            .is_some_and(|release| !release.contains(&b'/'))
    };
    // From the end: what is in a directory before the directory.
    let mut kept_below: HashSet<Vec<u8>> = HashSet::new();
    let mut dropped_below: HashSet<Vec<u8>> = HashSet::new();
    let mut kept = Vec::new();
    while let Some(changed) = found.pop() {
        let path = &changed.path;
        let parent = path.iter().rposition(|&byte| byte == b'/');
        let parent = parent.map(|slash| path[..slash].to_vec());
        let is_own = own.contains(&&path[..]) || is_modules(path);
        let is_way = dropped_below.contains(path) && changed.change != Change::Removed;
        let drop =
            (is_own && changed.change == Change::Added || is_way) && !kept_below.contains(path);
        let side = if drop {
            &mut dropped_below
        } else {
            &mut kept_below
        };
        side.extend(parent);
        if !drop {
            kept.push(changed);
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use microagent_workspace::spec::{Access, Disk};

    use super::*;

    #[test]
    fn mount_points_are_not_changes() {
        let disk = |mountpoint: &str| Disk {
            name: "d".into(),
            path: "/d".into(),
            mountpoint: mountpoint.into(),
            mode: Access::Ro,
        };
        let spec = Spec {
            disks: vec![disk("/mnt/a/b"), disk("/srv")],
            ..Spec::default()
        };
        let found = |lines: &str| -> Vec<Changed> {
            let line = |line: &str| {
                let change = match line.as_bytes()[0] {
                    b'A' => Change::Added,
                    b'C' => Change::Changed,
                    _ => Change::Removed,
                };
                let path = line.as_bytes()[1..].to_vec();
                let node = None;
                Changed { path, change, node }
            };
            lines
                .split(' ')
                .filter(|line| !line.is_empty())
                .map(line)
                .collect()
        };
        for (given, expected) in [
            (
                "Adev Aetc Alib Alib/modules Alib/modules/6.1 Amnt Amnt/a Amnt/a/b Aproc Asrv Asys",
                "",
            ),
            (
                "Adev Adev/null Alib Alib/modules Alib/modules/6.1 Alib/x",
                "Adev Adev/null Alib Alib/x",
            ),
            (
                "Clib Clib/modules Alib/modules/6.1 Cmnt Amnt/a Amnt/a/b",
                "",
            ),
            (
                "Cetc Aetc/x Cmnt Dmnt/a Csrv Ax",
                "Cetc Aetc/x Cmnt Dmnt/a Csrv Ax",
            ),
        ] {
            assert_eq!(
                without_mount_points(found(given), &spec),
                found(expected),
                "{given}"
            );
        }
    }
}
