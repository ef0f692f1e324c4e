//! How the body of a request becomes messages: slices of the body, never copies.
//!
//! A body is cut, not decoded: JSON is only followed far enough to see where an element ends. What a message says is
//! for the format's decoder, later, in the pipeline.

use std::fmt;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// How a body is cut into messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// By the content type: `application/x-ndjson` (or `jsonl`) as `lines`; `application/json` as `array` where it
    /// begins with `[`, else as `object`; without a content type (or with the one of forms, which curl sends unasked) what
    /// looks like JSON or JSON lines as that; anything else as `whole`.
    #[default]
    Auto,
    /// One JSON value: one message.
    Object,
    /// A JSON array: one message per element.
    Array,
    /// One message per line that is not blank.
    Lines,
    /// One message per CSV record; a line end inside double quotes does not end a record. For CSV without a header
    /// line; a body with one is read as `whole`.
    Csv,
    /// The whole body is one message.
    Whole,
}

/// Why a body cannot be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CutError {
    /// It is not what its layout says; the sentence says where.
    Malformed(String),
    /// It holds more messages than the limit.
    TooMany,
}

impl Layout {
    /// The layout of a body whose sender said nothing about it: JSON where it is JSON, else the whole.
    fn told_by(body: &[u8]) -> Self {
        let starts_with = |line: &[u8], byte: u8| line.trim_ascii_start().first() == Some(&byte);
        let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
        let mut lines = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        if starts_with(body, b'[') && is_json() {
            Self::Array
        } else if starts_with(body, b'{') && is_json() {
            Self::Object
        } else if starts_with(body, b'{') && lines.all(|line| starts_with(line, b'{')) {
            Self::Lines
        } else {
            Self::Whole
        }
    }

    /// The layout of a body with this content type; never [`Layout::Auto`].
    pub(crate) fn of(self, content_type: Option<&str>, body: &[u8]) -> Self {
        if self != Self::Auto {
            return self;
        }
        let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match media_type.to_ascii_lowercase().as_str() {
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                Self::Lines
            }
            json if json == "application/json" || json.ends_with("+json") => {
                match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
                    Some(b'[') => Self::Array,
                    _ => Self::Object,
                }
            }
            // What curl and scripts send that say nothing: the body itself has to tell.
            "" | "application/x-www-form-urlencoded" => Self::told_by(body),
            _ => Self::Whole,
        }
    }

    /// Cuts `body` into at most `messages_max` messages.
    pub(crate) fn cut(self, body: &Bytes, messages_max: usize) -> Result<Vec<Bytes>, CutError> {
        match self {
            Self::Lines => records(body, messages_max, |rest| memchr::memchr(b'\n', rest).unwrap_or(rest.len())),
            Self::Csv => records(body, messages_max, end_of_csv_record),
            Self::Array => array(body, messages_max),
            Self::Object => {
                let value: &RawValue = serde_json::from_slice(body).map_err(|error| malformed("JSON value", &error))?;
                Ok(vec![body.slice_ref(value.get().as_bytes())])
            }
            Self::Whole | Self::Auto if body.is_empty() => Err(CutError::Malformed("the body is empty".into())),
            Self::Whole | Self::Auto => Ok(vec![body.clone()]),
        }
    }
}

fn end_of_csv_record(bytes: &[u8]) -> usize {
    let mut quoted = false;
    for at in memchr::memchr2_iter(b'"', b'\n', bytes) {
        match bytes.get(at) {
            // A doubled quote inside quotes turns the state twice.
            Some(b'"') => quoted = !quoted,
            _ if !quoted => return at,
            _ => {}
        }
    }
    bytes.len()
}

fn records(body: &Bytes, messages_max: usize, end: impl Fn(&[u8]) -> usize) -> Result<Vec<Bytes>, CutError> {
    let mut messages = Vec::new();
    let mut start = 0;
    while start < body.len() {
        let end = start + end(&body[start..]);
        let record = body.slice(start..end);
        let record = record.strip_suffix(b"\r").map_or(record.clone(), |shorter| record.slice_ref(shorter));
        if !record.trim_ascii().is_empty() {
            if messages.len() == messages_max {
                return Err(CutError::TooMany);
            }
            messages.push(record);
        }
        start = end + 1;
    }
    Ok(messages)
}

fn malformed(what: &str, error: &serde_json::Error) -> CutError {
    CutError::Malformed(format!("the body is not one {what}: {error}"))
}

fn array(body: &Bytes, messages_max: usize) -> Result<Vec<Bytes>, CutError> {
    let mut too_many = false;
    let mut json = serde_json::Deserializer::from_slice(body);
    let elements = Elements { body, messages_max, too_many: &mut too_many }.deserialize(&mut json);
    match elements.and_then(|elements| json.end().map(|()| elements)) {
        Ok(elements) => Ok(elements),
        Err(_) if too_many => Err(CutError::TooMany),
        Err(error) => Err(malformed("JSON array", &error)),
    }
}

/// Collects the elements of an array as slices of the body, and stops at the limit.
struct Elements<'a> {
    body: &'a Bytes,
    messages_max: usize,
    too_many: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = Vec<Bytes>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<Bytes>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array with one message per element")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        while let Some(element) = elements.next_element::<&RawValue>()? {
            if messages.len() == self.messages_max {
                *self.too_many = true;
                return Err(serde::de::Error::custom("too many elements"));
            }
            messages.push(self.body.slice_ref(element.get().as_bytes()));
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(layout: Layout, body: &str) -> Result<Vec<String>, CutError> {
        let messages = layout.cut(&Bytes::copy_from_slice(body.as_bytes()), 5)?;
        Ok(messages.iter().map(|message| String::from_utf8(message.to_vec()).unwrap()).collect())
    }

    #[test]
    fn the_content_type_says_how_a_body_is_cut() {
        let of = |content_type, body: &str| Layout::Auto.of(content_type, body.as_bytes());
        assert_eq!(of(Some("application/x-ndjson"), "{}"), Layout::Lines);
        assert_eq!(of(Some("Application/JSON; charset=utf-8"), " \n[1]"), Layout::Array);
        assert_eq!(of(Some("application/json"), "{}"), Layout::Object);
        assert_eq!(of(Some("application/cloudevents+json"), "{}"), Layout::Object);
        assert_eq!(of(Some("text/csv"), "[1]"), Layout::Whole);
        // curl without a header says that it is a form.
        for silent in [None, Some("application/x-www-form-urlencoded")] {
            assert_eq!(of(silent, " {\n} "), Layout::Object);
            assert_eq!(of(silent, "[{}, {}]"), Layout::Array);
            assert_eq!(of(silent, "{}\n{}\n"), Layout::Lines);
            assert_eq!(of(silent, "[1"), Layout::Whole);
            assert_eq!(of(silent, "a,b"), Layout::Whole);
        }
        assert_eq!(Layout::Lines.of(Some("application/json"), b"[]"), Layout::Lines);
    }

    #[test]
    fn lines_may_end_in_either_way_and_blank_ones_are_no_messages() {
        assert_eq!(cut(Layout::Lines, "{\"a\":1}\r\n\n  \n{\"a\":2}").unwrap(), ["{\"a\":1}", "{\"a\":2}"]);
        assert_eq!(cut(Layout::Lines, "").unwrap(), [""; 0]);
    }

    #[test]
    fn array_elements_keep_their_bytes() {
        assert_eq!(
            cut(Layout::Array, " [ {\"a\": [1,\"]\"]} , 2.50,null , \"\\u00e9\"] \n").unwrap(),
            ["{\"a\": [1,\"]\"]}", "2.50", "null", "\"\\u00e9\""]
        );
        assert_eq!(cut(Layout::Array, "[]").unwrap(), [""; 0]);
    }

    #[test]
    fn csv_records_may_have_line_ends_in_quotes() {
        assert_eq!(
            cut(Layout::Csv, "1,\"a\nb\"\r\n2,\"say \"\"x\"\"\"\n").unwrap(),
            ["1,\"a\nb\"", "2,\"say \"\"x\"\"\""]
        );
    }

    #[test]
    fn a_body_that_is_not_its_layout_is_refused_with_the_place() {
        for (layout, body) in [
            (Layout::Array, "[1,"),
            (Layout::Array, "[1] 2"),
            (Layout::Array, "{}"),
            (Layout::Array, ""),
            (Layout::Object, "{} {}"),
            (Layout::Object, "{\"a\":}"),
            (Layout::Object, ""),
        ] {
            let Err(CutError::Malformed(reason)) = cut(layout, body) else { panic!("{layout:?} {body}") };
            assert!(reason.contains("line 1 column"), "{reason}");
        }
        assert!(matches!(cut(Layout::Whole, ""), Err(CutError::Malformed(_))));
    }

    #[test]
    fn more_messages_than_the_limit_are_refused() {
        assert_eq!(cut(Layout::Lines, "1\n2\n3\n4\n5\n6"), Err(CutError::TooMany));
        assert_eq!(cut(Layout::Array, "[1,2,3,4,5,6]"), Err(CutError::TooMany));
        assert_eq!(cut(Layout::Array, "[1,2,3,4,5]").unwrap().len(), 5);
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        let deep = format!("[{}{}]", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let result = Layout::Array.cut(&Bytes::from(deep), 5);
        assert!(matches!(result, Ok(_) | Err(CutError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_body_panics(body: Vec<u8>, limit in 0_usize..4) {
            let body = Bytes::from(body);
            for layout in [Layout::Auto, Layout::Object, Layout::Array, Layout::Lines, Layout::Csv, Layout::Whole] {
                if let Ok(messages) = layout.cut(&body, limit) {
                    prop_assert!(messages.iter().map(Bytes::len).sum::<usize>() <= body.len());
                }
            }
        }

        #[test]
        fn json_like_text_never_panics(body in "[\\[\\]{},:\"\\\\ \n0-9eE.+a-f-]{0,40}") {
            for layout in [Layout::Object, Layout::Array, Layout::Lines] {
                layout.cut(&Bytes::from(body.clone()), 100).ok();
            }
        }

        #[test]
        fn lines_and_array_agree_on_what_was_sent(values in prop::collection::vec("[a-z ]{1,8}", 0..20)) {
            let json: Vec<_> = values.iter().map(|value| format!("{{\"v\":\"{value}\"}}")).collect();
            let lines = Layout::Lines.cut(&Bytes::from(json.join("\n")), 100).unwrap();
            let array = Layout::Array.cut(&Bytes::from(format!("[{}]", json.join(","))), 100).unwrap();
            prop_assert_eq!(&lines, &array);
            prop_assert_eq!(lines.len(), json.len());
        }
    }
}
