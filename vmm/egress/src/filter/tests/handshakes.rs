//! The segments of a handshake, in the frames of the filter's tests.

use proptest::prelude::*;

use super::*;
use crate::{BareReset, Syn, TCP_HEADERS, Transmission};

fn syn(destination: IpAddr) -> Tcp<'static> {
    Tcp {
        source: (own(destination), 40000),
        destination: (destination, 443),
        control: TcpControl::Syn,
        sequence: 7,
        acknowledgment: None,
        data: b"",
    }
}

fn read(frame: &[u8]) -> Option<Syn> {
    let headers = frame.get(..TCP_HEADERS).unwrap_or(frame);
    Syn::read(headers, frame.len())
}

#[test]
fn a_syn_is_read() {
    for destination in ["198.51.100.1", "2001:db8::1"].map(address) {
        let expected = Syn {
            between: [(own(destination), 40000).into(), (destination, 443).into()],
            sequence: 7,
        };
        assert_eq!(read(&syn(destination).frame()), Some(expected.clone()));
        // Data that are sent with it (TCP Fast Open) change nothing.
        let data = &[0; 1000];
        let with_data = Tcp {
            data,
            ..syn(destination)
        };
        assert_eq!(read(&with_data.frame()), Some(expected));
    }
}

#[test]
fn nothing_else_is() {
    let destination = address("198.51.100.1");
    let segment = |control, acknowledgment| Tcp {
        control,
        acknowledgment,
        ..syn(destination)
    };
    for other in [
        segment(TcpControl::Syn, Some(1)),
        segment(TcpControl::None, Some(1)),
        segment(TcpControl::Psh, Some(1)),
        segment(TcpControl::Fin, Some(1)),
        segment(TcpControl::Rst, None),
    ] {
        assert_eq!(read(&other.frame()), None, "{other:?}");
    }
    let datagram = frames::udp((own(destination), 1), (destination, 2), &[0xff; 40]);
    assert_eq!(read(&datagram), None);
}

#[test]
fn a_bare_reset_acknowledges_a_syn() {
    for server in ["198.51.100.1", "2001:db8::1"].map(address) {
        let reset = Tcp {
            source: (server, 443),
            destination: (own(server), 40000),
            control: TcpControl::Rst,
            sequence: 0,
            acknowledgment: None,
            data: b"",
        };
        let mut frame = reset.frame();
        let bare = BareReset::read(&mut frame).unwrap();
        assert_eq!(
            bare.between,
            Syn::read(&syn(server).frame(), 1000).unwrap().between
        );
        bare.acknowledge(u32::MAX);
        let acknowledgment = Some(0);
        let mut expected = Tcp {
            acknowledgment,
            ..reset
        }
        .frame();
        // The checksum is left as it was.
        let checksum = frame.len() - 4..frame.len() - 2;
        expected[checksum.clone()].copy_from_slice(&frame[checksum]);
        assert_eq!(frame, expected);
        assert!(BareReset::read(&mut frame).is_none());
    }
}

#[test]
fn a_segment_with_data_is_read_and_made() {
    for destination in ["198.51.100.1", "2001:db8::1"].map(address) {
        let segment = |sequence, control, data| {
            Tcp {
                sequence,
                control,
                acknowledgment: Some(9),
                data,
                ..syn(destination)
            }
            .frame()
        };
        let frame = segment(u32::MAX - 1, TcpControl::Psh, &[7; 1000]);
        let headers = &frame[..TCP_HEADERS];
        let read = Transmission::read(headers, frame.len()).unwrap();
        let between = [(own(destination), 40000).into(), (destination, 443).into()];
        assert_eq!(
            (read.between, read.sequence, read.end),
            (between, u32::MAX - 1, 998)
        );
        let made = read.with_byte_at(1000);
        let mut expected = segment(1000, TcpControl::None, &[0]);
        // Checksums are left as they were.
        let of_tcp = expected.len() - 5..expected.len() - 3;
        expected[of_tcp.clone()].copy_from_slice(&made[of_tcp]);
        if destination.is_ipv4() {
            expected[24..26].copy_from_slice(&made[24..26]);
        }
        assert_eq!(made, expected);
        for control in [TcpControl::Syn, TcpControl::Rst] {
            let other = segment(1, control, &[7; 10]);
            assert!(Transmission::read(&other, other.len()).is_none());
        }
        let empty = segment(1, TcpControl::Psh, &[]);
        assert!(Transmission::read(&empty, empty.len()).is_none());
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), len in 0..2000usize) {
        let _ = Syn::read(&bytes, len);
        if let Some(segment) = Transmission::read(&bytes, len) {
            segment.with_byte_at(len as u32);
        }
        let _ = BareReset::read(&mut bytes.clone());
    }

    #[test]
    fn a_syn_that_is_cut_off_is_none(cut in 1usize..=54) {
        let frame = syn(address("198.51.100.1")).frame();
        prop_assert_eq!(read(&frame[..frame.len() - cut]), None);
    }
}
