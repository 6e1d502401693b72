use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::wire::TcpControl;

use super::*;

mod data;
mod frames;
mod handshakes;
mod link;
mod packets;
mod random;
mod rejections;
mod rules;
mod structured;

use frames::Tcp;

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 0, 0, 0, 1];
/// The virtio header of frames that may be held.
const HEADER: &[u8] = b"virtio header";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn guest() -> Guest {
    Guest {
        mac: MAC,
        ipv4: Some("10.0.2.15/24".parse().unwrap()),
        ipv6: vec!["fd00:1::2/64".parse().unwrap()],
        gateways: vec![address("10.0.2.2"), address("fe80::1")],
    }
}

/// The guest's address of the same family.
fn own(destination: IpAddr) -> IpAddr {
    match destination {
        IpAddr::V4(_) => address("10.0.2.15"),
        IpAddr::V6(_) => address("fd00:1::2"),
    }
}

/// A filter with a clock.
struct Bench {
    filter: Filter,
    now: Instant,
}

impl Bench {
    fn new(rules: &[&str]) -> Self {
        Self {
            filter: Filter::new(Some(Policy::parse(rules).unwrap()), guest()),
            now: Instant::now(),
        }
    }

    fn open() -> Self {
        Self {
            filter: Filter::new(None, guest()),
            now: Instant::now(),
        }
    }

    fn pin(&mut self, name: &str, addresses: &[&str], seconds: u64) {
        let pin = Pin {
            name: name.parse().unwrap(),
            addresses: addresses.iter().map(|text| address(text)).collect(),
            lifetime: Duration::from_secs(seconds),
        };
        self.filter.pin(&pin, self.now);
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// Gives a frame as a device would: its headers first, and more when asked.
    fn send(&mut self, frame: &[u8]) -> Verdict {
        let mut given = Filter::HEADERS;
        loop {
            let frame = GuestFrame {
                bytes: frame.get(..given).unwrap_or(frame),
                len: frame.len(),
                header: HEADER,
            };
            match self.filter.check(&frame, self.now) {
                Verdict::NeedMore(more) => {
                    assert!(more > given && more <= Filter::MOST && given < frame.len);
                    given = more;
                }
                verdict => return verdict,
            }
        }
    }

    /// A frame from the network.
    fn receive(&mut self, frame: &[u8]) {
        let headers = frame.get(..Filter::HEADERS).unwrap_or(frame);
        self.filter.inbound(headers, frame.len());
    }

    /// The handshake of a connection.
    fn connect(&mut self, client: &Client) {
        assert_eq!(self.send(&client.syn()), Verdict::Pass);
        self.receive(&client.syn_ack());
        assert_eq!(self.send(&client.ack()), Verdict::Pass);
    }

    fn udp(&mut self, destination: &str, port: u16) -> Verdict {
        let to = address(destination);
        self.send(&frames::udp((own(to), 40000), (to, port), b"data"))
    }

    fn echo(&mut self, destination: &str) -> Verdict {
        let to = address(destination);
        self.send(&frames::echo(own(to), to, 7, b"data"))
    }

    fn syn(&mut self, destination: &str, port: u16) -> Verdict {
        self.send(&Client::new(destination, port).syn())
    }
}

/// A TCP client in the guest.
#[derive(Clone, Copy)]
struct Client {
    destination: (IpAddr, u16),
    source_port: u16,
    isn: u32,
}

impl Client {
    fn new(destination: &str, port: u16) -> Self {
        Self {
            destination: (address(destination), port),
            source_port: 40000,
            // Numbers wrap during the first data.
            isn: 0xffff_ffff - 100,
        }
    }

    fn segment(self, control: TcpControl, sequence: u32, data: &[u8]) -> Tcp<'_> {
        Tcp {
            source: (own(self.destination.0), self.source_port),
            destination: self.destination,
            control,
            sequence,
            acknowledgment: Some(1),
            data,
        }
    }

    fn syn(self) -> Vec<u8> {
        Tcp {
            acknowledgment: None,
            ..self.segment(TcpControl::Syn, self.isn, b"")
        }
        .frame()
    }

    fn ack(self) -> Vec<u8> {
        self.data(0, b"")
    }

    /// Data at an offset of the stream.
    fn data(self, offset: u32, data: &[u8]) -> Vec<u8> {
        let sequence = self.isn.wrapping_add(1).wrapping_add(offset);
        self.segment(TcpControl::Psh, sequence, data).frame()
    }

    fn control(self, control: TcpControl, offset: u32) -> Vec<u8> {
        let sequence = self.isn.wrapping_add(1).wrapping_add(offset);
        self.segment(control, sequence, b"").frame()
    }

    /// The server's answer to the SYN.
    fn syn_ack(self) -> Vec<u8> {
        self.server_segment(TcpControl::Syn, 0)
    }

    /// The server's acknowledgment of everything before an offset.
    fn acknowledgment(self, offset: u32) -> Vec<u8> {
        self.server_segment(TcpControl::None, offset)
    }

    fn server_segment(self, control: TcpControl, offset: u32) -> Vec<u8> {
        Tcp {
            source: self.destination,
            destination: (own(self.destination.0), self.source_port),
            control,
            sequence: 1,
            acknowledgment: Some(self.isn.wrapping_add(1).wrapping_add(offset)),
            data: b"",
        }
        .frame()
    }
}

fn dropped(reason: Reason) -> Verdict {
    Verdict::Drop(reason)
}
