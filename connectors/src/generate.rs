//! Synthetic rows (stub: to be written).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;
use crate::{Source, SourceContext};

/// Options of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateConfig {}

impl GenerateConfig {
    /// Checks the options and builds the source.
    pub fn build(&self, _context: &SourceContext) -> Result<Box<dyn Source>, ConnectorError> {
        Err(ConnectorError::configuration("", "not written yet"))
    }

    /// The columns.
    pub fn schema(&self) -> Result<arrow::datatypes::SchemaRef, ConnectorError> {
        Err(ConnectorError::configuration("", "not written yet"))
    }

    /// True where a number of rows is set.
    pub fn bounded(&self) -> bool {
        false
    }
}
