//! Aggregates that give out results before they are final: of windows that are open, and of groups without a window.
//!
//! Final rows of a window are those of [`super::super::aggregate`]. A group without a window is final at the end of the
//! input, or when none of its rows has come for the time-to-live; what comes later for its key begins a new group.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use tokio::time::Instant;

use super::emission::{Emission, Emit};
use super::groups::{Groups, Results};
use super::retention::Retention;
use super::{OUTPUT_ROWS_MAX, state};
use crate::engine::element::END_OF_TIME;
use crate::engine::error::RunError;
use crate::engine::keyed::{EncodedKeys, KeyEncoder, KeyTable, Selection};
use crate::engine::operator::{Description, Operator, OperatorPlan, Output, Site, StateSize};
use crate::engine::operators::aggregate::{AggregateCall, Arguments, Constants, OutputColumn, try_accumulators};
use crate::engine::operators::window_parts::{WindowKey, parts};
use crate::engine::times;
use crate::sql::windows::unit_ns;

/// Stands for the window of what has none.
const NO_WINDOW: WindowKey = (i64::MAX, i64::MAX);
/// Keys are numbered anew where so many numbers are out of use, and more than half of all.
const UNUSED_NUMBERS_MAX: usize = 1024;

/// What the operator computes. Its input has the keys first, then window_start and window_end where it has windows, or
/// the event time where `event_time` is set, then arguments.
#[derive(Debug, Clone)]
pub(crate) struct UpdatingAggregatePlan {
    /// The input's columns.
    pub(crate) input: SchemaRef,
    /// How many of them are keys.
    pub(crate) keys: usize,
    pub(crate) calls: Vec<AggregateCall>,
    /// Where each output column comes from, all but `is_final`.
    pub(crate) output: Vec<OutputColumn>,
    /// The output's columns; where `emit` gives updates, `is_final` is the last.
    pub(crate) schema: SchemaRef,
    pub(crate) windowed: bool,
    /// Rows may come after their window has closed: another step has made the windows.
    pub(crate) late: bool,
    pub(crate) event_time: bool,
    /// In nanoseconds. `None`: kept to the end of the input.
    pub(crate) ttl: Option<i64>,
    pub(crate) emit: Emit,
}

#[async_trait]
impl OperatorPlan for UpdatingAggregatePlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        Ok(Box::new(UpdatingAggregate::new(self.clone(), site)?))
    }

    async fn check(&self) -> DataFusionResult<()> {
        try_accumulators(&self.calls)
    }

    fn late(&self) -> Vec<SchemaRef> {
        if self.late { vec![self.input.clone()] } else { vec![] }
    }

    fn describe(&self) -> Description {
        let calls: Vec<&str> = self.calls.iter().map(|call| call.aggregate.name()).collect();
        let what = if self.windowed { "each window" } else { "each group, without a window" };
        let freed = match (self.windowed, self.ttl) {
            (true, _) => "when the watermark passes the window's end".to_owned(),
            (false, Some(ttl)) => format!("when no row of the group has come for {}", times::duration(ttl)),
            (false, None) => "at the end of the input".to_owned(),
        };
        Description {
            does: format!("aggregates {what}: {}{}", calls.join(", "), self.emit.says()),
            keeps: Some("one accumulator per aggregate and group".to_owned()),
            freed: Some(freed),
        }
    }
}

/// The operator.
pub(crate) struct UpdatingAggregate {
    pub(super) plan: UpdatingAggregatePlan,
    site: Site,
    pub(super) encoder: KeyEncoder,
    /// The open windows, or [`NO_WINDOW`].
    pub(super) windows: BTreeMap<WindowKey, Groups>,
    /// Of the groups without a window.
    pub(super) retention: Retention,
    pub(super) emission: Emission,
    watermark: i64,
    /// How many nanoseconds the unit of the window bounds or of the event time has.
    pub(super) unit_ns: i64,
    constants: Constants,
    /// Keys and groups of the batch at hand; kept to reuse their memory.
    pub(super) keys: EncodedKeys,
    pub(super) numbers: Vec<usize>,
}

impl UpdatingAggregate {
    fn new(plan: UpdatingAggregatePlan, site: Site) -> Result<Self, RunError> {
        let encoder = KeyEncoder::new(plan.input.fields()[..plan.keys].iter().map(AsRef::as_ref));
        let encoder = encoder.map_err(|error| site.failed(error))?;
        let timed = plan.windowed || plan.event_time;
        let unit_ns = match plan.input.fields().get(plan.keys).map(|field| field.data_type()) {
            Some(DataType::Timestamp(unit, _)) if timed => unit_ns(*unit),
            _ => 1,
        };
        Ok(Self {
            site,
            encoder,
            windows: BTreeMap::new(),
            retention: Retention::new(plan.ttl, plan.event_time || plan.ttl.is_none()),
            emission: Emission::new(plan.emit),
            watermark: i64::MIN,
            unit_ns,
            constants: Constants::new(&plan.calls),
            keys: EncodedKeys::default(),
            numbers: Vec::new(),
            plan,
        })
    }

    fn failed(&self, error: &DataFusionError) -> RunError {
        self.site.failed(error.strip_backtrace())
    }

    /// The groups of the window `key`.
    pub(super) fn groups(&mut self, key: WindowKey) -> &mut Groups {
        let keyed = self.plan.keys > 0;
        self.windows.entry(key).or_insert_with(|| Groups::new(keyed))
    }

    /// Fills `numbers` with the group, in the window `key`, of each of the selected rows of the batch at hand.
    pub(super) fn intern(&mut self, key: WindowKey, selection: Selection<'_>) {
        let (keys, mut numbers) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.numbers));
        match &mut self.groups(key).table {
            Some(table) => table.intern(&keys, selection, &mut numbers),
            None => {
                numbers.clear();
                numbers.resize(selection.len(), 0);
            }
        }
        (self.keys, self.numbers) = (keys, numbers);
    }

    fn update(&mut self, batch: &RecordBatch, out: &mut Output) -> DataFusionResult<()> {
        if self.plan.keys > 0 {
            self.encoder.encode(&batch.columns()[..self.plan.keys], &mut self.keys)?;
        }
        let arguments = self.constants.arguments(&self.plan.calls, batch)?;
        if self.plan.windowed {
            self.update_windows(batch, &arguments, out)?;
        } else {
            self.update_groups(batch, &arguments, out)?;
        }
        if self.windows.values().any(Groups::has_changed) && self.emission.changed() {
            self.give_changes(out)?;
        }
        Ok(())
    }

    fn update_windows(&mut self, batch: &RecordBatch, arguments: &Arguments, out: &mut Output) -> DataFusionResult<()> {
        let (starts, ends) = (batch.column(self.plan.keys), batch.column(self.plan.keys + 1));
        for part in parts(times::values(ends)?, times::values(starts)?) {
            if part.window.0.saturating_mul(self.unit_ns) <= self.watermark {
                out.late.push(part.of_batch(batch)?);
                continue;
            }
            let selection = part.selection(batch.num_rows());
            let rows = match selection {
                Selection::Range { len, .. } if len == batch.num_rows() => None,
                Selection::Range { start, len } => {
                    Some(UInt32Array::from_iter_values(start as u32..(start + len) as u32))
                }
                Selection::Rows(rows) => Some(UInt32Array::from(rows.to_vec())),
            };
            self.intern(part.window, selection);
            let Some(groups) = self.windows.get_mut(&part.window) else { continue };
            groups.update(&self.plan.calls, arguments, rows.as_ref(), &self.numbers)?;
        }
        Ok(())
    }

    /// The times of a batch's rows by which groups are freed, in nanoseconds.
    fn times(&self, batch: &RecordBatch) -> DataFusionResult<Vec<i64>> {
        if let Some(now) = self.retention.clock(Instant::now()) {
            return Ok(vec![now; batch.num_rows()]);
        }
        if !self.plan.event_time {
            return Ok(vec![0; batch.num_rows()]);
        }
        let column = batch.column(self.plan.keys);
        let values = times::values(column)?;
        let of = |(row, value): (usize, &i64)| match column.is_null(row) {
            true => self.watermark,
            false => value.saturating_mul(self.unit_ns),
        };
        Ok(values.iter().enumerate().map(of).collect())
    }

    fn update_groups(&mut self, batch: &RecordBatch, arguments: &Arguments, out: &mut Output) -> DataFusionResult<()> {
        let times = self.times(batch)?;
        self.intern(NO_WINDOW, Selection::Range { start: 0, len: batch.num_rows() });
        let numbers = std::mem::take(&mut self.numbers);
        let watermark = if self.plan.event_time { self.watermark } else { i64::MIN };
        let mut first = 0;
        for (row, (number, time)) in numbers.iter().zip(times).enumerate() {
            let group = *number as u32;
            if self.retention.is_over(group, time, watermark) {
                // Its row begins a new group.
                self.update_rows(arguments, first..row, &numbers)?;
                first = row;
                self.retention.free(group);
                self.give_final(NO_WINDOW, &[group], out)?;
            }
            self.retention.touch(group, time);
        }
        self.update_rows(arguments, first..numbers.len(), &numbers)?;
        self.numbers = numbers;
        Ok(())
    }

    fn update_rows(
        &mut self,
        arguments: &Arguments,
        rows: std::ops::Range<usize>,
        numbers: &[usize],
    ) -> DataFusionResult<()> {
        let Some(groups) = self.windows.get_mut(&NO_WINDOW).filter(|_| !rows.is_empty()) else { return Ok(()) };
        let all = rows.len() == numbers.len();
        let picked = (!all).then(|| UInt32Array::from_iter_values(rows.start as u32..rows.end as u32));
        groups.update(&self.plan.calls, arguments, picked.as_ref(), &numbers[rows])
    }

    /// Gives out the groups that have changed.
    fn give_changes(&mut self, out: &mut Output) -> DataFusionResult<()> {
        for (key, groups) in &mut self.windows {
            let results = groups.take_changed(&self.plan.calls)?;
            let order: Vec<u32> = (0..results.groups.len() as u32).collect();
            rows(&self.plan, &self.encoder, *key, groups, &results, &order, false, out)?;
        }
        Ok(())
    }

    /// Gives out `groups` of a window for the last time. Their numbers ascend.
    fn give_final(&mut self, key: WindowKey, numbers: &[u32], out: &mut Output) -> DataFusionResult<()> {
        let Some(groups) = self.windows.get_mut(&key).filter(|_| !numbers.is_empty()) else { return Ok(()) };
        let results = groups.free(&self.plan.calls, numbers)?;
        let mut order: Vec<u32> = (0..numbers.len() as u32).collect();
        if let Some(table) = &groups.table {
            let group = |place: &u32| results.groups[*place as usize];
            order.sort_unstable_by(|a, b| table.order(group(a), group(b)));
        }
        rows(&self.plan, &self.encoder, key, groups, &results, &order, true, out)
    }

    /// Everything is final that is over at `watermark`.
    fn advance(&mut self, watermark: i64, out: &mut Output) -> DataFusionResult<()> {
        if self.plan.windowed {
            while let Some(key) = self.windows.keys().next().copied()
                && key.0.saturating_mul(self.unit_ns) <= watermark
            {
                let numbers: Vec<u32> = (0..self.groups(key).len() as u32).collect();
                self.give_final(key, &numbers, out)?;
                self.windows.remove(&key);
            }
            return Ok(());
        }
        if watermark == END_OF_TIME {
            let count = self.retention.numbered() as u32;
            let live: Vec<u32> = (0..count).filter(|group| self.retention.is_live(*group)).collect();
            self.give_final(NO_WINDOW, &live, out)?;
            self.windows.clear();
            self.retention.clear();
            return Ok(());
        }
        if self.plan.event_time { self.expire(watermark, out) } else { Ok(()) }
    }

    fn expire(&mut self, time: i64, out: &mut Output) -> DataFusionResult<()> {
        let expired = self.retention.expire(time);
        self.give_final(NO_WINDOW, &expired, out)?;
        let unused = self.retention.numbered() - self.retention.live();
        if unused > UNUSED_NUMBERS_MAX && unused > self.retention.live() {
            let state = state::snapshot(self)?;
            self.windows.clear();
            self.retention.clear();
            for batch in state {
                state::restore(self, &batch, &|_| true, false)?;
            }
        }
        Ok(())
    }
}

/// Gives out the results at the places `order` of `results`.
#[expect(clippy::too_many_arguments, reason = "they are what a row is made of")]
fn rows(
    plan: &UpdatingAggregatePlan,
    encoder: &KeyEncoder,
    (end, start): WindowKey,
    groups: &Groups,
    results: &Results,
    order: &[u32],
    is_final: bool,
    out: &mut Output,
) -> DataFusionResult<()> {
    let bound = || plan.input.field(plan.keys).data_type();
    for order in order.chunks(OUTPUT_ROWS_MAX) {
        let numbers: Vec<u32> = order.iter().map(|place| results.groups[*place as usize]).collect();
        let keys = match &groups.table {
            Some(table) => encoder.decode(table, &numbers)?,
            None => vec![],
        };
        let picked = UInt32Array::from(order.to_vec());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(plan.schema.fields().len());
        for (index, column) in plan.output.iter().enumerate() {
            let array = match column {
                OutputColumn::Key(key) => keys[*key].clone(),
                OutputColumn::Start => times::column(vec![start; order.len()], bound())?,
                OutputColumn::End => times::column(vec![end; order.len()], bound())?,
                OutputColumn::Aggregate(call) => take(&results.values[*call], &picked, None)?,
            };
            let wanted = plan.schema.field(index).data_type();
            columns.push(if array.data_type() == wanted { array } else { cast(&array, wanted)? });
        }
        if plan.emit.updates() {
            columns.push(std::sync::Arc::new(BooleanArray::from(vec![is_final; order.len()])));
        }
        out.batches.push(RecordBatch::try_new(plan.schema.clone(), columns)?);
    }
    Ok(())
}

#[async_trait]
impl Operator for UpdatingAggregate {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.update(&batch, out).map_err(|error| self.failed(&error))
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        self.advance(watermark, out).map_err(|error| self.failed(&error))
    }

    fn next_tick(&self) -> Option<Instant> {
        self.emission.next_tick().into_iter().chain(self.retention.next_tick()).min()
    }

    async fn tick(&mut self, now: Instant, out: &mut Output) -> Result<(), RunError> {
        let mut given = Ok(());
        if self.emission.tick(now) {
            given = self.give_changes(out);
        }
        if let (Ok(()), Some(time)) = (&given, self.retention.clock(now)) {
            given = self.expire(time, out);
        }
        given.map_err(|error| self.failed(&error))
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        state::snapshot(self).map_err(|error| self.failed(&error))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        state::restore(self, state, keep, true).map_err(|error| self.failed(&error))
    }

    fn state_size(&self) -> StateSize {
        let rows = match self.plan.windowed {
            true => self.windows.values().map(|groups| groups.table.as_ref().map_or(1, KeyTable::len)).sum(),
            false => self.retention.live(),
        };
        let bytes = self.windows.values().map(Groups::bytes).sum::<usize>() + self.retention.bytes();
        StateSize { rows, bytes }
    }
}
