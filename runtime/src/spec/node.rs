//! The YAML tree: every key and value with its place in the file.
//!
//! It knows no YAML syntax ([`super::parse`] builds it) and no meaning.

use indexmap::IndexMap;
use serde_json::Number;

/// Which file of the [`super::source_map::SourceMap`]: 0 is the pipeline's own.
pub type FileId = u16;

/// A place in a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// The first byte.
    pub start: usize,
    /// The byte behind the last one.
    pub end: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where.
    pub span: Span,
    /// What.
    pub kind: Kind,
}

/// What a node is, by the rules of YAML 1.2's core schema (`no` is text).
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole or broken number.
    Number(Number),
    /// Text.
    Text(Text),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order written.
    Map(Map),
}

/// A map, in the order written.
pub type Map = IndexMap<String, Entry>;

/// An entry of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where its key stands.
    pub key_span: Span,
    /// Its value.
    pub value: Node,
}

/// A text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Text {
    /// The text, without its quotes and, after interpolation, with its `${…}` filled in.
    pub text: String,
    /// How it was written.
    pub style: Style,
    /// What interpolation did, where it did something.
    pub filled: Option<Filled>,
}

/// How a text was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// Without quotes.
    #[default]
    Plain,
    /// `'…'`
    SingleQuoted,
    /// `"…"`
    DoubleQuoted,
    /// `|`
    Literal,
    /// `>`
    Folded,
}

/// What interpolation did to a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Filled {
    /// The text before.
    pub written: String,
    /// The places that were replaced, in order.
    pub places: Vec<FilledPlace>,
    /// The whole text was one `${…}`: it may stand for a number or a boolean.
    pub whole: bool,
    /// Some of it must never be shown.
    pub secret: bool,
}

/// One `${…}`, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilledPlace {
    /// Where it started in the text as written.
    pub written_start: usize,
    /// How many characters it had.
    pub written_length: usize,
    /// How many characters it was replaced by.
    pub length: usize,
}

impl Node {
    /// A node without a place of its own.
    pub fn new(span: Span, kind: Kind) -> Self {
        Self { span, kind }
    }

    /// The map, where it is one.
    pub fn as_map(&self) -> Option<&Map> {
        match &self.kind {
            Kind::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(&text.text),
            _ => None,
        }
    }

    /// The value at `key`, where this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.get(key).map(|entry| &entry.value)
    }

    /// True where the value holds something that must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(&self.kind, Kind::Text(Text { filled: Some(Filled { secret: true, .. }), .. }))
    }

    /// The tree as JSON, without positions.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(value) => Value::Number(value.clone()),
            Kind::Text(text) => Value::String(text.text.clone()),
            Kind::List(items) => items.iter().map(Node::to_json).collect(),
            Kind::Map(map) => map.iter().map(|(key, entry)| (key.clone(), entry.value.to_json())).collect(),
        }
    }

    /// How much it is: nodes, bytes of text, levels.
    pub fn measure(&self) -> Measure {
        let mut measure = Measure { nodes: 1, bytes: 0, depth: 1 };
        let mut below = |node: &Node, key: usize| {
            let inner = node.measure();
            measure.nodes += inner.nodes;
            measure.bytes += inner.bytes + key;
            measure.depth = measure.depth.max(inner.depth + 1);
        };
        match &self.kind {
            Kind::Text(text) => measure.bytes = text.text.len(),
            Kind::List(items) => items.iter().for_each(|item| below(item, 0)),
            Kind::Map(map) => map.iter().for_each(|(key, entry)| below(&entry.value, key.len())),
            Kind::Null | Kind::Bool(_) | Kind::Number(_) => {}
        }
        measure
    }
}

/// How much a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Values.
    pub nodes: usize,
    /// Bytes of text and keys.
    pub bytes: usize,
    /// Levels.
    pub depth: usize,
}

/// A text without quotes, by the rules of YAML 1.2's core schema.
pub fn resolve_plain(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    match resolve_number(text) {
        Some(number) => Kind::Number(number),
        None => Kind::Text(Text { text: text.to_owned(), ..Text::default() }),
    }
}

/// The number that a plain text is, if it is one. Whole numbers that do not fit 64 bits, infinity and NaN are not.
fn resolve_number(text: &str) -> Option<Number> {
    let first = text.bytes().next()?;
    if !first.is_ascii_digit() && !matches!(first, b'+' | b'-' | b'.') {
        return None;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+')).map(Number::from);
        }
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let plain = text.strip_prefix('+').unwrap_or(text);
        return plain.parse::<i64>().map(Number::from).or_else(|_| plain.parse::<u64>().map(Number::from)).ok();
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, broken) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let is_float = digits(whole)
        && digits(broken)
        && !(whole.is_empty() && broken.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent));
    is_float.then(|| text.parse().ok().and_then(Number::from_f64)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_follow_the_core_schema() {
        for text in [
            "no",
            "yes",
            "on",
            "off",
            "1_000",
            "1:30",
            "0b1",
            "2024-01-01",
            "-",
            ".",
            "1e",
            "e1",
            ".inf",
            "+",
            "0x",
            "0x+1",
            "1.2.3",
        ] {
            assert!(matches!(resolve_plain(text), Kind::Text(_)), "{text}");
        }
        for (text, number) in [
            ("1", 1.0),
            ("-7", -7.0),
            ("+7", 7.0),
            ("0x1F", 31.0),
            ("0o17", 15.0),
            ("1.5e3", 1500.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("007", 7.0),
        ] {
            let Kind::Number(found) = resolve_plain(text) else { panic!("{text}") };
            assert_eq!(found.as_f64(), Some(number), "{text}");
        }
        assert_eq!(resolve_plain("~"), Kind::Null);
        assert_eq!(resolve_plain("True"), Kind::Bool(true));
    }
}
