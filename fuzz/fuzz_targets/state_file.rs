//! See `microagent_vmm::fuzzing::state_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microagent_vmm::fuzzing::state_file(data));
