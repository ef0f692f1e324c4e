//! The connector `http` (stub: to be written).

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;
use crate::source::MetadataField;
#[allow(unused_imports)]
use crate::{PushSource, Sink, SinkContext, Source, SourceContext};

/// The metadata fields that a row of this source can carry.
pub static METADATA: LazyLock<Vec<MetadataField>> = LazyLock::new(Vec::new);

/// Options of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSourceConfig {
    /// The ingest log.
    #[serde(default)]
    pub ingest: crate::ingest::IngestConfig,
}

impl HttpSourceConfig {
    /// Checks the options and builds the source.
    pub fn build(&self, _context: &SourceContext) -> Result<Box<dyn PushSource>, ConnectorError> {
        Err(ConnectorError::configuration("", "not written yet"))
    }
}

/// Options of the sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSinkConfig {}

impl HttpSinkConfig {
    /// Checks the options and builds the sink.
    pub fn build(&self, _context: &SinkContext) -> Result<Box<dyn Sink>, ConnectorError> {
        Err(ConnectorError::configuration("", "not written yet"))
    }
}
