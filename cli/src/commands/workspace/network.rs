//! `microagent network`.

use microagent_workspace::network::NetworkError;
use microagent_workspace::spec::Forward;
use serde::Serialize;

use super::{client, client_failure, get};
use crate::args::{NetworkCommand, PublishArgs};
use crate::failure::Failure;
use crate::request::network::forward;
use crate::settings::Settings;
use crate::table::table;

/// The ports of a workspace.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    workspace: &'a str,
    publishes: Vec<Forward>,
}

/// Publishes ports of a running workspace, frees them, or lists them.
pub fn network(command: &NetworkCommand, settings: &Settings) -> Result<u8, Failure> {
    let name = match command {
        NetworkCommand::Publish(PublishArgs { name, .. })
        | NetworkCommand::Unpublish(PublishArgs { name, .. }) => name,
        NetworkCommand::Ls(args) => &args.name,
    };
    let directory = get(settings, name)?;
    let client = client(&directory, name)?;
    let failed = |error| client_failure(error, name);
    match command {
        NetworkCommand::Publish(args) => {
            client.publish(&forward(&args.mapping)?).map_err(failed)?;
        }
        NetworkCommand::Unpublish(args) => {
            client.unpublish(&forward(&args.mapping)?).map_err(failed)?;
        }
        NetworkCommand::Ls(_) => {}
    }
    let publishes = client.status().map_err(failed)?.published;
    if settings.output.json {
        settings.output.document(&Document {
            workspace: name,
            publishes,
        })?;
        return Ok(0);
    }
    if let NetworkCommand::Ls(_) = command {
        let header = ["HOST", "GUEST PORT"].map(str::to_owned).to_vec();
        let row = |forward: &Forward| -> Result<Vec<String>, NetworkError> {
            let address = forward.address()?;
            Ok(vec![address.to_string(), forward.guest_port.to_string()])
        };
        let rows: Result<Vec<_>, _> = publishes.iter().map(row).collect();
        let rows = [vec![header], rows?].concat();
        settings.output.text(&table(&rows))?;
    }
    Ok(0)
}
