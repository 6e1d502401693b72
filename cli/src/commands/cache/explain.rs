//! `microagent cache explain`.

use microagent_cas::MaterialChange;
use microagent_pipeline::{ErrorKind, Reference, Step};
use microagent_workspace::shell;
use serde::Serialize;

use crate::args::ReferenceArgs;
use crate::commands::{format::bytes, pipeline};
use crate::document::ImageDocument;
use crate::failure::Failure;
use crate::request::reference;
use crate::settings::Settings;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    image: ImageDocument,
    node: Step,
}

/// Prints the nodes of an image as a tree.
pub fn explain(
    args: &ReferenceArgs,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    let reference = reference(&args.reference)?;
    let pipeline = pipeline::open(settings, termination)?;
    let (image, node) = (pipeline.explain(&reference)?).ok_or_else(|| not_resolved(&reference))?;
    if settings.output.json {
        let image = ImageDocument::new(&image);
        settings.output.document(&Explanation { image, node })?;
        return Ok(0);
    }
    let mut text = String::new();
    draw(&node, "", "", &mut text);
    settings.output.text(&text)?;
    Ok(0)
}

fn not_resolved(reference: &Reference) -> Failure {
    Failure::new(
        ErrorKind::NotFound,
        format!("{reference} has not been resolved in this store"),
    )
    .remediation(format!(
        "resolve it first: microagent image resolve {}",
        shell::word(reference.to_string())
    ))
}

/// Appends a step and, indented below it, its inputs.
fn draw(step: &Step, first: &str, rest: &str, text: &mut String) {
    let key: String = step.key.digest().hex().chars().take(12).collect();
    let mut line = format!("{first}{} {} {key}", step.op, step.detail);
    line.push_str(if step.hit { "  hit" } else { "  missing" });
    if let Some(size) = step.size {
        line.push_str(&format!(", {}", bytes(size)));
    }
    if let Some(millis) = step.wall_millis {
        line.push_str(&format!(", took {:.2} s", millis as f64 / 1000.0));
    }
    if let Some(used) = &step.last_used {
        line.push_str(&format!(", used {used}"));
    }
    text.push_str(&line);
    text.push('\n');
    let bar = if step.inputs.is_empty() {
        "   "
    } else {
        "│  "
    };
    for moved in &step.moved {
        let why = match step.hit {
            true => "rebuilt because",
            false => "needs a rebuild because",
        };
        text.push_str(&format!("{rest}{bar}{why} {}\n", describe_change(moved)));
    }
    let count = step.inputs.len();
    for (number, input) in step.inputs.iter().enumerate() {
        let (branch, below) = match number + 1 == count {
            true => ("└─ ", "   "),
            false => ("├─ ", "│  "),
        };
        draw(
            input,
            &format!("{rest}{branch}"),
            &format!("{rest}{below}"),
            text,
        );
    }
}

fn describe_change(change: &MaterialChange) -> String {
    let digest = |digest: &Option<microagent_cas::Digest>| match digest {
        Some(digest) => digest.hex().chars().take(12).collect(),
        None => "none".to_owned(),
    };
    match change {
        MaterialChange::OpVersion { from, to } => {
            format!("the operation changed from version {from} to {to}")
        }
        MaterialChange::Param { name, from, to } => format!("{name} changed from {from} to {to}"),
        MaterialChange::Input {
            name,
            place,
            from,
            to,
        } => format!(
            "{name} {place} changed from {} to {}",
            digest(from),
            digest(to)
        ),
    }
}
