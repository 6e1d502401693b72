//! Taking chains and re-arming notifications, with and without `VIRTIO_F_EVENT_IDX`.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use virtio_bindings::virtio_ring::VRING_USED_F_NO_NOTIFY;

use super::*;
use crate::virtio::DeviceIo;
use crate::virtio::testing::{BUFFERS, Driver, SplitRing, readable};

const SIZE: u16 = 16;

/// Runs a test with each choice of the ring feature. Notifications are disabled at first.
fn with_each_ring(test: impl Fn(Driver, bool)) {
    for event_idx in [true, false] {
        let mut driver = Driver::with_queues(&[SIZE], event_idx, 4 << 20);
        let (queue, mem) = driver.queue(0).unwrap();
        queue.disable_notification(mem).unwrap();
        test(driver, event_idx);
    }
}

fn offer(driver: &mut Driver) -> u16 {
    driver.offer(0, &[readable(BUFFERS, 16)])
}

/// The head of the next chain.
fn pop_or_rearm(driver: &mut Driver) -> Result<Option<u16>, DeviceError> {
    let (queue, mem) = driver.queue(0).unwrap();
    let chain = Chain::pop_or_rearm(queue, mem)?;
    Ok(chain.map(|chain| chain.head))
}

/// Returns a chain to the driver.
fn give_back(driver: &mut Driver, head: u16) {
    let (queue, mem) = driver.queue(0).unwrap();
    queue.add_used(mem, head, 0).unwrap();
    assert_eq!(driver.used(0), [(head, 0)]);
}

#[test]
fn an_empty_queue_is_armed() {
    with_each_ring(|mut driver, event_idx| {
        let heads = [offer(&mut driver), offer(&mut driver)];
        assert!(!driver.ring(0).must_notify(event_idx), "still disabled");
        for head in heads {
            assert_eq!(pop_or_rearm(&mut driver).unwrap(), Some(head));
        }
        assert_eq!(pop_or_rearm(&mut driver).unwrap(), None);
        let third = offer(&mut driver);
        assert!(driver.ring(0).must_notify(event_idx));
        assert_eq!(pop_or_rearm(&mut driver).unwrap(), Some(third));
    });
}

#[test]
fn a_chain_added_between_the_last_pop_and_the_rearm_is_not_missed() {
    with_each_ring(|mut driver, event_idx| {
        // `avail_event` is 0 at first: let the driver get past it.
        let head = offer(&mut driver);
        assert_eq!(pop_or_rearm(&mut driver).unwrap(), Some(head));
        give_back(&mut driver, head);
        // Often enough for the indices to wrap around.
        for round in 0..70_000 {
            let (queue, mem) = driver.queue(0).unwrap();
            assert!(Chain::pop(queue, mem).unwrap().is_none());
            let head = offer(&mut driver);
            assert!(!driver.ring(0).must_notify(event_idx), "round {round}");
            let (queue, mem) = driver.queue(0).unwrap();
            let chain = Chain::rearm(queue, mem).unwrap().unwrap();
            assert_eq!(chain.head, head);
            if !event_idx {
                let flags = u32::from(driver.ring(0).used_flags());
                assert_eq!(flags, VRING_USED_F_NO_NOTIFY, "disabled again");
            }
            give_back(&mut driver, head);
        }
    });
}

#[test]
fn no_chain_is_missed_when_driver_and_device_race() {
    const CHAINS: u32 = 50_000;
    with_each_ring(|mut driver, event_idx| {
        let ring = driver.ring(0).clone();
        let (notify, notifications) = mpsc::channel();
        let publisher = thread::spawn(move || {
            for _ in 0..CHAINS {
                while ring.available_index().wrapping_sub(ring.used_index()) == SIZE {
                    thread::yield_now();
                }
                ring.publish(0);
                if ring.must_notify(event_idx) {
                    notify.send(()).unwrap();
                }
            }
        });
        let (queue, mem) = driver.queue(0).unwrap();
        let mut taken = 0;
        while taken < CHAINS {
            match Chain::pop_or_rearm(queue, mem).unwrap() {
                Some(chain) => {
                    queue.add_used(mem, chain.head, 0).unwrap();
                    taken += 1;
                }
                None => notifications
                    .recv_timeout(Duration::from_secs(30))
                    .expect("a notification"),
            }
        }
        publisher.join().unwrap();
        assert_eq!(pop_or_rearm(&mut driver).unwrap(), None);
    });
}

#[test]
fn an_available_index_up_to_the_queue_size_ahead_is_valid() {
    with_each_ring(|mut driver, _| {
        driver.ring(0).set_available_index(SIZE);
        for _ in 0..SIZE {
            assert!(pop_or_rearm(&mut driver).unwrap().is_some());
        }
        assert_eq!(pop_or_rearm(&mut driver).unwrap(), None);
    });
}

#[test]
fn an_available_index_that_jumps_or_goes_backwards_is_an_error() {
    with_each_ring(|mut driver, _| {
        driver.ring(0).set_available_index(SIZE + 1);
        let error = pop_or_rearm(&mut driver).unwrap_err();
        assert!(matches!(error, DeviceError::Queue(_)), "{error}");
    });
    with_each_ring(|mut driver, _| {
        offer(&mut driver);
        offer(&mut driver);
        pop_or_rearm(&mut driver).unwrap();
        pop_or_rearm(&mut driver).unwrap();
        driver.ring(0).set_available_index(1);
        let error = pop_or_rearm(&mut driver).unwrap_err();
        assert!(matches!(error, DeviceError::Queue(_)), "{error}");
    });
}

#[test]
fn an_available_index_that_goes_backwards_during_the_rearm_is_an_error() {
    let mut driver = Driver::with_queues(&[SIZE], false, 4 << 20);
    let (queue, mem) = driver.queue(0).unwrap();
    // The used ring's flags are the available ring's index: enabling notifications makes it 0,
    // disabling them makes it 1.
    queue.set_avail_ring_address(Some(BUFFERS as u32 + 2), None);
    queue.set_used_ring_address(Some(BUFFERS as u32 + 4), None);
    let available = BUFFERS + 2;
    SplitRing::new(mem, [queue.desc_table(), available, available + 2], SIZE)
        .set_available_index(1);
    assert!(Chain::pop_or_rearm(queue, mem).unwrap().is_some());
    queue.disable_notification(mem).unwrap();
    let error = Chain::pop_or_rearm(queue, mem).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the index of an available ring went backwards"
    );
}

#[test]
fn rings_outside_guest_memory_are_an_error() {
    with_each_ring(|mut driver, _| {
        let (queue, _) = driver.queue(0).unwrap();
        queue.set_used_ring_address(Some(0xffff_0000), None);
        pop_or_rearm(&mut driver).unwrap_err();
    });
    with_each_ring(|mut driver, _| {
        let (queue, _) = driver.queue(0).unwrap();
        queue.set_avail_ring_address(Some(0xffff_0000), None);
        pop_or_rearm(&mut driver).unwrap_err();
    });
}

#[test]
fn a_head_outside_the_descriptor_table_is_a_malformed_chain() {
    with_each_ring(|mut driver, _| {
        driver.ring(0).publish(SIZE);
        let (queue, mem) = driver.queue(0).unwrap();
        let chain = Chain::pop_or_rearm(queue, mem).unwrap().unwrap();
        assert_eq!(chain.head, SIZE);
        assert_eq!(chain.buffers.unwrap_err(), MalformedChain::Unterminated);
        queue.add_used(mem, chain.head, 0).unwrap_err();
    });
}
