//! The format `text`: a message is the text of one column, byte for byte.

use std::sync::Arc;

use ::bytes::Bytes;
use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::single::{SingleDecoder, only_column};
use super::{DecodeOptions, Decoder, Encoded, Encoder};
use crate::error::ConnectorError;

/// Options of the format (it has none).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {}

fn check(columns: &SchemaRef) -> Result<(), ConnectorError> {
    only_column(columns, "text", |data_type| {
        matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
    })
}

impl TextConfig {
    pub(super) fn decoder(&self, options: DecodeOptions) -> Result<Box<dyn Decoder>, ConnectorError> {
        check(&options.declared)?;
        let read = |payload: &[u8]| match std::str::from_utf8(payload) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("not valid UTF-8 from byte {}", error.valid_up_to())),
        };
        Ok(Box::new(SingleDecoder::new(options.columns, read)))
    }

    pub(super) fn encoder(&self, columns: SchemaRef) -> Result<Box<dyn Encoder>, ConnectorError> {
        check(&columns)?;
        Ok(Box::new(TextEncoder))
    }
}

struct TextEncoder;

impl Encoder for TextEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded, ConnectorError> {
        let wrong = |error: &dyn std::fmt::Display| ConnectorError::fatal(format!("rows cannot be written: {error}"));
        let column: &ArrayRef = rows.columns().first().ok_or_else(|| wrong(&"there is no column"))?;
        let texts = cast(column, &DataType::Utf8).map_err(|error| wrong(&error))?;
        let texts = texts.as_any().downcast_ref::<StringArray>().ok_or_else(|| wrong(&"it is no text"))?;
        // NULL has no text of its own: it is written as an empty message.
        let mut buffer = Vec::with_capacity(texts.values().len());
        let mut ends = Vec::with_capacity(texts.len());
        for text in texts {
            buffer.extend_from_slice(text.unwrap_or_default().as_bytes());
            ends.push(buffer.len());
        }
        Ok(Encoded { buffer: Bytes::from(buffer), ends })
    }

    fn media_type(&self) -> &'static str {
        "text/plain; charset=utf-8"
    }
}

/// The payloads as an array of `data_type`.
pub(super) fn typed(payloads: BinaryArray, data_type: &DataType) -> Result<ArrayRef, arrow::error::ArrowError> {
    cast(&(Arc::new(payloads) as ArrayRef), data_type)
}
