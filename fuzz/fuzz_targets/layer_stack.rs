//! See `microagent_pipeline::fuzzing::layer_stack`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microagent_pipeline::fuzzing::layer_stack(data));
