//! The messages between the three processes of a running VM.
//!
//! ```text
//!  microagent (CLI) ──control──▶ microagent-supervisor ──virtio-vsock──▶ microagent-guest
//!        └───────────────── agent sessions (frames) ──────────────────────────▲
//! ```
//!
//! - [`control`]: JSON messages, one per packet of a `SOCK_SEQPACKET` socket that the supervisor
//!   finds on its standard input. The supervisor lives exactly as long as this socket.
//! - [`agent`]: what is said inside one agent session. A session is one vsock stream from the host
//!   to [`agent::AGENT_PORT`] in the guest; it carries one request and its answer.
//! - [`frame`]: how a session's stream is cut into frames.
//! - [`error_chain`]: an error and its sources as one line, for all three.
//!
//! Both sides are always built from one tree; [`VERSION`] is checked all the same, because an old
//! guest agent can live on in a cached initramfs.

pub mod agent;
mod bytes;
pub mod control;
mod error_chain;
pub mod frame;

pub use error_chain::error_chain;

/// The version of all messages in this crate. It rises with every incompatible change.
pub const VERSION: u32 = 3;
