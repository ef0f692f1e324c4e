//! Profiles.

use insta::assert_snapshot;

use super::super::limits::YamlLimits;
use super::super::overlay;
use super::super::parse::parse;
use super::{GOOD, load_with, shown};

/// The tree after the overlay, as JSON in one line.
fn laid(base: &str, profile: &str) -> String {
    let text = format!("{base}\nprofiles: {{p: {profile}}}\n");
    let parsed = parse(&text, 0, &YamlLimits::default());
    let mut root = parsed.root.unwrap_or_else(|| panic!("{:?}", parsed.problems));
    overlay::apply(&mut root, "p").unwrap();
    let mut json = root.to_json();
    json.as_object_mut().unwrap().remove("profiles");
    json.to_string()
}

#[test]
fn maps_are_joined_scalars_and_lists_replaced_and_null_removes() {
    let base = "labels: {a: x, b: y}\nfunctions: [{wasm: a}]";
    assert_snapshot!(laid(base, "{labels: {b: null, c: z}, functions: [{wasm: b}], limits: {parallelism: 2, x: null}}"), @r#"{"labels":{"a":"x","c":"z"},"functions":[{"wasm":"b"}],"limits":{"parallelism":2}}"#);
}

#[test]
fn a_connector_replaces_a_connector_whole_and_generate_drops_the_format() {
    let base = "sources: {a: {mqtt: {url: u, topics: [t]}, format: {csv: {delimiter: x}}, linger: 1s}}";
    assert_snapshot!(laid(base, "{sources: {a: {kafka: {topic: t}}}}"), @r#"{"sources":{"a":{"format":{"csv":{"delimiter":"x"}},"linger":"1s","kafka":{"topic":"t"}}}}"#);
    assert_snapshot!(laid(base, "{sources: {a: {generate: {}}}}"), @r#"{"sources":{"a":{"linger":"1s","generate":{}}}}"#);
    assert_snapshot!(laid(base, "{sources: {a: {mqtt: {url: v}, format: {json: {}}}}}"), @r#"{"sources":{"a":{"format":{"json":{}},"linger":"1s","mqtt":{"url":"v"}}}}"#);
    assert_snapshot!(laid("dead_letter: {file: {path: x}}", "{dead_letter: {stdout: {}}}"), @r#"{"dead_letter":{"stdout":{}}}"#);
}

#[test]
fn an_unknown_profile_names_the_nearest() {
    let text = format!("{GOOD}profiles: {{synthetic: {{}}, other: {{}}}}\n");
    assert_snapshot!(shown(&load_with(&text, &[], Some("sythetic"))), @r#"
    error: there is no profile `sythetic`
      --> p.yaml:16:11
       |
    16 | profiles: {synthetic: {}, other: {}}
       |           ^^^^^^^^^^^^^^^^^^^^^^^^^^
       = at profiles
       = help: did you mean `synthetic`?

    1 error
    "#);
    assert_snapshot!(shown(&load_with(GOOD, &[], Some("x"))), @r#"
    error: there is no profile `x`
     --> p.yaml:1:1
      |
    1 | sources:
      | ^^^^^^^^
      = help: add it under `profiles: {x: …}`, or run without --profile

    1 error
    "#);
}

#[test]
fn a_mistake_in_a_profile_is_shown_there_chosen_or_not() {
    let text = format!(
        "{GOOD}profiles:\n  one:\n    sinks: {{out: {{stdot: {{}}, from: warmm}}}}\n    limits: {{parallelism: \"${{P}}\"}}\n"
    );
    assert_snapshot!(shown(&load_with(&text, &[], None)), @r#"
    error: `stdot` is not a key here
      --> p.yaml:18:19
       |
    18 |     sinks: {out: {stdot: {}, from: warmm}}
       |                   ^^^^^
       = at profiles.one.sinks.out.stdot
       = help: did you mean `stdout`?

    1 error
    "#);
    assert_snapshot!(shown(&load_with(&text, &[("P", "999")], Some("one"))), @r#"
    error: `stdot` is not a key here
      --> p.yaml:18:19
       |
    18 |     sinks: {out: {stdot: {}, from: warmm}}
       |                   ^^^^^
       = at sinks.out.stdot
       = help: did you mean `stdout`?

    error: there is no step or stream `warmm`
      --> p.yaml:18:36
       |
    18 |     sinks: {out: {stdot: {}, from: warmm}}
       |                                    ^^^^^
       = at sinks.out.from
       = help: did you mean `warm`?

    error: 999 is too large
      --> p.yaml:19:27
       |
    19 |     limits: {parallelism: "${P}"}
       |                           ^^^^^^
       = at limits.parallelism
       = help: write a whole number from 0 to 256

    3 errors
    "#);
}

#[test]
fn a_profile_that_is_not_chosen_needs_none_of_its_variables() {
    let text = format!(
        "{GOOD}profiles:\n  one:\n    limits: {{parallelism: \"${{P}}\"}}\n    sinks: {{out: null, o2: {{sse: {{}}, from: warm}}}}\n"
    );
    assert!(load_with(&text, &[], None).spec.is_some());
    let spec = load_with(&text, &[("P", "7")], Some("one")).spec.unwrap();
    assert_eq!(spec.limits.parallelism, 7);
    assert_eq!(spec.sinks.keys().collect::<Vec<_>>(), ["o2"]);
}
