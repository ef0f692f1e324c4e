//! How values and types are named in messages.

use serde_json::Value;

use super::node::{Kind, Node};
use super::secrets::url_password;

/// Longer values are cut in messages.
const SHOWN_CHARS_MAX: usize = 60;

/// `a`, `a or b`, `a, b or c`.
pub(super) fn list(names: &[&str], and: &str) -> String {
    let mut unique: Vec<&str> = Vec::new();
    for name in names {
        if !unique.contains(name) {
            unique.push(name);
        }
    }
    match &unique[..] {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} {and} {last}", first.join(", ")),
    }
}

/// The value for a message, cut, or `***`.
pub(super) fn shown(node: &Node) -> String {
    if node.is_secret() {
        return "***".to_owned();
    }
    let text = match &node.kind {
        Kind::Null => "null".to_owned(),
        Kind::Bool(value) => value.to_string(),
        Kind::Number(value) => value.to_string(),
        Kind::Text(text) => {
            let text = text.text.replace('\n', "⏎");
            // Before it is cut, because half a password would no longer be recognised as one.
            url_password(&text).map_or(text.clone(), |password| text.replace(password, "***"))
        }
        Kind::List(_) => "[…]".to_owned(),
        Kind::Map(_) => "{…}".to_owned(),
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// `the number 5`, `a list`.
pub(super) fn kind_of(node: &Node, secret: bool) -> String {
    let shown = if secret { "***".to_owned() } else { shown(node) };
    match &node.kind {
        Kind::Null => "nothing".to_owned(),
        Kind::Bool(_) => format!("the boolean {shown}"),
        Kind::Number(_) => format!("the number {shown}"),
        Kind::Text(_) => format!("the text `{shown}`"),
        Kind::List(_) => "a list".to_owned(),
        Kind::Map(_) => "a map".to_owned(),
    }
}

/// What a schema wants, and an example of it.
pub(super) fn wanted(schema: &Value) -> (String, String) {
    let name = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or(""),
        name => name.as_str().unwrap_or(""),
    };
    let said = |what: &str, example: &str| (what.to_owned(), example.to_owned());
    match (name, schema["format"].as_str()) {
        ("string", Some("duration")) => said("a duration", "`5s`"),
        ("string", Some("size")) => said("a size", "`64MiB`"),
        ("string", _) => match schema["enum"].get(0).or(schema.get("const")) {
            Some(Value::String(first)) => (format!("`{first}`"), format!("`{first}`")),
            _ => said("a text", "`text` or \"text\""),
        },
        ("boolean", _) => said("true or false", "`true`"),
        ("integer" | "number", _) => {
            let what = if name == "integer" { "a whole number" } else { "a number" };
            let bound = |key: &str| schema[key].as_f64();
            let range = match (bound("minimum"), bound("maximum")) {
                (Some(min), Some(max)) => format!(" from {min} to {max}"),
                (Some(min), None) => format!(" of at least {min}"),
                (None, Some(max)) => format!(" of at most {max}"),
                (None, None) => String::new(),
            };
            let example = bound("minimum").map_or(1.0, |min| min.max(1.0).min(bound("maximum").unwrap_or(f64::MAX)));
            (format!("{what}{range}"), format!("`{example}`"))
        }
        ("array", _) => said("a list", "`[a, b]`"),
        ("object", _) => said("a map", "`{key: value}`"),
        ("null", _) => said("nothing", "`null`"),
        _ => said("a value", "a value"),
    }
}
