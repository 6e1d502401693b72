//! Frames to the guest.

use proptest::prelude::*;

use super::*;

fn arrive(state: &Mutex<State>, frame: &[u8]) {
    let mut state = state.lock().unwrap();
    state
        .incoming
        .push_back((Header::default(), frame.to_vec()));
}

/// Makes buffers of these lengths available, far apart in memory; their heads and addresses.
fn offer(driver: &mut Driver, lens: &[u32]) -> Vec<(u16, u64)> {
    let at = |n: u64| BUFFERS + 0x1_0000 * n;
    let offered = lens.iter().zip(0..);
    offered
        .map(|(&len, n)| (driver.offer(RX, &[writable(at(n), len)]), at(n)))
        .collect()
}

/// The frames that the driver received: the number of buffers and the bytes of each.
fn collect(driver: &mut Driver, offered: &[(u16, u64)]) -> Vec<(u16, Vec<u8>)> {
    let used = driver.used(RX);
    let mut used = used.iter().filter(|&&(_, len)| len > 0);
    let mut frames = Vec::new();
    while let Some(&(head, len)) = used.next() {
        let address = |head| offered.iter().find(|(h, _)| *h == head).unwrap().1;
        let mut bytes = driver.read(address(head), len as usize);
        let header = Header::decode(bytes.first_chunk().unwrap());
        for _ in 1..header.num_buffers {
            let &(head, len) = used.next().expect("all buffers of a frame");
            bytes.extend(driver.read(address(head), len as usize));
        }
        frames.push((header.num_buffers, bytes.split_off(HEADER_LEN)));
    }
    frames
}

#[test]
fn a_frame_is_delivered_in_one_buffer_after_its_header() {
    let (mut device, mut driver, state) = active(0);
    let offered = offer(&mut driver, &[1526, 1526]);
    arrive(&state, &[7; 60]);
    device.backend_event(&mut driver).unwrap();
    assert_eq!(collect(&mut driver, &offered), [(1, vec![7; 60])]);
    assert_eq!(driver.notified, [1, 0]);
    assert_eq!(state.lock().unwrap().interest, (true, false));
}

#[test]
fn without_buffers_the_device_waits_for_the_driver_only() {
    let (mut device, mut driver, state) = active(0);
    for n in 0..3 {
        arrive(&state, &[n; 60]);
    }
    let first = offer(&mut driver, &[1526]);
    device.queue_event(RX, &mut driver).unwrap();
    assert_eq!(collect(&mut driver, &first), [(1, vec![0; 60])]);
    assert_eq!(state.lock().unwrap().interest, (false, false));
    let more = offer(&mut driver, &[1526, 1526, 1526]);
    // An event of the backend does not resume delivery.
    device.backend_event(&mut driver).unwrap();
    assert_eq!(driver.used(RX), []);
    device.queue_event(RX, &mut driver).unwrap();
    let expected = [(1, vec![1; 60]), (1, vec![2; 60])];
    assert_eq!(collect(&mut driver, &more), expected);
    assert_eq!(state.lock().unwrap().interest, (true, false));
}

#[test]
fn a_frame_longer_than_a_buffer_is_dropped_unless_buffers_are_mergeable() {
    let frame: Vec<u8> = (0..3000).map(|i| (i * 7) as u8).collect();
    let (mut device, mut driver, state) = active(0);
    let offered = offer(&mut driver, &[1000; 4]);
    arrive(&state, &frame);
    arrive(&state, &[7; 60]);
    device.backend_event(&mut driver).unwrap();
    assert_eq!(collect(&mut driver, &offered), [(1, vec![7; 60])]);
    assert_eq!(device.counters().receive_dropped(), 1);

    let (mut device, mut driver, state) = active(MERGEABLE);
    let offered = offer(&mut driver, &[1000; 5]);
    arrive(&state, &frame);
    arrive(&state, &[7; 60]);
    device.backend_event(&mut driver).unwrap();
    let got = collect(&mut driver, &offered);
    assert_eq!(got, [(4, frame.clone()), (1, vec![7; 60])]);
}

#[test]
fn too_few_buffers_stay_in_the_queue() {
    let (mut device, mut driver, state) = active(MERGEABLE);
    let mut offered = offer(&mut driver, &[1000; 2]);
    arrive(&state, &[7; 2500]);
    device.backend_event(&mut driver).unwrap();
    assert_eq!(driver.used(RX), []);
    assert_eq!(state.lock().unwrap().interest, (false, false));
    let third = driver.offer(RX, &[writable(BUFFERS + 0x8_0000, 1000)]);
    offered.push((third, BUFFERS + 0x8_0000));
    device.queue_event(RX, &mut driver).unwrap();
    assert_eq!(collect(&mut driver, &offered), [(3, vec![7; 2500])]);
}

#[test]
fn a_frame_longer_than_all_buffers_of_a_full_queue_is_dropped() {
    let (mut device, mut driver, state) = active(MERGEABLE);
    for _ in 0..256 {
        driver.offer(RX, &[writable(BUFFERS, 16)]);
    }
    arrive(&state, &[7; 60_000]);
    arrive(&state, &[7; 14]);
    device.backend_event(&mut driver).unwrap();
    assert_eq!(device.counters().receive_dropped(), 1);
    assert_eq!(driver.used(RX).len(), 2);
}

#[test]
fn malformed_buffers_are_returned_empty() {
    let (mut device, mut driver, state) = active(MERGEABLE);
    driver.offer(RX, &[readable(BUFFERS, 1000)]);
    driver.offer(RX, &[writable(1 << 40, 1000)]);
    driver.offer(RX, &[writable(BUFFERS, 11)]);
    driver.offer(RX, &[writable(BUFFERS, 1000)]);
    arrive(&state, &[7; 60]);
    device.backend_event(&mut driver).unwrap();
    let lens: Vec<u32> = driver.used(RX).iter().map(|&(_, len)| len).collect();
    assert_eq!(lens, [0, 0, 0, 72]);
}

#[test]
fn a_frame_that_requests_an_offload_that_was_not_accepted_is_dropped() {
    let summed = Header {
        flags: 1,
        csum_start: 34,
        csum_offset: 16,
        ..Header::default()
    };
    for (features, expected) in [(0, (0, 1)), (1 << 1, (1, 0))] {
        let (mut device, mut driver, state) = active(features);
        offer(&mut driver, &[1526]);
        let frame = (summed, vec![7; 60]);
        state.lock().unwrap().incoming.push_back(frame);
        device.backend_event(&mut driver).unwrap();
        let counters = device.counters();
        let got = (counters.received(), counters.receive_dropped());
        assert_eq!(got, expected);
    }
}

#[test]
fn the_work_of_one_event_is_limited() {
    let (mut device, mut driver, state) = active(0);
    // Too short to be delivered, so they need no buffers.
    for _ in 0..BATCH + 1 {
        arrive(&state, &[7; MIN_FRAME - 1]);
    }
    device.backend_event(&mut driver).unwrap();
    assert_eq!(driver.rescheduled, [RX]);
    assert_eq!(device.counters().receive_dropped(), BATCH as u64);
    device.queue_event(RX, &mut driver).unwrap();
    assert_eq!(driver.rescheduled, [RX]);
    assert_eq!(device.counters().receive_dropped(), BATCH as u64 + 1);
}

proptest! {
    #[test]
    fn frames_are_complete_and_in_order_with_any_buffers(
        buffers in prop::collection::vec(12u32..5000, 1..40),
        frames in prop::collection::vec(MIN_FRAME..9000, 1..10),
        mergeable: bool,
    ) {
        let (mut device, mut driver, state) = active(if mergeable { MERGEABLE } else { 0 });
        let frames: Vec<Vec<u8>> = frames
            .iter()
            .zip(1u8..)
            .map(|(&len, n)| (0..len).map(|i| n ^ i as u8).collect())
            .collect();
        frames.iter().for_each(|frame| arrive(&state, frame));
        let offered = offer(&mut driver, &buffers);
        device.backend_event(&mut driver).unwrap();
        let counters = device.counters();
        let waiting = state.lock().unwrap().incoming.len() as u64;
        prop_assert_eq!(counters.received() + counters.receive_dropped() + waiting, frames.len() as u64);
        let mut left = frames.iter();
        for (count, got) in collect(&mut driver, &offered) {
            prop_assert!(mergeable || count == 1);
            prop_assert!(left.any(|frame| *frame == got), "unknown frame, or out of order");
        }
        if mergeable {
            prop_assert_eq!(counters.receive_dropped(), 0);
        }
    }
}
