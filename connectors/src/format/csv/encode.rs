//! Rows to CSV. Values look as they do in JSON, without the quotes; nested ones are JSON within their field.

use ::bytes::Bytes;
use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;

use super::Dialect;
use crate::error::ConnectorError;
use crate::format::json::{EncodeOptions, JsonConfig, encoders};
use crate::format::{Encoded, Encoder};

/// The encoder.
pub(super) struct CsvEncoder {
    dialect: Dialect,
    columns: SchemaRef,
    values: EncodeOptions,
}

impl CsvEncoder {
    pub(super) fn new(dialect: Dialect, columns: SchemaRef) -> Result<Self, ConnectorError> {
        let encoder = Self { dialect, columns, values: EncodeOptions::new(&JsonConfig::default()) };
        // An empty batch tells at load whether every type can be written.
        encoder.buffer(&RecordBatch::new_empty(encoder.columns.clone())).map_err(|error| {
            ConnectorError::configuration("format", format!("these rows cannot be written as CSV: {error}"))
        })?;
        Ok(encoder)
    }

    fn buffer(&self, rows: &RecordBatch) -> Result<(Vec<u8>, Vec<usize>), ArrowError> {
        let mut json = encoders(rows, &self.values)?;
        let texts = rows.columns().iter().map(texts).collect::<Result<Vec<_>, _>>()?;
        let null = self.dialect.nulls.first().map_or("", String::as_str).as_bytes();
        let (mut buffer, mut ends, mut value) = (Vec::new(), Vec::with_capacity(rows.num_rows()), Vec::new());
        for row in 0..rows.num_rows() {
            let start = buffer.len();
            for (i, (json, texts)) in json.iter_mut().zip(&texts).enumerate() {
                if i > 0 {
                    buffer.push(self.dialect.delimiter);
                }
                match texts {
                    Some(texts) if texts.is_null(row) => buffer.extend_from_slice(null),
                    Some(texts) => self.field(texts.value(row).as_bytes(), &mut buffer),
                    None if json.is_null(row) => buffer.extend_from_slice(null),
                    None => {
                        value.clear();
                        json.encode(row, &mut value);
                        match &value[..] {
                            // NaN and infinity, which JSON does not have either.
                            b"null" => buffer.extend_from_slice(null),
                            // Dates, times, byte strings: nothing in them is escaped.
                            [b'"', inner @ .., b'"'] => self.field(inner, &mut buffer),
                            value => self.field(value, &mut buffer),
                        }
                    }
                }
            }
            if buffer.len() == start {
                // An empty line would be no record at all.
                buffer.extend_from_slice(&[self.dialect.quote, self.dialect.quote]);
            }
            ends.push(buffer.len());
        }
        Ok((buffer, ends))
    }

    /// Writes `value`, in quotes where it needs them.
    fn field(&self, value: &[u8], out: &mut Vec<u8>) {
        let Dialect { delimiter, quote, escape, comment, .. } = self.dialect;
        let special =
            |b: &u8| [delimiter, quote, b'\n', b'\r'].contains(b) || Some(*b) == escape || Some(*b) == comment;
        let looks_empty = value.first().is_some_and(u8::is_ascii_whitespace);
        if !value.iter().any(special) && !looks_empty {
            out.extend_from_slice(value);
            return;
        }
        out.push(quote);
        for &byte in value {
            if byte == quote || Some(byte) == escape {
                out.push(escape.unwrap_or(quote));
            }
            out.push(byte);
        }
        out.push(quote);
    }
}

/// The column as texts, if it holds texts.
fn texts(column: &ArrayRef) -> Result<Option<StringArray>, ArrowError> {
    let is_text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let holds_text = match column.data_type() {
        DataType::Dictionary(_, value) => is_text(value),
        data_type => is_text(data_type),
    };
    if !holds_text {
        return Ok(None);
    }
    Ok(cast(column, &DataType::Utf8)?.as_any().downcast_ref::<StringArray>().cloned())
}

impl Encoder for CsvEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded, ConnectorError> {
        let (buffer, ends) = self
            .buffer(rows)
            .map_err(|error| ConnectorError::fatal(format!("rows cannot be written as CSV: {error}")))?;
        Ok(Encoded { buffer: Bytes::from(buffer), ends })
    }

    fn file_header(&self) -> Option<Bytes> {
        if self.dialect.header == Some(false) {
            return None;
        }
        let mut header = Vec::new();
        for (i, column) in self.columns.fields().iter().enumerate() {
            if i > 0 {
                header.push(self.dialect.delimiter);
            }
            self.field(column.name().as_bytes(), &mut header);
        }
        Some(Bytes::from(header))
    }

    fn media_type(&self) -> &'static str {
        "text/csv"
    }
}
