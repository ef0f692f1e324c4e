//! The tree against a JSON Schema: every mistake, each at its place, said for people.
//!
//! It knows the part of JSON Schema that schemars and [`super::schema`] write. Where the schema allows several shapes,
//! the mistakes of the best-fitting one are reported, never "nothing matched".

use std::collections::HashMap;

use regex::Regex;
use serde_json::Value;

use super::limits::PROBLEMS_MAX;
use super::node::{Entry, Filled, Kind, Map, Node, Text, resolve_plain};
use super::problem::{Part, Path, Problem, nearest};
use super::secrets::Secrets;
use super::wording::{kind_of, list, shown, wanted};

/// Checks trees against one schema.
pub(super) struct Validator<'a> {
    /// The whole schema, for `$ref`.
    root: &'a Value,
    /// Texts with `${…}` are not filled in: they may become anything.
    pub(super) unfilled: bool,
    pub(super) problems: Vec<Problem>,
    /// What stands in fields of format `secret`.
    pub(super) secrets: Secrets,
    patterns: HashMap<String, Option<Regex>>,
}

impl<'a> Validator<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        let (problems, patterns) = (Vec::new(), HashMap::new());
        Self { root, unfilled: false, problems, secrets: Secrets::default(), patterns }
    }

    /// Checks `node` against `schema`, and brings it into the form that serde reads: a value that was one `${…}`
    /// becomes a number where one is wanted, a name alone (`json`) becomes a variant with its defaults.
    pub(super) fn check(&mut self, node: &mut Node, schema: &'a Value, path: &mut Path) {
        let schema = self.resolve(schema);
        if schema.get("not").is_some() {
            return self.never(schema, path);
        }
        let unfilled = self.unfilled && node.as_text().is_some_and(|text| text.contains("${"));
        if self.problems.len() >= PROBLEMS_MAX || unfilled {
            return;
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.check(node, part, path);
        }
        if let Some(branches) = branches(schema) {
            return self.choose(node, branches, path);
        }
        // A secret that becomes a number is still a secret.
        let secret = node.is_secret();
        if !self.check_type(node, schema, path) {
            return;
        }
        match &mut node.kind {
            Kind::Text(_) => self.check_text(node, schema, path),
            Kind::Number(_) => self.check_number(node, secret, schema, path),
            Kind::List(_) => self.check_list(node, schema, path),
            Kind::Map(_) => self.check_map(node, schema, path),
            Kind::Null | Kind::Bool(_) => {}
        }
    }

    fn resolve(&self, mut schema: &'a Value) -> &'a Value {
        while let Some(found) = schema["$ref"].as_str().and_then(|to| self.root.pointer(to.strip_prefix('#')?)) {
            schema = found;
        }
        schema
    }

    fn error(&mut self, path: &Path, part: Part, message: String, hint: Option<String>) {
        let form = form(path).filter(|_| part == Part::Value).map(str::to_owned);
        let mut problem = Problem::new(path.iter().cloned(), message).at(part);
        problem.hint = form.or(hint);
        self.problems.push(problem);
    }

    fn check_type(&mut self, node: &mut Node, schema: &'a Value, path: &Path) -> bool {
        let types = types(schema);
        if types.is_empty() || types.iter().any(|name| fits(&node.kind, name)) {
            return true;
        }
        if let Kind::Text(Text { text, filled: Some(Filled { whole: true, .. }), .. }) = &node.kind {
            let meant = resolve_plain(text);
            if types.iter().any(|name| fits(&meant, name)) {
                node.kind = meant;
                return true;
            }
        }
        self.wrong_type(node, &[schema], path);
        false
    }

    fn wrong_type(&mut self, node: &Node, schemas: &[&Value], path: &Path) {
        let wanted: Vec<_> = schemas.iter().map(|schema| wanted(schema)).collect();
        let names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        let secret = schemas.iter().any(|schema| schema["format"] == "secret");
        if secret && let Kind::Number(number) = &node.kind {
            self.secrets.add(&number.to_string());
        }
        let message = match &node.kind {
            Kind::Null => format!("nothing stands here, but {} is wanted", list(&names, "or")),
            _ => format!("{} is wanted here, not {}", list(&names, "or"), kind_of(node, secret)),
        };
        let text_wanted = schemas.iter().any(|schema| schema["type"] == "string");
        let unit = schemas.iter().find_map(|schema| schema["format"].as_str());
        let hint = match (&node.kind, unit) {
            (Kind::Null, _) => "write a value, or remove the key".to_owned(),
            (Kind::Number(number), Some("duration")) => format!("add a unit: `{number}s` or `{number}ms`"),
            (Kind::Number(number), Some("size")) => format!("add a unit: `{number}B` or `{number}MiB`"),
            (Kind::Number(_) | Kind::Bool(_), _) if text_wanted && secret => "put it in quotes".to_owned(),
            (Kind::Number(_) | Kind::Bool(_), _) if text_wanted => format!("put it in quotes: \"{}\"", shown(node)),
            _ => format!("write for example {}", wanted.first().map_or("a value", |(_, example)| example)),
        };
        self.error(path, Part::Value, message, Some(hint));
    }

    /// A place where the schema allows several shapes.
    fn choose(&mut self, node: &mut Node, branches: &'a [Value], path: &mut Path) {
        let mut open: Vec<&'a Value> = Vec::new();
        let mut waiting: Vec<&'a Value> = branches.iter().rev().collect();
        while let Some(branch) = waiting.pop().map(|branch| self.resolve(branch)) {
            match self::branches(branch) {
                Some(inner) => waiting.extend(inner.iter().rev()),
                None => open.push(branch),
            }
        }
        if node.kind == Kind::Null && open.iter().any(|branch| types(branch).contains(&"null")) {
            return;
        }
        open.retain(|branch| branch["type"] != "null");
        let tagged: Vec<(&'a str, &'a Value)> = open.iter().filter_map(|branch| tag(branch)).collect();
        let names: Vec<&'a str> = open.iter().flat_map(|branch| constants(branch)).collect();
        match &node.kind {
            Kind::Text(text) => {
                let text = text.text.clone();
                if names.contains(&text.as_str()) {
                    return;
                }
                if let Some((name, schema)) = tagged.iter().find(|(name, _)| *name == text) {
                    return self.name_alone(node, name, schema, path);
                }
                let any_text =
                    open.iter().any(|branch| types(branch).contains(&"string") && constants(branch).is_empty());
                // Beside a map without a name of its own, what is near no name was meant as something else.
                let map = open.iter().any(|branch| types(branch).contains(&"object") && tag(branch).is_none());
                if !any_text && map && nearest(&text, names.iter().copied()).is_none() {
                    return self.wrong_type(node, &open, path);
                }
                if !any_text && (!names.is_empty() || !tagged.is_empty()) {
                    let names = names.into_iter().chain(tagged.iter().map(|(name, _)| *name));
                    return self.not_among(node, &names.collect::<Vec<_>>(), path);
                }
            }
            Kind::Map(_)
                if !tagged.is_empty() && !open.iter().any(|b| types(b).contains(&"object") && tag(b).is_none()) =>
            {
                return self.variant(node, &tagged, path);
            }
            _ => {}
        }
        open.retain(|branch| constants(branch).is_empty() || open_kind(&node.kind));
        self.best(node, &open, path);
    }

    /// A variant named without its options.
    fn name_alone(&mut self, node: &mut Node, name: &str, schema: &'a Value, path: &mut Path) {
        let mut value = Node::new(node.span, Kind::Map(Map::new()));
        path.push(name.to_owned());
        let before = self.problems.len();
        self.check(&mut value, schema, path);
        path.pop();
        for problem in &mut self.problems[before..] {
            problem.path.clone_from(path);
            problem.part = Part::Value;
            problem.hint = form(path).map(str::to_owned).or(problem.hint.take());
            problem.message = format!("`{name}` alone is not enough: {}", problem.message);
        }
        let entry = Entry { key_span: node.span, value };
        node.kind = Kind::Map(Map::from_iter([(name.to_owned(), entry)]));
    }

    fn not_among(&mut self, node: &Node, names: &[&str], path: &Path) {
        let written = node.as_text().unwrap_or_default();
        let message = match names {
            [one] => format!("`{}` is not `{one}`", shown(node)),
            _ => format!("`{}` is none of {}", shown(node), list(names, "and")),
        };
        let near = nearest(written, names.iter().copied()).filter(|_| !node.is_secret());
        let hint = near.map_or_else(|| "write one of them".to_owned(), |near| format!("did you mean `{near}`?"));
        self.error(path, Part::Value, message, Some(hint));
    }

    /// A map with one key that says which variant it is.
    fn variant(&mut self, node: &mut Node, tagged: &[(&'a str, &'a Value)], path: &mut Path) {
        let names: Vec<&str> = tagged.iter().map(|(name, _)| *name).collect();
        let Kind::Map(map) = &mut node.kind else { return };
        let mut known = 0;
        for (key, entry) in map.iter_mut() {
            path.push(key.clone());
            match tagged.iter().find(|(name, _)| name == key) {
                Some((_, schema)) if known == 0 => {
                    known += 1;
                    self.check(&mut entry.value, schema, path);
                }
                Some(_) => {
                    let message = format!("only one of {} can stand here", list(&names, "and"));
                    self.error(path, Part::Key, message, Some("remove one".into()));
                }
                None => self.unknown_key(key, &names, path),
            }
            path.pop();
        }
        if map.is_empty() {
            self.error(path, Part::Value, format!("one of {} is missing here", list(&names, "and")), None);
        }
    }

    /// The branch that fits, or the mistakes of the one that fits best.
    fn best(&mut self, node: &mut Node, open: &[&'a Value], path: &mut Path) {
        let fitting = |branch: &&&'a Value| {
            let types = types(branch);
            types.is_empty() || types.iter().any(|name| fits(&node.kind, name))
        };
        let mut candidates: Vec<&'a Value> = open.iter().filter(fitting).copied().collect();
        let whole = matches!(&node.kind, Kind::Text(Text { filled: Some(filled), .. }) if filled.whole);
        if candidates.is_empty() && whole {
            candidates = open.to_vec();
        }
        if candidates.is_empty() {
            return self.wrong_type(node, open, path);
        }
        // Whose keys are all there was meant, also where others are wrong beside them.
        let lacks = |branch: &Value| {
            let mut keys = branch["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            keys.any(|key| node.get(key).is_none())
        };
        candidates.sort_by_key(|branch| lacks(branch));
        let whole = candidates.iter().take_while(|branch| !lacks(branch)).count();
        candidates.truncate(if whole == 0 { candidates.len() } else { whole });
        let mut best: Option<(Node, Vec<Problem>, Secrets)> = None;
        for branch in candidates {
            let mut trial = Validator::new(self.root);
            trial.unfilled = self.unfilled;
            let mut copy = node.clone();
            trial.check(&mut copy, branch, path);
            if best.as_ref().is_none_or(|(_, problems, _)| trial.problems.len() < problems.len()) {
                best = Some((copy, trial.problems, trial.secrets));
            }
        }
        if let Some((copy, problems, secrets)) = best {
            *node = copy;
            self.problems.extend(problems);
            self.secrets.merge(&secrets);
        }
    }

    fn check_text(&mut self, node: &mut Node, schema: &'a Value, path: &Path) {
        let Kind::Text(Text { text, .. }) = &node.kind else { return };
        let names = constants(schema);
        if !names.is_empty() && !names.contains(&text.as_str()) {
            return self.not_among(node, &names, path);
        }
        let wrong = match schema["format"].as_str() {
            Some("secret") => return self.secrets.add(text),
            Some("duration") => text.parse::<millstream_connectors::units::Duration>().err(),
            Some("size") => text.parse::<millstream_connectors::units::ByteSize>().err(),
            _ => return self.check_plain_text(node, schema, path),
        };
        if let Some(error) = wrong {
            let error =
                if node.is_secret() { error.to_string().replace(text.as_str(), "***") } else { error.to_string() };
            let (message, hint) = match error.rsplit_once(": write ") {
                Some((message, hint)) => (message.to_owned(), Some(format!("write {hint}"))),
                None => (error, None),
            };
            self.error(path, Part::Value, message, hint);
        }
    }

    fn check_plain_text(&mut self, node: &Node, schema: &'a Value, path: &Path) {
        let text = node.as_text().unwrap_or_default();
        let chars = text.chars().count() as u64;
        if schema["minLength"].as_u64().is_some_and(|min| chars < min) {
            let message =
                if chars == 0 { "this text is empty".to_owned() } else { format!("`{}` is too short", shown(node)) };
            self.error(path, Part::Value, message, Some(format!("write at least {} characters", schema["minLength"])));
        }
        if schema["maxLength"].as_u64().is_some_and(|max| chars > max) {
            let message = format!("this text has {chars} characters; at most {} are read", schema["maxLength"]);
            self.error(path, Part::Value, message, None);
        }
        if let Some(pattern) = schema["pattern"].as_str() {
            let regex = self.patterns.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
            if regex.as_ref().is_some_and(|regex| !regex.is_match(text)) {
                let message = format!("`{}` has not the right form", shown(node));
                self.error(path, Part::Value, message, Some(format!("it must match {pattern}")));
            }
        }
    }

    fn check_number(&mut self, node: &Node, secret: bool, schema: &'a Value, path: &Path) {
        let Kind::Number(number) = &node.kind else { return };
        let value = number.as_f64().unwrap_or(f64::NAN);
        let below = schema["minimum"].as_f64().is_some_and(|min| value < min)
            || schema["exclusiveMinimum"].as_f64().is_some_and(|min| value <= min);
        let above = schema["maximum"].as_f64().is_some_and(|max| value > max)
            || schema["exclusiveMaximum"].as_f64().is_some_and(|max| value >= max);
        if below || above {
            let (wanted, _) = wanted(schema);
            let shown = if secret { "***".to_owned() } else { shown(node) };
            let message = format!("{shown} is too {}", if below { "small" } else { "large" });
            self.error(path, Part::Value, message, Some(format!("write {wanted}")));
        }
    }

    fn check_list(&mut self, node: &mut Node, schema: &'a Value, path: &mut Path) {
        let Kind::List(items) = &mut node.kind else { return };
        if let Some(item_schema) = schema.get("items") {
            for (index, item) in items.iter_mut().enumerate() {
                path.push(index.to_string());
                self.check(item, item_schema, path);
                path.pop();
            }
        }
        let count = items.len() as u64;
        if schema["minItems"].as_u64().is_some_and(|min| count < min) {
            let message = format!("this list has {count} items; at least {} are needed", schema["minItems"]);
            self.error(path, Part::Value, message, None);
        }
        if schema["maxItems"].as_u64().is_some_and(|max| count > max) {
            let message = format!("this list has {count} items; at most {} are read", schema["maxItems"]);
            self.error(path, Part::Value, message, None);
        }
    }
}

/// Everything about the keys of maps.
mod keys;

/// How to write what stands at `path`, where an example says more than the types.
fn form(path: &Path) -> Option<&'static str> {
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["steps", _, "emit"] => Some("write `emit: final`, `emit: changes` or `emit: {every: 5s}`"),
        ["steps", _, "late"] => Some("write `late: {to: drop}`"),
        ["steps", _, "state"] => Some("write `state: {ttl: 1h}`"),
        _ => None,
    }
}

fn branches(schema: &Value) -> Option<&[Value]> {
    let branches = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array())?;
    // `oneOf: [{required: [a]}, …]` says how many keys there may be; it is no choice of shapes.
    let shapes = branches.iter().any(|branch| branch.as_object().is_some_and(|map| !map.keys().eq(["required"])));
    shapes.then_some(branches.as_slice())
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn fits(kind: &Kind, name: &str) -> bool {
    match kind {
        Kind::Null => name == "null",
        Kind::Bool(_) => name == "boolean",
        Kind::Number(number) => name == "number" || name == "integer" && !number.is_f64(),
        Kind::Text(_) => name == "string",
        Kind::List(_) => name == "array",
        Kind::Map(_) => name == "object",
    }
}

/// The texts that a schema allows, where it names them.
fn constants(schema: &Value) -> Vec<&str> {
    let several = schema["enum"].as_array().into_iter().flatten();
    several.chain(schema.get("const")).filter_map(Value::as_str).collect()
}

/// Name and schema of an externally tagged variant.
fn tag(schema: &Value) -> Option<(&str, &Value)> {
    let properties = schema["properties"].as_object().filter(|properties| properties.len() == 1)?;
    let (name, inner) = properties.iter().next()?;
    let required = schema["required"].as_array().filter(|required| required.len() == 1)?;
    (required[0] == *name).then_some((name, inner))
}

fn open_kind(kind: &Kind) -> bool {
    !matches!(kind, Kind::Text(_))
}
