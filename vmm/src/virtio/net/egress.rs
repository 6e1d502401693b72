//! What the guest's policy lets pass: a filter before the backend.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use microagent_egress::{Filter, GuestFrame, HeldFrame, Verdict, rejection};
use vm_memory::VolatileSlice;

use super::header::{HEADER_LEN, Header};
use super::{Backend, Frame, SendOutcome};
use crate::virtio::Segments;

/// The maximum number of answers to refused frames that wait for the driver. Further ones are lost, as
/// a network may lose them.
const MAX_ANSWERS: usize = 64;

/// The filter of one device, which others add pins to and read the counts of.
pub type SharedFilter = Arc<Mutex<Filter>>;

/// Sends the frames that the filter lets pass.
#[derive(Debug)]
pub(super) struct Egress {
    filter: SharedFilter,
    /// Frames that were held back, and are to be sent before any other.
    released: VecDeque<HeldFrame>,
    /// Answers to refused frames, which the guest is to receive.
    answers: VecDeque<Vec<u8>>,
    /// The beginning of a frame. The guest can change its own copy at any time, so what was checked
    /// is what is sent.
    frame: Vec<u8>,
}

impl Egress {
    pub fn new(filter: SharedFilter) -> Egress {
        Egress {
            filter,
            released: VecDeque::new(),
            answers: VecDeque::new(),
            frame: Vec::new(),
        }
    }

    /// Sends released frames; returns false if the backend is full.
    pub fn flush(&mut self, backend: &mut dyn Backend) -> bool {
        while let Some(held) = self.released.front_mut() {
            let header = held.header.first_chunk().map(Header::decode);
            let header = header.unwrap_or_default();
            let frame = Segments::from(VolatileSlice::from(&mut held.bytes[..]));
            if backend.send(header, frame) == SendOutcome::Full {
                return false;
            }
            self.released.pop_front();
        }
        true
    }

    /// Sends a frame with a validated header, or keeps or drops it.
    pub fn send(
        &mut self,
        backend: &mut dyn Backend,
        header: Header,
        mut frame: Segments<'_>,
    ) -> SendOutcome {
        if !self.flush(backend) {
            return SendOutcome::Full;
        }
        let len = frame.len();
        let mut wanted = Filter::HEADERS;
        let header_bytes = header.encode();
        let (given, verdict) = loop {
            self.frame.resize(wanted.min(len), 0);
            frame.copy_to(&mut self.frame);
            let given = GuestFrame {
                bytes: &self.frame,
                len,
                header: &header_bytes,
            };
            match lock(&self.filter).check(&given, Instant::now()) {
                // It asks for more than it was given, so this ends.
                Verdict::NeedMore(more) if more > wanted && wanted < len => wanted = more,
                verdict => break (given, verdict),
            }
        };
        match verdict {
            Verdict::Pass => {}
            Verdict::PassAfter(held) => {
                self.released.extend(held);
                if !self.flush(backend) {
                    return SendOutcome::Full;
                }
            }
            Verdict::Hold => return SendOutcome::Accepted,
            Verdict::Drop(reason) => {
                if self.answers.len() < MAX_ANSWERS {
                    self.answers.extend(rejection(&given, reason));
                }
                return SendOutcome::Dropped;
            }
            Verdict::NeedMore(_) => return SendOutcome::Dropped,
        }
        let rest = frame.split_off(self.frame.len());
        let mut checked = Segments::from(VolatileSlice::from(&mut self.frame[..]));
        checked.append(rest);
        backend.send(header, checked)
    }

    /// The next answer for the guest.
    pub fn answer(&self) -> Option<Frame<'_>> {
        let data = self.answers.front()?;
        let header = Header::default();
        Some(Frame { header, data })
    }

    /// Forgets the answer that [`answer`](Self::answer) returns.
    pub fn pop_answer(&mut self) {
        self.answers.pop_front();
    }

    /// Tells the filter of a frame for the guest.
    pub fn inbound(&self, frame: &[u8]) {
        let headers = frame.get(..Filter::HEADERS).unwrap_or(frame);
        lock(&self.filter).inbound(headers, frame.len());
    }

    /// The driver was reset: nothing of it is sent any more.
    pub fn reset(&mut self) {
        self.released.clear();
        self.answers.clear();
    }
}

/// The filter, while its device does not use it.
pub fn lock(filter: &SharedFilter) -> MutexGuard<'_, Filter> {
    filter.lock().unwrap_or_else(PoisonError::into_inner)
}

const _: () = assert!(HEADER_LEN == 12);
