//! Deduplication without a window: the first row of each key passes.
//!
//! Which one is first is told by the order of arrival, or by event time: then rows wait until the watermark has passed
//! them and are gone through in their order, so that a row that passes is final. A key is kept until none of its rows
//! has come for the time-to-live.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{SortColumn, SortOptions, concat_batches, filter_record_batch, lexsort_to_indices};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use tokio::time::Instant;

use super::STATE_ROWS_MAX;
use super::keys::{Keys, picked, row_times};
use crate::engine::dead_letter::Letter;
use crate::engine::element::END_OF_TIME;
use crate::engine::error::RunError;
use crate::engine::exchange::{self, KEY_GROUPS};
use crate::engine::operator::{Description, Operator, OperatorPlan, Output, Site, StateSize};
use crate::engine::times;

/// The first columns of state: of a key, and of a row that waits.
const NEWEST: &str = "newest";
const WAITING: &str = "waiting";

/// What the operator does.
#[derive(Debug, Clone)]
pub(crate) struct DedupPlan {
    /// The input's columns.
    pub(crate) input: SchemaRef,
    /// How many of them, the first ones, are given out.
    pub(crate) passed: usize,
    /// Which are the key.
    pub(crate) keys: Vec<usize>,
    /// The column of event time, where there is one.
    pub(crate) time: Option<usize>,
    /// By which columns rows of the same event time are ordered; `None` where the order of arrival counts.
    pub(crate) order: Option<Vec<(usize, SortOptions)>>,
    /// A last column says the row's rank, which is 1.
    pub(crate) ranked: bool,
    /// In nanoseconds. `None`: kept to the end of the input.
    pub(crate) ttl: Option<i64>,
    /// The output's columns.
    pub(crate) schema: SchemaRef,
}

impl DedupPlan {
    /// The columns of late rows.
    fn late_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.schema.fields()[..self.passed].to_vec()))
    }
}

#[async_trait]
impl OperatorPlan for DedupPlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        let keys = Keys::new(&self.input, &self.keys, self.ttl, self.time.is_some());
        let keys = keys.map_err(|error| site.failed(error.strip_backtrace()))?;
        Ok(Box::new(Dedup { plan: self.clone(), site, keys, waiting: Vec::new(), watermark: i64::MIN }))
    }

    fn late(&self) -> Vec<SchemaRef> {
        if self.order.is_some() { vec![self.late_schema()] } else { vec![] }
    }

    fn describe(&self) -> Description {
        let freed = match self.ttl {
            Some(ttl) => format!("when no row of the key has come for {}", times::duration(ttl)),
            None => "at the end of the input".to_owned(),
        };
        let (first, rows) = match self.order {
            Some(_) => (" by event time", ", and the rows that the watermark has not passed"),
            None => ("", ""),
        };
        Description {
            does: format!("passes the first row of each key{first}"),
            keeps: Some(format!("the keys{rows}")),
            freed: Some(freed),
        }
    }
}

/// Rows that the watermark has not passed.
struct Waiting {
    rows: RecordBatch,
    times: Vec<i64>,
    oldest: i64,
}

impl Waiting {
    fn new(rows: RecordBatch, times: Vec<i64>) -> Option<Self> {
        let oldest = times.iter().min().copied()?;
        Some(Self { rows, times, oldest })
    }

    /// Those before `watermark`, and the others.
    fn split(self, watermark: i64) -> DataFusionResult<(Option<Self>, Option<Self>)> {
        if self.times.iter().all(|time| *time < watermark) {
            return Ok((Some(self), None));
        }
        let part = |ready: bool| -> DataFusionResult<Option<Self>> {
            let rows = (0..self.times.len()).filter(|row| (self.times[*row] < watermark) == ready);
            let rows: Vec<u32> = rows.map(|row| row as u32).collect();
            let times = rows.iter().map(|row| self.times[*row as usize]).collect();
            Ok(Self::new(picked(&self.rows, rows)?, times))
        };
        Ok((part(true)?, part(false)?))
    }
}

struct Dedup {
    plan: DedupPlan,
    site: Site,
    keys: Keys,
    waiting: Vec<Waiting>,
    watermark: i64,
}

impl Dedup {
    fn failed(&self, error: &DataFusionError) -> RunError {
        self.site.failed(error.strip_backtrace())
    }

    fn take(&mut self, batch: RecordBatch, out: &mut Output) -> DataFusionResult<()> {
        let times = row_times(&batch, self.plan.time, &self.keys.retention, self.watermark)?;
        match (&self.plan.order, self.plan.time) {
            (Some(_), Some(time)) => self.wait(batch, times, time, out),
            _ => self.pass(&batch, &times, out),
        }
    }

    /// Keeps rows until the watermark has passed them; late ones leave.
    fn wait(&mut self, batch: RecordBatch, times: Vec<i64>, time: usize, out: &mut Output) -> DataFusionResult<()> {
        let column = batch.column(time).clone();
        let usable = |row: usize| column.is_valid(row) && times[row] >= self.watermark;
        let count = batch.num_rows();
        if (0..count).all(usable) {
            self.waiting.extend(Waiting::new(batch, times));
            return Ok(());
        }
        for row in (0..count).filter(|row| column.is_null(*row)) {
            let reason = "the event time is null, so the row has no place in the order";
            let row = batch.slice(row, 1).project(&(0..self.plan.passed).collect::<Vec<_>>())?;
            out.letters.push(Letter::row(format!("step {}", self.site.step), reason, &row));
        }
        let late =
            BooleanArray::from_iter((0..count).map(|row| Some(column.is_valid(row) && times[row] < self.watermark)));
        if late.true_count() > 0 {
            let rows = filter_record_batch(&batch, &late)?;
            let columns = rows.columns()[..self.plan.passed].to_vec();
            out.late.push(RecordBatch::try_new(self.plan.late_schema(), columns)?);
        }
        let rows: Vec<u32> = (0..count).filter(|row| usable(*row)).map(|row| row as u32).collect();
        let kept = rows.iter().map(|row| times[*row as usize]).collect();
        self.waiting.extend(Waiting::new(picked(&batch, rows)?, kept));
        Ok(())
    }

    /// Goes through the rows that the watermark has passed, in their order.
    fn release(&mut self, out: &mut Output) -> DataFusionResult<()> {
        let (mut ready, mut kept) = (Vec::new(), Vec::new());
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.oldest >= self.watermark {
                kept.push(waiting);
                continue;
            }
            let (now, later) = waiting.split(self.watermark)?;
            ready.extend(now);
            kept.extend(later);
        }
        self.waiting = kept;
        if ready.is_empty() {
            return Ok(());
        }
        let rows = concat_batches(&self.plan.input, ready.iter().map(|waiting| &waiting.rows))?;
        let times: Vec<i64> = ready.into_iter().flat_map(|waiting| waiting.times).collect();
        let mut sort =
            vec![SortColumn { values: Arc::new(Int64Array::from(times.clone())) as ArrayRef, options: None }];
        for (column, options) in self.plan.order.iter().flatten() {
            sort.push(SortColumn { values: rows.column(*column).clone(), options: Some(*options) });
        }
        // Last by arrival, so that the order is whole.
        let arrival: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..rows.num_rows() as u32));
        sort.push(SortColumn { values: arrival, options: None });
        let order = lexsort_to_indices(&sort, None)?.values().to_vec();
        let times: Vec<i64> = order.iter().map(|row| times[*row as usize]).collect();
        self.pass(&picked(&rows, order)?, &times, out)
    }

    /// Gives out the rows that are the first of their keys.
    fn pass(&mut self, batch: &RecordBatch, times: &[i64], out: &mut Output) -> DataFusionResult<()> {
        self.keys.intern(batch)?;
        // What goes through in order is behind the watermark already.
        let by_arrival = self.plan.order.is_none() && self.plan.time.is_some();
        let watermark = if by_arrival { self.watermark } else { i64::MIN };
        let retention = &mut self.keys.retention;
        let mut first = Vec::new();
        for (row, (number, time)) in self.keys.numbers.iter().zip(times).enumerate() {
            let key = *number as u32;
            if !retention.is_live(key) || retention.is_over(key, *time, watermark) {
                first.push(row as u32);
            }
            retention.touch(key, *time);
        }
        if first.is_empty() {
            return Ok(());
        }
        let rows = picked(batch, first)?;
        let mut columns = rows.columns()[..self.plan.passed].to_vec();
        if self.plan.ranked {
            columns.push(Arc::new(UInt64Array::from(vec![1; rows.num_rows()])));
        }
        out.batches.push(RecordBatch::try_new(self.plan.schema.clone(), columns)?);
        Ok(())
    }

    fn expire(&mut self, time: i64) -> DataFusionResult<()> {
        self.keys.retention.expire(time);
        if self.keys.is_sparse() {
            self.keys.renumber()?;
        }
        Ok(())
    }

    fn advance(&mut self, out: &mut Output) -> DataFusionResult<()> {
        if self.plan.order.is_some() {
            self.release(out)?;
        }
        if self.plan.time.is_some() && self.watermark < END_OF_TIME { self.expire(self.watermark) } else { Ok(()) }
    }

    fn state(&self) -> DataFusionResult<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        let mut fields = vec![Field::new(NEWEST, DataType::Int64, false)];
        fields.extend(self.plan.keys.iter().enumerate().map(|(index, key)| {
            Field::new(format!("key_{index}"), self.plan.input.field(*key).data_type().clone(), true)
        }));
        let schema = Arc::new(Schema::new(fields));
        for keys in self.keys.live().chunks(STATE_ROWS_MAX) {
            let newest = Int64Array::from_iter_values(keys.iter().map(|key| self.keys.retention.newest(*key)));
            let mut columns: Vec<ArrayRef> = vec![Arc::new(newest)];
            columns.extend(self.keys.columns(keys)?);
            batches.push(RecordBatch::try_new(schema.clone(), columns)?);
        }
        let waiting = self.waiting_schema();
        for Waiting { rows, times, .. } in &self.waiting {
            for start in (0..rows.num_rows()).step_by(STATE_ROWS_MAX) {
                let len = STATE_ROWS_MAX.min(rows.num_rows() - start);
                let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(times[start..start + len].to_vec()))];
                columns.extend(rows.columns().iter().map(|column| column.slice(start, len)));
                batches.push(RecordBatch::try_new(waiting.clone(), columns)?);
            }
        }
        Ok(batches)
    }

    fn waiting_schema(&self) -> SchemaRef {
        let mut fields = vec![Arc::new(Field::new(WAITING, DataType::Int64, false))];
        fields.extend(
            self.plan
                .input
                .fields()
                .iter()
                .enumerate()
                .map(|(index, field)| Arc::new(Field::new(format!("c{index}"), field.data_type().clone(), true))),
        );
        Arc::new(Schema::new(fields))
    }

    fn take_back(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> DataFusionResult<()> {
        let waits = state.schema().field(0).name() == WAITING;
        let keys: Vec<usize> = match waits {
            true => self.plan.keys.iter().map(|key| key + 1).collect(),
            false => (1..=self.plan.keys.len()).collect(),
        };
        let kept = kept_rows(state, &keys, keep)?;
        let times = kept.column(0).as_primitive::<Int64Type>();
        if waits {
            let columns = kept.columns()[1..].to_vec();
            let rows = RecordBatch::try_new(self.plan.input.clone(), columns)?;
            self.waiting.extend(Waiting::new(rows, times.values().to_vec()));
            return Ok(());
        }
        let keys: Vec<ArrayRef> = keys.iter().map(|key| kept.column(*key).clone()).collect();
        self.keys.intern_keys(&keys, kept.num_rows())?;
        // Time on the wall begins anew with the run.
        let now = self.keys.retention.clock(Instant::now());
        for (row, number) in self.keys.numbers.iter().enumerate() {
            self.keys.retention.touch(*number as u32, now.unwrap_or_else(|| times.value(row)));
        }
        Ok(())
    }
}

/// The rows of `state` whose key group `keep` accepts.
pub(super) fn kept_rows(
    state: &RecordBatch,
    keys: &[usize],
    keep: &dyn Fn(u16) -> bool,
) -> DataFusionResult<RecordBatch> {
    if (0..KEY_GROUPS).all(keep) {
        return Ok(state.clone());
    }
    let groups = exchange::key_groups(state, keys)?;
    let kept = BooleanArray::from_iter(groups.into_iter().map(|group| Some(keep(group))));
    Ok(filter_record_batch(state, &kept)?)
}

#[async_trait]
impl Operator for Dedup {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        self.take(batch, out).map_err(|error| self.failed(&error))
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        self.advance(out).map_err(|error| self.failed(&error))
    }

    fn next_tick(&self) -> Option<Instant> {
        self.keys.retention.next_tick()
    }

    async fn tick(&mut self, now: Instant, _: &mut Output) -> Result<(), RunError> {
        match self.keys.retention.clock(now) {
            Some(time) => self.expire(time).map_err(|error| self.failed(&error)),
            None => Ok(()),
        }
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        self.state().map_err(|error| self.failed(&error))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        self.take_back(state, keep).map_err(|error| self.failed(&error))
    }

    fn state_size(&self) -> StateSize {
        let waiting = |of: fn(&Waiting) -> usize| self.waiting.iter().map(of).sum::<usize>();
        StateSize {
            rows: self.keys.retention.live() + waiting(|waiting| waiting.times.len()),
            bytes: self.keys.bytes() + waiting(|waiting| waiting.rows.get_array_memory_size()),
        }
    }
}
