//! What flows between operators.

use arrow::array::RecordBatch;

/// The number of an epoch: what lies between two barriers. The first is 1.
pub(crate) type Epoch = u64;

/// The watermark of a bounded input that is at its end: all windows close.
pub(crate) const END_OF_TIME: i64 = i64::MAX;

/// The closed set of things that flow. Order is kept on every edge.
#[derive(Debug, Clone)]
pub(crate) enum Element {
    /// Rows.
    Batch(RecordBatch),
    /// No row before this time (nanoseconds since 1970, UTC) will follow, other than late ones.
    Watermark(Watermark),
    /// Everything before it belongs to this epoch.
    Barrier(Epoch),
    /// Nothing follows: a bounded input is at its end. (A stop or reload is not an end: the channel just closes.)
    End,
}

/// How far event time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watermark {
    /// The time. It never goes back.
    At(i64),
    /// The input has had no row for a while and holds nobody back until it has one again.
    Idle,
}

impl Element {
    /// What the element counts for in a bounded queue: rows and bytes.
    pub(crate) fn weight(&self) -> (usize, usize) {
        match self {
            Self::Batch(batch) => (batch.num_rows(), batch.get_array_memory_size()),
            Self::Watermark(_) | Self::Barrier(_) | Self::End => (0, 0),
        }
    }
}
