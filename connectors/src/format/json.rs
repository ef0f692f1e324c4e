//! The format `json` (stub: to be written).

use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DecodeOptions, Decoder, Encoder};
use crate::error::ConnectorError;

/// Options of the format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JsonConfig {}

impl JsonConfig {
    pub(super) fn decoder(&self, _options: DecodeOptions) -> Result<Box<dyn Decoder>, ConnectorError> {
        Err(ConnectorError::configuration("format", "not written yet"))
    }

    pub(super) fn encoder(&self, _columns: SchemaRef) -> Result<Box<dyn Encoder>, ConnectorError> {
        Err(ConnectorError::configuration("format", "not written yet"))
    }
}
