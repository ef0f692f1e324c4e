//! Processing time: the clock on the wall is the time of a source's rows, and the watermark follows it.
//!
//! The rows of a batch get the clock at which the source hands them on, in a column of their own. It never goes back: a
//! clock that was set back stands still here until it has caught up. So no row is ever late. While no row comes a timer
//! moves the watermark, so that windows close by the clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use tokio::time::Instant;

use crate::engine::clock::{ClockState, SourceClock, Timed};
use crate::engine::element::{Element, Watermark};
use crate::engine::times;

/// How far the watermark is behind the clock at most, while nothing holds the source up. It moves at the multiples of
/// this, so that windows whose ends are such multiples close at once.
pub(crate) const PERIOD: Duration = Duration::from_millis(100);
const PERIOD_NS: i64 = PERIOD.as_nanos() as i64;

/// A clock that is so much behind the time that it once had is worth a line in the log.
const SET_BACK_NS: i64 = 1_000_000_000;

/// Gives rows the clock on the wall.
pub(crate) struct ProcessingClock {
    /// The source's name.
    source: String,
    /// The index of the clock's column.
    column: usize,
    /// The columns of the rows, with that one.
    schema: SchemaRef,
    /// The time that was given out last, to rows or as the watermark.
    reached: Option<i64>,
    /// When time moves on next while no row comes; `None` where nothing waits for that.
    due: Option<Instant>,
    /// The clock was found to be set back.
    set_back: bool,
}

impl ProcessingClock {
    /// A clock for the source `source`, whose rows have the columns `schema`, that goes on from `state`. It moves the
    /// watermark while no row comes where something `waits` for time.
    pub(crate) fn new(
        source: &str,
        (column, schema): (usize, SchemaRef),
        state: &ClockState,
        waits: bool,
        now: Instant,
    ) -> Self {
        Self {
            source: source.to_owned(),
            column,
            schema,
            reached: state.watermark,
            due: waits.then_some(now),
            set_back: false,
        }
    }

    /// Follows the clock; true where that is news.
    fn follow(&mut self, wall_ns: i64) -> bool {
        let behind = self.reached.map_or(0, |reached| reached.saturating_sub(wall_ns));
        if behind < SET_BACK_NS {
            self.set_back = false;
        } else if !std::mem::replace(&mut self.set_back, true) {
            tracing::warn!(
                source = self.source,
                behind = times::duration(behind),
                "the clock is behind the processing time that was reached: that stands still until the clock has caught up"
            );
        }
        let news = self.reached < Some(wall_ns);
        self.reached = self.reached.max(Some(wall_ns));
        news
    }

    fn watermark_at(&self) -> Option<Element> {
        self.reached.map(|time| Element::Watermark(Watermark::At(time)))
    }
}

impl SourceClock for ProcessingClock {
    fn batch(&mut self, _: &Arc<str>, batch: RecordBatch, _: Instant, wall_ns: i64) -> Result<Timed, ArrowError> {
        let mut timed = Timed::default();
        if batch.num_rows() == 0 {
            return Ok(timed);
        }
        let news = self.follow(wall_ns);
        let clock = vec![self.reached.unwrap_or(wall_ns); batch.num_rows()];
        let mut columns = batch.columns().to_vec();
        columns.insert(self.column, times::column(clock, self.schema.field(self.column).data_type())?);
        timed.elements.push(Element::Batch(RecordBatch::try_new(self.schema.clone(), columns)?));
        timed.elements.extend(self.watermark_at().filter(|_| news));
        Ok(timed)
    }

    // All partitions have one clock, and a silent one does not hold it up.
    fn set_partitions(&mut self, _: &[Arc<str>], _: Instant) -> Option<Element> {
        None
    }

    fn not_reading(&mut self, _: Duration, _: Instant) {}

    fn next_tick(&self) -> Option<Instant> {
        self.due
    }

    fn tick(&mut self, now: Instant, wall_ns: i64) -> Option<Element> {
        let left = u64::try_from(PERIOD_NS - wall_ns.rem_euclid(PERIOD_NS)).map_or(PERIOD, Duration::from_nanos);
        self.due = self.due.map(|_| now + left);
        if self.follow(wall_ns) { self.watermark_at() } else { None }
    }

    fn watermark(&self) -> Option<i64> {
        self.reached
    }

    fn state(&self) -> ClockState {
        ClockState { processing: true, newest: BTreeMap::new(), watermark: self.reached }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampNanosecondType};

    use super::*;

    const MS: i64 = 1_000_000;

    fn schema() -> SchemaRef {
        let time = Field::new("processing_time", DataType::Timestamp(TimeUnit::Nanosecond, None), false);
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), time]))
    }

    fn clock_from(state: &ClockState, now: Instant) -> ProcessingClock {
        ProcessingClock::new("s", (1, schema()), state, true, now)
    }

    /// Feeds rows at `wall` ms: the time that they got, in ms, and how many watermarks followed.
    fn feed(clock: &mut ProcessingClock, rows: i64, wall: i64) -> (Vec<i64>, usize) {
        let numbers = Int64Array::from_iter_values(0..rows);
        let received = Arc::new(schema().project(&[0]).unwrap());
        let batch = RecordBatch::try_new(received, vec![Arc::new(numbers)]).unwrap();
        let timed = clock.batch(&"p".into(), batch, Instant::now(), wall * MS).unwrap();
        assert!(timed.refused.is_empty());
        let mut times = Vec::new();
        for element in &timed.elements {
            if let Element::Batch(batch) = element {
                times.extend(batch.column(1).as_primitive::<TimestampNanosecondType>().values().iter().map(|t| t / MS));
            }
        }
        (times, timed.elements.iter().filter(|element| matches!(element, Element::Watermark(_))).count())
    }

    #[test]
    fn rows_have_the_clock_and_the_watermark_comes_with_them() {
        let mut clock = clock_from(&ClockState::default(), Instant::now());
        assert_eq!(feed(&mut clock, 2, 1000), (vec![1000, 1000], 1));
        assert_eq!(clock.watermark(), Some(1000 * MS));
        assert_eq!(feed(&mut clock, 0, 1500), (vec![], 0));
        assert_eq!(feed(&mut clock, 1, 2000), (vec![2000], 1));
    }

    #[test]
    fn a_clock_that_is_set_back_stands_still_also_over_a_restart() {
        let now = Instant::now();
        let mut first = clock_from(&ClockState::default(), now);
        feed(&mut first, 1, 10_000);
        assert_eq!(feed(&mut first, 1, 4_000), (vec![10_000], 0));
        assert!(first.tick(now, 5_000 * MS).is_none() && first.set_back);
        let mut second = clock_from(&first.state(), now);
        assert_eq!(feed(&mut second, 1, 9_990), (vec![10_000], 0));
        assert!(!second.set_back, "a few milliseconds are not worth a word");
        assert_eq!(feed(&mut second, 1, 10_001), (vec![10_001], 1));
    }

    #[test]
    fn the_watermark_moves_at_the_multiples_of_the_period_while_no_row_comes() {
        let start = Instant::now();
        let mut clock = clock_from(&ClockState::default(), start);
        assert_eq!(clock.next_tick(), Some(start), "what was open at the stop may have ended since");
        assert!(clock.tick(start, 1_030 * MS).is_some());
        assert_eq!(clock.next_tick(), Some(start + Duration::from_millis(70)));
        let next = start + Duration::from_millis(70);
        assert!(clock.tick(next, 1_100 * MS).is_some());
        assert_eq!(clock.next_tick(), Some(next + PERIOD));
        assert_eq!(clock.watermark(), Some(1_100 * MS));
    }

    #[test]
    fn where_nothing_waits_for_time_no_timer_runs() {
        let now = Instant::now();
        let mut clock = ProcessingClock::new("s", (1, schema()), &ClockState::default(), false, now);
        assert_eq!(clock.next_tick(), None);
        feed(&mut clock, 1, 1000);
        assert_eq!(clock.next_tick(), None);
    }
}
