//! Requests about a running VM, from any thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use microagent_proto::control::{Answer, Pin, ToSupervisor, VmStats, encode};

use super::send;

/// How long a supervisor may take to answer: it waits ten seconds itself for vCPUs to stop.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long it may take to write the memory of a VM.
const SAVE_TIMEOUT: Duration = Duration::from_secs(60);

/// A running VM did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The VM has ended.
    #[error("the VM has ended")]
    Ended,
    /// The supervisor does not answer. It is not asked again.
    #[error("the supervisor of the VM does not answer")]
    NoAnswer,
    /// The control socket failed.
    #[error("the control socket of the supervisor failed")]
    Control(#[source] io::Error),
    /// The engine refused.
    #[error("{0}")]
    Refused(String),
}

/// Asks one supervisor from any thread, one request after the other.
#[derive(Debug, Clone)]
pub struct Controller(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    control: OwnedFd,
    answers: Receiver<Answer>,
    /// An answer is missing: the next one could be taken for that of another request.
    late: bool,
}

impl Controller {
    /// Sends on `control`; what is answered arrives in `answers`.
    pub(super) fn new(control: OwnedFd, answers: Receiver<Answer>) -> Controller {
        Controller(Arc::new(Mutex::new(State {
            control,
            answers,
            late: false,
        })))
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// [`ControlError`]; the VM then runs.
    pub fn pause(&self) -> Result<(), ControlError> {
        self.ask(&ToSupervisor::Pause).map(drop)
    }

    /// Lets the vCPUs run again.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn resume(&self) -> Result<(), ControlError> {
        self.ask(&ToSupervisor::Resume).map(drop)
    }

    /// Closes all streams between guest and host for good, and discards its console.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn sever(&self) -> Result<(), ControlError> {
        self.ask(&ToSupervisor::Sever).map(drop)
    }

    /// Writes the state of a VM that is paused to `file`, which is empty. Takes as long as that takes, up to
    /// a minute.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn save(&self, file: OwnedFd) -> Result<(), ControlError> {
        self.ask_within(&ToSupervisor::Save, Some(file), SAVE_TIMEOUT)
            .map(drop)
    }

    /// Gives the network interface another backend.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn attach_net(&self, backend: OwnedFd) -> Result<(), ControlError> {
        self.ask_with(&ToSupervisor::AttachNet, Some(backend))
            .map(drop)
    }

    /// Allows new connections of the guest to the addresses of a name.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn pin(&self, pin: Pin) -> Result<(), ControlError> {
        self.ask(&ToSupervisor::Pin(pin)).map(drop)
    }

    /// What the VM uses of the host.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn stats(&self) -> Result<VmStats, ControlError> {
        match self.ask(&ToSupervisor::Stats)? {
            Answer::Stats(stats) => Ok(stats),
            _ => Err(ControlError::NoAnswer),
        }
    }

    fn ask(&self, request: &ToSupervisor) -> Result<Answer, ControlError> {
        self.ask_with(request, None)
    }

    fn ask_with(
        &self,
        request: &ToSupervisor,
        attached: Option<OwnedFd>,
    ) -> Result<Answer, ControlError> {
        self.ask_within(request, attached, ANSWER_TIMEOUT)
    }

    fn ask_within(
        &self,
        request: &ToSupervisor,
        attached: Option<OwnedFd>,
        timeout: Duration,
    ) -> Result<Answer, ControlError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.late {
            return Err(ControlError::NoAnswer);
        }
        let packet = encode(request).map_err(|error| ControlError::Control(error.into()))?;
        send(&state.control, &packet, attached).map_err(|_| ControlError::Ended)?;
        match state.answers.recv_timeout(timeout) {
            Ok(Answer::Refused { message }) => Err(ControlError::Refused(message)),
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => Err(ControlError::Ended),
            Err(RecvTimeoutError::Timeout) => {
                state.late = true;
                Err(ControlError::NoAnswer)
            }
        }
    }
}
