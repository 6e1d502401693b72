//! The messages between the three processes of a running VM.
//!
//! ```text
//!  microagent (CLI) ──control──▶ microagent-supervisor ──virtio-vsock──▶ microagent-guest
//!        └───────────────── agent sessions (frames) ──────────────────────────▲
//! ```
//!
//! - [`control`]: JSON messages, one per packet of a `SOCK_SEQPACKET` socket that the supervisor
//!   has as its standard input. The supervisor exits when this socket is closed.
//! - [`warning`]: what a supervisor reports while its VM continues.
//! - [`agent`]: the messages of an agent session. A session is one vsock stream from the host to
//!   [`agent::AGENT_PORT`] in the guest; it carries one request and its replies.
//! - [`tree`]: files and directories, as the entries of a session.
//! - [`frame`]: the framing of a session's stream.
//! - [`envelope`]: the protocol version, which precedes the messages of all links.
//! - [`copy`]: one direction of a connection that is passed on.
//! - [`error_chain`]: an error and its sources as one line, for all three processes.
//!
//! All three are built from the same source. The version is checked on every link nevertheless: an
//! installation can be incomplete, and `run --supervisor` starts any program. On the control link it
//! must be the same. An agent may be of another release than the command line and the supervisor,
//! because a workspace keeps the one that it was created with, and runs while the host is upgraded:
//! so on its links all versions from [`OLDEST`] on are understood, and unknown fields are ignored.

pub mod agent;
mod bytes;
pub mod control;
mod copy;
pub mod envelope;
mod error_chain;
mod failure;
pub mod frame;
pub mod tree;
pub mod warning;

pub use copy::{ReadBuffer, copy};
pub use error_chain::error_chain;

/// The protocol version of all messages in this crate. It is incremented with each release that
/// changes them. A message or field that is new is only used with a peer that may not know it if that
/// can ignore it.
pub const VERSION: u32 = 9;

/// The oldest version that is understood on the agent's links. It rises with an incompatible change.
pub const OLDEST: u32 = 9;
