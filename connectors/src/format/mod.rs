//! Bytes to rows and back.
//!
//! A decoder is given the columns wanted (after projection: only those that the SQL uses) and never guesses: what does
//! not fit its column is an error of that message, with a reason, and goes to the dead letter.

mod bytes;
mod columns;
pub(crate) mod csv;
pub(crate) mod document;
pub(crate) mod json;
mod name;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod reference;
mod rows;
mod single;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;

use ::bytes::Bytes;
use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimeUnit};
use schemars::JsonSchema;
use serde::Serialize;

use crate::error::ConnectorError;

/// How bytes are read or written: a name (`json`), or a name with options (`csv: {delimiter: ";"}`).
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = name::or_name_alone)]
pub enum FormatConfig {
    /// JSON: an object per message. Nested objects are structs, arrays are lists.
    Json(json::JsonConfig),
    /// Comma-separated values.
    Csv(csv::CsvConfig),
    /// A message is one text: one column.
    Text(text::TextConfig),
    /// A message is one byte string: one column.
    Bytes(bytes::BytesConfig),
}

/// What a decoder is made for.
#[derive(Debug, Clone)]
pub struct DecodeOptions {
    /// The columns to fill, in this order. Columns that a message has beyond these are skipped.
    pub columns: SchemaRef,
    /// All columns of the source as declared (CSV without a header needs their order); `columns` is a subset.
    pub declared: SchemaRef,
    /// The unit of epoch integers in timestamp columns, where declared. Where not, it is detected once, from the
    /// magnitude of the first integer seen in that column, and then kept.
    pub timestamp_units: BTreeMap<String, TimeUnit>,
}

/// Bytes to rows.
pub trait Decoder: Send {
    /// The messages that follow come from a file whose first line is this (see [`crate::SourceEvent::Header`]). CSV finds
    /// its column names in it; the line itself still comes as a message, which the decoder then knows to skip.
    fn header(&mut self, first_line: &[u8]) {
        let _ = first_line;
    }

    /// Decodes each of `payloads`. Never fails as a whole: what cannot be read is in [`Decoded::errors`].
    fn decode(&mut self, payloads: &BinaryArray) -> Decoded;
}

/// What became of a batch of messages.
#[derive(Debug)]
pub struct Decoded {
    /// The rows of all messages that could be read, in order.
    pub rows: RecordBatch,
    /// For each row the index of its message; `None` where row i is message i.
    pub message_of_row: Option<Vec<u32>>,
    /// The messages that could not be read.
    pub errors: Vec<DecodeError>,
}

/// A message that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// Its index in the batch.
    pub message: u32,
    /// Why, with the column concerned where there is one.
    pub reason: String,
}

/// Rows to bytes.
pub trait Encoder: Send {
    /// Encodes every row as one message, all into one buffer.
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded, ConnectorError>;

    /// What stands before the first message of a file (a CSV header, without its line break), if anything.
    fn file_header(&self) -> Option<Bytes> {
        None
    }

    /// The media type of one message, for HTTP.
    fn media_type(&self) -> &'static str;
}

/// Encoded rows: message i is `buffer[ends[i-1]..ends[i]]`.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// All messages, one after the other, without separators.
    pub buffer: Bytes,
    /// Where each message ends.
    pub ends: Vec<usize>,
}

impl Encoded {
    /// The messages, as slices of the buffer.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = Bytes> + '_ {
        (0..self.ends.len()).map(|i| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] };
            self.buffer.slice(start..self.ends[i])
        })
    }
}

impl FormatConfig {
    /// A decoder. The error names the option or column that cannot work.
    pub fn decoder(&self, options: DecodeOptions) -> Result<Box<dyn Decoder>, ConnectorError> {
        match self {
            Self::Json(config) => config.decoder(options),
            Self::Csv(config) => config.decoder(options),
            Self::Text(config) => config.decoder(options),
            Self::Bytes(config) => config.decoder(options),
        }
    }

    /// An encoder for rows of `columns`.
    pub fn encoder(&self, columns: SchemaRef) -> Result<Box<dyn Encoder>, ConnectorError> {
        match self {
            Self::Json(config) => config.encoder(columns),
            Self::Csv(config) => config.encoder(columns),
            Self::Text(config) => config.encoder(columns),
            Self::Bytes(config) => config.encoder(columns),
        }
    }
}

impl Default for FormatConfig {
    fn default() -> Self {
        Self::Json(json::JsonConfig::default())
    }
}
