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
//! - [`error_chain`]: an error and its sources as one line, for all three processes.
//!
//! All three are built from the same source. [`VERSION`] is checked on every link nevertheless: an
//! installation can be incomplete, and `run --supervisor` starts any program.

pub mod agent;
mod bytes;
pub mod control;
pub mod envelope;
mod error_chain;
mod failure;
pub mod frame;
pub mod tree;
pub mod warning;

pub use error_chain::error_chain;

/// The protocol version of all messages in this crate. It is incremented with every incompatible
/// change.
pub const VERSION: u32 = 9;
