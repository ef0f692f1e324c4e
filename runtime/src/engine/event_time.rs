//! Event time at the source: which rows have one, and how far it has come.
//!
//! The watermark of a partition is the largest event time seen minus the allowed disorder; that of the source is the
//! minimum over its partitions that are not idle. Within a partition it moves row by row: a batch is cut where a row is
//! below the watermark that the rows before it have reached, so that the size of a batch never changes a result. Where
//! nothing is late nothing is cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use tokio::time::Instant;

use crate::engine::clock::{ClockState, Disorder, SourceClock, Timed};
use crate::engine::element::{Element, Watermark};
use crate::engine::times;
use crate::sql::windows::unit_ns;

struct Partition {
    newest: Option<i64>,
    last_row: Instant,
    idle: bool,
}

/// Follows the event time of a source.
pub(crate) struct EventClock {
    /// The index of the time column.
    column: usize,
    plan: Disorder,
    delay_ns: i64,
    partitions: BTreeMap<Arc<str>, Partition>,
    watermark: Option<i64>,
    idle: bool,
}

/// The times of a batch's rows. All of them can be had in nanoseconds.
struct Times {
    /// In units of `factor` nanoseconds.
    values: ScalarBuffer<i64>,
    factor: i64,
    /// The first and the last time, in nanoseconds.
    oldest: i64,
    newest: i64,
}

impl EventClock {
    /// A clock that goes on from `state`.
    pub(crate) fn new(column: usize, plan: Disorder, state: &ClockState, now: Instant) -> Self {
        let delay_ns = i64::try_from(plan.delay.as_nanos()).unwrap_or(i64::MAX);
        let partitions = state.newest.iter().map(|(name, newest)| {
            (Arc::from(name.as_str()), Partition { newest: Some(*newest), last_row: now, idle: false })
        });
        Self { column, plan, delay_ns, partitions: partitions.collect(), watermark: state.watermark, idle: false }
    }

    /// Adds `batch` to `elements`, cut just before every row that is below the watermark that the rows before it have
    /// reached. `newest` is the newest time before the batch; the watermark does not go further than `others`.
    fn cut(
        &mut self,
        batch: RecordBatch,
        times: &Times,
        newest: Option<i64>,
        others: i64,
        elements: &mut Vec<Element>,
    ) {
        let delay = self.delay_ns;
        let reach = |newest: i64| newest.saturating_sub(delay).min(others);
        let mut start = 0;
        // What is not older than where the watermark is at the batch's end is not late before.
        if times.oldest < reach(newest.map_or(times.newest, |newest| newest.max(times.newest))) {
            let mut newest = newest.unwrap_or(i64::MIN);
            let mut reached = if newest == i64::MIN { i64::MIN } else { reach(newest) };
            for (row, value) in times.values.iter().enumerate() {
                let time = value * times.factor;
                if time < reached && self.watermark < Some(reached) {
                    if row > start {
                        elements.push(Element::Batch(batch.slice(start, row - start)));
                    }
                    elements.push(Element::Watermark(Watermark::At(reached)));
                    self.watermark = Some(reached);
                    start = row;
                }
                if time > newest {
                    newest = time;
                    reached = reach(newest);
                }
            }
        }
        elements.push(Element::Batch(if start == 0 { batch } else { batch.slice(start, batch.num_rows() - start) }));
    }

    /// The watermark as the partitions have it now, if that is news.
    fn advance(&mut self) -> Option<Element> {
        let active = || self.partitions.values().filter(|partition| !partition.idle);
        if active().next().is_none() {
            let news = !self.idle && !self.partitions.is_empty();
            self.idle = news || self.idle;
            return news.then_some(Element::Watermark(Watermark::Idle));
        }
        let lowest = active().map(|p| p.newest.map(|newest| newest.saturating_sub(self.delay_ns))).min().flatten();
        let woken = std::mem::take(&mut self.idle);
        if lowest > self.watermark {
            self.watermark = lowest;
        } else if !woken {
            return None;
        }
        self.watermark.map(|time| Element::Watermark(Watermark::At(time)))
    }

    fn minimum_of_others(&self, partition: &Arc<str>) -> i64 {
        let others = self.partitions.iter().filter(|(name, other)| *name != partition && !other.idle);
        others.map(|(_, p)| p.newest.map_or(i64::MIN, |n| n.saturating_sub(self.delay_ns))).min().unwrap_or(i64::MAX)
    }

    /// The largest time that a row may have.
    fn limit(&self, wall_ns: i64) -> Option<i64> {
        let ahead = self.plan.max_ahead?;
        Some(wall_ns.saturating_add(i64::try_from(ahead.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// The times of `batch`, where every row has a usable one.
    fn all_usable(&self, batch: &RecordBatch, wall_ns: i64) -> Result<Option<Times>, ArrowError> {
        let column = batch.column(self.column);
        let (values, factor) = raw(column)?;
        if column.null_count() > 0 {
            return Ok(None);
        }
        let Some((oldest, newest)) = times::extent(values) else { return Ok(None) };
        let (Some(oldest), Some(newest)) = (oldest.checked_mul(factor), newest.checked_mul(factor)) else {
            return Ok(None);
        };
        if self.limit(wall_ns).is_some_and(|limit| newest > limit) {
            return Ok(None);
        }
        Ok(Some(Times { values: values.clone(), factor, oldest, newest }))
    }

    /// The rows of `batch` with a usable time, and their times, if there are any. The others are refused.
    fn usable(
        &self,
        batch: RecordBatch,
        wall_ns: i64,
        timed: &mut Timed,
    ) -> Result<Option<(RecordBatch, Times)>, ArrowError> {
        let column = batch.column(self.column);
        let (values, factor) = raw(column)?;
        let limit = self.limit(wall_ns);
        let mut times = Vec::with_capacity(batch.num_rows());
        let mut keep = vec![true; batch.num_rows()];
        for (row, kept) in keep.iter_mut().enumerate() {
            let time = (!column.is_null(row)).then(|| values[row].checked_mul(factor));
            let reason = match time {
                None => "the event time is null",
                Some(None) => "the event time is outside the years 1678 to 2261",
                Some(Some(time)) if limit.is_some_and(|limit| time > limit) => {
                    "the event time is further ahead of the clock than max_ahead allows"
                }
                Some(Some(time)) => {
                    times.push(time);
                    continue;
                }
            };
            *kept = false;
            timed.refused.push((batch.slice(row, 1), reason.to_owned()));
        }
        let Some((oldest, newest)) = times::extent(&times) else { return Ok(None) };
        let batch = filter_record_batch(&batch, &BooleanArray::from(keep))?;
        Ok(Some((batch, Times { values: times.into(), factor: 1, oldest, newest })))
    }
}

impl SourceClock for EventClock {
    fn batch(
        &mut self,
        partition: &Arc<str>,
        batch: RecordBatch,
        now: Instant,
        wall_ns: i64,
    ) -> Result<Timed, ArrowError> {
        let mut timed = Timed::default();
        let (batch, times) = match self.all_usable(&batch, wall_ns)? {
            Some(times) => (batch, times),
            None => match self.usable(batch, wall_ns, &mut timed)? {
                Some(usable) => usable,
                None => return Ok(timed),
            },
        };
        let others = self.minimum_of_others(partition);
        let own =
            self.partitions.entry(partition.clone()).or_insert(Partition { newest: None, last_row: now, idle: false });
        own.last_row = now;
        own.idle = false;
        let before = own.newest;
        own.newest = before.max(Some(times.newest));
        self.cut(batch, &times, before, others, &mut timed.elements);
        timed.elements.extend(self.advance());
        Ok(timed)
    }

    fn set_partitions(&mut self, names: &[Arc<str>], now: Instant) -> Option<Element> {
        self.partitions.retain(|name, _| names.contains(name));
        for name in names {
            // The time before they were handed out (a consumer group may wait long for a dead member) was not idle.
            let partition = self.partitions.entry(name.clone());
            let partition = partition.or_insert(Partition { newest: None, last_row: now, idle: false });
            partition.last_row = now;
            partition.idle = false;
        }
        self.advance()
    }

    // Rows may have been waiting, so that this time makes no partition idle.
    fn not_reading(&mut self, busy: Duration, now: Instant) {
        for partition in self.partitions.values_mut() {
            partition.last_row = partition.last_row.checked_add(busy).map_or(now, |shifted| shifted.min(now));
        }
    }

    fn next_tick(&self) -> Option<Instant> {
        self.partitions.values().filter(|p| !p.idle).filter_map(|p| p.last_row.checked_add(self.plan.idle_after)).min()
    }

    // Marks partitions idle whose time has come.
    fn tick(&mut self, now: Instant, _: i64) -> Option<Element> {
        for partition in self.partitions.values_mut() {
            partition.idle |= now.duration_since(partition.last_row) >= self.plan.idle_after;
        }
        self.advance()
    }

    fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    fn state(&self) -> ClockState {
        let newest = self.partitions.iter().filter_map(|(name, p)| Some((name.to_string(), p.newest?)));
        ClockState { processing: false, newest: newest.collect(), watermark: self.watermark }
    }
}

/// The values of a time column, and how many nanoseconds their unit has.
fn raw(column: &dyn Array) -> Result<(&ScalarBuffer<i64>, i64), ArrowError> {
    match column.data_type() {
        DataType::Timestamp(unit, _) => Ok((times::values(column)?, unit_ns(*unit))),
        _ => Err(ArrowError::SchemaError("the event time is no timestamp".into())),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMillisecondArray;
    use arrow::datatypes::{Field, Schema, TimeUnit};

    use super::*;

    const MS: i64 = 1_000_000;

    fn plan() -> Disorder {
        Disorder {
            delay: Duration::from_millis(10),
            idle_after: Duration::from_secs(30),
            max_ahead: Some(Duration::from_secs(3600)),
        }
    }

    fn batch(times: &[Option<i64>]) -> RecordBatch {
        let field = Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true);
        let array = TimestampMillisecondArray::from(times.to_vec());
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::new(array)]).unwrap()
    }

    fn clock() -> EventClock {
        EventClock::new(0, plan(), &ClockState::default(), Instant::now())
    }

    /// Batches as `rows`, watermarks as `@ms`.
    fn show(elements: &[Element]) -> String {
        let shown = elements.iter().map(|element| match element {
            Element::Batch(batch) => batch.num_rows().to_string(),
            Element::Watermark(Watermark::At(time)) => format!("@{}", time / MS),
            Element::Watermark(Watermark::Idle) => "idle".into(),
            other => format!("{other:?}"),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    fn feed(clock: &mut EventClock, partition: &str, times: &[i64]) -> String {
        let times: Vec<_> = times.iter().map(|time| Some(*time)).collect();
        show(&clock.batch(&partition.into(), batch(&times), Instant::now(), i64::MAX / 2).unwrap().elements)
    }

    #[tokio::test]
    async fn disorder_within_the_bound_cuts_nothing() {
        assert_eq!(feed(&mut clock(), "p", &[100, 95, 105, 98]), "4 @95");
    }

    #[tokio::test]
    async fn a_batch_is_cut_just_before_a_row_below_the_running_watermark() {
        assert_eq!(feed(&mut clock(), "p", &[100, 120, 105, 130]), "2 @110 2 @120");
        // The same rows one by one: the same order of rows and watermarks.
        let mut one_by_one = clock();
        let shown: Vec<_> = [100, 120, 105, 130].iter().map(|time| feed(&mut one_by_one, "p", &[*time])).collect();
        assert_eq!(shown.join(" "), "1 @90 1 @110 1 1 @120");
    }

    #[tokio::test]
    async fn the_slowest_partition_holds_the_source_back_until_it_is_idle() {
        let mut clock = clock();
        let now = Instant::now();
        assert!(clock.set_partitions(&["a".into(), "b".into()], now).is_none());
        assert_eq!(feed(&mut clock, "a", &[1000]), "1");
        assert_eq!(feed(&mut clock, "b", &[500]), "1 @490");
        let later = now + Duration::from_secs(20);
        clock.batch(&"a".into(), batch(&[Some(2000)]), later, i64::MAX / 2).unwrap();
        let tick = clock.tick(now + Duration::from_secs(31), 0).unwrap();
        assert_eq!(show(&[tick]), "@1990");
        let tick = clock.tick(now + Duration::from_secs(51), 0).unwrap();
        assert_eq!(show(&[tick]), "idle");
        // A row wakes the source; the watermark does not go back.
        assert_eq!(feed(&mut clock, "b", &[600]), "1 @1990");
    }

    #[tokio::test]
    async fn rows_without_a_usable_time_are_refused_with_a_reason() {
        let wall = 1_000_000 * MS;
        let rows = batch(&[Some(1), None, Some(i64::MAX), Some(1_000_000 + 3_600_001)]);
        let timed = clock().batch(&"p".into(), rows, Instant::now(), wall).unwrap();
        assert_eq!(show(&timed.elements), "1 @-9");
        let reasons: Vec<_> = timed.refused.iter().map(|(_, reason)| reason.as_str()).collect();
        assert_eq!(reasons.len(), 3);
        assert!(reasons[0].contains("null") && reasons[1].contains("1678") && reasons[2].contains("max_ahead"));
    }

    #[tokio::test]
    async fn a_restored_clock_goes_on_where_it_was() {
        let mut first = clock();
        feed(&mut first, "a", &[1000]);
        let mut second = EventClock::new(0, plan(), &first.state(), Instant::now());
        assert_eq!(second.watermark(), Some(990 * MS));
        assert_eq!(feed(&mut second, "a", &[995]), "1");
    }

    #[test]
    fn time_in_which_nothing_is_read_makes_no_partition_idle() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let plan = Disorder { delay: Duration::ZERO, idle_after: Duration::from_secs(30), max_ahead: None };
        let newest = [("a".to_owned(), 5), ("b".to_owned(), 5)].into();
        let state = ClockState { processing: false, newest, watermark: Some(5) };
        let mut clock = EventClock::new(0, plan, &state, start);
        // The group handed the partitions out only after a minute.
        let names: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        clock.set_partitions(&names, at(60));
        assert!(clock.tick(at(61), 0).is_none());
        // A sink stood still for another minute.
        clock.not_reading(Duration::from_secs(60), at(121));
        assert!(clock.tick(at(122), 0).is_none());
        assert_eq!(clock.tick(at(160), 0).map(|element| format!("{element:?}")), Some("Watermark(Idle)".to_owned()));
    }
}
