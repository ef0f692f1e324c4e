//! The sink `sse` (stub: to be written).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;
use crate::{Sink, SinkContext};

/// Options of the sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SseConfig {}

impl SseConfig {
    /// Checks the options and builds the sink.
    pub fn build(&self, _context: &SinkContext) -> Result<Box<dyn Sink>, ConnectorError> {
        Err(ConnectorError::configuration("", "not written yet"))
    }
}
