//! The explicit list of all connectors: a new one adds its line to each table that it belongs to.

use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;
use crate::format::FormatConfig;
use crate::sink::{Sink, SinkContext};
use crate::source::{BuiltSource, MetadataField, SourceContext};
use crate::table::Table;
use crate::{file, generate, http, kafka, mqtt, postgres, sse, stdout};

/// The sources, by their key in YAML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceConfig {
    /// Subscribes to topics of an MQTT broker.
    Mqtt(mqtt::MqttSourceConfig),
    /// Reads topics of Apache Kafka.
    Kafka(kafka::KafkaSourceConfig),
    /// Takes requests on the daemon's HTTP listener.
    Http(http::HttpSourceConfig),
    /// Reads a file, once or as it grows.
    File(file::FileSourceConfig),
    /// Makes synthetic rows.
    Generate(generate::GenerateConfig),
}

/// The sinks, by their key in YAML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkConfig {
    /// Publishes to an MQTT broker.
    Mqtt(mqtt::MqttSinkConfig),
    /// Produces to Apache Kafka.
    Kafka(kafka::KafkaSinkConfig),
    /// Sends requests to an HTTP server.
    Http(http::HttpSinkConfig),
    /// Writes files.
    File(file::FileSinkConfig),
    /// Prints rows.
    Stdout(stdout::StdoutConfig),
    /// Serves rows live, as server-sent events on the daemon's HTTP listener.
    Sse(sse::SseConfig),
}

/// The tables, by their key in YAML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TableConfig {
    /// Reads a file whole.
    File(file::FileTableConfig),
    /// Reads a table or the result of a query from PostgreSQL.
    Postgres(Box<postgres::PostgresTableConfig>),
    /// Fetches a table from an HTTP server.
    Http(Box<http::HttpTableConfig>),
}

/// The keys of [`SourceConfig`].
pub const SOURCES: &[&str] = &["mqtt", "kafka", "http", "file", "generate"];
/// The keys of [`SinkConfig`].
pub const SINKS: &[&str] = &["mqtt", "kafka", "http", "file", "stdout", "sse"];
/// The keys of [`TableConfig`].
pub const TABLES: &[&str] = &["file", "postgres", "http"];

impl SourceConfig {
    /// Checks the options and builds the source; opens no connection.
    pub fn build(&self, context: &SourceContext) -> Result<BuiltSource, ConnectorError> {
        match self {
            Self::Mqtt(config) => Ok(BuiltSource::Push(config.build(context)?)),
            Self::Kafka(config) => Ok(BuiltSource::Replayable(config.build(context)?)),
            Self::Http(config) => Ok(BuiltSource::Push(config.build(context)?)),
            Self::File(config) => Ok(BuiltSource::Replayable(config.build(context)?)),
            Self::Generate(config) => Ok(BuiltSource::Replayable(config.build(context)?)),
        }
    }

    /// The metadata fields that may be chosen for this source.
    pub fn metadata_fields(&self) -> &'static [MetadataField] {
        match self {
            Self::Mqtt(_) => mqtt::METADATA.as_slice(),
            Self::Kafka(_) => kafka::METADATA.as_slice(),
            Self::Http(_) => http::METADATA.as_slice(),
            Self::File(_) => file::METADATA.as_slice(),
            Self::Generate(_) => &[],
        }
    }

    /// True where the source comes to an end by itself (a file that is not followed, a generator with a count).
    pub fn bounded(&self) -> bool {
        match self {
            Self::Mqtt(_) | Self::Kafka(_) | Self::Http(_) => false,
            Self::File(config) => config.bounded(),
            Self::Generate(config) => config.bounded(),
        }
    }

    /// The options of the ingest log, for a source that cannot replay.
    pub fn ingest(&self) -> Option<crate::ingest::IngestConfig> {
        match self {
            Self::Mqtt(config) => Some(config.ingest.clone()),
            Self::Http(config) => Some(config.ingest.clone()),
            Self::Kafka(_) | Self::File(_) | Self::Generate(_) => None,
        }
    }
}

impl SinkConfig {
    /// Checks the options and builds the sink; opens no connection.
    pub fn build(&self, context: &SinkContext) -> Result<Box<dyn Sink>, ConnectorError> {
        match self {
            Self::Mqtt(config) => config.build(context),
            Self::Kafka(config) => config.build(context),
            Self::Http(config) => config.build(context),
            Self::File(config) => config.build(context),
            Self::Stdout(config) => config.build(context),
            Self::Sse(config) => config.build(context),
        }
    }
}

impl SinkConfig {
    /// True where rows of one key could replace one another at the sink's target, if the sink had a key.
    pub fn lacks_key(&self) -> bool {
        match self {
            Self::Kafka(config) => config.key.is_none(),
            Self::Mqtt(_) | Self::Http(_) | Self::File(_) | Self::Stdout(_) | Self::Sse(_) => false,
        }
    }
}

impl TableConfig {
    /// Checks the options and builds the table; opens no connection. `columns` are those declared in YAML; where there
    /// are none, a table's file says them now, and they stay as they are until the next load.
    pub fn build(
        &self,
        base_dir: &std::path::Path,
        columns: Option<SchemaRef>,
        format: Option<&FormatConfig>,
    ) -> Result<Box<dyn Table>, ConnectorError> {
        match self {
            Self::File(config) => config.build(base_dir, columns, format),
            Self::Postgres(config) => config.build(base_dir, columns, format),
            Self::Http(config) => config.build(base_dir, columns, format),
        }
    }
}
