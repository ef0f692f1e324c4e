//! What the JSON decoder must agree with: serde_json walks the text, and every value goes into its column as it is written,
//! by none of the short cuts. Slow, and simple enough to be believed.

use std::fmt;

use arrow::array::{Array, BinaryArray};
use arrow::datatypes::SchemaRef;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::ConnectorError;
use crate::format::columns::{Column, Columns, Kind, Problem, Scalar};
use crate::format::json::{JsonConfig, JsonLayout};
use crate::format::rows::Rows;
use crate::format::{DecodeOptions, Decoded, Decoder};

/// The decoder.
pub(crate) struct Reference {
    layout: JsonLayout,
    schema: SchemaRef,
    columns: Columns,
}

impl Reference {
    pub(crate) fn new(config: &JsonConfig, options: &DecodeOptions) -> Result<Self, ConnectorError> {
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

impl Decoder for Reference {
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

/// Reads one object into all columns.
struct RowSeed<'a> {
    columns: &'a mut Columns,
    row: usize,
    problem: &'a mut Problem,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        if raw.starts_with(['{', '[']) {
            return serde_json::Deserializer::from_str(raw).deserialize_any(self).map_err(D::Error::custom);
        }
        with_scalar(raw, self.problem, |found, problem| {
            problem.set(|| format!("expected an object, found {}", found.describe()));
        });
        Ok(())
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
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        let Self { column, problem } = self;
        match (&column.kind, raw.as_bytes().first()) {
            (Kind::List(_) | Kind::Struct(_), Some(b'{' | b'[')) => {
                let value = ValueSeed { column, problem };
                return serde_json::Deserializer::from_str(raw).deserialize_any(value).map_err(D::Error::custom);
            }
            (_, Some(b'n')) => column.push_null("null", problem),
            (_, Some(b'{')) => column.push(Scalar::Nested("an object"), problem),
            (_, Some(b'[')) => column.push(Scalar::Nested("an array"), problem),
            _ => with_scalar(raw, problem, |value, problem| column.push(value, problem)),
        }
        Ok(())
    }
}

/// The scalar that is written as `raw`, which is known to be JSON.
fn with_scalar(raw: &str, problem: &mut Problem, then: impl FnOnce(Scalar<'_>, &mut Problem)) {
    let unescaped: String;
    let value = match raw.as_bytes().first() {
        Some(b'n') => Scalar::Nested("null"),
        Some(b't') => Scalar::Bool(true),
        Some(b'f') => Scalar::Bool(false),
        Some(b'"') => {
            match serde_json::from_str::<String>(raw) {
                Ok(text) => unescaped = text,
                // Half a surrogate pair: the only thing that is JSON and no text.
                Err(error) => return problem.set(|| format!("not valid JSON: {error}")),
            }
            Scalar::Text(&unescaped)
        }
        _ => Scalar::Number(raw),
    };
    then(value, problem);
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
