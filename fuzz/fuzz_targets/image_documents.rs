//! See `microagent_pipeline::fuzzing::image_documents`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| microagent_pipeline::fuzzing::image_documents(data));
