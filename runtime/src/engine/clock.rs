//! The time of a source: what its task asks of a clock, whichever kind it is.
//!
//! [`super::event_time`] goes by a column of the rows, [`super::processing_time`] by the clock on the wall.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::engine::element::Element;

/// The event time of a source, as planned.
#[derive(Debug, Clone)]
pub(crate) struct EventTimePlan {
    /// The index of the column.
    pub(crate) column: usize,
    /// Who fills it.
    pub(crate) kind: TimeKind,
}

impl EventTimePlan {
    /// True where it is the clock on the wall.
    pub(crate) fn is_processing(&self) -> bool {
        matches!(self.kind, TimeKind::Processing)
    }
}

/// Where event time comes from.
#[derive(Debug, Clone)]
pub(crate) enum TimeKind {
    /// The rows have it.
    OfRows(Disorder),
    /// The clock on the wall, which the source's task puts into a column of its own.
    Processing,
}

/// How far rows may be out of order, and how far from the clock on the wall.
#[derive(Debug, Clone)]
pub(crate) struct Disorder {
    /// The allowed disorder.
    pub(crate) delay: Duration,
    /// After so long without a row a partition is idle.
    pub(crate) idle_after: Duration,
    /// How far ahead of the wall clock a row may be; `None` for bounded sources.
    pub(crate) max_ahead: Option<Duration>,
}

/// What the snapshot keeps: the largest event time of each partition, and the watermark.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockState {
    /// It is that of the clock on the wall, which means nothing to the times of rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) processing: bool,
    /// By partition, in nanoseconds.
    pub(crate) newest: BTreeMap<String, i64>,
    /// The watermark that the source has reached.
    pub(crate) watermark: Option<i64>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Timed {
    /// Rows and watermarks, in order.
    pub(crate) elements: Vec<Element>,
    /// Rows without a usable time, one by one, with the reason.
    pub(crate) refused: Vec<(RecordBatch, String)>,
}

/// Follows the time of a source. `wall_ns` is the clock on the wall, in nanoseconds since 1970.
pub(crate) trait SourceClock: Send {
    /// Takes a batch of one partition.
    fn batch(
        &mut self,
        partition: &Arc<str>,
        batch: RecordBatch,
        now: Instant,
        wall_ns: i64,
    ) -> Result<Timed, ArrowError>;

    /// The source now reads exactly these partitions.
    fn set_partitions(&mut self, names: &[Arc<str>], now: Instant) -> Option<Element>;

    /// For so long nothing was read, because what comes after the source was busy.
    fn not_reading(&mut self, busy: Duration, now: Instant);

    /// When [`SourceClock::tick`] has something to do next.
    fn next_tick(&self) -> Option<Instant>;

    /// Time has passed; the watermark as it is now, if that is news.
    fn tick(&mut self, now: Instant, wall_ns: i64) -> Option<Element>;

    /// The watermark that was reached.
    fn watermark(&self) -> Option<i64>;

    /// What the snapshot keeps.
    fn state(&self) -> ClockState;
}

/// The clock on the wall, in nanoseconds since 1970.
pub(crate) type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// That of this machine.
pub(crate) fn wall_clock() -> WallClock {
    Arc::new(|| chrono::Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX))
}
