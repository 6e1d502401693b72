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
    fn no_access_breaks_the_registers(script in script()) {
        super::registers(&script);
    }
}
