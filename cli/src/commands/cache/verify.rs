//! `microagent cache verify`.

use std::collections::BTreeMap;

use microagent_cas::{Problem, RootRecord};
use microagent_pipeline::{Event, Progress, Stage};
use microagent_workspace::creation::owner;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::commands::{format::bytes, pipeline};
use crate::failure::Failure;
use crate::progress::Reporter;
use crate::settings::Settings;
use crate::termination::Termination;

const REMEDIATION: &str = "repair it with: microagent cache verify --repair";
/// After a repair that dropped the default kernel.
const KERNEL_REMEDIATION: &str =
    "the default kernel is gone; install one: microagent kernel install";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    ok: bool,
    objects: u64,
    bytes: u64,
    nodes: u64,
    problems: &'a [Problem],
}

/// Verifies the store. Exits with 1 if damage was found and not repaired.
pub fn verify(
    args: &VerifyArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let pipeline = pipeline::open(settings, termination)?;
    let store = pipeline.store();
    let reporter = Reporter::new(settings.output);
    let (stage, detail) = (Stage::Verify, "store".to_owned());
    let inventory = store.inventory_as_found()?;
    reporter.event(Event::StageStarted {
        stage,
        detail: detail.clone(),
        total_bytes: Some(inventory.allocated(inventory.objects.keys())),
    });
    // A repair puts those of damaged objects aside.
    let roots = inventory.roots;
    let advance = |bytes| {
        reporter.event(Event::Advanced {
            stage,
            detail: detail.clone(),
            bytes,
        });
    };
    let found = match args.repair {
        true => store.repair(&advance)?,
        false => store.verify(&advance)?,
    };
    reporter.event(Event::StageDone {
        stage,
        detail: detail.clone(),
    });
    let ok = found.problems.iter().all(|problem| problem.repaired);
    if settings.output.json {
        settings.output.document(&Report {
            ok,
            objects: found.objects,
            bytes: found.bytes,
            nodes: found.nodes,
            problems: &found.problems,
        })?;
    } else {
        let mut text = String::new();
        for problem in &found.problems {
            let repaired = if problem.repaired {
                " (quarantined)"
            } else {
                ""
            };
            let path = problem.path.display();
            text.push_str(&format!("{path}: {}{repaired}\n", problem.why));
        }
        text.push_str(&format!(
            "{} objects, {}, {} nodes: {}\n",
            found.objects,
            bytes(found.bytes),
            found.nodes,
            match (found.problems.len(), args.repair) {
                (0, _) => "no problems".to_owned(),
                (1, _) => "1 problem".to_owned(),
                (count, _) => format!("{count} problems"),
            }
        ));
        for remediation in remediations(&found.problems, args.repair, &roots) {
            text.push_str(&format!("{remediation}\n"));
        }
        settings.output.text(&text)?;
    }
    Ok(u8::from(!ok))
}

/// What is to be done, or after a repair is still to be done.
fn remediations(
    problems: &[Problem],
    repaired: bool,
    roots: &BTreeMap<String, RootRecord>,
) -> Vec<String> {
    if !repaired {
        let any = problems.iter().any(Problem::is_repairable);
        return any.then(|| REMEDIATION.to_owned()).into_iter().collect();
    }
    let dropped = problems.iter().filter_map(Problem::root);
    let remediation = |root: &str| match roots.get(root).and_then(owner) {
        Some(owner) => format!(
            "workspace {owner} has lost what it consists of; see what: microagent status {owner}"
        ),
        None => KERNEL_REMEDIATION.to_owned(),
    };
    dropped.map(remediation).collect()
}
