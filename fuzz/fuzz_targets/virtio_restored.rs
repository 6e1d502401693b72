//! See `microagent_vmm::fuzzing::restored`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microagent_vmm::fuzzing::restored(data));
