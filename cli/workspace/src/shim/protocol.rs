//! The protocol between a command and the shim of a workspace.
//!
//! The socket is of type `SOCK_SEQPACKET`; each packet is an [`envelope`] and one JSON message. A
//! client sends one request and reads one reply; [`Request::Wait`] is answered at the end, and
//! [`Request::Subscribe`] by any number of replies.
//!
//! Unlike the links within an installation, both ends may be of different releases: a shim lives as
//! long as its VM. So a shim answers a request of any version from [`OLDEST`] on, with the version
//! of the client, and both ignore fields that they do not know. [`VERSION`] rises with every
//! message or field that is added.

use std::collections::BTreeMap;
use std::path::PathBuf;

use microagent_proto::control::{MAX_MESSAGE, Refused, VmStats};
use microagent_proto::envelope::{self, envelope};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::result::WorkloadResult;
use crate::spec::Forward;
use crate::state::State;

/// The version of this program.
pub const VERSION: u32 = 4;

/// The oldest version that is understood.
pub const OLDEST: u32 = 1;

/// A request of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// What is the state? Answered at once.
    Status,
    /// Connect the attached stream socket (`SCM_RIGHTS`, exactly one) to a vsock port of the guest.
    Connect {
        /// The guest's port.
        port: u32,
        /// It does not use the workspace, which may be idle. Since version 3.
        #[serde(default, skip_serializing_if = "is_false")]
        probe: bool,
    },
    /// Shut the guest down. Answered when the VM has ended, or does not obey.
    Stop {
        /// Kill the VM if the guest does not obey in time.
        force: bool,
        /// Why, for the event.
        reason: Option<String>,
    },
    /// Kill the VM. Answered when it has ended.
    Kill {
        /// Why, for the event.
        reason: Option<String>,
        /// The workspace has failed. Since version 2.
        #[serde(default)]
        failed: bool,
    },
    /// Answered when the workspace has ended, or is quarantined.
    Wait,
    /// Stop the vCPUs. Since version 2, as the following ones.
    Pause,
    /// Let the vCPUs run again.
    Resume,
    /// Stop the vCPUs, close all streams of the guest and discard its console, for good. Answered when
    /// the workspace was captured.
    Quarantine {
        /// Why, for the event.
        reason: Option<String>,
    },
    /// What does the VM use of the host?
    Stats,
    /// The last event, and each that follows, in a [`Reply::Event`] of its own. The socket is closed
    /// after the last. Since version 3.
    Subscribe,
    /// Let a port of the host lead to the guest. Since version 3, as the following one.
    Publish(Forward),
    /// Free a port of the host.
    Unpublish(Forward),
    /// Save the VM and what its guest has written into this directory, which is empty. Answered when it is
    /// done. Since version 4.
    Snapshot {
        /// The directory.
        directory: PathBuf,
    },
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// The state.
    Status(Box<Status>),
    /// The stream was passed to the guest.
    Connected,
    /// The workspace has ended, or it ends and this is its last state.
    Ended {
        /// The state after the end.
        state: State,
        /// How the workload ended, if one has. Since version 2.
        #[serde(default)]
        result: Option<WorkloadResult>,
    },
    /// It was done. To [`Request::Pause`], [`Request::Resume`], [`Request::Quarantine`] and
    /// [`Request::Snapshot`].
    Done,
    /// What the VM uses of the host.
    Stats(Box<Stats>),
    /// An event.
    Event(Box<Event>),
    /// To [`Request::Publish`]: what was published.
    Published(Forward),
    /// The request cannot be carried out.
    Refused {
        /// One line: why.
        message: String,
        /// The state that is the reason. Since version 3.
        #[serde(default)]
        state: Option<State>,
    },
}

impl Reply {
    /// The request cannot be carried out.
    pub fn refused(message: impl Into<String>) -> Reply {
        Reply::Refused {
            message: message.into(),
            state: None,
        }
    }

    /// The request cannot be carried out in this state.
    pub fn is(state: State) -> Reply {
        Reply::Refused {
            message: format!("it is {state}"),
            state: Some(state),
        }
    }
}

/// See [`Request::Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The state.
    pub state: State,
    /// The process that keeps the VM.
    pub pid: u32,
    /// The engine.
    pub engine: String,
    /// Whether the workload runs.
    pub workload: bool,
    /// The guest's addresses with their prefixes, as far as the host gives them. Since version 3, as
    /// the next ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Why the guest's network does not work at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_down: Option<String>,
    /// The ports of the host that lead to the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Forward>,
    /// The names that its rules refused to resolve: the list of [`Refused`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_names: Vec<serde_json::Value>,
    /// How often each reason occurred.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_name_counts: BTreeMap<String, u64>,
}

impl Status {
    /// The names that its rules refused to resolve.
    pub fn refused_names(&self) -> Refused {
        Refused {
            refused: self.refused_names.clone(),
            refused_counts: self.refused_name_counts.clone(),
        }
    }
}

/// See [`Request::Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// What the VM uses.
    pub vm: VmStats,
    /// The time since its start, in milliseconds.
    pub uptime_millis: u64,
}

/// A packet cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The peer's version is not understood.
    #[error("the workspace is kept by another version of microagent (protocol {0})")]
    Version(u32),
    /// It is not a message of the protocol.
    #[error("invalid message")]
    Message,
}

/// A packet with `message` for a peer of this version.
///
/// # Errors
/// When it is too long.
pub fn encode<T: Serialize>(message: &T, version: u32) -> Result<Vec<u8>, PacketError> {
    let mut packet = envelope(version).to_vec();
    serde_json::to_writer(&mut packet, message).map_err(|_| PacketError::Message)?;
    match packet.len() <= MAX_MESSAGE {
        true => Ok(packet),
        false => Err(PacketError::Message),
    }
}

/// The peer's version and message.
///
/// # Errors
/// [`PacketError`].
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<(u32, T), PacketError> {
    let (version, message) = envelope::split(packet).ok_or(PacketError::Message)?;
    if version < OLDEST {
        return Err(PacketError::Version(version));
    }
    match serde_json::from_slice(message) {
        Ok(message) => Ok((version, message)),
        // A newer peer may know more messages.
        Err(_) if version > VERSION => Err(PacketError::Version(version)),
        Err(_) => Err(PacketError::Message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_older_and_newer_releases_is_understood() {
        let status = |fields: &str| {
            let own = r#""state":"running","pid":7,"engine":"kvm","workload":false"#;
            let mut packet = envelope(VERSION).to_vec();
            packet.extend(format!(r#"{{"status":{{{own}{fields}}}}}"#).as_bytes());
            match decode(&packet) {
                Ok((VERSION, Reply::Status(status))) => *status,
                other => panic!("{other:?}"),
            }
        };
        let old = status("");
        assert_eq!(old.refused_names(), Refused::default());
        assert_eq!(old.addresses, Vec::<String>::new());
        let listed = status(r#","refusedNames":[{"reason":"dnsName","count":2}]"#);
        let Refused {
            refused,
            refused_counts,
        } = listed.refused_names();
        assert_eq!((refused.len(), refused_counts.len()), (1, 0));
        let new = status(
            r#","addresses":["10.0.2.15/24"],"refusedNames":[{"reason":"mood","by":[1]}],
               "refusedNameCounts":{"mood":3},"mood":"good""#,
        );
        assert_eq!(new.refused_names().total(), 3);
        assert_eq!(new.addresses, ["10.0.2.15/24"]);
    }

    #[test]
    fn fields_of_newer_versions_are_ignored_and_their_messages_named() {
        let packet = encode(&Request::Status, VERSION).unwrap();
        assert_eq!(decode(&packet).unwrap(), (VERSION, Request::Status));
        let with = |version: u32, message: &str| {
            let mut packet = envelope(version).to_vec();
            packet.extend(message.as_bytes());
            decode::<Request>(&packet)
        };
        let newer = VERSION + 1;
        let stop = Request::Stop {
            force: true,
            reason: None,
        };
        assert_eq!(
            with(newer, r#"{"stop":{"force":true,"reason":null,"gently":1}}"#),
            Ok((newer, stop))
        );
        assert_eq!(
            with(newer, r#"{"dance":{}}"#),
            Err(PacketError::Version(newer))
        );
        assert_eq!(with(VERSION, r#"{"dance":{}}"#), Err(PacketError::Message));
        assert_eq!(
            with(OLDEST - 1, "{}"),
            Err(PacketError::Version(OLDEST - 1))
        );
        assert_eq!(decode::<Request>(b"x"), Err(PacketError::Message));
    }
}
