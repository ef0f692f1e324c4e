//! A table in one text: CSV with a header, or JSON, an object per line or an array of objects.

use std::collections::BTreeMap;

use arrow::array::{BinaryArray, RecordBatch};
use arrow::datatypes::SchemaRef;

use super::json::{JsonConfig, JsonLayout};
use super::{DecodeOptions, FormatConfig};
use crate::error::ConnectorError;

/// How many wrong rows an error quotes.
const ERRORS_SHOWN: usize = 3;
/// What some editors put before the first character.
pub(crate) const BOM: &[u8] = b"\xef\xbb\xbf";

/// The format for all of `content` as one message: `format`, with the layout that `content` has.
pub(crate) fn whole(format: &FormatConfig, content: &[u8]) -> Result<FormatConfig, ConnectorError> {
    Ok(match format {
        FormatConfig::Csv(csv) => FormatConfig::Csv(csv.clone().with_header_by_default()),
        FormatConfig::Json(json) => {
            let is_array = content.trim_ascii_start().first() == Some(&b'[');
            let layout = if is_array { JsonLayout::Array } else { JsonLayout::Lines };
            FormatConfig::Json(JsonConfig { layout, ..json.clone() })
        }
        FormatConfig::Text(_) | FormatConfig::Bytes(_) => {
            return Err(ConnectorError::configuration("format", "a table is read from csv or json"));
        }
    })
}

/// `content` without a byte order mark.
pub(crate) fn without_bom(content: &[u8]) -> &[u8] {
    content.strip_prefix(BOM).unwrap_or(content)
}

/// How such a text is read.
pub(crate) struct Document {
    options: DecodeOptions,
}

impl Document {
    /// The rows will have these `columns`.
    pub(crate) fn new(columns: SchemaRef) -> Self {
        let declared = columns.clone();
        Self { options: DecodeOptions { columns, declared, timestamp_units: BTreeMap::new() } }
    }

    /// The columns.
    pub(crate) fn columns(&self) -> &SchemaRef {
        &self.options.columns
    }

    /// Refuses a format, and types that it does not have.
    pub(crate) fn check(&self, format: &FormatConfig) -> Result<(), ConnectorError> {
        whole(format, b"")?.decoder(self.options.clone()).map(|_| ())
    }

    /// All rows of `content`; `name` says what it is.
    pub(crate) fn rows(
        &self,
        name: &str,
        content: &[u8],
        format: &FormatConfig,
    ) -> Result<RecordBatch, ConnectorError> {
        let content = without_bom(content);
        let format = whole(format, content)?;
        if content.trim_ascii().is_empty() && !matches!(format, FormatConfig::Csv(_)) {
            return Ok(RecordBatch::new_empty(self.options.columns.clone()));
        }
        let decoded = format.decoder(self.options.clone())?.decode(&BinaryArray::from_iter_values([content]));
        if decoded.errors.is_empty() {
            return Ok(decoded.rows);
        }
        let shown: Vec<_> = decoded.errors.iter().take(ERRORS_SHOWN).map(|error| error.reason.as_str()).collect();
        let more = match decoded.errors.len().saturating_sub(ERRORS_SHOWN) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Err(ConnectorError::retry(format!("the table {name} cannot be read: {}{more}", shown.join("; "))))
    }
}
