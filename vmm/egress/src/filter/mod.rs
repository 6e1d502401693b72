//! The filter for the frames that a guest sends.

mod flows;
mod fragments;
mod spoof;

use std::time::Instant;

use crate::flow::Flows;
use crate::flow::inspect::HeldFrame;
use crate::guest::Guest;
use crate::packet::{self, Content, Packet, protocol};
use crate::pins::{Pin, Pins};
use crate::policy::Policy;
use crate::reason::Reason;
use crate::tally::{Destination, Protocol, Tally};
use crate::tls::MAX_HELLO;
use fragments::Fragments;

/// A frame from the guest.
#[derive(Clone, Copy, Debug)]
pub struct GuestFrame<'a> {
    /// The frame, or its beginning: at least [`Filter::HEADERS`] bytes, if it has as many.
    pub bytes: &'a [u8],
    /// The length of the whole frame.
    pub len: usize,
    /// Returned with the frame if it is held back: the virtio header, for example.
    pub header: &'a [u8],
}

/// What to do with a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Pass,
    /// Send these frames, which were held back before, and then this one.
    PassAfter(Vec<HeldFrame>),
    /// Do not send it: the filter has kept it, if it is needed.
    Hold,
    /// Do not send it.
    Drop(Reason),
    /// Ask again with at least this many bytes of the frame. The filter's state is unchanged.
    NeedMore(usize),
}

/// Decides about every frame that a guest sends, for any kind of network.
///
/// Without a policy, only frames that use addresses of others are dropped, and those that are
/// invalid. With one, whatever is not allowed is dropped:
///
/// - **TCP**: the SYN decides, by the rules for addresses and ports and the names that the address
///   was answered for ([`Filter::pin`]). If a rule for names matters, the connection's first data
///   are held until the server name of TLS is known; it must be one that the rules allow, and that
///   the address was answered for. Without a server name, or TLS, the connection is allowed if all
///   names of the address are. Segments of connections that the guest did not open are dropped.
/// - **UDP and echo**: the first datagram decides, until nothing was sent for three minutes. If a
///   server name would have to be checked, UDP to port 443 is dropped, because QUIC encrypts it.
/// - An open flow goes on when its pin ends; a new one does not begin.
/// - **Name resolution** over the network is dropped whatever the rules say: DNS, DNS over TLS or
///   QUIC, multicast DNS, LLMNR. Likewise DHCP, broadcast, multicast, IPv4 options, IPv6 extension
///   headers, TCP fragments, other protocols, and ICMP messages that are neither echo nor errors.
/// - **ARP and neighbour discovery** pass on the guest's link, for its own addresses.
#[derive(Debug)]
pub struct Filter {
    policy: Option<Policy>,
    guest: Guest,
    pins: Pins,
    flows: Flows,
    fragments: Fragments,
    tally: Tally,
}

impl Filter {
    /// How much of each frame must be given: all headers, and whole messages of neighbour discovery.
    pub const HEADERS: usize = 512;
    /// How much of a frame [`Verdict::NeedMore`] asks for at most.
    pub const MOST: usize = Self::HEADERS + MAX_HELLO;

    /// A filter for one guest. Without a policy everything is allowed but what uses addresses of
    /// others.
    pub fn new(policy: Option<Policy>, guest: Guest) -> Self {
        Self {
            policy,
            guest,
            pins: Pins::default(),
            flows: Flows::default(),
            fragments: Fragments::default(),
            tally: Tally::default(),
        }
    }

    /// Allows new connections to the addresses for as long as the pin lives, as far as the rules
    /// allow its name. Addresses are pinned before the guest sees them.
    pub fn pin(&mut self, pin: &Pin, now: Instant) {
        if self.policy.is_some() {
            self.pins.add(pin, now);
        }
    }

    /// What was refused.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether [`Filter::inbound`] has something to do: some connection's first data have not
    /// arrived.
    pub(crate) fn wants_inbound(&self) -> bool {
        self.flows.has_pending()
    }

    /// Must be called with each frame for the guest, or its first [`Filter::HEADERS`] bytes, before
    /// the guest gets it.
    ///
    /// Nothing is filtered. It is how the filter learns that the server has accepted a connection
    /// about which its first data decide, and that it has received them: before the one the guest
    /// cannot send data, and after the other it can no longer replace them.
    pub fn inbound(&mut self, bytes: &[u8], len: usize) {
        if !self.wants_inbound() {
            return;
        }
        if let Some((packet, segment)) = packet::segment(bytes, len)
            && segment.flags.ack()
            && !segment.flags.rst()
        {
            let key = flows::key_of_inbound(&packet, &segment);
            let is_syn = segment.flags.syn();
            self.flows.inbound(&key, is_syn, segment.acknowledgment);
        }
    }

    /// Decides about a frame.
    pub fn check(&mut self, frame: &GuestFrame<'_>, now: Instant) -> Verdict {
        if frame.bytes.len() < frame.len.min(Self::HEADERS) {
            return Verdict::NeedMore(Self::HEADERS);
        }
        let mut to = Destination::default();
        let verdict = self
            .decide(frame, &mut to, now)
            .unwrap_or_else(Verdict::Drop);
        if let Verdict::Drop(reason) = &verdict {
            self.tally.add(*reason, to);
        }
        verdict
    }

    fn decide(
        &mut self,
        frame: &GuestFrame<'_>,
        to: &mut Destination,
        now: Instant,
    ) -> Result<Verdict, Reason> {
        let parsed = packet::parse(frame.bytes, frame.len)?;
        spoof::check_link(&self.guest, &parsed)?;
        let packet = match &parsed.content {
            Content::Arp(arp) => {
                spoof::check_arp(&self.guest, arp)?;
                if self.policy.is_some() && !self.guest.is_on_link(arp.target.into()) {
                    return Err(Reason::Arp);
                }
                return Ok(Verdict::Pass);
            }
            Content::Ip(packet) => packet,
        };
        describe(packet, to);
        spoof::check_packet(&self.guest, packet)?;
        let Some(policy) = self.policy.take() else {
            return Ok(Verdict::Pass);
        };
        let verdict = self.decide_by(&policy, frame, &parsed.destination, packet, to, now);
        self.policy = Some(policy);
        verdict
    }
}

/// Fills in what is known of the destination before anything is decided.
fn describe(packet: &Packet<'_>, to: &mut Destination) {
    to.address = Some(packet.destination);
    if packet.fragment.is_some_and(|fragment| !fragment.is_first()) {
        return;
    }
    match packet.protocol {
        protocol::TCP => {
            to.protocol = Some(Protocol::Tcp);
            to.port = packet.tcp().ok().map(|segment| segment.destination_port);
        }
        protocol::UDP => {
            to.protocol = Some(Protocol::Udp);
            to.port = packet.udp().ok().map(|(_, port)| port);
        }
        protocol::ICMP | protocol::ICMPV6 => to.protocol = Some(Protocol::Icmp),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
