//! The operator: takes rows, has them wait, puts them into their partitions, and has these searched.

use std::collections::{BTreeSet, HashSet};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::row::{RowConverter, SortField};
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;
use crate::engine::operator::{Operator, Output, Site, StateSize};
use crate::engine::operators::pattern::evaluate::{evaluate, truths};
use crate::engine::operators::pattern::output::{Gathered, OUTPUT_ROWS_MAX};
use crate::engine::operators::pattern::partitions::{Partition, Partitions};
use crate::engine::operators::pattern::rows::{Cell, Chunk, Chunks, Of, RowRef, Waiting};
use crate::engine::operators::pattern::search::{Conditions, Failure, View};
use crate::engine::operators::pattern::walk::Walk;
use crate::engine::operators::pattern::{Expression, Input, PatternPlan, state};
use crate::engine::times;
use crate::spec::model::OnError;

/// Batches with fewer rows that are left are put together when there are many batches.
const CHUNK_ROWS_MIN: usize = 1024;
/// So many batches are many, or more where each has at least so many rows.
const CHUNKS_MANY: usize = 256;
const CHUNK_ROWS_FEW: usize = 64;

/// The operator.
pub(crate) struct PatternMatcher {
    pub(super) plan: PatternPlan,
    conditions: Conditions,
    /// How many rows before a match, and behind one, are looked at.
    rows_before: usize,
    rows_after: usize,
    pub(super) numbers: bool,
    site: Site,
    watermark: i64,
    pub(super) waiting: Waiting,
    pub(super) partitions: Partitions,
    pub(super) chunks: Chunks,
    /// With so many batches, small ones are put together.
    chunks_max: usize,
    /// For rows of the same time: how they are sorted.
    order: Option<RowConverter>,
}

impl PatternMatcher {
    /// An operator without state.
    pub(crate) fn new(plan: PatternPlan, site: Site) -> Result<Self, RunError> {
        let order = plan.order.iter().map(|(column, options)| {
            SortField::new_with_options(plan.input.field(*column).data_type().clone(), *options)
        });
        let order = match plan.order.is_empty() {
            true => None,
            false => Some(RowConverter::new(order.collect()).map_err(|error| site.failed(error))?),
        };
        Ok(Self {
            conditions: Conditions::new(&plan),
            rows_before: plan.rows_before(),
            rows_after: plan.measures.iter().map(Expression::rows_after).max().unwrap_or(0),
            numbers: plan.numbers(),
            watermark: i64::MIN,
            waiting: Waiting::default(),
            partitions: Partitions::new(&plan).map_err(|error| site.failed(error.strip_backtrace()))?,
            chunks: Chunks::default(),
            chunks_max: CHUNKS_MANY,
            order,
            plan,
            site,
        })
    }

    fn component(&self) -> String {
        format!("step {}", self.site.step)
    }

    /// Takes rows: late ones leave, the others wait.
    fn take(&mut self, batch: RecordBatch, out: &mut Output) -> DataFusionResult<()> {
        let column = batch.column(self.plan.time_column);
        let mut on_time = Vec::with_capacity(batch.num_rows());
        let mut late = Vec::new();
        for (row, value) in times::values(column)?.iter().enumerate() {
            match value.checked_mul(self.plan.unit_ns).filter(|_| column.is_valid(row)) {
                None => {
                    let reason = "the event time is null or outside the years 1678 to 2261, so the row has no place \
                                  in the order of its partition";
                    out.letters.push(Letter::row(self.component(), reason, &batch.slice(row, 1)));
                }
                Some(time) if time < self.watermark => late.push(row as u32),
                Some(time) => on_time.push((time, row as u32)),
            }
        }
        if !late.is_empty() {
            out.late.push(take_record_batch(&batch, &UInt32Array::from(late))?);
        }
        self.waiting.push(batch, on_time);
        Ok(())
    }

    /// Puts rows that the watermark has passed at the ends of their partitions. Returns the partitions.
    pub(super) fn append(
        &mut self,
        batch: RecordBatch,
        times: Vec<i64>,
        failures: &mut Vec<(String, RecordBatch)>,
    ) -> DataFusionResult<Vec<u32>> {
        let (batch, times, columns) = self.compute(batch, times, failures)?;
        if batch.num_rows() == 0 {
            return Ok(vec![]);
        }
        let numbers = self.partitions.numbers(&batch, &self.plan.partition)?;
        let order = self.sorted(&batch, &numbers, &times)?;
        let picked = UInt32Array::from(order);
        let batch = take_record_batch(&batch, &picked)?;
        let columns = columns.iter().map(|column| arrow::compute::take(column, &picked, None));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let bytes = batch.get_array_memory_size() + columns.iter().map(|c| c.get_array_memory_size()).sum::<usize>();
        let rows = batch.num_rows();
        let chunk = Chunk { input: batch, columns, holds: vec![], live: rows, bytes };
        let chunk = self.chunks.add(chunk);
        let (mut places, mut touched) = (Vec::with_capacity(rows), Vec::new());
        for (row, from) in picked.values().iter().enumerate() {
            let (number, time) = (numbers[*from as usize], times[*from as usize]);
            if touched.last() != Some(&number) {
                touched.push(number);
            }
            let Some(partition) = self.partitions.get_mut(number) else { continue };
            places.push((number, partition.rows.end()));
            partition.rows.push(RowRef { time, chunk, row: row as u32 });
        }
        let holds = self.judge_rows(chunk, &places, failures)?;
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            chunk.holds = holds;
        }
        Ok(touched)
    }

    /// What is computed of each row. Rows for which that fails are left out.
    fn compute(
        &self,
        batch: RecordBatch,
        times: Vec<i64>,
        failures: &mut Vec<(String, RecordBatch)>,
    ) -> DataFusionResult<(RecordBatch, Vec<i64>, Vec<ArrayRef>)> {
        let mut good = vec![true; batch.num_rows()];
        let mut columns = Vec::with_capacity(self.plan.columns.len());
        for column in &self.plan.columns {
            let evaluated = evaluate(column.as_ref(), &batch)?;
            for (row, reason) in evaluated.failed {
                if std::mem::replace(&mut good[row], false) {
                    failures.push((reason, batch.slice(row, 1)));
                }
            }
            columns.push(evaluated.values);
        }
        if good.iter().all(|good| *good) {
            return Ok((batch, times, columns));
        }
        let times = times.into_iter().zip(&good).filter(|(_, good)| **good).map(|(time, _)| time).collect();
        let good = BooleanArray::from(good);
        let columns = columns.iter().map(|column| arrow::compute::filter(column, &good));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        Ok((filter_record_batch(&batch, &good)?, times, columns))
    }

    /// The rows by partition and time, then as ORDER BY says, then as they came.
    fn sorted(&self, batch: &RecordBatch, numbers: &[u32], times: &[i64]) -> DataFusionResult<Vec<u32>> {
        let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
        let key = |row: &u32| (numbers[*row as usize], times[*row as usize]);
        match &self.order {
            None => order.sort_by_key(key),
            Some(converter) => {
                let columns: Vec<ArrayRef> =
                    self.plan.order.iter().map(|(column, _)| batch.column(*column).clone()).collect();
                let rows = converter.convert_columns(&columns)?;
                let row = |row: &u32| rows.row(*row as usize);
                order.sort_by(|a, b| key(a).cmp(&key(b)).then_with(|| row(a).cmp(&row(b))));
            }
        }
        Ok(order)
    }

    /// By variable: which of the rows of a batch, whose places are given, fulfil its condition, where it is one that
    /// looks at nothing but rows.
    fn judge_rows(
        &self,
        chunk: u32,
        places: &[(u32, u64)],
        failures: &mut Vec<(String, RecordBatch)>,
    ) -> DataFusionResult<Vec<Option<BooleanArray>>> {
        let mut all = Vec::with_capacity(self.plan.conditions.len());
        for (variable, condition) in self.plan.conditions.iter().enumerate() {
            let Some(condition) = condition.as_ref().filter(|condition| condition.is_local(variable as u8)) else {
                all.push(None);
                continue;
            };
            let columns = condition.inputs.iter().map(|input| {
                let Input::Value { column, offset, .. } = input else {
                    return Ok(arrow::array::new_null_array(&arrow::datatypes::DataType::Null, places.len()));
                };
                if let (0, Some(chunk)) = (*offset, self.chunks.get(chunk)) {
                    return Ok(chunk.columns[*column].clone());
                }
                let cells = places.iter().map(|(number, row)| {
                    let rows = &self.partitions.get(*number)?.rows;
                    rows.near(*row, *offset, self.plan.within_ns).map(RowRef::cell)
                });
                let data_type = self.plan.columns[*column].data_type(&self.plan.input)?;
                self.chunks.column(Of::Computed(*column), &cells.collect::<Vec<_>>(), &data_type)
            });
            let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
            let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
            let batch = RecordBatch::try_new_with_options(condition.schema.clone(), columns, &options)?;
            let evaluated = evaluate(condition.expression.as_ref(), &batch)?;
            for (row, reason) in evaluated.failed {
                failures.extend(self.chunks.row((chunk, row as u32)).map(|row| (reason, row)));
            }
            all.push(Some(truths(&evaluated.values)));
        }
        Ok(all)
    }

    /// How many matches the partitions without rows have had, by key, where that is asked for.
    pub(super) fn partition_numbers(&self) -> Vec<(&[u8], i64)> {
        let empty = self.partitions.iter().filter(|partition| self.numbers && partition.rows.len() == 0);
        empty.map(|partition| (partition.key.as_ref(), partition.matches)).collect()
    }

    /// Has the next watermark look at these partitions.
    pub(super) fn wake(&mut self, partitions: &[u32]) {
        partitions.iter().for_each(|number| self.partitions.set_timer(*number, Some(i64::MIN)));
    }

    /// Makes a failure of a row a letter, or the end of the run.
    fn report(&self, reason: &str, row: &RecordBatch, out: &mut Output) -> Result<(), RunError> {
        if self.site.on_error == OnError::Fail {
            return Err(self.site.failed(reason));
        }
        out.letters.push(Letter::row(self.component(), reason, row));
        Ok(())
    }

    fn report_cells(&self, failures: Vec<Failure>, out: &mut Output) -> Result<(), RunError> {
        failures.into_iter().try_for_each(|failure| match self.chunks.row(failure.cell) {
            Some(row) => self.report(&failure.reason, &row, out),
            None => Ok(()),
        })
    }

    fn internal(&self, error: &datafusion::error::DataFusionError) -> RunError {
        self.site.failed(error.strip_backtrace())
    }

    /// Takes the search of a partition as far as its rows and the watermark allow.
    fn advance(&mut self, number: u32, gathered: &mut Gathered, failures: &mut Vec<Failure>) -> DataFusionResult<()> {
        let Some(mut partition) = self.partitions.list[number as usize].take() else { return Ok(()) };
        let view = View { plan: &self.plan, conditions: &self.conditions, chunks: &self.chunks, rows: &partition.rows };
        let mut walk = Walk {
            view,
            watermark: self.watermark,
            rows_after: self.rows_after,
            start: partition.start,
            search: partition.search.take(),
            matches: partition.matches,
            gathered,
            failures,
        };
        let waits_for = walk.run()?;
        (partition.start, partition.matches, partition.search) = (walk.start, walk.matches, walk.search);
        self.trim(&mut partition);
        // Without a match that may start, rows are only kept for those that look back.
        let last = partition.rows.iter().last().map(|row| row.time.saturating_add(self.plan.within_ns));
        let timer = waits_for.or(last);
        let done = partition.rows.len() == 0 && !(self.numbers && partition.matches > 0);
        self.partitions.list[number as usize] = Some(partition);
        self.partitions.set_timer(number, timer);
        if done {
            self.partitions.forget(number);
        }
        Ok(())
    }

    /// Lets go of rows that nothing looks at any more.
    fn trim(&mut self, partition: &mut Partition) {
        let start = partition.rows.get(partition.start);
        // No row that is looked at from the next start on, or from a row that is still to come, is older.
        let oldest = start.map_or(self.watermark, |row| row.time).saturating_sub(self.plan.within_ns);
        let first = partition.start.saturating_sub(self.rows_before as u64);
        while let Some(row) = partition.rows.get(partition.rows.first()) {
            let number = partition.rows.first();
            if number >= partition.start || number >= first && row.time > oldest {
                break;
            }
            partition.rows.pop();
            self.chunks.release(row.cell());
        }
    }

    fn flush(&self, gathered: Gathered, out: &mut Output) -> Result<(), RunError> {
        if gathered.len() == 0 {
            return Ok(());
        }
        let mut failures = Vec::new();
        let batch = gathered.batch(&self.plan, &self.chunks, &mut failures).map_err(|error| self.internal(&error))?;
        if batch.num_rows() > 0 {
            out.batches.push(batch);
        }
        self.report_cells(failures, out)
    }

    /// Puts small batches together, so that the rows that are left do not keep many others.
    fn compact(&mut self) -> DataFusionResult<()> {
        self.chunks.sweep();
        let rows = self.chunks.live;
        if self.chunks.len() <= self.chunks_max && self.chunks.rows <= 4 * rows + 8 * CHUNK_ROWS_MIN {
            return Ok(());
        }
        let sparse = self.chunks.sparse(CHUNK_ROWS_MIN);
        let moved: HashSet<u32> = sparse.iter().copied().collect();
        let cells = self.partitions.iter().flat_map(|partition| partition.rows.iter());
        let cells: Vec<_> = cells.filter(|row| moved.contains(&row.chunk)).map(|row| Some(row.cell())).collect();
        if !cells.is_empty() {
            let chunk = self.gather(&cells)?;
            let number = self.chunks.add(chunk);
            let mut next = 0;
            for row in self.partitions.list.iter_mut().flatten().flat_map(|partition| partition.rows.iter_mut()) {
                if moved.contains(&row.chunk) {
                    self.chunks.release(row.cell());
                    (row.chunk, row.row) = (number, next);
                    next += 1;
                }
            }
            self.chunks.sweep();
        }
        self.chunks_max = CHUNKS_MANY.max(2 * self.chunks.len()).max(rows / CHUNK_ROWS_FEW);
        Ok(())
    }

    /// The rows at `cells` as a batch of their own.
    fn gather(&self, cells: &[Option<Cell>]) -> DataFusionResult<Chunk> {
        let input = self.plan.input.fields().iter().enumerate();
        let input = input.map(|(column, field)| self.chunks.column(Of::Input(column), cells, field.data_type()));
        let options = RecordBatchOptions::new().with_row_count(Some(cells.len()));
        let columns = input.collect::<DataFusionResult<Vec<_>>>()?;
        let input = RecordBatch::try_new_with_options(self.plan.input.clone(), columns, &options)?;
        let columns = self.plan.columns.iter().enumerate().map(|(column, expression)| {
            self.chunks.column(Of::Computed(column), cells, &expression.data_type(&self.plan.input)?)
        });
        let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
        let holds = self.plan.conditions.iter().enumerate().map(|(variable, condition)| {
            let local = condition.as_ref().is_some_and(|condition| condition.is_local(variable as u8));
            let holds = |cell: &Option<_>| cell.is_some_and(|cell| self.chunks.holds(cell, variable as u8));
            local.then(|| BooleanArray::from_iter(cells.iter().map(|cell| Some(holds(cell)))))
        });
        let bytes = input.get_array_memory_size() + columns.iter().map(|c| c.get_array_memory_size()).sum::<usize>();
        Ok(Chunk { input, columns, holds: holds.collect(), live: cells.len(), bytes })
    }

    /// Brings all partitions as far as `watermark` allows.
    fn work(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        let mut touched = BTreeSet::new();
        let mut failed_rows = Vec::new();
        if let Some((batch, times)) = self.waiting.take(watermark).map_err(|error| self.internal(&error))? {
            let appended = self.append(batch, times, &mut failed_rows).map_err(|error| self.internal(&error))?;
            touched.extend(appended);
        }
        for (reason, row) in failed_rows {
            self.report(&reason, &row, out)?;
        }
        touched.extend(self.partitions.due(watermark));
        let mut touched: Vec<u32> = touched.into_iter().collect();
        let key = |number: &u32| self.partitions.get(*number).map(|partition| &partition.key);
        touched.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        let mut gathered = Gathered::new(&self.plan);
        for number in touched {
            let mut failures = Vec::new();
            self.advance(number, &mut gathered, &mut failures).map_err(|error| self.internal(&error))?;
            self.report_cells(failures, out)?;
            if gathered.len() >= OUTPUT_ROWS_MAX {
                let full = std::mem::replace(&mut gathered, Gathered::new(&self.plan));
                self.flush(full, out)?;
            }
        }
        self.flush(gathered, out)?;
        self.compact().map_err(|error| self.internal(&error))
    }
}

#[async_trait]
impl Operator for PatternMatcher {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        self.take(batch, out).map_err(|error| self.internal(&error))
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.work(watermark, out)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        state::snapshot(self).map_err(|error| self.internal(&error))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        state::restore(self, state, keep).map_err(|error| self.internal(&error))
    }

    fn state_size(&self) -> StateSize {
        StateSize { rows: self.chunks.live + self.waiting.rows, bytes: self.chunks.bytes + self.waiting.bytes() }
    }
}
