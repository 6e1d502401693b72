//! See `microagent_pipeline::fuzzing::registry_access`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microagent_pipeline::fuzzing::registry_access(data));
