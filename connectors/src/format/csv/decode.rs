//! CSV to rows. A record that does not fit is an error of its own; the others of its message survive.

use std::ops::Range;

use arrow::array::{Array, BinaryArray};
use arrow::datatypes::SchemaRef;
use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::Dialect;
use crate::error::ConnectorError;
use crate::format::columns::{Column, Columns, Kind, Problem, Scalar};
use crate::format::json;
use crate::format::rows::Rows;
use crate::format::{DecodeOptions, Decoded, Decoder};

/// The most fields that a record may have.
const FIELDS_MAX: usize = 16_384;

/// The decoder.
pub(super) struct CsvDecoder {
    dialect: Dialect,
    schema: SchemaRef,
    columns: Columns,
    records: Records,
    /// Where the columns are without a header.
    declared: Layout,
    /// Where they are in the file that is being read, by its header; an error where the header does not fit.
    file: Option<FileHeader>,
}

struct FileHeader {
    line: Vec<u8>,
    layout: Result<Layout, String>,
}

/// Where each column is in a record.
#[derive(Debug, Clone)]
struct Layout {
    fields: usize,
    field_of_column: Vec<usize>,
}

impl CsvDecoder {
    pub(super) fn new(dialect: Dialect, options: &DecodeOptions) -> Result<Self, ConnectorError> {
        let columns = Columns::new(&options.columns, true, &options.timestamp_units)?;
        let places = options.columns.fields().iter().map(|column| options.declared.index_of(column.name()));
        let declared = Layout {
            fields: options.declared.fields().len(),
            field_of_column: places
                .collect::<Result<_, _>>()
                .map_err(|error| ConnectorError::configuration("columns", error.to_string()))?,
        };
        let records = Records::new(&dialect);
        Ok(Self { dialect, schema: options.columns.clone(), columns, records, declared, file: None })
    }

    /// Reads all records of `payload`, the first of which is a header if `with_header`.
    fn message(&mut self, payload: &[u8], with_header: bool, rows: &mut Rows) {
        let mut layout = match (&self.file, with_header) {
            (Some(FileHeader { layout: Ok(layout), .. }), _) => Some(layout.clone()),
            (Some(FileHeader { layout: Err(reason), .. }), _) => return rows.error(reason.clone()),
            (None, true) => None,
            (None, false) => Some(self.declared.clone()),
        };
        let Self { dialect, schema, columns, records, .. } = self;
        records.start();
        let (mut rest, mut any) = (payload, false);
        while let Some(record) = records.next(&mut rest) {
            let first = !std::mem::replace(&mut any, true);
            // A message is mostly one line, whose number says nothing.
            let place = if first && rest.is_empty() { String::new() } else { format!("line {}: ", record.line) };
            let result = match (&layout, record.problem) {
                (_, Some(problem)) => Err(problem.to_owned()),
                (None, None) => {
                    records.names().and_then(|names| Layout::find(schema, &names)).map(|found| layout = Some(found))
                }
                (Some(layout), None) => push_row(columns, &dialect.nulls, records, layout, rows),
            };
            if let Err(reason) = result {
                rows.error(format!("{place}{reason}"));
                if layout.is_none() {
                    break; // Without its header nothing says what the rest means.
                }
            }
        }
        if !any {
            rows.error("the message is empty; expected a line of CSV".into());
        }
    }
}

impl Layout {
    /// Where the columns of `schema` are, by the header in `names`.
    fn find(schema: &SchemaRef, names: &[String]) -> Result<Self, String> {
        let place = |column: &arrow::datatypes::FieldRef| {
            names.iter().position(|name| name == column.name()).ok_or_else(|| {
                format!(
                    "the header has no column `{}`, it has: {}; where the first line is no header, set `format: {{csv: {{header: false}}}}`",
                    column.name(),
                    names.join(", ")
                )
            })
        };
        let field_of_column = schema.fields().iter().map(place).collect::<Result<_, _>>()?;
        Ok(Self { fields: names.len(), field_of_column })
    }
}

/// Appends a record as a row, or leaves the columns as they were and says why.
fn push_row(
    columns: &mut Columns,
    nulls: &[String],
    records: &Records,
    layout: &Layout,
    rows: &mut Rows,
) -> Result<(), String> {
    if records.ends.len() != layout.fields {
        return Err(format!("expected {} fields, found {}", layout.fields, records.ends.len()));
    }
    let mut problem = Problem::default();
    for (column, &field) in columns.list.iter_mut().zip(&layout.field_of_column) {
        match std::str::from_utf8(records.field(field)) {
            Ok(text) => push(column, text, nulls, &mut problem),
            Err(_) => problem.set(|| format!("field {}: not valid UTF-8", field + 1)),
        }
    }
    match problem.take() {
        None => {
            rows.add();
            Ok(())
        }
        Some(reason) => {
            columns.truncate(rows.count());
            Err(reason)
        }
    }
}

fn push(column: &mut Column, text: &str, nulls: &[String], problem: &mut Problem) {
    if nulls.iter().any(|null| null == text) {
        return column.push_null(&format!("{text:?}"), problem);
    }
    match column.kind {
        Kind::Leaf(_) => column.push(Scalar::Text(text), problem),
        // A nested value is JSON within its field.
        Kind::List(_) | Kind::Struct(_) => json::push_value(column, text, problem),
    }
}

impl Decoder for CsvDecoder {
    fn header(&mut self, first_line: &[u8]) {
        if self.dialect.header == Some(false) {
            return;
        }
        let line = trimmed(first_line);
        if self.file.as_ref().is_some_and(|file| file.line == line) {
            return;
        }
        self.records.start();
        let mut rest = line;
        let layout = match self.records.next(&mut rest) {
            Some(Record { problem: None, .. }) => {
                self.records.names().and_then(|names| Layout::find(&self.schema, &names))
            }
            Some(Record { problem: Some(problem), .. }) => Err(format!("the header cannot be read: {problem}")),
            None => Err("the file's first line is empty or a comment; it must be the header".into()),
        };
        self.file = Some(FileHeader { line: line.to_vec(), layout });
    }

    fn decode(&mut self, payloads: &BinaryArray) -> Decoded {
        let with_header = self.dialect.header == Some(true);
        let mut rows = Rows::default();
        for message in 0..payloads.len() {
            rows.next_message(message);
            let payload = payloads.value(message);
            if payloads.is_null(message) {
                rows.error("the message has no value (a tombstone)".into());
            } else if self.file.as_ref().is_some_and(|file| file.line == trimmed(payload)) {
                // The header itself: at the start of the file, or where files were put one after the other.
            } else if self.file.is_some()
                && self.dialect.comment.is_some_and(|comment| payload.first() == Some(&comment))
            {
                // A comment line of the file.
            } else {
                self.message(payload, with_header, &mut rows);
            }
        }
        rows.finish(&self.schema, &mut self.columns, payloads.len())
    }
}

/// A line without its line break and byte order mark.
fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Splits text into records and fields.
struct Records {
    reader: Reader,
    quote: u8,
    escape: Option<u8>,
    data: Vec<u8>,
    ends: Vec<usize>,
}

struct Record {
    line: u64,
    problem: Option<&'static str>,
}

impl Records {
    fn new(dialect: &Dialect) -> Self {
        let reader = ReaderBuilder::new()
            .delimiter(dialect.delimiter)
            .quote(dialect.quote)
            .escape(dialect.escape)
            .double_quote(dialect.escape.is_none())
            .comment(dialect.comment)
            .build();
        Self { reader, quote: dialect.quote, escape: dialect.escape, data: Vec::new(), ends: Vec::new() }
    }

    fn start(&mut self) {
        self.reader.reset();
    }

    /// The next record of `rest`, which is cut; its fields are then those of `self`.
    fn next(&mut self, rest: &mut &[u8]) -> Option<Record> {
        let (mut data_len, mut ends_len) = (0, 0);
        // A field is never longer than what it is written as.
        self.data.resize(rest.len() + 1, 0);
        self.ends.resize(self.ends.capacity().clamp(64, FIELDS_MAX), 0);
        let whole = *rest;
        let mut used = 0;
        let problem = loop {
            // An empty input says that there is no more, which ends the last record.
            let input = whole.get(used..).unwrap_or_default();
            let (result, read, written, ended) = self.reader.read_record(
                input,
                self.data.get_mut(data_len..).unwrap_or_default(),
                self.ends.get_mut(ends_len..).unwrap_or_default(),
            );
            used += read;
            data_len += written;
            ends_len += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.data.resize(self.data.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if self.ends.len() < FIELDS_MAX => {
                    let more = (self.ends.len() * 2).min(FIELDS_MAX);
                    self.ends.resize(more, 0);
                }
                ReadRecordResult::OutputEndsFull => {
                    used = whole.len();
                    break Some("a record has more than 16384 fields");
                }
                ReadRecordResult::Record => break None,
                ReadRecordResult::End => {
                    *rest = &[];
                    return None;
                }
            }
        };
        self.ends.truncate(ends_len);
        let (record, after) = whole.split_at(used.min(whole.len()));
        *rest = after;
        let problem = problem.or_else(|| {
            (!self.closed(record)).then_some("a quoted field is not closed (a line break within quotes splits lines)")
        });
        Some(Record { line: self.line_of(record), problem })
    }

    /// The line on which the record starts, from the reader's count of lines at its end.
    fn line_of(&self, record: &[u8]) -> u64 {
        let breaks = record.iter().filter(|&&b| b == b'\n').count() as u64;
        // Blank lines before a record are part of its bytes.
        let blank = record.iter().take_while(|&&b| matches!(b, b'\n' | b'\r')).filter(|&&b| b == b'\n').count() as u64;
        (self.reader.line() + blank).saturating_sub(breaks)
    }

    /// True where every quote is closed. The reader itself takes the end of the text for a closing quote.
    fn closed(&self, record: &[u8]) -> bool {
        let (mut quotes, mut escaped) = (0_usize, false);
        for &byte in record {
            if escaped {
                escaped = false;
            } else if Some(byte) == self.escape {
                escaped = true;
            } else if byte == self.quote {
                quotes += 1;
            }
        }
        quotes.is_multiple_of(2)
    }

    fn range(&self, field: usize) -> Range<usize> {
        let start = field.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        start..self.ends.get(field).copied().unwrap_or(start)
    }

    fn field(&self, field: usize) -> &[u8] {
        self.data.get(self.range(field)).unwrap_or_default()
    }

    /// The fields as names of columns.
    fn names(&self) -> Result<Vec<String>, String> {
        let names = (0..self.ends.len()).map(|field| std::str::from_utf8(trimmed(self.field(field))));
        let names: Result<Vec<_>, _> = names.map(|name| name.map(|name| name.trim().to_owned())).collect();
        names.map_err(|_| "the header is not valid UTF-8".into())
    }
}
