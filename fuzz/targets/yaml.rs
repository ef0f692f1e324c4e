//! Any text is loaded as a pipeline, or refused with mistakes that have places in it.

#![no_main]

#[allow(dead_code, unused_imports, unreachable_pub, reason = "a part of another crate")]
#[path = "../../runtime/src/spec/mod.rs"]
mod spec;

use std::path::Path;
use std::sync::Arc;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    // Files of the machine are not the loader's fault.
    if text.contains("${file:") {
        return;
    }
    let env: spec::Environment = Arc::new(|name: &str| (name == "X").then(|| "x: [1, 2]".to_owned()));
    let options = spec::LoadOptions { env, ..spec::LoadOptions::default() };
    let loaded = spec::load_text(Path::new("/nowhere/p.yaml"), text, &options);
    assert!(loaded.spec.is_some() || loaded.has_errors());
    for located in loaded.located(&[]) {
        std::hint::black_box(format!("{located:?}"));
    }
});
