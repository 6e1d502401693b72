//! See `microagent_egress::fuzzing::egress_frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microagent_egress::fuzzing::egress_frames(data));
