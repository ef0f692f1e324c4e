//! JSON to rows: one pass over the bytes, values straight into the columns.
//!
//! No tree is built. What no column wants is checked and skipped without recursion, so depth costs no stack; what is
//! wanted nests only as deep as the columns do. Text is what RFC 8259 says, with one choice of its own: half a surrogate
//! pair is an error in a key or a value that is wanted, and passes in what is skipped.

use arrow::array::{Array, BinaryArray};
use arrow::datatypes::SchemaRef;

use super::keys::Keys;
use super::malformed::{Malformed, What};
use super::row::{Reader, Room};
use super::scan::Scan;
use super::{JsonConfig, JsonLayout};
use crate::error::ConnectorError;
use crate::format::columns::{Column, Columns, Problem};
use crate::format::rows::Rows;
use crate::format::{DecodeOptions, Decoded, Decoder};

/// The decoder.
pub(super) struct JsonDecoder {
    layout: JsonLayout,
    schema: SchemaRef,
    columns: Columns,
    keys: Keys,
    room: Room,
}

/// A message, or a line of one: `bytes[start..end]`.
#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> Text<'a> {
    fn whole(&self) -> &'a [u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn not_json(&self, malformed: Malformed) -> String {
        malformed.describe(self.whole(), self.start)
    }
}

impl JsonDecoder {
    pub(super) fn new(config: &JsonConfig, options: &DecodeOptions) -> Result<Self, ConnectorError> {
        let columns = Columns::new(&options.columns, config.coerce, &options.timestamp_units)?;
        let (keys, room) = (Keys::default(), Room::default());
        Ok(Self { layout: config.layout, schema: options.columns.clone(), columns, keys, room })
    }

    /// Reads the object in `text` as the next row.
    fn object(&mut self, text: Text<'_>, rows: &mut Rows) -> Result<(), String> {
        let mut problem = Problem::default();
        let scan = Scan::new(text.bytes, text.start, text.end);
        let mut reader = Reader { scan, room: &mut self.room, problem: &mut problem };
        let read = reader.row(&mut self.columns, &mut self.keys, rows.count()).and_then(|()| reader.scan.end());
        let reason = match (read, problem.take()) {
            (Ok(()), None) => {
                rows.add();
                return Ok(());
            }
            (Ok(()), Some(reason)) => reason,
            (Err(malformed), _) => text.not_json(malformed),
        };
        self.columns.truncate(rows.count());
        Err(reason)
    }

    fn lines(&mut self, text: Text<'_>, rows: &mut Rows) {
        let mut start = text.start;
        for (i, line) in text.whole().split(|&byte| byte == b'\n').enumerate() {
            let place = Text { start, end: start + line.len(), ..text };
            start = place.end + 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            if let Err(reason) = self.object(place, rows) {
                rows.error(format!("line {}: {reason}", i + 1));
            }
        }
    }

    /// Reads an array of objects. An element that does not fit is an error of its own; text that is no JSON refuses the
    /// whole message, because where it goes wrong nothing says what the rest is.
    fn array(&mut self, text: Text<'_>, rows: &mut Rows) {
        let before = rows.mark();
        let read = match Scan::new(text.bytes, text.start, text.end).skip_space() {
            b'[' => self.elements(text, rows).map_err(|malformed| text.not_json(malformed)),
            _ => self.no_array(text),
        };
        if let Err(reason) = read {
            rows.back_to(before);
            self.columns.truncate(rows.count());
            rows.error(reason);
        }
    }

    fn elements(&mut self, text: Text<'_>, rows: &mut Rows) -> Result<(), Malformed> {
        let mut scan = Scan::new(text.bytes, text.start, text.end);
        scan.skip_space();
        scan.at += 1;
        let mut element = 0;
        if scan.skip_space() != b']' {
            loop {
                if scan.at >= scan.limit {
                    return scan.wrong(What::EofInArray, What::EofInArray);
                }
                let mut problem = Problem::default();
                let mut reader = Reader { scan, room: &mut self.room, problem: &mut problem };
                reader.row(&mut self.columns, &mut self.keys, rows.count())?;
                scan = reader.scan;
                element += 1;
                match problem.take() {
                    None => rows.add(),
                    Some(reason) => {
                        self.columns.truncate(rows.count());
                        rows.error(format!("element {element}: {reason}"));
                    }
                }
                match scan.skip_space() {
                    b',' => scan.at += 1,
                    b']' => break,
                    _ => return scan.wrong(What::EofInArray, What::NoCommaOrBracket),
                }
                if scan.skip_space() == b']' {
                    return scan.wrong(What::EofInValue, What::TrailingComma);
                }
            }
        }
        scan.at += 1;
        scan.end()
    }

    /// Why a text that does not start as an array is none.
    fn no_array(&mut self, text: Text<'_>) -> Result<(), String> {
        let mut scan = Scan::new(text.bytes, text.start, text.end);
        let first = scan.skip_space();
        let mut problem = Problem::default();
        let mut reader = Reader { scan, room: &mut self.room, problem: &mut problem };
        reader.skip_whole().map_err(|malformed| text.not_json(malformed))?;
        let found = match first {
            b'{' => "an object",
            b'"' => "a text",
            b'n' => "null",
            b't' | b'f' => "a boolean",
            _ => "a number",
        };
        Err(format!("expected an array of objects, found {found}"))
    }

    fn message(&mut self, text: Text<'_>, checked: bool, rows: &mut Rows) {
        if !checked && let Err(error) = std::str::from_utf8(text.whole()) {
            return rows.error(format!("not valid UTF-8 from byte {}", error.valid_up_to()));
        }
        match self.layout {
            JsonLayout::Object => {
                if let Err(reason) = self.object(text, rows) {
                    rows.error(reason);
                }
            }
            JsonLayout::Lines => self.lines(text, rows),
            JsonLayout::Array => self.array(text, rows),
        }
    }
}

/// True where all of the messages are UTF-8, which one look over all of them says much faster than one at each.
fn all_utf8(payloads: &BinaryArray) -> bool {
    let offsets = payloads.value_offsets();
    let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else { return true };
    let Some(all) = payloads.value_data().get(index(first)..index(last)) else { return false };
    // Text that is good as a whole may still be cut within a character.
    all.is_ascii()
        || std::str::from_utf8(all)
            .is_ok_and(|all| offsets.iter().all(|&end| all.is_char_boundary(index(end) - index(first))))
}

/// An offset, which is never negative.
fn index(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or(0)
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, payloads: &BinaryArray) -> Decoded {
        let mut rows = Rows::default();
        rows.reserve(payloads.len());
        self.columns.reserve(payloads.len());
        let (bytes, checked) = (payloads.value_data(), all_utf8(payloads));
        for (message, range) in payloads.value_offsets().windows(2).enumerate() {
            rows.next_message(message);
            if payloads.is_null(message) {
                rows.error("the message has no value (a tombstone)".into());
                continue;
            }
            let text = Text { bytes, start: index(range[0]), end: index(range[1]) };
            self.message(text, checked, &mut rows);
        }
        rows.finish(&self.schema, &mut self.columns, payloads.len())
    }
}

/// Appends the JSON value in `text` to `column`.
pub(super) fn push_value(column: &mut Column, text: &str, problem: &mut Problem) {
    let place = Text { bytes: text.as_bytes(), start: 0, end: text.len() };
    let scan = Scan::new(place.bytes, place.start, place.end);
    let mut reader = Reader { scan, room: &mut Room::default(), problem: &mut *problem };
    if let Err(malformed) = reader.whole(column, &mut Keys::default()) {
        problem.set(|| place.not_json(malformed));
    }
}
