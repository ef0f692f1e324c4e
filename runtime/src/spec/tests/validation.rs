//! The validator, on a schema of its own: the connectors' options change, the rules do not.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use millstream_connectors::secret::Secret;
use millstream_connectors::units::{ByteSize, Duration};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::limits::YamlLimits;
use super::super::parse::parse;
use super::super::problem::Path;
use super::super::validate::Validator;

#[derive(Debug, Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
#[allow(dead_code)]
struct Options {
    wait: Duration,
    size: Option<ByteSize>,
    #[schemars(range(min = 1, max = 65535))]
    port: u16,
    ratio: Option<f64>,
    on: bool,
    mode: Mode,
    words: Vec<String>,
    one_or_many: Option<OneOrMany>,
    shape: Option<Shape>,
    headers: BTreeMap<String, String>,
    password: Option<Secret>,
    #[schemars(regex(pattern = r"^[a-z]+$"), length(min = 2, max = 5))]
    word: Option<String>,
    #[schemars(length(min = 1, max = 2))]
    few: Vec<u8>,
    nested: Option<Box<Options>>,
}

#[derive(Debug, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// The first.
    #[default]
    AtOnce,
    /// The second.
    Later,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
    Detailed(Detailed),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Detailed {
    name: String,
    wait: Option<Duration>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)]
enum Shape {
    Point,
    Circle(Circle),
    Line(Line),
}

#[derive(Debug, Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
#[allow(dead_code)]
struct Circle {
    radius: u32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Line {
    length: u32,
}

/// Path, message and hint of every mistake; where there is none, whether serde agrees.
fn said(text: &str) -> String {
    let schema = schemars::schema_for!(Options).to_value();
    let mut root = parse(text, 0, &YamlLimits::default()).root.unwrap();
    let mut validator = Validator::new(&schema);
    validator.check(&mut root, &schema, &mut Path::new());
    if validator.problems.is_empty() {
        return match serde_json::from_value::<Options>(root.to_json()) {
            Ok(_) => "right".to_owned(),
            Err(error) => format!("the validator overlooked: {error}"),
        };
    }
    let line = |p: &super::super::problem::Problem| {
        format!("{}: {} ({})", p.path.join("."), p.message, p.hint.clone().unwrap_or_default())
    };
    validator.problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_right_is_right_to_serde_too() {
    for text in [
        "{}",
        "{wait: 5s, size: 1MiB, port: 80, ratio: 1, on: true, mode: later, words: [a], headers: {a: b}, password: x}",
        "{one_or_many: a}",
        "{one_or_many: [a, b]}",
        "{one_or_many: {name: x, wait: 1s}}",
        "{shape: point}",
        "{shape: circle}",
        "{shape: {circle: {}}}",
        "{shape: {line: {length: 1}}}",
        "{size: null, nested: {nested: {port: 1}}, few: [1, 2], word: abc}",
    ] {
        assert_eq!(said(text), "right", "{text}");
    }
}

#[test]
fn wrong_types_say_what_was_found_what_is_wanted_and_an_example() {
    assert_snapshot!(said("{wait: 5, size: 64, port: a, ratio: [], on: no, words: a, headers: [a], nested: 1}"), @r#"
    wait: a duration is wanted here, not the number 5 (add a unit: `5s` or `5ms`)
    size: a size is wanted here, not the number 64 (add a unit: `64B` or `64MiB`)
    port: a whole number from 1 to 65535 is wanted here, not the text `a` (write for example `1`)
    ratio: a number is wanted here, not a list (write for example `1`)
    on: true or false is wanted here, not the text `no` (write for example `true`)
    words: a list is wanted here, not the text `a` (write for example `[a, b]`)
    headers: a map is wanted here, not a list (write for example `{key: value}`)
    nested: a map is wanted here, not the number 1 (write for example `{key: value}`)
    "#);
    assert_snapshot!(said("{words: [1, true, null, a, {}], headers: {a: 1.5, b: [x]}, port: 1.5}"), @r#"
    words.0: a text is wanted here, not the number 1 (put it in quotes: "1")
    words.1: a text is wanted here, not the boolean true (put it in quotes: "true")
    words.2: nothing stands here, but a text is wanted (write a value, or remove the key)
    words.4: a text is wanted here, not a map (write for example `text` or "text")
    headers.a: a text is wanted here, not the number 1.5 (put it in quotes: "1.5")
    headers.b: a text is wanted here, not a list (write for example `text` or "text")
    port: a whole number from 1 to 65535 is wanted here, not the number 1.5 (write for example `1`)
    "#);
    assert_snapshot!(said("[a]"), @": a map is wanted here, not a list (write for example `{key: value}`)");
}

#[test]
fn values_out_of_range_say_the_range() {
    assert_snapshot!(said("{port: 70000, word: A, few: [], nested: {port: 0, few: [1, 2, 3], word: abcdefgh}}"), @r#"
    port: 70000 is too large (write a whole number from 1 to 65535)
    word: `A` is too short (write at least 2 characters)
    word: `A` has not the right form (it must match ^[a-z]+$)
    few: this list has 0 items; at least 1 are needed ()
    nested.port: 0 is too small (write a whole number from 1 to 65535)
    nested.few: this list has 3 items; at most 2 are read ()
    nested.word: this text has 8 characters; at most 5 are read ()
    "#);
}

#[test]
fn names_say_what_there_is() {
    assert_snapshot!(said("{mode: at_onc, shape: circel}"), @r#"
    mode: `at_onc` is none of at_once and later (did you mean `at_once`?)
    shape: `circel` is none of point, circle and line (did you mean `circle`?)
    "#);
    assert_snapshot!(said("{mode: zzzzzz, shape: zzzzz}"), @r#"
    mode: `zzzzzz` is none of at_once and later (write one of them)
    shape: `zzzzz` is none of point, circle and line (write one of them)
    "#);
    assert_snapshot!(said("{prot: 1, passwrd: x, zzzzzzzz: 1}"), @r#"
    prot: `prot` is not a key here (did you mean `port`?)
    passwrd: `passwrd` is not a key here (did you mean `password`?)
    zzzzzzzz: `zzzzzzzz` is not a key here (there are: wait, size, port, ratio, on, mode, words, one_or_many, shape, headers, password, word, few and nested)
    "#);
}

#[test]
fn units_say_how_to_write_them() {
    assert_snapshot!(said("{wait: 5 parsecs, size: big, nested: {wait: soon}}"), @r#"
    wait: `5 parsecs` is not a duration (write a number and a unit: 250ms, 5s, 1m, 2h, 1d)
    size: `big` is not a size (write a number and a unit: 512B, 64KiB, 16MiB, 1GB)
    nested.wait: `soon` is not a duration (write a number and a unit: 250ms, 5s, 1m, 2h, 1d)
    "#);
}

#[test]
fn of_several_shapes_the_best_fitting_one_complains() {
    assert_snapshot!(said("{one_or_many: {nam: x, wait: 5}}"), @r#"
    one_or_many.nam: `nam` is not a key here (did you mean `name`?)
    one_or_many.wait: a duration is wanted here, not the number 5 (add a unit: `5s` or `5ms`)
    one_or_many: `name` is missing ()
    "#);
    assert_snapshot!(said("{one_or_many: [a, 5]}"), @r#"one_or_many.1: a text is wanted here, not the number 5 (put it in quotes: "5")"#);
    assert_snapshot!(said("{one_or_many: 5}"), @r#"one_or_many: a text, a list or a map is wanted here, not the number 5 (put it in quotes: "5")"#);
    assert_snapshot!(said("{shape: {circle: {radus: 1}}}"), @"shape.circle.radus: `radus` is not a key here (did you mean `radius`?)");
    assert_snapshot!(said("{shape: {circle: {}, line: {}}}"), @"shape.line: only one of circle and line can stand here (remove one)");
    assert_snapshot!(said("{shape: line}"), @"shape: `line` alone is not enough: `length` is missing ()");
    assert_snapshot!(said("{shape: {}}"), @"shape: one of circle and line is missing here ()");
    assert_snapshot!(said("{shape: [circle]}"), @"shape: `point` or a map is wanted here, not a list (write for example `point`)");
}

#[test]
fn a_password_is_not_shown() {
    assert_snapshot!(said("{password: 12345}"), @r#"password: a text is wanted here, not the number *** (write for example `text` or "text")"#);
    assert_snapshot!(said("{password: [hunter2]}"), @r#"password: a text is wanted here, not a list (write for example `text` or "text")"#);
}
