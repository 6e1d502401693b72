//! Random drivers. The fuzz targets of the same names search further.

use proptest::prelude::*;

/// Enough bytes for a few dozen steps.
fn script() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..500)
}

/// Starts the device correctly before the script runs, so that there is state to corrupt.
fn started(script: &[u8], device: &[u8]) -> Vec<u8> {
    [device, &[0, 5], script].concat()
}

/// A disk whose driver has made `requests` in its queue of 256 entries.
fn served(requests: u8) -> Vec<u8> {
    let registers = [&[2, 1, 15, 0], &(1u64 << 32).to_le_bytes()[..], &[2; 5]].concat();
    let rings = [8, 0, 0x10, 8, 0, 0x20, 8, 0, 0x30];
    [&[0], &registers[..], &[8], &rings, &[1, requests, requests]].concat()
}

#[test]
fn the_state_of_a_served_disk_is_taken() {
    let data = served(3);
    let mut input = super::Input(&data);
    assert!(super::restore(&mut input).is_some() && input.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_driver_breaks_the_entropy_device(script in script()) {
        super::rng(&script);
        super::rng(&started(&script, &[]));
    }

    #[test]
    fn no_driver_breaks_a_disk(script in script(), kind in 0u8..3) {
        super::block(&started(&script, &[kind]));
    }

    #[test]
    fn no_driver_breaks_the_socket_device(script in script()) {
        super::vsock(&started(&script, &[]));
    }

    #[test]
    fn no_driver_and_no_peer_break_the_network_device(script in script()) {
        super::net(&started(&script, &[]));
    }

    #[test]
    fn no_saved_state_breaks_a_disk(script in script(), queue in 0u8..16) {
        super::restored(&script);
        super::restored(&[&served(queue)[..], &script].concat());
    }

    #[test]
    fn no_access_breaks_the_registers(script in script()) {
        super::registers(&script);
    }
}
