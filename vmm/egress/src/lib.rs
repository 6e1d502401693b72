//! What a guest may send to the network.
//!
//! - [`Policy`] is an ordered list of rules; the first that matches decides.
//!
//! - [`Filter`] decides about the frames that a guest sends. It works for every kind of network.
//!   [`rejection`] makes the answer to one that was refused.
//! - [`dns::Answerer`] decides about the names that it resolves, and tells which addresses were
//!   answered for them.
//! - [`Syn`] and [`BareReset`] are segments with which a TCP connection begins, or does not.
//! - [`Transmission`] is a segment with data; [`GuestSegment`] is that or a [`Syn`].
//! - [`Tally`] counts what was refused, by [`Reason`], and lists the first of each kind.
//!
//! The crate does no input or output and has no clock: frames, messages and the time are arguments.
//! All input is hostile; nothing here panics on it, and all state is bounded.

#![forbid(unsafe_code)]

pub mod dns;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

mod address;
mod filter;
mod flow;
mod guest;
mod handshake;
mod name;
mod packet;
mod pins;
mod policy;
mod reason;
mod rejection;
mod tally;
mod tls;
mod transmission;

pub use filter::{Filter, GuestFrame, Verdict};
pub use flow::inspect::HeldFrame;
pub use guest::Guest;
pub use handshake::{BareReset, Syn, TCP_HEADERS};
pub use name::{Name, NameError};
pub use pins::Pin;
pub use policy::{MAX_RULES, Policy, PolicyError, RuleError, ShownRule};
pub use reason::Reason;
pub use rejection::rejection;
pub use tally::{Destination, Protocol, Refusal, Tally};
pub use transmission::{GuestSegment, Transmission};
