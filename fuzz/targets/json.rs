//! The JSON decoder reads every text as the reference does.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| millstream_connectors::fuzzing::json(input));
