//! Any driver at all, by chance. The fuzz targets of the same names look for more.

use proptest::prelude::*;

/// Enough bytes for some dozens of steps.
fn script() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..500)
}

/// Begins with a driver that keeps the rules, so that there is something to break.
fn polite_first(script: &[u8], device: &[u8]) -> Vec<u8> {
    [device, &[0, 5], script].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_driver_breaks_the_entropy_device(script in script()) {
        super::rng(&script);
        super::rng(&polite_first(&script, &[]));
    }

    #[test]
    fn no_driver_breaks_a_disk(script in script(), kind in 0u8..3) {
        super::block(&polite_first(&script, &[kind]));
    }

    #[test]
    fn no_driver_breaks_the_socket_device(script in script()) {
        super::vsock(&polite_first(&script, &[]));
    }

    #[test]
    fn no_driver_and_no_peer_break_the_network_device(script in script()) {
        super::net(&polite_first(&script, &[]));
    }

    #[test]
    fn no_access_breaks_the_registers(script in script()) {
        super::registers(&script);
    }
}
