//! vCPUs: the thread of each, what they do, their state, and their end.

mod diagnosis;
mod state;
mod termination;
mod thread;

pub(super) use self::diagnosis::VcpuReport;
pub(super) use self::state::{Extent, VcpuState};
pub(super) use self::termination::Termination;
pub(super) use self::thread::{SIGNAL_INTERVAL, VcpuThread};
