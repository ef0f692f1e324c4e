//! What a source hands over: a batch of undecoded messages of one partition.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};

/// Messages of one partition, in their order, as slices of one buffer.
#[derive(Debug, Clone)]
pub struct MessageBatch {
    /// The partition all of them come from.
    pub partition: Arc<str>,
    /// The bytes of each message; null is a tombstone (a Kafka message without a value).
    pub payloads: BinaryArray,
    /// One array per metadata field chosen in [`crate::SourceContext::metadata`], in that order; each as long as
    /// `payloads`.
    pub metadata: Vec<ArrayRef>,
    /// Where to resume after the last of these messages.
    pub next_position: u64,
}

/// Rows that need no decoding (synthetic data), of one partition.
#[derive(Debug, Clone)]
pub struct RowBatch {
    /// The partition all of them come from.
    pub partition: Arc<str>,
    /// The rows, with the schema of the source's columns.
    pub rows: RecordBatch,
    /// Where to resume after the last of these rows.
    pub next_position: u64,
}
