//! Keys of maps: unknown, missing, not together, and the one connector of a source or sink.

use serde_json::Value;

use super::super::node::{Kind, Map, Node};
use super::super::problem::{Part, Path, nearest};
use super::super::wording::list;
use super::Validator;

impl<'a> Validator<'a> {
    pub(super) fn check_map(&mut self, node: &mut Node, schema: &'a Value, path: &mut Path) {
        let Kind::Map(map) = &mut node.kind else { return };
        let extra = schema.get("if").map(|condition| {
            let met = condition["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let met = met.clone().all(|key| map.get(key).is_some_and(|entry| entry.value.kind != Kind::Null));
            &schema[if met { "then" } else { "else" }]
        });
        let connectors = required_one(schema).or_else(|| extra.and_then(required_one)).unwrap_or_default();
        let mut misplaced = false;
        for (key, entry) in map.iter_mut() {
            let property =
                extra.and_then(|extra| extra["properties"].get(key)).or_else(|| schema["properties"].get(key));
            path.push(key.clone());
            match (property, &schema["additionalProperties"]) {
                (Some(Value::Bool(false)), _) => {
                    misplaced = true;
                    self.not_together(key, &connectors, schema, path);
                }
                (Some(property), _) => self.check(&mut entry.value, property, path),
                (None, Value::Bool(false)) => {
                    let known = known_keys(schema, extra);
                    misplaced |= nearest(key, known.iter().copied()).is_some_and(|near| connectors.contains(&near));
                    self.unknown_key(key, &known, path);
                }
                (None, values @ Value::Object(_)) => self.check(&mut entry.value, values, path),
                (None, _) => {}
            }
            path.pop();
        }
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !map.contains_key(key) {
                let what = self.resolve(&schema["properties"][key])["description"]
                    .as_str()
                    .and_then(|text| text.split(". ").next());
                let hint = what.map(|what| format!("add `{key}:` ({})", what.trim_end_matches('.').replace('\n', " ")));
                self.error(path, Part::Key, format!("`{key}` is missing"), hint);
            }
        }
        if schema["minProperties"].as_u64().is_some_and(|min| (map.len() as u64) < min) {
            self.error(path, Part::Key, format!("at least {} entries are needed", schema["minProperties"]), None);
        }
        if !connectors.is_empty() {
            let map = map.clone();
            self.one_connector(&map, &connectors, misplaced, path);
        }
    }

    /// Exactly one key of `connectors` must be there.
    fn one_connector(&mut self, map: &Map, connectors: &[&str], misplaced: bool, path: &mut Path) {
        let found: Vec<&String> = map.keys().filter(|key| connectors.contains(&key.as_str())).collect();
        match found[..] {
            [] if !misplaced => {
                let message = "no connector is named here".to_owned();
                self.error(path, Part::Key, message, Some(format!("add one of: {}", connectors.join(", "))));
            }
            [first, second, ..] => {
                path.push(second.clone());
                let message = format!("`{first}` and `{second}` are both named, but only one connector can be");
                self.error(path, Part::Key, message, Some("remove one, or split this into two".into()));
                path.pop();
            }
            _ => {}
        }
    }

    /// A key that the schema forbids beside another one.
    fn not_together(&mut self, key: &str, connectors: &[&str], schema: &Value, path: &Path) {
        let with_table = schema["if"]["required"][0].as_str().unwrap_or_default();
        let is_table = schema["then"]["properties"][key] == false;
        let (message, hint) = if is_table {
            let message = format!("`{key}` cannot be read as a table, and `{with_table}:` stands here");
            (message, format!("read the table from: {}; or remove `{with_table}:` for a stream", connectors.join(", ")))
        } else {
            let message = format!("`{key}` can only be read as a table");
            (message, format!("add `{with_table}: {{}}`, or use one of: {}", connectors.join(", ")))
        };
        self.error(path, Part::Key, message, Some(hint));
    }

    /// A key that is known, and not right beside the others; the schema says why.
    pub(super) fn never(&mut self, schema: &Value, path: &Path) {
        let key = path.last().map_or("", String::as_str);
        let why = schema["description"].as_str().unwrap_or_default();
        self.error(path, Part::Key, format!("`{key}` cannot stand here: {why}"), Some("remove it".to_owned()));
    }

    pub(super) fn unknown_key(&mut self, key: &str, known: &[&str], path: &Path) {
        const LISTED_MAX: usize = 24;
        let short: String = key.chars().take(60).collect();
        let message = format!("`{short}` is not a key here");
        let hint = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "no keys can stand here".to_owned(),
            None if known.len() > LISTED_MAX => format!("there are: {}, …", known[..LISTED_MAX].join(", ")),
            None => format!("there are: {}", list(known, "and").replace('`', "")),
        };
        self.error(path, Part::Key, message, Some(hint));
    }
}

/// The names of `oneOf: [{required: [a]}, {required: [b]}]`.
fn required_one(schema: &Value) -> Option<Vec<&str>> {
    let branches = schema["oneOf"].as_array()?;
    branches.iter().map(|branch| branch["required"][0].as_str()).collect()
}

fn known_keys<'a>(schema: &'a Value, extra: Option<&'a Value>) -> Vec<&'a str> {
    let of = |schema: &'a Value| schema["properties"].as_object().into_iter().flatten();
    let forbidden = |key: &str| extra.is_some_and(|extra| extra["properties"][key] == false);
    let mut known: Vec<&str> = Vec::new();
    for (key, property) in of(schema).chain(extra.into_iter().flat_map(of)) {
        if property.get("not").is_none() && !known.contains(&key.as_str()) && !forbidden(key) {
            known.push(key);
        }
    }
    known
}
