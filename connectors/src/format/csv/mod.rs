//! The format `csv`: its options. Reading is in `decode.rs`, writing in `encode.rs`.

mod decode;
mod encode;

use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DecodeOptions, Decoder, Encoder};
use crate::error::ConnectorError;

/// Options of CSV.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CsvConfig {
    /// Whether the first line names the columns. Where this is missing: yes for files, no for messages (whose fields are
    /// then in the order of `columns`). `true` for a source of messages: every message starts with a header line of its
    /// own. A file sink writes a header unless this is `false`.
    pub header: Option<bool>,
    /// What stands between two fields: one character, `,` where this is missing (`"\t"` for tabs).
    pub delimiter: String,
    /// What stands around a field that holds delimiters, line breaks or quotes: one character. A file source reads line by
    /// line, so a line break within quotes makes two bad lines there; messages and tables may have them.
    pub quote: String,
    /// What stands before a quote within a quoted field. Where this is missing, such a quote is doubled.
    pub escape: Option<String>,
    /// When reading: a line that starts with this character is skipped. There are no comments where this is missing.
    pub comment: Option<String>,
    /// The texts that mean NULL: when reading any of them, when writing the first. The empty text where this is missing,
    /// so an empty text cannot be told from NULL.
    pub nulls: Vec<String>,
}

impl Default for CsvConfig {
    fn default() -> Self {
        Self {
            header: None,
            delimiter: ",".into(),
            quote: "\"".into(),
            escape: None,
            comment: None,
            nulls: vec![String::new()],
        }
    }
}

/// The options, checked.
#[derive(Debug, Clone)]
struct Dialect {
    header: Option<bool>,
    delimiter: u8,
    quote: u8,
    escape: Option<u8>,
    comment: Option<u8>,
    nulls: Vec<String>,
}

impl CsvConfig {
    /// CSV with another delimiter.
    pub(crate) fn delimited_by(delimiter: &str) -> Self {
        Self { delimiter: delimiter.into(), ..Self::default() }
    }

    /// These options for text that starts with a header unless they say otherwise.
    pub(crate) fn with_header_by_default(&self) -> Self {
        Self { header: Some(self.header.unwrap_or(true)), ..self.clone() }
    }

    /// The delimiter, checked.
    pub(crate) fn delimiter_byte(&self) -> Result<u8, ConnectorError> {
        Ok(self.dialect()?.delimiter)
    }

    fn dialect(&self) -> Result<Dialect, ConnectorError> {
        let one = |option: &str, text: &str| match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(*byte),
            _ => Err(ConnectorError::configuration(
                format!("format.csv.{option}"),
                format!("{text:?} is not one ASCII character; write one, such as \",\", \";\" or \"\\t\""),
            )),
        };
        let maybe = |option, text: &Option<String>| text.as_deref().map(|text| one(option, text)).transpose();
        let dialect = Dialect {
            header: self.header,
            delimiter: one("delimiter", &self.delimiter)?,
            quote: one("quote", &self.quote)?,
            escape: maybe("escape", &self.escape)?,
            comment: maybe("comment", &self.comment)?,
            nulls: self.nulls.clone(),
        };
        let special = [Some(dialect.delimiter), Some(dialect.quote), dialect.escape, dialect.comment];
        let mut special: Vec<u8> = special.into_iter().flatten().collect();
        let count = special.len();
        special.sort_unstable();
        special.dedup();
        if special.len() != count {
            return Err(ConnectorError::configuration(
                "format.csv",
                "delimiter, quote, escape and comment must be different characters",
            ));
        }
        Ok(dialect)
    }

    pub(super) fn decoder(&self, options: DecodeOptions) -> Result<Box<dyn Decoder>, ConnectorError> {
        Ok(Box::new(decode::CsvDecoder::new(self.dialect()?, &options)?))
    }

    pub(super) fn encoder(&self, columns: SchemaRef) -> Result<Box<dyn Encoder>, ConnectorError> {
        Ok(Box::new(encode::CsvEncoder::new(self.dialect()?, columns)?))
    }
}
