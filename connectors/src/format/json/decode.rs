//! JSON to rows: serde_json walks the text, the values go straight into the columns.
//!
//! No tree is built. What no column wants is checked and skipped without recursion, so depth costs no stack; what is
//! wanted nests only as deep as the columns do. A value that does not fit is noted and reading goes on, so that only
//! text that is not JSON ends a message early.

use std::borrow::Cow;
use std::fmt;

use arrow::array::{Array, BinaryArray};
use arrow::datatypes::SchemaRef;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{JsonConfig, JsonLayout};
use crate::error::ConnectorError;
use crate::format::columns::{Column, Columns, Kind, Problem, Scalar};
use crate::format::rows::Rows;
use crate::format::{DecodeOptions, Decoded, Decoder};

/// The decoder.
pub(super) struct JsonDecoder {
    layout: JsonLayout,
    schema: SchemaRef,
    columns: Columns,
}

impl JsonDecoder {
    pub(super) fn new(config: &JsonConfig, options: &DecodeOptions) -> Result<Self, ConnectorError> {
        let columns = Columns::new(&options.columns, config.coerce, &options.timestamp_units)?;
        Ok(Self { layout: config.layout, schema: options.columns.clone(), columns })
    }

    /// Reads the object in `text` as the next row.
    fn object(&mut self, text: &str, rows: &mut Rows) -> Result<(), String> {
        let mut problem = Problem::default();
        let mut json = serde_json::Deserializer::from_str(text);
        let row = RowSeed { columns: &mut self.columns, row: rows.count(), problem: &mut problem };
        let read = row.deserialize(&mut json).and_then(|()| json.end());
        let result = match (read, problem.take()) {
            (Err(error), _) => Err(not_json(text, &error)),
            (Ok(()), Some(reason)) => Err(reason),
            (Ok(()), None) => Ok(()),
        };
        match &result {
            Ok(()) => rows.add(),
            Err(_) => self.columns.truncate(rows.count()),
        }
        result
    }

    fn lines(&mut self, text: &str, rows: &mut Rows) {
        for (i, line) in text.split('\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            if let Err(reason) = self.object(line, rows) {
                rows.error(format!("line {}: {reason}", i + 1));
            }
        }
    }

    /// Reads an array of objects. An element that does not fit is an error of its own; text that is no JSON refuses the
    /// whole message, because where it goes wrong nothing says what the rest is.
    fn array(&mut self, text: &str, rows: &mut Rows) {
        let before = rows.mark();
        let mut json = serde_json::Deserializer::from_str(text);
        let elements = ArraySeed { columns: &mut self.columns, rows };
        if let Err(error) = elements.deserialize(&mut json).and_then(|()| json.end()) {
            rows.back_to(before);
            self.columns.truncate(rows.count());
            rows.error(not_json(text, &error));
        }
    }
}

fn not_json(text: &str, error: &serde_json::Error) -> String {
    if text.trim_ascii().is_empty() {
        return "the message is empty; expected a JSON object".into();
    }
    format!("not valid JSON: {error}")
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, payloads: &BinaryArray) -> Decoded {
        let mut rows = Rows::default();
        for message in 0..payloads.len() {
            rows.next_message(message);
            if payloads.is_null(message) {
                rows.error("the message has no value (a tombstone)".into());
                continue;
            }
            match std::str::from_utf8(payloads.value(message)) {
                Err(error) => rows.error(format!("not valid UTF-8 from byte {}", error.valid_up_to())),
                Ok(text) => match self.layout {
                    JsonLayout::Object => {
                        if let Err(reason) = self.object(text, &mut rows) {
                            rows.error(reason);
                        }
                    }
                    JsonLayout::Lines => self.lines(text, &mut rows),
                    JsonLayout::Array => self.array(text, &mut rows),
                },
            }
        }
        rows.finish(&self.schema, &mut self.columns, payloads.len())
    }
}

/// Appends the JSON value in `text` to `column`.
pub(super) fn push_value(column: &mut Column, text: &str, problem: &mut Problem) {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = ValueSeed { column, problem: &mut *problem };
    if let Err(error) = value.deserialize(&mut json).and_then(|()| json.end()) {
        problem.set(|| not_json(text, &error));
    }
}

/// Reads one object into all columns.
struct RowSeed<'a> {
    columns: &'a mut Columns,
    row: usize,
    problem: &'a mut Problem,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        read_fields(self.columns, self.row, map, self.problem)?;
        self.columns.end_row(self.row, self.problem);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        self.problem.set(|| {
            "expected an object, found an array; where a message is an array of objects, set `format: {json: {layout: array}}`".into()
        });
        skip_elements(seq)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.not_an_object(Scalar::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.not_an_object(Scalar::Number(&value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.not_an_object(Scalar::Number(&value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.not_an_object(Scalar::Number(&value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.not_an_object(Scalar::Text(value))
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.not_an_object(Scalar::Nested("null"))
    }
}

impl RowSeed<'_> {
    fn not_an_object<E>(self, found: Scalar<'_>) -> Result<(), E> {
        self.problem.set(|| format!("expected an object, found {}", found.describe()));
        Ok(())
    }
}

/// Reads the fields of an object into `columns`, each of which has `row` values so far.
fn read_fields<'de, A: MapAccess<'de>>(
    columns: &mut Columns,
    row: usize,
    mut map: A,
    problem: &mut Problem,
) -> Result<(), A::Error> {
    let mut expected = 0;
    while let Some(found) = map.next_key_seed(KeySeed { columns, expected })? {
        match found.and_then(|i| Some((i, columns.list.get_mut(i)?))) {
            Some((i, column)) => {
                expected = i + 1;
                // A key that comes twice: the last one wins.
                column.truncate(row);
                map.next_value_seed(ValueSeed { column, problem })?;
            }
            None => {
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    Ok(())
}

fn skip_fields<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_elements<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Finds the column of a key.
struct KeySeed<'a> {
    columns: &'a Columns,
    expected: usize,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.columns.find(key, self.expected))
    }
}

/// Reads one value into a column.
struct ValueSeed<'a> {
    column: &'a mut Column,
    problem: &'a mut Problem,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match &self.column.kind {
            Kind::Leaf(_) => {
                push_raw(self.column, <&RawValue>::deserialize(deserializer)?.get(), self.problem);
                Ok(())
            }
            Kind::List(_) | Kind::Struct(_) => deserializer.deserialize_any(self),
        }
    }
}

/// Appends the scalar that is written as `raw`, which is known to be JSON.
fn push_raw(column: &mut Column, raw: &str, problem: &mut Problem) {
    let unescaped: Cow<'_, str>;
    let value = match raw.as_bytes().first() {
        Some(b'n') => return column.push_null("null", problem),
        Some(b't') => Scalar::Bool(true),
        Some(b'f') => Scalar::Bool(false),
        Some(b'{') => Scalar::Nested("an object"),
        Some(b'[') => Scalar::Nested("an array"),
        Some(b'"') => {
            let inner = raw.get(1..raw.len() - 1).unwrap_or_default();
            unescaped = if inner.contains('\\') {
                match serde_json::from_str::<String>(raw) {
                    Ok(text) => text.into(),
                    // Half a surrogate pair: the only thing that is JSON and no text.
                    Err(error) => return problem.set(|| format!("not valid JSON: {error}")),
                }
            } else {
                inner.into()
            };
            Scalar::Text(&unescaped)
        }
        _ => Scalar::Number(raw),
    };
    column.push(value, problem);
}

/// A nested column: anything but its own shape is noted, skipped, and leaves no value.
impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let row = self.column.len();
        match &mut self.column.kind {
            Kind::Struct(nested) => {
                read_fields(&mut nested.columns, row, map, self.problem)?;
                self.column.end_struct(self.problem);
                Ok(())
            }
            _ => {
                self.column.push(Scalar::Nested("an object"), self.problem);
                skip_fields(map)
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        match &mut self.column.kind {
            Kind::List(list) => {
                while seq.next_element_seed(ValueSeed { column: &mut list.child, problem: self.problem })?.is_some() {}
                self.column.end_list(self.problem);
                Ok(())
            }
            _ => {
                self.column.push(Scalar::Nested("an array"), self.problem);
                skip_elements(seq)
            }
        }
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.column.push_null("null", self.problem);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.column.push(Scalar::Bool(value), self.problem);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.column.push(Scalar::Number(&value.to_string()), self.problem);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.column.push(Scalar::Number(&value.to_string()), self.problem);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.column.push(Scalar::Number(&value.to_string()), self.problem);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.column.push(Scalar::Text(value), self.problem);
        Ok(())
    }
}

/// Reads an array of objects, each a row.
struct ArraySeed<'a> {
    columns: &'a mut Columns,
    rows: &'a mut Rows,
}

impl<'de> DeserializeSeed<'de> for ArraySeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ArraySeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut element = 0;
        loop {
            let mut problem = Problem::default();
            let row = RowSeed { columns: &mut *self.columns, row: self.rows.count(), problem: &mut problem };
            if seq.next_element_seed(row)?.is_none() {
                return Ok(());
            }
            element += 1;
            match problem.take() {
                None => self.rows.add(),
                Some(reason) => {
                    self.columns.truncate(self.rows.count());
                    self.rows.error(format!("element {element}: {reason}"));
                }
            }
        }
    }
}
