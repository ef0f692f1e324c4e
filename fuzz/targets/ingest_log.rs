//! An ingest log of any bytes is read, or refused as damaged.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| millstream_connectors::fuzzing::ingest_log(input));
