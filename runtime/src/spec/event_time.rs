//! `event_time` of a source: a column of its rows, or the clock at which they come.

use millstream_connectors::units::Duration;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The column that the clock fills, where no other name is given.
pub(crate) const PROCESSING_TIME: &str = "processing_time";

/// What the time of a source is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum EventTimeSpec {
    /// The clock at which the source hands the rows on, in a column `processing_time`.
    Clock(ClockWord),
    /// A column that says when a row happened.
    Column(ColumnTimeSpec),
    /// The clock at which the source hands the rows on, in a column of this name, and nothing more to say.
    Named(ProcessingTimeSpec),
}

/// The clock, and nothing more to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClockWord {
    /// The clock at which the source hands the rows on, in a column `processing_time`.
    Processing,
}

/// The clock, and the name of its column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = beside_processing)]
pub struct ProcessingTimeSpec {
    /// The name of the column that holds the clock.
    #[schemars(length(min = 1))]
    pub processing: String,
}

/// Which column is the event time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = beside_column)]
pub struct ColumnTimeSpec {
    /// A timestamp column.
    pub column: String,
    /// How far behind the newest row a row may be and still be in time. `0s` where rows come in order.
    pub watermark: Duration,
    /// A partition without a row for so long (by the clock on the wall) holds nobody back.
    #[serde(default = "ColumnTimeSpec::default_idle_after")]
    pub idle_after: Duration,
    /// A row further ahead of the clock on the wall goes to the dead letter (bounded sources are exempt).
    #[serde(default = "ColumnTimeSpec::default_max_ahead")]
    pub max_ahead: Duration,
}

impl ColumnTimeSpec {
    fn default_idle_after() -> Duration {
        Duration::from_secs(30)
    }

    fn default_max_ahead() -> Duration {
        Duration::from_secs(3600)
    }
}

impl EventTimeSpec {
    /// The name of the column that the clock fills, where that is the time.
    pub fn processing(&self) -> Option<&str> {
        match self {
            Self::Clock(ClockWord::Processing) => Some(PROCESSING_TIME),
            Self::Named(named) => Some(&named.processing),
            Self::Column(_) => None,
        }
    }
}

fn beside_processing(schema: &mut Schema) {
    never(schema, "column", "with `processing` the clock is the time, and no column of the rows");
    never(schema, "watermark", "with `processing` the watermark is the clock, and no row is out of order");
    never(schema, "idle_after", "with `processing` time goes on while no row comes");
    never(schema, "max_ahead", "with `processing` no row is ahead of the clock");
}

fn beside_column(schema: &mut Schema) {
    never(schema, "processing", "the time is either a `column` of the rows or the clock");
}

/// The key `key` is never right beside the others, for this reason.
fn never(schema: &mut Schema, key: &str, reason: &str) {
    let properties = schema.ensure_object().entry("properties").or_insert_with(|| json!({}));
    properties[key] = json!({ "not": {}, "description": reason });
}
