//! An explanation as data. Its fields are those of `--format json`.

use serde::Serialize;

/// What a pipeline will do.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Explanation {
    pub(crate) pipeline: String,
    /// The step that it is limited to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    /// Into how many shards keyed operators are split.
    pub(crate) parallelism: usize,
    /// In the order in which rows go through them.
    pub(crate) stages: Vec<Stage>,
    pub(crate) tables: Vec<Table>,
    pub(crate) sinks: Vec<Sink>,
    /// The connector of the dead letter.
    pub(crate) dead_letter: String,
}

/// Operators that are chained in one task.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stage {
    /// Its number, from 1.
    pub(crate) stage: usize,
    /// How many tasks do the same, each with its share of the keys.
    pub(crate) tasks: usize,
    /// What comes from other stages.
    pub(crate) edges: Vec<Edge>,
    pub(crate) operators: Vec<Operator>,
}

/// Rows that go from one stage to another.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Edge {
    pub(crate) from_stage: usize,
    /// The operators' names.
    pub(crate) from: String,
    pub(crate) to: String,
    /// What says which shard a row goes to. Empty: there is one.
    pub(crate) keys: Vec<String>,
}

/// A source or an operator.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Operator {
    pub(crate) name: String,
    /// `source`, `sql` (without state) or `operator`.
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    pub(crate) inputs: Vec<String>,
    /// True where its rows are those of its step or source.
    pub(crate) output: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Source>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) does: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keeps: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) freed: Option<String>,
    /// The tables that it joins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tables: Vec<String>,
    /// By how much it and what follows it take the watermark for earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) watermark_behind: Option<String>,
    /// Where its late rows go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) late: Option<String>,
    pub(crate) columns: Vec<Column>,
}

/// A column.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Its SQL type.
    #[serde(rename = "type")]
    pub(crate) sql_type: String,
    /// For event time: how far its values may be behind the watermark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_time_behind: Option<String>,
    /// What it is, where that is not the column of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is: Option<String>,
}

/// Of a source, what operators do not have.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Source {
    pub(crate) connector: String,
    /// It has an end.
    pub(crate) bounded: bool,
    /// Its messages are written to the ingest log before they are acknowledged.
    pub(crate) ingest_log: bool,
    pub(crate) declared_columns: usize,
    /// The columns that are decoded, and those that are not because nothing uses them.
    pub(crate) decoded: Vec<String>,
    pub(crate) skipped: Vec<String>,
    /// The columns that the connector fills.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) metadata: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_time: Option<EventTime>,
}

/// The event time of a source.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EventTime {
    pub(crate) column: String,
    /// It is the clock at which the rows come.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) processing: bool,
    /// How far the watermark is behind the newest row, or at most behind the clock.
    pub(crate) watermark: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle_after: Option<String>,
}

/// A table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) connector: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    pub(crate) columns: Vec<Column>,
}

/// A sink.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sink {
    pub(crate) name: String,
    pub(crate) connector: String,
    /// Whose rows it takes.
    pub(crate) from: Vec<String>,
}
