//! Guests that violate the specification.

use proptest::prelude::*;
use virtio_queue::desc::split::Descriptor;

use super::super::packet::{Header, TYPE_STREAM};
use super::*;
use crate::virtio::testing::vsock::CID;
use crate::virtio::testing::{BUFFERS, Driver};

#[test]
fn a_packet_without_a_connection_is_answered_with_a_reset() {
    let (services, _streams) = service();
    let mut guest = Guest::new(services);
    let unconnected = (1000, 8);
    for op in [
        Op::Request,
        Op::Response,
        Op::Data,
        Op::Shutdown,
        Op::CreditRequest,
    ] {
        guest.send(unconnected, op, 0);
        let (reset, _) = guest.stray.pop_front().unwrap();
        assert_eq!(
            (reset.op, reset.src_port, reset.dst_port),
            (Op::Reset as u16, 8, 1000)
        );
    }
    guest.send(unconnected, Op::Reset, 0);

    // A datagram; another receiver; a forged sender.
    let request = guest.packet(PORTS, Op::Request);
    guest.send_raw(&Header { kind: 3, ..request }, &[]);
    assert_eq!(guest.stray.pop_front().unwrap().0.kind, 3);
    guest.send_raw(
        &Header {
            dst_cid: 9,
            ..request
        },
        &[],
    );
    assert_eq!(guest.stray.pop_front().unwrap().0.src_cid, 9);
    guest.send_raw(
        &Header {
            src_cid: 4,
            ..request
        },
        &[],
    );
    assert_eq!(guest.stray.len(), 0);
}

#[test]
fn a_protocol_error_resets_the_connection() {
    let cases: [(Op, u16, u32); 4] = [
        (Op::Request, 1, 0),
        (Op::Response, 2, 0),
        (Op::Data, 99, 0),
        (Op::Data, 5, 5),
    ];
    for (op, number, len) in cases {
        let (mut guest, mut stream) = connected();
        let header = Header {
            op: number,
            len,
            ..guest.packet(PORTS, op)
        };
        // The last has a length, but no data.
        guest.send_raw(&header, &[]);
        assert!(guest.sockets[&PORTS].reset, "{header:?}");
        if len == 0 {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    }
}

#[test]
fn exceeding_the_credit_resets_the_connection() {
    let (mut guest, _stream) = connected();
    let data = vec![0; 64 << 10];
    let header = Header {
        len: data.len() as u32,
        ..guest.packet(PORTS, Op::Data)
    };
    let mut packets = 0;
    while !guest.sockets[&PORTS].reset {
        assert!(guest.send_raw(&header, &data));
        packets += 1;
        assert!(packets < 100);
    }
    assert!(packets > 4);
}

#[test]
fn the_number_of_connections_is_limited() {
    let (services, streams) = service();
    let mut guest = Guest::new(services);
    for port in 0..MAX_CONNECTIONS as u32 {
        guest.connect((port, 7));
    }
    guest.send((9999, 7), Op::Request, 0);
    assert_eq!(guest.stray.pop_front().unwrap().0.op, Op::Reset as u16);
    assert_eq!(streams.try_iter().count(), MAX_CONNECTIONS);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    guest.handle.connect(5000, theirs);
    while guest.wait(20) {}
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_number_of_waiting_resets_is_limited() {
    let mut guest = Guest::without_buffers(Services::new());
    let header = guest.packet((1, 2), Op::Request);
    let mut taken = 0;
    while guest.send_raw(&header, &[]) {
        taken += 1;
        assert!(taken < 2000);
    }
    // The waiting resets, and a full queue of packets.
    assert!(taken > 256, "{taken}");
    guest.offer_buffers(64);
    while guest.wait(20) {}
    assert_eq!(guest.stray.len(), taken);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// For any ring content, every head is returned at most once, or the ring is an error.
    #[test]
    fn any_descriptors_are_returned(
        headers in prop::collection::vec((0u32..4, prop_oneof![Just(7u32), 0u32..9], 0u16..10, any::<u32>(), any::<u32>(), 0u32..5000), 8),
        rx in prop::collection::vec((0u64..0x4000, 0u32..6000, 0u16..8, 0u16..20), 1..16),
        tx in prop::collection::vec((0u64..8, 0u32..5000, 0u16..8, 0u16..20), 1..16),
        heads in prop::collection::vec((0usize..2, prop_oneof![9 => 0u16..16, 1 => any::<u16>()]), 1..60),
    ) {
        let (services, streams) = service();
        let (mut device, handle) = Vsock::new(CID, services).unwrap();
        let mut driver = Driver::new(&device, 4 << 20);
        for (slot, &(src_port, dst_port, op, buf_alloc, fwd_cnt, len)) in (0..).zip(&headers) {
            let header = Header {
                src_cid: u64::from(CID), dst_cid: HOST_CID, src_port, dst_port, kind: TYPE_STREAM, op,
                flags: fwd_cnt % 4, buf_alloc, fwd_cnt, len,
            };
            driver.write(BUFFERS + slot * 0x2000, &header.encode());
        }
        for (index, &(addr, len, flags, next)) in (0..).zip(&rx) {
            let descriptor = Descriptor::new(BUFFERS + 0x10_0000 + addr, len, flags, next);
            driver.ring(RX).describe(index, descriptor);
        }
        for (index, &(slot, len, flags, next)) in (0..).zip(&tx) {
            // Mostly readable, so that some packets are parsed.
            let flags = if len % 4 == 0 { flags } else { flags & 1 };
            let descriptor = Descriptor::new(BUFFERS + slot * 0x2000, len, flags, next);
            driver.ring(TX).describe(index, descriptor);
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        handle.connect(3, theirs);
        let mut hosts = vec![ours];
        let mut published = [0; 2];
        for &(queue, head) in &heads {
            driver.ring(queue).publish(head);
            published[queue] += 1;
            let result = device.queue_event(queue, &mut driver).and_then(|()| {
                hosts.extend(streams.try_iter());
                let _ = hosts.last().map(|mut host| host.write(b"data"));
                device.backend_event(&mut driver)
            });
            if result.is_err() {
                prop_assert!(heads.iter().any(|&(_, head)| head >= 128));
                return Ok(());
            }
        }
        prop_assert!(driver.used(RX).len() <= published[RX]);
        prop_assert_eq!(driver.used(TX).len(), published[TX]);
    }
}
