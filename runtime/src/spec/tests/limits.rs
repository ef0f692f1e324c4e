//! YAML bombs and nonsense: refused by a named limit, never a panic, never long.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::limits::PROBLEMS_MAX;
use super::{errors, load_plain, load_with, shown};

fn refused_quickly(text: &str, limit: &str) {
    let start = Instant::now();
    let shown = errors(text);
    assert!(shown.contains(limit), "{}", shown.chars().take(500).collect::<String>());
    // Generous: an expansion would take minutes or all memory.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn bombs_are_refused_by_a_named_limit() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    refused_quickly(&laughs, "nodes_max");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(900_000), vec!["*a"; 10_000].join(", "));
    refused_quickly(&long, "expanded_bytes_max");
    refused_quickly(&"[".repeat(100_000), "depth_max");
    refused_quickly(&format!("{}x", "a: {".repeat(1000)), "depth_max");
    refused_quickly(&format!("a: {}", "- ".repeat(1000)), "list cannot start");
    refused_quickly(&format!("a:\n  {}x", "- ".repeat(1000)), "depth_max");
    refused_quickly(&"- x\n".repeat(60_000), "nodes_max");
    refused_quickly(&"#\n".repeat(600_000), "file_bytes_max");
    let mut deep = "a0: &a0 [x]\n".to_owned();
    for level in 1..80 {
        deep.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    refused_quickly(&deep, "depth_max");
}

#[test]
fn a_file_full_of_mistakes_is_reported_in_part() {
    let text: String = (0..2_000).map(|n| format!("key{n}: 1\n")).collect();
    let loaded = load_plain(&text);
    assert_eq!(loaded.problems.len(), PROBLEMS_MAX + 1);
    assert!(shown(&loaded).contains("more mistakes"));
}

#[test]
fn filling_in_is_bounded() {
    let value = "x".repeat(60_000);
    let text = format!("description: \"{}\"\n", "${BIG}".repeat(100));
    let shown = shown(&load_with(&text, &[("BIG", &value)], None));
    assert!(shown.contains("filled_bytes_max"), "{}", shown.chars().take(300).collect::<String>());
}

/// Text of the characters that matter to YAML and to this loader.
fn yaml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("sources:".to_owned()),
        Just("\n  ".to_owned()),
        Just("\n    ".to_owned()),
        Just("sinks: {o: {from: a, stdout: {}}}\n".to_owned()),
        Just("table: {}\n".to_owned()),
        Just("sql: |\n".to_owned()),
        Just(": ".to_owned()),
        Just("- ".to_owned()),
        Just("${X".to_owned()),
        Just("}".to_owned()),
        Just("profiles:".to_owned()),
        Just("\"\\u00".to_owned()),
        "[-:{}\\[\\]|>&*!'\"#%@`,\\?$ \\t\\r\\na-c0-9é😀\u{85}\u{feff}]{0,6}",
        "\\PC{0,4}",
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_loaded_or_refused_without_a_panic(text in yaml_like(), profile in proptest::option::of("[a-c]")) {
        let loaded = load_with(&text, &[("X", "1"), ("Xa", "a\nb: c")], profile.as_deref());
        prop_assert!(loaded.spec.is_some() || loaded.has_errors());
        let located = loaded.located(&[]);
        let lines = text.matches('\n').count() + 1;
        for problem in &located {
            prop_assert!((1..=lines).contains(&problem.location.line), "{:?}", problem);
            prop_assert!(problem.location.column >= 1);
        }
        super::super::render::human(&located, true);
        super::super::render::github(&located);
        super::super::render::json(&located);
    }
}
