//! The first rows of each key without a window, by any order: what is given out is each rank whose row has changed.
//!
//! A key is kept until none of its rows has come for the time-to-live; its rows are final then, or at the end of the
//! input. Of rows that are equal in the order, the one that came first is before the other.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use async_trait::async_trait;
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use tokio::time::Instant;

use super::dedup::kept_rows;
use super::emission::{Emission, Emit};
use super::keys::{Keys, picked, row_times};
use super::{OUTPUT_ROWS_MAX, STATE_ROWS_MAX};
use crate::engine::element::END_OF_TIME;
use crate::engine::error::RunError;
use crate::engine::operator::{Description, Operator, OperatorPlan, Output, Site, StateSize};
use crate::engine::times;

/// The columns of state before the row.
const HEAD: usize = 2;

/// What the operator does.
#[derive(Debug, Clone)]
pub(crate) struct TopNPlan {
    /// The input's columns.
    pub(crate) input: SchemaRef,
    /// How many of them, the first ones, are given out.
    pub(crate) passed: usize,
    /// Which are the key.
    pub(crate) keys: Vec<usize>,
    /// By which columns rows are ordered.
    pub(crate) order: Vec<(usize, SortOptions)>,
    /// How many rows of a key are kept.
    pub(crate) limit: usize,
    /// A column behind the rows says their rank.
    pub(crate) ranked: bool,
    /// The column of event time, where there is one.
    pub(crate) time: Option<usize>,
    /// In nanoseconds. `None`: kept to the end of the input.
    pub(crate) ttl: Option<i64>,
    pub(crate) emit: Emit,
    /// The output's columns; where `emit` gives updates, `is_final` is the last.
    pub(crate) schema: SchemaRef,
}

impl TopNPlan {
    /// Turns rows of the input into bytes and back.
    pub(crate) fn converter(&self) -> DataFusionResult<RowConverter> {
        let fields = self.input.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        Ok(RowConverter::new(fields.collect())?)
    }

    fn order_converter(&self) -> DataFusionResult<RowConverter> {
        let fields = self.order.iter().map(|(column, options)| {
            SortField::new_with_options(self.input.field(*column).data_type().clone(), *options)
        });
        Ok(RowConverter::new(fields.collect())?)
    }
}

#[async_trait]
impl OperatorPlan for TopNPlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        let failed = |error: DataFusionError| site.failed(error.strip_backtrace());
        let keys = Keys::new(&self.input, &self.keys, self.ttl, self.time.is_some()).map_err(failed)?;
        let (converter, order) = (self.converter().map_err(failed)?, self.order_converter().map_err(failed)?);
        let emission = Emission::new(self.emit);
        Ok(Box::new(TopN {
            plan: self.clone(),
            site,
            keys,
            converter,
            order,
            tops: Vec::new(),
            changed: Vec::new(),
            next_id: 0,
            bytes: 0,
            emission,
            watermark: i64::MIN,
        }))
    }

    fn describe(&self) -> Description {
        let freed = match self.ttl {
            Some(ttl) => format!("when no row of the key has come for {}", times::duration(ttl)),
            None => "at the end of the input".to_owned(),
        };
        Description {
            does: format!("keeps the first {} of each key{}", self.limit, self.emit.says()),
            keeps: Some(format!("up to {} rows of each key", self.limit)),
            freed: Some(freed),
        }
    }
}

/// Where a row is.
enum Place {
    /// In the batch at hand.
    Batch(u32),
    /// Here, as bytes.
    Bytes(Box<[u8]>),
}

struct Entry {
    /// Bytes that are in the order of the rows.
    order: Box<[u8]>,
    row: Place,
    /// Tells rows apart.
    id: u64,
}

/// The first rows of a key.
#[derive(Default)]
struct Top {
    entries: Vec<Entry>,
    /// By rank: the row that was given out last.
    given: Vec<u64>,
    is_changed: bool,
}

struct TopN {
    plan: TopNPlan,
    site: Site,
    keys: Keys,
    converter: RowConverter,
    order: RowConverter,
    /// By key.
    tops: Vec<Top>,
    /// The keys whose rows have changed since they were given out.
    changed: Vec<u32>,
    next_id: u64,
    /// Of the rows that are kept.
    bytes: usize,
    emission: Emission,
    watermark: i64,
}

/// Rows to be given out: their bytes and their ranks.
type Given<'a> = Vec<(&'a [u8], u64)>;

impl TopN {
    fn failed(&self, error: &DataFusionError) -> RunError {
        self.site.failed(error.strip_backtrace())
    }

    fn take(&mut self, batch: &RecordBatch, out: &mut Output) -> DataFusionResult<()> {
        let times = row_times(batch, self.plan.time, &self.keys.retention, self.watermark)?;
        self.keys.intern(batch)?;
        let columns: Vec<ArrayRef> = self.plan.order.iter().map(|(column, _)| batch.column(*column).clone()).collect();
        let order = self.order.convert_columns(&columns)?;
        let numbers = std::mem::take(&mut self.keys.numbers);
        let watermark = if self.plan.time.is_some() { self.watermark } else { i64::MIN };
        let mut touched = Vec::new();
        for (row, (number, time)) in numbers.iter().zip(times).enumerate() {
            let key = *number as u32;
            if self.keys.retention.is_over(key, time, watermark) {
                // Its row begins anew.
                self.settle(batch, &mut touched)?;
                self.keys.retention.free(key);
                self.give_final(&[key], out)?;
            }
            self.keys.retention.touch(key, time);
            if self.insert(key, order.row(row).data(), row as u32) {
                touched.push(key);
            }
        }
        self.keys.numbers = numbers;
        self.settle(batch, &mut touched)?;
        if !self.changed.is_empty() && self.emission.changed() {
            self.give_changes(out)?;
        }
        Ok(())
    }

    /// Puts a row where it belongs among the first of its key; false where it is none of them.
    fn insert(&mut self, key: u32, order: &[u8], row: u32) -> bool {
        let index = key as usize;
        if index >= self.tops.len() {
            self.tops.resize_with(index + 1, Top::default);
        }
        let top = &mut self.tops[index];
        let place = top.entries.partition_point(|entry| *entry.order <= *order);
        if place >= self.plan.limit {
            return false;
        }
        if top.entries.len() == self.plan.limit
            && let Some(Entry { order, row: Place::Bytes(bytes), .. }) = top.entries.pop()
        {
            self.bytes = self.bytes.saturating_sub(order.len() + bytes.len());
        }
        top.entries.insert(place, Entry { order: order.into(), row: Place::Batch(row), id: self.next_id });
        self.next_id += 1;
        if !std::mem::replace(&mut top.is_changed, true) {
            self.changed.push(key);
        }
        true
    }

    /// Takes the rows of the batch at hand that are kept out of it.
    fn settle(&mut self, batch: &RecordBatch, touched: &mut Vec<u32>) -> DataFusionResult<()> {
        touched.sort_unstable();
        touched.dedup();
        let mut rows = Vec::new();
        for key in touched.iter() {
            let entries = self.tops[*key as usize].entries.iter();
            rows.extend(entries.filter_map(|entry| match entry.row {
                Place::Batch(row) => Some(row),
                Place::Bytes(_) => None,
            }));
        }
        if rows.is_empty() {
            touched.clear();
            return Ok(());
        }
        let kept = self.converter.convert_columns(picked(batch, rows)?.columns())?;
        let mut kept = kept.iter();
        for key in touched.drain(..) {
            for entry in &mut self.tops[key as usize].entries {
                if matches!(entry.row, Place::Batch(_))
                    && let Some(bytes) = kept.next()
                {
                    self.bytes += entry.order.len() + bytes.data().len();
                    entry.row = Place::Bytes(bytes.data().into());
                }
            }
        }
        Ok(())
    }

    /// Gives out each rank whose row has changed.
    fn give_changes(&mut self, out: &mut Output) -> DataFusionResult<()> {
        let changed = std::mem::take(&mut self.changed);
        let mut ranks: Vec<(u32, usize)> = Vec::new();
        for key in changed {
            let top = &mut self.tops[key as usize];
            top.is_changed = false;
            top.given.resize(top.entries.len(), u64::MAX);
            for (rank, (entry, given)) in top.entries.iter().zip(&mut top.given).enumerate() {
                if *given != entry.id {
                    *given = entry.id;
                    ranks.push((key, rank));
                }
            }
        }
        let given = ranks.iter().filter_map(|(key, rank)| match &self.tops[*key as usize].entries[*rank].row {
            Place::Bytes(bytes) => Some((bytes.as_ref(), *rank as u64 + 1)),
            Place::Batch(_) => None,
        });
        let given: Given<'_> = given.collect();
        give(&self.plan, &self.converter, &given, false, out)
    }

    /// Gives out all rows of `keys`, whose numbers ascend, for the last time.
    fn give_final(&mut self, keys: &[u32], out: &mut Output) -> DataFusionResult<()> {
        let tops: Vec<Top> = keys.iter().map(|key| std::mem::take(&mut self.tops[*key as usize])).collect();
        let mut given: Given<'_> = Vec::new();
        for entry in tops.iter().flat_map(|top| top.entries.iter().enumerate()) {
            if let (rank, Entry { order, row: Place::Bytes(bytes), .. }) = entry {
                self.bytes = self.bytes.saturating_sub(order.len() + bytes.len());
                given.push((bytes, rank as u64 + 1));
            }
        }
        self.changed.retain(|key| keys.binary_search(key).is_err());
        give(&self.plan, &self.converter, &given, true, out)
    }

    fn expire(&mut self, time: i64, out: &mut Output) -> DataFusionResult<()> {
        let expired = self.keys.retention.expire(time);
        if !expired.is_empty() {
            self.give_final(&expired, out)?;
        }
        if self.keys.is_sparse() {
            let before = self.keys.renumber()?;
            let tops = before.iter().map(|key| std::mem::take(&mut self.tops[*key as usize])).collect();
            self.tops = tops;
            let now = |key: &u32| before.binary_search(key).ok().map(|key| key as u32);
            self.changed = self.changed.iter().filter_map(now).collect();
        }
        Ok(())
    }

    fn advance(&mut self, out: &mut Output) -> DataFusionResult<()> {
        if self.watermark == END_OF_TIME {
            let live = self.keys.live();
            self.give_final(&live, out)?;
            self.keys.retention.clear();
            return Ok(());
        }
        if self.plan.time.is_some() { self.expire(self.watermark, out) } else { Ok(()) }
    }

    fn state_schema(&self) -> SchemaRef {
        let mut fields =
            vec![Field::new("newest", DataType::Int64, false), Field::new("given", DataType::Boolean, false)];
        fields.extend(
            self.plan
                .input
                .fields()
                .iter()
                .enumerate()
                .map(|(index, field)| Field::new(format!("c{index}"), field.data_type().clone(), true)),
        );
        Arc::new(Schema::new(fields))
    }

    /// All rows, those of a key in their order.
    fn state(&self) -> DataFusionResult<Vec<RecordBatch>> {
        let mut rows: Vec<(i64, bool, &[u8])> = Vec::new();
        for key in self.keys.live() {
            let (top, newest) = (&self.tops[key as usize], self.keys.retention.newest(key));
            for (rank, entry) in top.entries.iter().enumerate() {
                if let Place::Bytes(bytes) = &entry.row {
                    rows.push((newest, top.given.get(rank) == Some(&entry.id), bytes));
                }
            }
        }
        let (schema, parser) = (self.state_schema(), self.converter.parser());
        let batch = |rows: &[(i64, bool, &[u8])]| -> DataFusionResult<RecordBatch> {
            let mut columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
                Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.1)))),
            ];
            columns.extend(self.converter.convert_rows(rows.iter().map(|row| parser.parse(row.2)))?);
            Ok(RecordBatch::try_new(schema.clone(), columns)?)
        };
        rows.chunks(STATE_ROWS_MAX).map(batch).collect()
    }

    fn take_back(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> DataFusionResult<()> {
        let keys: Vec<usize> = self.plan.keys.iter().map(|key| key + HEAD).collect();
        let kept = kept_rows(state, &keys, keep)?;
        let rows = RecordBatch::try_new(self.plan.input.clone(), kept.columns()[HEAD..].to_vec())?;
        let (newest, given) = (kept.column(0).as_primitive::<Int64Type>(), kept.column(1).as_boolean());
        self.keys.intern(&rows)?;
        let columns: Vec<ArrayRef> = self.plan.order.iter().map(|(column, _)| rows.column(*column).clone()).collect();
        let order = self.order.convert_columns(&columns)?;
        let numbers = std::mem::take(&mut self.keys.numbers);
        // Time on the wall begins anew with the run.
        let now = self.keys.retention.clock(Instant::now());
        let mut touched = Vec::new();
        for (row, number) in numbers.iter().enumerate() {
            let key = *number as u32;
            self.keys.retention.touch(key, now.unwrap_or_else(|| newest.value(row)));
            let id = self.next_id;
            self.insert(key, order.row(row).data(), row as u32);
            let top = &mut self.tops[key as usize];
            // The rows of a key come in their order.
            top.given.push(if given.value(row) { id } else { u64::MAX });
            touched.push(key);
        }
        self.keys.numbers = numbers;
        self.settle(&rows, &mut touched)?;
        let tops = &mut self.tops;
        self.changed.retain(|key| {
            let top = &mut tops[*key as usize];
            top.is_changed = top.given.contains(&u64::MAX);
            top.is_changed
        });
        if !self.changed.is_empty() {
            self.emission.changed();
        }
        Ok(())
    }
}

/// Gives out rows with their ranks.
fn give(
    plan: &TopNPlan,
    converter: &RowConverter,
    rows: &Given<'_>,
    is_final: bool,
    out: &mut Output,
) -> DataFusionResult<()> {
    let parser = converter.parser();
    for rows in rows.chunks(OUTPUT_ROWS_MAX) {
        let mut columns = converter.convert_rows(rows.iter().map(|(bytes, _)| parser.parse(bytes)))?;
        columns.truncate(plan.passed);
        if plan.ranked {
            columns.push(Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, rank)| *rank))));
        }
        if plan.emit.updates() {
            columns.push(Arc::new(BooleanArray::from(vec![is_final; rows.len()])));
        }
        out.batches.push(RecordBatch::try_new(plan.schema.clone(), columns)?);
    }
    Ok(())
}

#[async_trait]
impl Operator for TopN {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        self.take(&batch, out).map_err(|error| self.failed(&error))
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        self.advance(out).map_err(|error| self.failed(&error))
    }

    fn next_tick(&self) -> Option<Instant> {
        self.emission.next_tick().into_iter().chain(self.keys.retention.next_tick()).min()
    }

    async fn tick(&mut self, now: Instant, out: &mut Output) -> Result<(), RunError> {
        let mut given = Ok(());
        if self.emission.tick(now) {
            given = self.give_changes(out);
        }
        if let (Ok(()), Some(time)) = (&given, self.keys.retention.clock(now)) {
            given = self.expire(time, out);
        }
        given.map_err(|error| self.failed(&error))
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        self.state().map_err(|error| self.failed(&error))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        self.take_back(state, keep).map_err(|error| self.failed(&error))
    }

    fn state_size(&self) -> StateSize {
        let entry = size_of::<Entry>() * self.plan.limit.min(4);
        StateSize {
            rows: self.keys.retention.live(),
            bytes: self.keys.bytes() + self.bytes + self.tops.len() * (size_of::<Top>() + entry),
        }
    }
}
