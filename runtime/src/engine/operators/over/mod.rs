//! OVER windows: rows wait until the watermark has passed their time, then come out in the order of event time, each
//! with the values of its functions.
//!
//! A row that comes out is first *released*: put behind the rows of its key in the final order. Then, at once or when the
//! rows that its frames reach ahead for have been released too, the functions are evaluated at it. Of released rows only
//! what a frame of a later row can hold is kept.

pub(crate) mod call;
mod function;
mod general;
mod number;
mod pick;
pub(crate) mod sequence;
mod state;
pub(crate) mod store;
mod waiting;

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{SortOptions, cast, filter_record_batch, is_not_null, not};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;

use crate::engine::dead_letter::Letter;
use crate::engine::element::END_OF_TIME;
use crate::engine::error::RunError;
use crate::engine::keyed::{EncodedKeys, KeyEncoder, KeyTable, Selection};
use crate::engine::operator::{Description, Operator, OperatorPlan, Output, Site, StateSize};
use crate::engine::operators::over::call::{Call, CallKind};
use crate::engine::operators::over::function::{Function, Row, View};
use crate::engine::operators::over::sequence::{Bound, Facts, Frame, Sequence};
use crate::engine::operators::over::store::{Slots, Store, StoreKind, StoreSpec};
use crate::engine::operators::over::waiting::{OrderRows, Waiting};
use crate::engine::times;
use crate::sql::windows::unit_ns;

/// So many rows are released at a time, and all others of the last one's time.
const PIECE_ROWS: usize = if cfg!(test) { 7 } else { 8192 };

/// What the operator computes.
#[derive(Debug, Clone)]
pub(crate) struct OverPlan {
    /// The input's columns: first those that are passed on, then what the functions need.
    pub(crate) input: SchemaRef,
    /// How many of them are passed on.
    pub(crate) passed: usize,
    /// The columns of PARTITION BY.
    pub(crate) keys: Vec<usize>,
    /// The event time, by which rows are ordered.
    pub(crate) time: usize,
    /// The columns of ORDER BY behind it.
    pub(crate) order: Vec<(usize, SortOptions)>,
    /// What is kept of each row for the functions.
    pub(crate) stores: Vec<StoreSpec>,
    pub(crate) calls: Vec<Call>,
    /// The output: the columns that are passed on, then one per function.
    pub(crate) schema: SchemaRef,
    /// Rows may come after the watermark: they are not from an OVER window of the same step.
    pub(crate) late: bool,
}

impl OverPlan {
    /// For how many rows of its key that follow it a row waits.
    fn following_rows(&self) -> u64 {
        self.calls.iter().map(Call::following_rows).max().unwrap_or(0)
    }

    /// How far the watermark must have passed a row, in units of the event time.
    fn following_range(&self) -> Option<i64> {
        self.calls.iter().filter_map(Call::following_range).max()
    }

    /// How long rows are kept by time, in units of the event time.
    fn kept_range(&self) -> Option<i64> {
        let frames = self.calls.iter().filter_map(Call::frame);
        let back = frames.filter_map(|frame| match frame {
            Frame { rows: false, start: Bound::Offset(offset), .. } => Some(offset.saturating_neg().max(0)),
            _ => None,
        });
        back.max()
    }

    fn passed_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.input.fields()[..self.passed].to_vec()))
    }

    /// How many nanoseconds the unit of the event time has.
    fn unit_ns(&self) -> i64 {
        match self.input.field(self.time).data_type() {
            DataType::Timestamp(unit, _) => unit_ns(*unit),
            _ => 1,
        }
    }
}

#[async_trait]
impl OperatorPlan for OverPlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        let over = Over::new(self.clone(), site.step.clone());
        Ok(Box::new(over.map_err(|error| site.failed(error.strip_backtrace()))?))
    }

    async fn check(&self) -> DataFusionResult<()> {
        self.calls.iter().try_for_each(|call| match &call.kind {
            CallKind::General(general) => general.aggregate.create_accumulator().map(drop),
            _ => Ok(()),
        })
    }

    fn late(&self) -> Vec<SchemaRef> {
        if self.late { vec![self.passed_schema()] } else { vec![] }
    }

    fn orders_rows(&self) -> bool {
        true
    }

    fn describe(&self) -> Description {
        let calls: Vec<&str> = self.calls.iter().map(|call| call.name.as_str()).collect();
        let mut keeps = vec!["rows that the watermark has not passed"];
        let grows = |call: &Call| call.frame().is_none_or(|frame| frame.grows());
        if self.calls.iter().any(|call| !grows(call)) {
            keeps.push("per key the rows that a later row's frame can hold");
        }
        if self.calls.iter().any(grows) {
            keeps.push("per key a counter or accumulator for each function without a frame's start");
        }
        let mut freed = vec!["rows when the watermark passes them"];
        if self.following_rows() > 0 {
            freed = vec!["rows when the watermark has passed them and as many rows of their key as their frame needs"];
        } else if self.following_range().is_some() {
            freed = vec!["rows when the watermark has passed the end of their frame"];
        }
        freed.push("of each key what every frame has left behind; a key itself never");
        Description {
            does: format!("computes per row, in the order of event time: {}", calls.join(", ")),
            keeps: Some(keeps.join("; ")),
            freed: Some(freed.join("; ")),
        }
    }
}

/// The operator.
pub(crate) struct Over {
    plan: OverPlan,
    step: String,
    unit_ns: i64,
    /// Rows with a time before it are late, and all others wait; in units of the event time.
    limit: i64,
    waiting: Waiting,
    encoder: Option<KeyEncoder>,
    table: KeyTable,
    order: Option<OrderRows>,
    /// By key.
    sequences: Vec<Sequence>,
    slots: Slots,
    facts: Facts,
    stores: Vec<Store>,
    /// The columns that are passed on of rows that have been released and not come out; where frames reach ahead.
    kept: Option<Store>,
    functions: Vec<Box<dyn Function>>,
    /// Released rows that wait for RANGE … FOLLOWING, in the order of release: their times and keys.
    ahead: VecDeque<(i64, u32)>,
    /// Released rows in the order of release, where frames reach back by time.
    expiring: VecDeque<(i64, u32)>,
    /// Whether both must be made anew: after a restore.
    stale: bool,
    /// Counts the runs of released rows.
    run: u64,
    /// Counts the released rows.
    released: u64,
    /// Of the run at hand; kept to reuse their memory.
    keys: EncodedKeys,
    numbers: Vec<usize>,
    run_slots: Vec<u32>,
    rows: Vec<Row>,
    touched: Vec<u32>,
}

impl Over {
    /// An operator without state.
    fn new(plan: OverPlan, step: String) -> DataFusionResult<Self> {
        let encoder = match plan.keys.is_empty() {
            true => None,
            false => Some(KeyEncoder::new(plan.keys.iter().map(|key| plan.input.field(*key)))?),
        };
        let stores = plan.stores.iter().map(|spec| Store::new(spec.clone(), &plan.input));
        let stores = stores.collect::<Result<Vec<_>, _>>()?;
        let functions = plan.calls.iter().map(|call| function::create(call, &stores, &plan.input));
        let functions = functions.collect::<DataFusionResult<Vec<_>>>()?;
        let waits = plan.following_rows() > 0 || plan.following_range().is_some();
        let kept = StoreSpec { kind: StoreKind::Rows, columns: (0..plan.passed).collect(), filter: None };
        Ok(Self {
            step,
            unit_ns: plan.unit_ns(),
            limit: i64::MIN,
            waiting: Waiting::new(plan.input.clone(), plan.time, &plan.order)?,
            encoder,
            table: KeyTable::default(),
            order: OrderRows::new(&plan.order, &plan.input)?,
            sequences: Vec::new(),
            slots: Slots::default(),
            facts: Facts::default(),
            stores,
            kept: if waits { Some(Store::new(kept, &plan.input)?) } else { None },
            functions,
            ahead: VecDeque::new(),
            expiring: VecDeque::new(),
            stale: false,
            run: 0,
            released: 0,
            keys: EncodedKeys::default(),
            numbers: Vec::new(),
            run_slots: Vec::new(),
            rows: Vec::new(),
            touched: Vec::new(),
            plan,
        })
    }

    fn failed(&self, error: impl ToString) -> RunError {
        RunError::fatal(format!("step {}", self.step), error)
    }

    /// Takes in rows: those without a time become letters, those before the limit are late.
    fn take_in(&mut self, mut batch: RecordBatch, out: &mut Output) -> DataFusionResult<()> {
        let column = batch.column(self.plan.time);
        if column.null_count() > 0 {
            let present = is_not_null(column)?;
            let passed: Vec<usize> = (0..self.plan.passed).collect();
            for row in (0..batch.num_rows()).filter(|row| !present.value(*row)) {
                let reason = "the event time is null, so the row has no place in the order";
                let row = batch.slice(row, 1).project(&passed)?;
                out.letters.push(Letter::row(format!("step {}", self.step), reason, &row));
            }
            batch = filter_record_batch(&batch, &present)?;
        }
        let values = times::values(batch.column(self.plan.time))?;
        if values.iter().any(|time| *time < self.limit) {
            let late = BooleanArray::from_iter(values.iter().map(|time| Some(*time < self.limit)));
            let passed: Vec<usize> = (0..self.plan.passed).collect();
            out.late.push(filter_record_batch(&batch, &late)?.project(&passed)?);
            batch = filter_record_batch(&batch, &not(&late)?)?;
        }
        Ok(self.waiting.add(batch)?)
    }

    /// Releases all rows before `limit`; at the `end` all there are.
    fn advance(&mut self, limit: i64, end: bool, out: &mut Output) -> DataFusionResult<()> {
        self.refresh();
        if let Some(run) = self.waiting.take((!end).then_some(limit))? {
            let values = times::values(run.column(self.plan.time))?;
            let mut start = 0;
            while start < values.len() {
                let mut stop = (start + PIECE_ROWS).min(values.len());
                stop += values[stop..].iter().take_while(|time| **time == values[stop - 1]).count();
                self.release(&run.slice(start, stop - start))?;
                let so_far = values[stop - 1].saturating_add(1);
                self.evaluate(Some(&run.slice(start, stop - start)), so_far.min(limit), false, out)?;
                start = stop;
            }
        }
        self.evaluate(None, limit, end, out)
    }

    /// Puts the rows of `run`, which are in their final order, behind those of their keys.
    fn release(&mut self, run: &RecordBatch) -> DataFusionResult<()> {
        let rows = run.num_rows();
        match &self.encoder {
            Some(encoder) => {
                let columns: Vec<ArrayRef> = self.plan.keys.iter().map(|key| run.column(*key).clone()).collect();
                encoder.encode(&columns, &mut self.keys)?;
                self.table.intern(&self.keys, Selection::Range { start: 0, len: rows }, &mut self.numbers);
            }
            None => {
                self.numbers.clear();
                self.numbers.resize(rows, 0);
            }
        }
        let keys = if self.encoder.is_some() { self.table.len() } else { 1 };
        self.sequences.resize_with(keys, Sequence::default);
        self.run_slots.clear();
        self.run_slots.extend((0..rows).map(|_| self.slots.take()));
        let count = self.slots.count();
        self.facts.grow(count);
        self.place(run)?;
        for store in &mut self.stores {
            store.fill(run, &self.run_slots, count)?;
        }
        if let Some(kept) = &mut self.kept {
            kept.fill(run, &self.run_slots, count)?;
        }
        Ok(())
    }

    /// Gives the rows of `run` their positions, groups and slots.
    fn place(&mut self, run: &RecordBatch) -> DataFusionResult<()> {
        let values = times::values(run.column(self.plan.time))?;
        let order = match &self.order {
            Some(order) => Some(order.of(run)?),
            None => None,
        };
        self.run += 1;
        let (ahead, expiring) = (self.plan.following_range().is_some(), self.plan.kept_range().is_some());
        for (row, (key, slot)) in self.numbers.iter().zip(&self.run_slots).enumerate() {
            let sequence = &mut self.sequences[*key];
            let time = values[row];
            let before = sequence.newest.1 as usize;
            let equal = sequence.newest.0 == self.run
                && values[before] == time
                && order.as_ref().is_none_or(|order| order.row(before) == order.row(row));
            if !equal {
                sequence.groups += 1;
                sequence.group_start = sequence.end();
            }
            sequence.newest = (self.run, row as u32);
            let at = *slot as usize;
            self.facts.times[at] = time;
            self.facts.groups[at] = sequence.groups;
            self.facts.starts[at] = sequence.group_start;
            self.facts.orders[at] = self.released;
            self.released += 1;
            sequence.slots.push_back(*slot);
            if ahead {
                self.ahead.push_back((time, *key as u32));
            }
            if expiring {
                self.expiring.push_back((time, *key as u32));
            }
        }
        Ok(())
    }

    /// Evaluates the functions at the rows whose frames are complete, where all rows before `limit` are there, and gives
    /// them out. `run` is what was released just before.
    fn evaluate(&mut self, run: Option<&RecordBatch>, limit: i64, end: bool, out: &mut Output) -> DataFusionResult<()> {
        self.touched.clear();
        self.rows.clear();
        if run.is_some() {
            self.touched.extend(self.numbers.iter().map(|key| *key as u32));
        }
        match (&self.kept, run) {
            (Some(_), _) => self.complete(limit, end),
            (None, Some(_)) => self.all_of_run(),
            (None, None) => {}
        }
        for (piece, rows) in self.rows.chunks(PIECE_ROWS).enumerate() {
            let view = View { sequences: &self.sequences, facts: &self.facts, stores: &self.stores };
            let mut columns = match (&self.kept, run) {
                (Some(kept), _) => {
                    let mut reading = kept.reading(rows.len());
                    rows.iter().for_each(|row| kept.pick(&mut reading, Some(row.slot)));
                    kept.finish(reading)?
                }
                (None, Some(run)) => {
                    let start = piece * PIECE_ROWS;
                    run.columns()[..self.plan.passed].iter().map(|column| column.slice(start, rows.len())).collect()
                }
                (None, None) => vec![],
            };
            for function in &mut self.functions {
                columns.push(function.evaluate(rows, view)?);
            }
            let typed = columns.into_iter().zip(self.plan.schema.fields()).map(|(column, field)| {
                match column.data_type() == field.data_type() {
                    true => Ok(column),
                    false => cast(&column, field.data_type()),
                }
            });
            out.batches.push(RecordBatch::try_new(self.plan.schema.clone(), typed.collect::<Result<Vec<_>, _>>()?)?);
        }
        self.forget(limit);
        Ok(())
    }

    /// All rows of the run at hand come out.
    fn all_of_run(&mut self) {
        // The newest rows of each key are those of the run: their positions follow the ones that have come out.
        for (key, slot) in self.numbers.iter().zip(&self.run_slots) {
            let sequence = &mut self.sequences[*key];
            self.rows.push(Row { key: *key as u32, position: sequence.next, slot: *slot });
            sequence.next += 1;
        }
    }

    /// Finds the rows whose frames are complete.
    fn complete(&mut self, limit: i64, end: bool) {
        match self.plan.following_range() {
            Some(range) => {
                while let Some((time, key)) = self.ahead.front().copied() {
                    if !end && time.saturating_add(range) >= limit {
                        break;
                    }
                    self.ahead.pop_front();
                    self.sequences[key as usize].cleared += 1;
                    self.touched.push(key);
                }
            }
            None => self.touched.iter().for_each(|key| {
                let sequence = &mut self.sequences[*key as usize];
                sequence.cleared = sequence.end();
            }),
        }
        if end {
            self.touched.extend(0..self.sequences.len() as u32);
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        let following = self.plan.following_rows();
        for key in &self.touched {
            let sequence = &mut self.sequences[*key as usize];
            let have = sequence.end();
            let ready = if end { have } else { sequence.cleared.min(have.saturating_sub(following)) };
            while sequence.next < ready {
                let slot = sequence.slot(sequence.next);
                self.rows.push(Row { key: *key, position: sequence.next, slot });
                sequence.next += 1;
            }
        }
        let facts = &self.facts;
        self.rows.sort_by_key(|row| (facts.times[row.slot as usize], facts.orders[row.slot as usize]));
    }

    /// Lets go of rows that no frame can hold any more.
    fn forget(&mut self, limit: i64) {
        if let Some(range) = self.plan.kept_range() {
            while let Some((time, key)) = self.expiring.front().copied() {
                if time >= limit.saturating_sub(range) {
                    break;
                }
                self.expiring.pop_front();
                self.touched.push(key);
            }
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        for key in std::mem::take(&mut self.touched) {
            let sequence = &self.sequences[key as usize];
            let mut needed = sequence.next;
            for frame in self.plan.calls.iter().filter_map(Call::frame) {
                needed = needed.min(frame.needed(sequence, &self.facts, limit));
            }
            for entered in self.functions.iter().filter_map(|function| function.entered(key)) {
                needed = needed.min(entered);
            }
            let sequence = &mut self.sequences[key as usize];
            while sequence.base < needed
                && let Some(slot) = sequence.slots.pop_front()
            {
                self.slots.free(slot);
                sequence.base += 1;
            }
        }
    }

    /// After a restore: finds the rows that wait for others or for their end again.
    fn refresh(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let mut all = Vec::new();
        for (key, sequence) in self.sequences.iter_mut().enumerate() {
            for (position, slot) in (sequence.base..).zip(&sequence.slots) {
                let at = *slot as usize;
                all.push((self.facts.times[at], self.facts.orders[at], key as u32, position >= sequence.cleared));
            }
        }
        all.sort_unstable();
        if self.plan.following_range().is_some() {
            self.ahead = all.iter().filter(|row| row.3).map(|row| (row.0, row.2)).collect();
        }
        if self.plan.kept_range().is_some() {
            self.expiring = all.iter().map(|row| (row.0, row.2)).collect();
        }
    }
}

#[async_trait]
impl Operator for Over {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        self.take_in(batch, out).map_err(|error| self.failed(error.strip_backtrace()))
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        // The first value of the time column that the watermark has not passed.
        let limit = match watermark {
            END_OF_TIME => i64::MAX,
            time => time.div_euclid(self.unit_ns) + i64::from(time.rem_euclid(self.unit_ns) > 0),
        };
        if limit <= self.limit && !self.stale {
            return Ok(());
        }
        self.limit = limit;
        let advanced = self.advance(limit, watermark == END_OF_TIME, out);
        advanced.map_err(|error| self.failed(error.strip_backtrace()))
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        state::snapshot(self).map_err(|error| self.failed(error.strip_backtrace()))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        state::restore(self, state, keep).map_err(|error| self.failed(error.strip_backtrace()))
    }

    fn state_size(&self) -> StateSize {
        let stores = self.stores.iter().chain(&self.kept).map(Store::bytes).sum::<usize>();
        let functions = self.functions.iter().map(|function| function.bytes()).sum::<usize>();
        let keys = self.table.bytes() + self.sequences.capacity() * size_of::<Sequence>();
        let queues = (self.ahead.capacity() + self.expiring.capacity()) * size_of::<(i64, u32)>();
        StateSize {
            rows: self.waiting.rows() + self.slots.used() + self.sequences.len(),
            bytes: self.waiting.bytes() + self.facts.bytes() + stores + functions + keys + queues,
        }
    }
}
