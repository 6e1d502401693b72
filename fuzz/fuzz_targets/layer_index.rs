//! See `microagent_pipeline::fuzzing::layer_index`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microagent_pipeline::fuzzing::layer_index(data));
