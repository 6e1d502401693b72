//! See `microagent_pipeline::fuzzing::reference`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microagent_pipeline::fuzzing::reference(data));
