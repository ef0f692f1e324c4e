//! The format `bytes`: a message is the byte string of one column.

use ::bytes::Bytes;
use arrow::array::{Array, BinaryArray, RecordBatch};
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
pub struct BytesConfig {}

fn check(columns: &SchemaRef) -> Result<(), ConnectorError> {
    only_column(columns, "bytes", |data_type| {
        matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
    })
}

impl BytesConfig {
    pub(super) fn decoder(&self, options: DecodeOptions) -> Result<Box<dyn Decoder>, ConnectorError> {
        check(&options.declared)?;
        Ok(Box::new(SingleDecoder::new(options.columns, |_| Ok(()))))
    }

    pub(super) fn encoder(&self, columns: SchemaRef) -> Result<Box<dyn Encoder>, ConnectorError> {
        check(&columns)?;
        Ok(Box::new(BytesEncoder))
    }
}

struct BytesEncoder;

impl Encoder for BytesEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded, ConnectorError> {
        let wrong = |error: &dyn std::fmt::Display| ConnectorError::fatal(format!("rows cannot be written: {error}"));
        let column = rows.columns().first().ok_or_else(|| wrong(&"there is no column"))?;
        let values = cast(column, &DataType::Binary).map_err(|error| wrong(&error))?;
        let values = values.as_any().downcast_ref::<BinaryArray>().ok_or_else(|| wrong(&"it is no byte string"))?;
        // NULL is written as an empty message.
        let mut buffer = Vec::with_capacity(values.values().len());
        let mut ends = Vec::with_capacity(values.len());
        for value in values {
            buffer.extend_from_slice(value.unwrap_or_default());
            ends.push(buffer.len());
        }
        Ok(Encoded { buffer: Bytes::from(buffer), ends })
    }

    fn media_type(&self) -> &'static str {
        "application/octet-stream"
    }
}
