//! What a policy says about packets, and about the flows that they belong to.

use std::net::IpAddr;
use std::time::Instant;

use super::spoof::{DHCP_PORTS, icmp, icmpv6, target};
use super::{Filter, GuestFrame, Verdict};
use crate::flow::inspect::{Added, HeldFrame, Inspection};
use crate::flow::{Flow, Key, State};
use crate::name::Name;
use crate::packet::{Extensions, Mac, Packet, Segment, protocol};
use crate::policy::{Action, Decision, Policy};
use crate::reason::Reason;
use crate::tally::Destination;
use crate::tls::{self, Beginning};

const DNS: u16 = 53;
const ENCRYPTED_DNS: u16 = 853;
/// Multicast DNS and link-local multicast name resolution.
const LOCAL_NAMES: [u16; 2] = [5353, 5355];
const HTTPS: u16 = 443;

/// Messages of neighbour discovery are shorter. More would be a way to send data.
const MAX_DISCOVERY: usize = 128;

/// What is known about a new flow to an address.
#[derive(Debug)]
struct Outlook {
    /// Without a server name.
    without_name: Result<(), Reason>,
    /// With one it may be different.
    depends_on_name: bool,
}

/// The flow that a segment from the network belongs to.
pub(super) fn key_of_inbound(packet: &Packet<'_>, segment: &Segment<'_>) -> Key {
    Key {
        protocol: protocol::TCP,
        source: packet.destination,
        destination: packet.source,
        source_port: segment.destination_port,
        destination_port: segment.source_port,
    }
}

fn reason(decision: Decision) -> Result<(), Reason> {
    match decision {
        Decision::Allow => Ok(()),
        Decision::Deny => Err(Reason::Rule),
        Decision::NoRule => Err(Reason::NoRule),
        Decision::Metadata => Err(Reason::Metadata),
    }
}

/// What the rules say about a new flow to an address that was answered for `names`.
fn outlook(policy: &Policy, address: IpAddr, port: Option<u16>, names: &[Name]) -> Outlook {
    let unnamed = reason(policy.decide(address, port, None));
    let mut rules = policy.name_rules_before(address, port).peekable();
    if rules.peek().is_none() {
        return Outlook {
            without_name: unnamed,
            depends_on_name: false,
        };
    }
    let denies_names = rules.any(|rule| rule.action() == Action::Deny);
    let mut decisions = names
        .iter()
        .map(|name| reason(policy.decide(address, port, Some(name))));
    let without_name = match decisions.next() {
        None => unnamed,
        Some(first) => {
            if decisions.all(|other| other.is_ok() == first.is_ok()) {
                first
            } else {
                Err(Reason::AmbiguousName)
            }
        }
    };
    // Whether any server name could change the result: to a denial, if not every name is allowed;
    // to a permission, if some of the address's names are allowed.
    let depends_on_name = match without_name {
        Ok(()) => unnamed.is_err() || denies_names,
        Err(reason) => reason == Reason::AmbiguousName,
    };
    Outlook {
        without_name,
        depends_on_name,
    }
}

impl Filter {
    /// Decides about a packet whose sender is the guest.
    pub(super) fn decide_by(
        &mut self,
        policy: &Policy,
        frame: &GuestFrame<'_>,
        link_destination: &Mac,
        packet: &Packet<'_>,
        to: &mut Destination,
        now: Instant,
    ) -> Result<Verdict, Reason> {
        if packet.has_options {
            return Err(Reason::IpOptions);
        }
        if self.is_discovery(packet)? {
            return Ok(Verdict::Pass);
        }
        if packet.extensions != Extensions::default() {
            return Err(Reason::ExtensionHeader);
        }
        let is_later_part = packet.fragment.is_some_and(|fragment| !fragment.is_first());
        if !is_later_part {
            check_ports(to.port)?;
        }
        if packet.destination.is_multicast() || self.guest.is_broadcast(packet.destination) {
            return Err(Reason::Multicast);
        }
        // A group address.
        if link_destination[0] & 1 != 0 {
            return Err(Reason::LinkDestination);
        }
        if let Some(fragment) = packet.fragment
            && is_later_part
        {
            self.fragments.follow(packet, fragment, now)?;
            return Ok(Verdict::Pass);
        }
        let verdict = match packet.protocol {
            protocol::TCP if packet.fragment.is_some() => return Err(Reason::Fragment),
            protocol::TCP => return self.decide_tcp(policy, frame, packet, to, now),
            protocol::UDP => self.decide_udp(policy, packet, to, now)?,
            protocol::ICMP if packet.source.is_ipv4() => {
                self.decide_icmp(policy, packet, to, now)?
            }
            protocol::ICMPV6 if packet.source.is_ipv6() => {
                self.decide_icmp(policy, packet, to, now)?
            }
            _ => return Err(Reason::Protocol),
        };
        if let Some(fragment) = packet.fragment {
            // A packet of one part needs no fragment header, and a filter that expects one might
            // not read what follows.
            if !fragment.more {
                return Err(Reason::Fragment);
            }
            self.fragments.allow(packet, fragment, now)?;
        }
        Ok(verdict)
    }

    /// Whether the packet is a message of neighbour discovery or multicast listener discovery that
    /// stays on the link and belongs there.
    fn is_discovery(&self, packet: &Packet<'_>) -> Result<bool, Reason> {
        if packet.protocol != protocol::ICMPV6
            || !packet.source.is_ipv6()
            || packet.fragment.is_some()
            || packet.extensions.others
        {
            return Ok(false);
        }
        let (kind, _) = packet.icmp()?;
        let is_short = packet.payload_len <= MAX_DISCOVERY;
        let is_near = |address: IpAddr| address.is_multicast() || self.guest.is_on_link(address);
        match kind {
            icmpv6::LISTENER_REPORT | icmpv6::LISTENER_DONE | icmpv6::LISTENER_REPORT_2 => {
                if is_short && packet.hop_limit == 1 && packet.destination.is_multicast() {
                    Ok(true)
                } else {
                    Err(Reason::NeighborDiscovery)
                }
            }
            icmpv6::LISTENER_QUERY => Err(Reason::NeighborDiscovery),
            icmpv6::ROUTER_SOLICITATION
            | icmpv6::NEIGHBOR_SOLICITATION
            | icmpv6::NEIGHBOR_ADVERTISEMENT => {
                let is_target_near = kind == icmpv6::ROUTER_SOLICITATION
                    || target(packet).is_some_and(|target| is_near(target.into()));
                // Other hop limits are of packets that were routed; receivers drop them.
                if is_short
                    && is_target_near
                    && packet.hop_limit == 255
                    && !packet.extensions.hop_by_hop
                    && is_near(packet.destination)
                {
                    Ok(true)
                } else {
                    Err(Reason::NeighborDiscovery)
                }
            }
            _ => Ok(false),
        }
    }

    fn decide_udp(
        &mut self,
        policy: &Policy,
        packet: &Packet<'_>,
        to: &mut Destination,
        now: Instant,
    ) -> Result<Verdict, Reason> {
        let (source_port, destination_port) = packet.udp()?;
        self.decide_datagram(policy, packet, (source_port, destination_port), to, now)
    }

    fn decide_icmp(
        &mut self,
        policy: &Policy,
        packet: &Packet<'_>,
        to: &mut Destination,
        now: Instant,
    ) -> Result<Verdict, Reason> {
        let (kind, id) = packet.icmp()?;
        let id = match (packet.source.is_ipv4(), kind) {
            (true, icmp::ECHO_REQUEST | icmp::ECHO_REPLY)
            | (false, icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY) => id,
            // Errors contain a part of a packet, and could contain anything.
            (true, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM)
            | (
                false,
                icmpv6::UNREACHABLE
                | icmpv6::TOO_BIG
                | icmpv6::TIME_EXCEEDED
                | icmpv6::PARAMETER_PROBLEM,
            ) => 0,
            _ => return Err(Reason::IcmpType),
        };
        self.decide_datagram(policy, packet, (id, 0), to, now)
    }

    /// UDP and ICMP: the first packet decides about those that follow.
    fn decide_datagram(
        &mut self,
        policy: &Policy,
        packet: &Packet<'_>,
        (source_port, destination_port): (u16, u16),
        to: &mut Destination,
        now: Instant,
    ) -> Result<Verdict, Reason> {
        let key = Key {
            protocol: packet.protocol,
            source: packet.source,
            destination: packet.destination,
            source_port,
            destination_port,
        };
        if self.flows.get(&key, false, now).is_some() {
            return Ok(Verdict::Pass);
        }
        let port = (packet.protocol == protocol::UDP).then_some(destination_port);
        let names = self.pins.names(packet.destination, now);
        to.name = names.first().cloned();
        let outlook = outlook(policy, packet.destination, port, &names);
        outlook.without_name?;
        if port == Some(HTTPS) && outlook.depends_on_name {
            return Err(Reason::Quic);
        }
        self.flows.insert(key, Flow::new(State::Allowed, now));
        Ok(Verdict::Pass)
    }

    fn decide_tcp(
        &mut self,
        policy: &Policy,
        frame: &GuestFrame<'_>,
        packet: &Packet<'_>,
        to: &mut Destination,
        now: Instant,
    ) -> Result<Verdict, Reason> {
        let segment = packet.tcp()?;
        let key = Key {
            protocol: protocol::TCP,
            source: packet.source,
            destination: packet.destination,
            source_port: segment.source_port,
            destination_port: segment.destination_port,
        };
        let flags = segment.flags;
        if flags.syn() {
            // The answer to a connection from the network, which the guest does not serve.
            if flags.ack() {
                return Err(Reason::NoConnection);
            }
            if flags.fin() || flags.rst() {
                return Err(Reason::Malformed);
            }
            return self.open(policy, key, &segment, to, now);
        }
        let flow = self
            .flows
            .get(&key, true, now)
            .ok_or(Reason::NoConnection)?;
        flow.opening = None;
        let needs_data = match &flow.state {
            State::Allowed | State::Denied(_) => false,
            State::Undecided(_) => segment.data.len() < segment.data_len,
            State::Watched(watch) => watch.needs_data(&segment),
        };
        let most = frame.len.min(Self::MOST);
        if needs_data && frame.bytes.len() < most {
            return Ok(Verdict::NeedMore(most));
        }
        let is_pending = flow.is_pending();
        let verdict = match &flow.state {
            State::Allowed => Ok(Verdict::Pass),
            State::Denied(reason) => Err(*reason),
            State::Watched(watch) => watch.check(&segment).map(|()| Verdict::Pass),
            State::Undecided(_) if flags.rst() && segment.data_len > 0 => Err(Reason::Malformed),
            State::Undecided(_) if segment.data_len == 0 => self.without_data(&key, &segment),
            State::Undecided(_) => {
                return self.inspect(policy, frame, key, &segment, to);
            }
        };
        // A reset ends the connection, if the other side accepts it: if not, what was inspected must
        // still be known.
        if flags.rst() && verdict.is_ok() && !is_pending {
            self.flows.remove(&key);
        }
        verdict
    }

    /// A SYN: decides about a new connection.
    fn open(
        &mut self,
        policy: &Policy,
        key: Key,
        segment: &Segment<'_>,
        to: &mut Destination,
        now: Instant,
    ) -> Result<Verdict, Reason> {
        let number = segment.sequence;
        if let Some(flow) = self.flows.get(&key, true, now)
            && flow.is_opening(number, now)
            && segment.data_len == 0
        {
            return Ok(Verdict::Pass);
        }
        let names = self.pins.names(key.destination, now);
        to.name = names.first().cloned();
        let port = Some(key.destination_port);
        let outlook = outlook(policy, key.destination, port, &names);
        let state = match outlook {
            Outlook {
                without_name,
                depends_on_name: false,
            } => {
                without_name?;
                State::Allowed
            }
            Outlook { without_name, .. } => {
                // Data in a SYN (TCP Fast Open) would be gone before they could be inspected. The
                // guest sends them again after the handshake.
                if segment.data_len > 0 {
                    return Err(Reason::Sequence);
                }
                let new = Box::new(Inspection::new(number, now, without_name));
                if let Some(flow) = self.flows.get(&key, true, now)
                    && flow.is_pending()
                {
                    // A server that has accepted data ignores a SYN; but its answer to the first one
                    // may be on its way.
                    if !flow.state.inspects(number) {
                        self.flows.succeed(&key, new);
                    }
                    return Ok(Verdict::Pass);
                }
                State::Undecided(new)
            }
        };
        let opening = Some((number, now));
        self.flows.insert(
            key,
            Flow {
                opening,
                ..Flow::new(state, now)
            },
        );
        Ok(Verdict::Pass)
    }

    /// A segment without data of a connection that is not decided about.
    fn without_data(&mut self, key: &Key, segment: &Segment<'_>) -> Result<Verdict, Reason> {
        let inspection = self.flows.undecided(key).ok_or(Reason::NoConnection)?;
        if segment.flags.fin() && inspection.has_data() {
            // What was held will never be complete.
            self.flows.settle(key, Err(Reason::ClientHello))?;
        }
        Ok(Verdict::Pass)
    }

    /// Data of a connection that is not decided about.
    fn inspect(
        &mut self,
        policy: &Policy,
        frame: &GuestFrame<'_>,
        key: Key,
        segment: &Segment<'_>,
        to: &mut Destination,
    ) -> Result<Verdict, Reason> {
        let inspection = self.flows.undecided(&key).ok_or(Reason::NoConnection)?;
        if !inspection.is_accepted() {
            return Err(Reason::NoConnection);
        }
        let is_first = !inspection.has_data();
        let names = self.pins.names(key.destination, inspection.opened);
        to.name = names.first().cloned();
        let verdict = match progress(inspection, policy, &key, segment, &names, frame, to) {
            Ok(Progress::Ignore) => return Ok(Verdict::Hold),
            Ok(Progress::OutOfOrder) => return Err(Reason::Sequence),
            Ok(Progress::Wait) => Verdict::Hold,
            Ok(Progress::Allow { inspected }) => {
                let held = self.flows.settle(&key, Ok(inspected))?;
                if held.is_empty() {
                    Verdict::Pass
                } else {
                    Verdict::PassAfter(held)
                }
            }
            Err(reason) => {
                self.flows.settle(&key, Err(reason))?;
                return Err(reason);
            }
        };
        if is_first {
            self.flows.keep(key);
        }
        Ok(verdict)
    }
}

/// What a segment means for a connection that is not decided about.
enum Progress {
    /// It is held.
    Wait,
    /// It is known.
    Ignore,
    /// It is dropped, but may be sent again.
    OutOfOrder,
    /// The first `inspected` bytes allow the connection.
    Allow { inspected: usize },
}

fn progress(
    inspection: &mut Inspection,
    policy: &Policy,
    key: &Key,
    segment: &Segment<'_>,
    names: &[Name],
    frame: &GuestFrame<'_>,
    to: &mut Destination,
) -> Result<Progress, Reason> {
    // Urgent data are taken out of the stream, so that the server reads something else.
    if segment.flags.urg() {
        return Err(Reason::Sequence);
    }
    match inspection.add(segment) {
        Added::Data => {}
        Added::Known => return Ok(Progress::Ignore),
        Added::OutOfOrder => return Ok(Progress::OutOfOrder),
        Added::Contradiction => return Err(Reason::Sequence),
    }
    match tls::read(inspection.data()) {
        Beginning::Incomplete => {
            // A frame that is not complete here is longer than a ClientHello may be.
            if segment.flags.fin() || frame.bytes.len() < frame.len {
                return Err(Reason::ClientHello);
            }
            inspection.hold(HeldFrame {
                header: frame.header.to_vec(),
                bytes: frame.bytes.get(..frame.len).unwrap_or(frame.bytes).to_vec(),
            })?;
            Ok(Progress::Wait)
        }
        Beginning::NotTls | Beginning::Hello { name: None, .. }
            if inspection.without_name.is_err() =>
        {
            inspection.without_name?;
            Err(Reason::AmbiguousName)
        }
        // The first byte tells that it is not TLS.
        Beginning::NotTls => Ok(Progress::Allow { inspected: 1 }),
        Beginning::Hello { name: None, end } => Ok(Progress::Allow { inspected: end }),
        Beginning::Hello {
            name: Some(name),
            end,
        } => {
            let port = Some(key.destination_port);
            let decision = if names.contains(&name) {
                policy.decide(key.destination, port, Some(&name))
            } else {
                policy.decide_claimed(key.destination, port, &name)
            };
            to.name = Some(name);
            if decision.is_allow() {
                Ok(Progress::Allow { inspected: end })
            } else {
                Err(Reason::ServerName)
            }
        }
        Beginning::Invalid => Err(Reason::ClientHello),
    }
}

/// Refuses ports that no rule can open. Name resolution goes through our own server, which is not
/// reached by frames.
fn check_ports(port: Option<u16>) -> Result<(), Reason> {
    match port {
        Some(DNS) => Err(Reason::Dns),
        Some(ENCRYPTED_DNS) => Err(Reason::EncryptedDns),
        Some(port) if LOCAL_NAMES.contains(&port) => Err(Reason::LocalNames),
        Some(port) if DHCP_PORTS.contains(&port) => Err(Reason::Dhcp),
        Some(0) => Err(Reason::Malformed),
        _ => Ok(()),
    }
}
