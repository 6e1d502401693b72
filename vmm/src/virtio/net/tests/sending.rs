//! Frames from the guest.

use super::*;

/// Makes a frame available in two buffers after its header.
fn offer(driver: &mut Driver, at: u64, header: Header, frame: &[u8]) -> u16 {
    driver.write(at, &header.encode());
    driver.write(at + 64, frame);
    let half = frame.len() as u32 / 2;
    let pieces = [
        readable(at, HEADER_LEN as u32),
        readable(at + 64, half),
        readable(at + 64 + u64::from(half), frame.len() as u32 - half),
    ];
    driver.offer(TX, &pieces)
}

#[test]
fn frames_are_sent_in_order_with_one_notification() {
    let (mut device, mut driver, state) = active(0);
    let frames: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; 60 + usize::from(n)]).collect();
    for (frame, at) in frames.iter().zip(0..) {
        offer(&mut driver, BUFFERS + 0x1000 * at, Header::default(), frame);
    }
    device.queue_event(TX, &mut driver).unwrap();
    let state = state.lock().unwrap();
    let got: Vec<_> = state.outgoing.iter().map(|(_, frame)| frame).collect();
    assert_eq!(got, frames.iter().collect::<Vec<_>>());
    assert_eq!(driver.notified, [0, 1]);
    assert!(driver.used(TX).iter().all(|&(_, written)| written == 0));
    assert_eq!(device.counters().sent(), 20);
}

#[test]
fn invalid_frames_are_returned_and_dropped() {
    let (mut device, mut driver, state) = active(1 << 0);
    let (zeros, large) = (BUFFERS, BUFFERS + 0x1000);
    driver.write(zeros, &[0; 64]);
    let tso = Header {
        flags: 1,
        gso_type: 1,
        gso_size: 1000,
        ..Header::default()
    };
    let outside = Header {
        flags: 1,
        csum_start: 50,
        csum_offset: 10,
        ..Header::default()
    };
    offer(&mut driver, BUFFERS + 0x8_0000, tso, &[0; 60]);
    offer(&mut driver, BUFFERS + 0x8_1000, outside, &[0; 60]);
    for pieces in [
        &[readable(zeros, 4)][..],
        &[readable(zeros, 12)],
        &[readable(zeros, 12 + MIN_FRAME as u32 - 1)],
        &[readable(large, 12 + MAX_FRAME as u32 + 1)],
        &[readable(zeros, 12), readable(large, u32::MAX)],
        &[writable(large, 100)],
        &[readable(zeros, 64), writable(large, 100)],
        &[readable(1 << 40, 64)],
    ] {
        driver.offer(TX, pieces);
    }
    driver.offer(TX, &[readable(zeros, 12 + MIN_FRAME as u32)]);
    device.queue_event(TX, &mut driver).unwrap();
    assert_eq!(driver.used(TX).len(), 11);
    let counters = device.counters();
    assert_eq!((counters.sent(), counters.send_dropped()), (1, 10));
    assert_eq!(state.lock().unwrap().outgoing.len(), 1);
}

#[test]
fn requested_offloads_are_passed_on_with_the_frame() {
    let (mut device, mut driver, state) = active(1 << 0 | 1 << 11);
    let header = Header {
        flags: 1,
        gso_type: 1,
        hdr_len: 54,
        gso_size: 500,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 0,
    };
    offer(&mut driver, BUFFERS, header, &[7; 3000]);
    device.queue_event(TX, &mut driver).unwrap();
    assert_eq!(state.lock().unwrap().outgoing, [(header, vec![7; 3000])]);
}

#[test]
fn frames_stay_in_the_queue_while_the_backend_is_full() {
    let (mut device, mut driver, state) = active(0);
    state.lock().unwrap().room = 3;
    for n in 0..5u8 {
        let at = BUFFERS + 0x1000 * u64::from(n);
        offer(&mut driver, at, Header::default(), &[n; 60]);
    }
    device.queue_event(TX, &mut driver).unwrap();
    assert_eq!(driver.used(TX).len(), 3);
    assert_eq!(state.lock().unwrap().interest, (true, true));

    state.lock().unwrap().room = 10;
    device.backend_event(&mut driver).unwrap();
    assert_eq!(driver.used(TX).len(), 2);
    let state = state.lock().unwrap();
    let order: Vec<u8> = state.outgoing.iter().map(|(_, frame)| frame[0]).collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
    assert!(!state.interest.1);
}

#[test]
fn an_invalid_ring_is_an_error() {
    let (mut device, mut driver, _) = active(0);
    driver.ring(TX).set_available_index(300);
    device.queue_event(TX, &mut driver).unwrap_err();
}
