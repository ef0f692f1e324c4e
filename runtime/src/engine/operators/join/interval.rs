//! The interval join: rows with equal keys whose times are within bounds of each other.
//!
//! A row is given out with each of its matches as soon as both are there. It waits for further ones until the watermark
//! says that none can come; an unmatched row of an outer side then comes out with nulls.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{filter, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;

use crate::engine::element::END_OF_TIME;
use crate::engine::error::RunError;
use crate::engine::operator::{Description, Operator, OperatorPlan, Output, Site, StateSize};
use crate::engine::operators::join::index::{Entry, Index, NO_KEY};
use crate::engine::operators::join::residual::Residual;
use crate::engine::operators::join::side::{Rows, Side};
use crate::engine::operators::join::state;
use crate::engine::operators::join::store::Store;
use crate::engine::times;

/// The most pairs of rows that are looked at together, and so the most rows of a batch of results.
pub(super) const CANDIDATES_MAX: usize = 8192;

/// What is joined, and how.
#[derive(Debug, Clone)]
pub(crate) struct IntervalJoinPlan {
    /// Left and right.
    pub(crate) sides: [Side; 2],
    /// By side: its unmatched rows come out too.
    pub(crate) keeps: [bool; 2],
    /// The bounds of the left time less the right one, in nanoseconds.
    pub(crate) least: i64,
    pub(crate) greatest: i64,
    pub(crate) residual: Option<Residual>,
    /// The left side's columns, then the right side's.
    pub(crate) schema: SchemaRef,
}

impl IntervalJoinPlan {
    /// The times of the other side that match the time `time` of `side`.
    fn reach(&self, side: usize, time: i64) -> (i64, i64) {
        match side {
            0 => (time.saturating_sub(self.greatest), time.saturating_sub(self.least)),
            _ => (time.saturating_add(self.least), time.saturating_add(self.greatest)),
        }
    }

    /// True where no row that is still to come can match a row of `side` with this time.
    fn is_past(&self, side: usize, time: i64, watermark: i64) -> bool {
        self.reach(side, time).1 < watermark || watermark == END_OF_TIME
    }
}

#[async_trait]
impl OperatorPlan for IntervalJoinPlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        Ok(Box::new(IntervalJoin::new(self.clone(), site)?))
    }

    fn late(&self) -> Vec<SchemaRef> {
        self.sides.iter().map(Side::schema).collect()
    }

    fn describe(&self) -> Description {
        let kind = match self.keeps {
            [false, false] => "inner",
            [true, false] => "left",
            [false, true] => "right",
            [true, true] => "full",
        };
        let name = |side: &Side| side.input.field(side.time).name().clone();
        let bounds = format!("{} to {}", times::duration(self.least), times::duration(self.greatest));
        let (left, right) = (name(&self.sides[0]), name(&self.sides[1]));
        Description {
            does: format!("{kind} join of rows whose times ({left} less {right}) are {bounds} apart"),
            keeps: Some("the rows of both sides".to_owned()),
            freed: Some("when the watermark says that no row can match them any more".to_owned()),
        }
    }
}

/// The operator.
pub(crate) struct IntervalJoin {
    plan: IntervalJoinPlan,
    site: Site,
    component: String,
    index: Index,
    stores: [Store; 2],
    watermark: i64,
}

/// Pairs that may match: a row of the batch at hand, and the number of one that is kept.
#[derive(Default)]
struct Candidates {
    rows: Vec<u32>,
    numbers: Vec<u64>,
}

/// What a batch is matched with.
struct Matching<'a> {
    plan: &'a IntervalJoinPlan,
    site: &'a Site,
    component: &'a str,
    /// The side of the batch.
    side: usize,
    batch: &'a RecordBatch,
    /// By row of the batch: it has a match.
    matched: Vec<bool>,
    others: &'a mut Store,
}

impl Matching<'_> {
    /// Gives out those of `candidates` that match, and forgets them.
    fn flush(&mut self, candidates: &mut Candidates, out: &mut Output) -> DataFusionResult<()> {
        let mut rows = UInt32Array::from(std::mem::take(&mut candidates.rows));
        let mut numbers = std::mem::take(&mut candidates.numbers);
        if let Some(residual) = &self.plan.residual {
            let columns = self.columns(&residual.columns, &rows, &numbers)?;
            let judge = (self.component, self.site.on_error);
            let matches = residual.matches(columns, numbers.len(), judge, out)?;
            let is_match = |index: usize| matches.value(index) && arrow::array::Array::is_valid(&matches, index);
            let kept = numbers.iter().enumerate().filter(|(index, _)| is_match(*index)).map(|(_, number)| *number);
            numbers = kept.collect();
            let kept = filter(&rows, &matches)?;
            rows = arrow::array::AsArray::as_primitive(&kept).clone();
        }
        if numbers.is_empty() {
            return Ok(());
        }
        if self.plan.keeps[self.side] || self.plan.keeps[1 - self.side] {
            rows.values().iter().for_each(|row| self.matched[*row as usize] = true);
            numbers.iter().for_each(|number| self.others.mark(*number));
        }
        let all: Vec<usize> = (0..self.plan.schema.fields().len()).collect();
        let columns = self.columns(&all, &rows, &numbers)?;
        out.batches.push(batch_of(&self.plan.schema, columns, numbers.len())?);
        Ok(())
    }

    /// The columns `wanted` of the output for these pairs.
    fn columns(&self, wanted: &[usize], rows: &UInt32Array, numbers: &[u64]) -> DataFusionResult<Vec<ArrayRef>> {
        let left = self.plan.sides[0].columns;
        let of = |side: usize| {
            let mine = wanted.iter().copied().filter(move |column| usize::from(*column >= left) == side);
            mine.map(move |column| column - side * left).collect::<Vec<_>>()
        };
        let own = of(self.side).into_iter().map(|column| take(self.batch.column(column), rows, None));
        let own = own.collect::<Result<Vec<_>, _>>()?;
        let other = self.others.gather(numbers, &of(1 - self.side))?;
        let (first, second) = if self.side == 0 { (own, other) } else { (other, own) };
        Ok(first.into_iter().chain(second).collect())
    }
}

/// A batch of `rows` rows, also where it has no columns.
pub(super) fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> DataFusionResult<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

impl IntervalJoin {
    fn new(plan: IntervalJoinPlan, site: Site) -> Result<Self, RunError> {
        let [left, right] = &plan.sides;
        let index = Index::new(&left.input, &left.keys).map_err(|error| site.failed(error))?;
        let stores = [Store::new(left.input.clone()), Store::new(right.input.clone())];
        let component = format!("step {}", site.step);
        Ok(Self { plan, site, component, index, stores, watermark: i64::MIN })
    }

    fn failed(&self, error: datafusion::common::DataFusionError) -> RunError {
        self.site.failed(error.strip_backtrace())
    }

    fn take(&mut self, side: usize, batch: RecordBatch, out: &mut Output) -> DataFusionResult<()> {
        let reached = out.input_watermark.map_or(self.watermark, |reached| reached.max(self.watermark));
        let rows = self.plan.sides[side].admit(batch, reached, &self.component, out)?;
        if rows.batch.num_rows() == 0 {
            return Ok(());
        }
        let keys = self.index.keys_of(&rows.batch, &self.plan.sides[side].keys)?;
        let matched = self.find_matches(side, &rows, &keys, out)?;
        let (mut waiting, mut alone) = (Vec::new(), Vec::new());
        for (row, key) in keys.iter().enumerate() {
            let can_match = *key != NO_KEY && rows.has_time(row);
            if can_match && !self.plan.is_past(side, rows.times[row], self.watermark) {
                waiting.push(row as u32);
            } else if self.plan.keeps[side] && !matched[row] {
                alone.push(row as u32);
            }
        }
        if !alone.is_empty() {
            let alone = take_record_batch(&rows.batch, &UInt32Array::from(alone))?;
            out.batches.push(self.with_nulls(side, alone.columns(), alone.num_rows())?);
        }
        self.keep(side, rows, &keys, &matched, waiting)
    }

    /// Gives out the matches of `rows` among the rows of the other side. By row: whether it has one.
    fn find_matches(
        &mut self,
        side: usize,
        rows: &Rows,
        keys: &[u32],
        out: &mut Output,
    ) -> DataFusionResult<Vec<bool>> {
        let mut matching = Matching {
            plan: &self.plan,
            site: &self.site,
            component: &self.component,
            side,
            batch: &rows.batch,
            matched: vec![false; keys.len()],
            others: &mut self.stores[1 - side],
        };
        let mut candidates = Candidates::default();
        for (row, key) in keys.iter().enumerate() {
            if *key == NO_KEY || !rows.has_time(row) {
                continue;
            }
            let (first, last) = self.plan.reach(side, rows.times[row]);
            let others = self.index.rows(1 - side, *key);
            let start = others.partition_point(|entry| entry.time < first);
            for entry in others.range(start..).take_while(|entry| entry.time <= last) {
                candidates.rows.push(row as u32);
                candidates.numbers.push(entry.number);
                if candidates.rows.len() == CANDIDATES_MAX {
                    matching.flush(&mut candidates, out)?;
                }
            }
        }
        if !candidates.rows.is_empty() {
            matching.flush(&mut candidates, out)?;
        }
        Ok(matching.matched)
    }

    /// Keeps the rows `waiting` for what is still to come.
    fn keep(
        &mut self,
        side: usize,
        rows: Rows,
        keys: &[u32],
        matched: &[bool],
        waiting: Vec<u32>,
    ) -> DataFusionResult<()> {
        let of = |row: &u32| *row as usize;
        let (keys, times): (Vec<u32>, Vec<i64>) =
            waiting.iter().map(|row| (keys[of(row)], rows.times[of(row)])).unzip();
        let matched = waiting.iter().map(|row| matched[of(row)]).collect();
        let batch = match waiting.len() == rows.batch.num_rows() {
            true => rows.batch,
            false => take_record_batch(&rows.batch, &UInt32Array::from(waiting))?,
        };
        let first = self.stores[side].push(batch, times.clone(), keys.clone(), matched);
        for ((number, key), time) in (first..).zip(keys).zip(times) {
            self.index.insert(side, key, Entry { time, number }, |other| other.time > time);
        }
        self.stores[side].tidy()?;
        Ok(())
    }

    /// Rows of `side` with nulls in place of the other side.
    fn with_nulls(&self, side: usize, columns: &[ArrayRef], rows: usize) -> DataFusionResult<RecordBatch> {
        let own = columns[..self.plan.sides[side].columns].iter().cloned();
        let other = &self.plan.sides[1 - side];
        let nulls = other.input.fields()[..other.columns].iter();
        let nulls = nulls.map(|field| new_null_array(field.data_type(), rows));
        let columns = if side == 0 { own.chain(nulls).collect() } else { nulls.chain(own).collect() };
        batch_of(&self.plan.schema, columns, rows)
    }

    /// Lets the rows go that nothing can match any more.
    fn free(&mut self, side: usize, out: &mut Output) -> DataFusionResult<()> {
        let (plan, watermark) = (&self.plan, self.watermark);
        let due = self.stores[side].due(|time| plan.is_past(side, time, watermark));
        if due.is_empty() {
            return Ok(());
        }
        if self.plan.keeps[side] {
            let columns: Vec<usize> = (0..self.plan.sides[side].columns).collect();
            let alone: Vec<u64> = due.iter().filter(|row| !row.matched).map(|row| row.number).collect();
            for numbers in alone.chunks(CANDIDATES_MAX) {
                let gathered = self.stores[side].gather(numbers, &columns)?;
                out.batches.push(self.with_nulls(side, &gathered, numbers.len())?);
            }
        }
        for row in &due {
            // The rows of a key that are due are its oldest ones.
            self.index.pop(side, row.key);
            self.stores[side].remove(row.number);
        }
        self.stores[side].tidy()?;
        Ok(())
    }

    fn advance(&mut self, watermark: i64, out: &mut Output) -> DataFusionResult<()> {
        self.watermark = watermark;
        self.free(0, out)?;
        self.free(1, out)?;
        if let Some(new) = self.index.tidy(&|_| {})? {
            self.stores.iter_mut().for_each(|store| store.renumber_keys(&new));
        }
        Ok(())
    }

    fn take_back(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> DataFusionResult<()> {
        let restored = state::restore(&self.plan.sides, state, keep)?;
        let side = restored.side;
        let mut unused = Output::default();
        let rows = self.plan.sides[side].admit(restored.batch, i64::MIN, &self.component, &mut unused)?;
        let keys = self.index.keys_of(&rows.batch, &self.plan.sides[side].keys)?;
        let all = (0..keys.len() as u32).collect();
        self.keep(side, rows, &keys, &restored.matched, all)
    }
}

#[async_trait]
impl Operator for IntervalJoin {
    async fn batch(&mut self, input: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        self.take(input, batch, out).map_err(|error| self.failed(error))
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.advance(watermark, out).map_err(|error| self.failed(error))
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        state::snapshot(&self.plan.sides, &self.stores).map_err(|error| self.site.failed(error))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        self.take_back(state, keep).map_err(|error| self.failed(error))
    }

    fn state_size(&self) -> StateSize {
        let [left, right] = &self.stores;
        StateSize { rows: left.rows() + right.rows(), bytes: left.bytes() + right.bytes() + self.index.bytes() }
    }
}
