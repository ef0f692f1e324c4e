//! The join as of a time: a row of the left side with the newest version of its key on the right side.
//!
//! A left row waits until the watermark has passed its time, because until then a newer version may come; then rows come
//! out in the order of their times. A version is kept until the watermark has passed a newer one. Of versions with one
//! key and time the greatest counts, compared column by column: which of them came last would depend on which partition
//! was faster.

use std::cmp::Ordering;
use std::collections::HashMap;

use arrow::array::{ArrayRef, BooleanArray, DynComparator, RecordBatch, UInt32Array, make_comparator};
use arrow::compute::{SortOptions, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;

use crate::engine::element::END_OF_TIME;
use crate::engine::error::RunError;
use crate::engine::operator::{Description, Operator, OperatorPlan, Output, Site, StateSize};
use crate::engine::operators::join::index::{Entry, Index, NO_KEY};
use crate::engine::operators::join::interval::{CANDIDATES_MAX, batch_of};
use crate::engine::operators::join::residual::Residual;
use crate::engine::operators::join::side::{Rows, Side};
use crate::engine::operators::join::state;
use crate::engine::operators::join::store::{Due, NOTHING, Store};

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// What is joined, and how.
#[derive(Debug, Clone)]
pub(crate) struct AsOfJoinPlan {
    /// Rows and versions.
    pub(crate) sides: [Side; 2],
    /// Rows without a version do not come out.
    pub(crate) inner: bool,
    /// The version is older than the row, not as old.
    pub(crate) strict: bool,
    /// What must be true of the row and its version.
    pub(crate) residual: Option<Residual>,
    /// The left side's columns, then the right side's.
    pub(crate) schema: SchemaRef,
}

#[async_trait]
impl OperatorPlan for AsOfJoinPlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        Ok(Box::new(AsOfJoin::new(self.clone(), site)?))
    }

    fn late(&self) -> Vec<SchemaRef> {
        self.sides.iter().map(Side::schema).collect()
    }

    fn describe(&self) -> Description {
        let kind = if self.inner { "inner" } else { "left" };
        let [left, right] = &self.sides;
        let (left, right) = (left.input.field(left.time).name(), right.input.field(right.time).name());
        let sign = if self.strict { "<" } else { "<=" };
        Description {
            does: format!("{kind} join with the newest version of the key whose {right} {sign} {left}"),
            keeps: Some("rows that wait for the watermark, and versions".to_owned()),
            freed: Some(
                "rows when the watermark passes them; versions when it passes a newer one of the key".to_owned(),
            ),
        }
    }
}

/// The operator.
pub(crate) struct AsOfJoin {
    plan: AsOfJoinPlan,
    site: Site,
    component: String,
    /// Only versions are in it.
    index: Index,
    stores: [Store; 2],
    watermark: i64,
}

impl AsOfJoin {
    fn new(plan: AsOfJoinPlan, site: Site) -> Result<Self, RunError> {
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
        if side == LEFT && !self.plan.inner && rows.timed.is_some() {
            let timeless = (0..keys.len()).filter(|row| !rows.has_time(*row)).map(|row| row as u32);
            let timeless = take_record_batch(&rows.batch, &UInt32Array::from_iter_values(timeless))?;
            let nothing = vec![NOTHING; timeless.num_rows()];
            let columns = &timeless.columns()[..self.plan.sides[LEFT].columns];
            out.batches.push(self.pairs(columns.to_vec(), &nothing)?);
        }
        self.keep(side, rows, &keys)
    }

    /// Keeps the rows of a batch that can have a match, and where unmatched ones come out, all that have a time.
    fn keep(&mut self, side: usize, rows: Rows, keys: &[u32]) -> DataFusionResult<()> {
        let keeps_all = side == LEFT && !self.plan.inner;
        let is_kept = |row: &usize| rows.has_time(*row) && (keeps_all || keys[*row] != NO_KEY);
        let kept: Vec<usize> = (0..keys.len()).filter(is_kept).collect();
        let (keys, times): (Vec<u32>, Vec<i64>) = kept.iter().map(|row| (keys[*row], rows.times[*row])).unzip();
        let batch = match kept.len() == rows.batch.num_rows() {
            true => rows.batch,
            false => {
                let kept = UInt32Array::from_iter_values(kept.iter().map(|row| *row as u32));
                take_record_batch(&rows.batch, &kept)?
            }
        };
        let matched = vec![false; kept.len()];
        let first = self.stores[side].push(batch, times.clone(), keys.clone(), matched);
        if side == RIGHT {
            self.insert_versions(first, &keys, &times)?;
        }
        self.stores[side].tidy()?;
        Ok(())
    }

    /// Puts the versions that were stored last, from the number `first` on, in their places.
    fn insert_versions(&mut self, first: u64, keys: &[u32], times: &[i64]) -> Result<(), ArrowError> {
        let mut ties =
            Ties { store: &self.stores[RIGHT], columns: self.plan.sides[RIGHT].columns, comparators: HashMap::new() };
        for ((number, key), time) in (first..).zip(keys).zip(times) {
            let same = self.index.rows(RIGHT, *key).iter().rev().skip_while(|entry| entry.time > *time);
            let same: Vec<u64> = same.take_while(|entry| entry.time == *time).map(|entry| entry.number).collect();
            let mut greater = Vec::new();
            for other in same {
                if ties.compare(other, number)? == Ordering::Greater {
                    greater.push(other);
                }
            }
            let after = |other: &Entry| other.time > *time || (other.time == *time && greater.contains(&other.number));
            self.index.insert(RIGHT, *key, Entry { time: *time, number }, after);
        }
        Ok(())
    }

    /// Rows with these left columns and versions.
    fn pairs(&self, mut columns: Vec<ArrayRef>, versions: &[u64]) -> DataFusionResult<RecordBatch> {
        let right: Vec<usize> = (0..self.plan.sides[RIGHT].columns).collect();
        columns.extend(self.stores[RIGHT].gather(versions, &right)?);
        batch_of(&self.plan.schema, columns, versions.len())
    }

    /// The version of each of `due`.
    fn versions(&self, due: &[Due]) -> Vec<u64> {
        let version = |row: &Due| {
            if row.key == NO_KEY {
                return NOTHING;
            }
            let versions = self.index.rows(RIGHT, row.key);
            let strict = self.plan.strict;
            let after = versions.partition_point(|version| match strict {
                true => version.time < row.time,
                false => version.time <= row.time,
            });
            after.checked_sub(1).map_or(NOTHING, |newest| versions[newest].number)
        };
        due.iter().map(version).collect()
    }

    /// Puts [`NOTHING`] for the versions that the rest of the condition is not true of.
    fn judge(&self, due: &[Due], versions: &mut [u64], out: &mut Output) -> DataFusionResult<()> {
        let Some(residual) = &self.plan.residual else { return Ok(()) };
        let found: Vec<usize> = (0..due.len()).filter(|row| versions[*row] != NOTHING).collect();
        let left = self.plan.sides[LEFT].columns;
        let of = |wanted: usize| {
            let mine = residual.columns.iter().copied().filter(move |column| usize::from(*column >= left) == wanted);
            mine.map(move |column| column - wanted * left).collect::<Vec<_>>()
        };
        let rows: Vec<u64> = found.iter().map(|row| due[*row].number).collect();
        let picked: Vec<u64> = found.iter().map(|row| versions[*row]).collect();
        let mut columns = self.stores[LEFT].gather(&rows, &of(LEFT))?;
        columns.extend(self.stores[RIGHT].gather(&picked, &of(RIGHT))?);
        let matches = residual.matches(columns, found.len(), (&self.component, self.site.on_error), out)?;
        let is_match =
            |index: usize| BooleanArray::value(&matches, index) && arrow::array::Array::is_valid(&matches, index);
        found.iter().enumerate().filter(|(index, _)| !is_match(*index)).for_each(|(_, row)| versions[*row] = NOTHING);
        Ok(())
    }

    /// Gives out the rows whose versions are known now.
    fn give_out(&mut self, out: &mut Output) -> DataFusionResult<()> {
        let watermark = self.watermark;
        let due = self.stores[LEFT].due(|time| time < watermark || watermark == END_OF_TIME);
        let columns: Vec<usize> = (0..self.plan.sides[LEFT].columns).collect();
        for due in due.chunks(CANDIDATES_MAX) {
            let mut versions = self.versions(due);
            self.judge(due, &mut versions, out)?;
            let mut rows: Vec<u64> = due.iter().map(|row| row.number).collect();
            if self.plan.inner {
                rows = rows.into_iter().zip(&versions).filter(|(_, v)| **v != NOTHING).map(|(row, _)| row).collect();
                versions.retain(|version| *version != NOTHING);
            }
            if !rows.is_empty() {
                let left = self.stores[LEFT].gather(&rows, &columns)?;
                out.batches.push(self.pairs(left, &versions)?);
            }
        }
        due.iter().for_each(|row| self.stores[LEFT].remove(row.number));
        Ok(())
    }

    /// Lets the versions go that no row to come can have: all before the watermark but the newest of each key.
    fn free(&mut self) {
        let watermark = self.watermark;
        for passed in self.stores[RIGHT].due(|time| time < watermark) {
            while self.index.rows(RIGHT, passed.key).get(1).is_some_and(|next| next.time < watermark) {
                let Some(old) = self.index.pop(RIGHT, passed.key) else { break };
                self.stores[RIGHT].remove(old.number);
            }
        }
    }

    fn advance(&mut self, watermark: i64, out: &mut Output) -> DataFusionResult<()> {
        self.watermark = watermark;
        self.give_out(out)?;
        self.free();
        self.stores.iter_mut().try_for_each(Store::tidy)?;
        let left = &self.stores[LEFT];
        if let Some(new) = self.index.tidy(&|visit| left.keys(visit))? {
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
        self.keep(side, rows, &keys)
    }
}

/// Compares versions with one key and time by their columns.
struct Ties<'a> {
    store: &'a Store,
    columns: usize,
    /// By the batches that both are in: one comparator per column.
    comparators: HashMap<(usize, usize), Vec<DynComparator>>,
}

impl Ties<'_> {
    fn compare(&mut self, first: u64, second: u64) -> Result<Ordering, ArrowError> {
        let (first_chunk, first_batch, first_row) = self.store.row(first);
        let (second_chunk, second_batch, second_row) = self.store.row(second);
        let comparators = match self.comparators.entry((first_chunk, second_chunk)) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let columns = (0..self.columns).map(|column| {
                    let (first, second) = (first_batch.column(column), second_batch.column(column));
                    make_comparator(first.as_ref(), second.as_ref(), SortOptions::default())
                });
                entry.insert(columns.collect::<Result<Vec<_>, _>>()?)
            }
        };
        let orders = comparators.iter().map(|compare| compare(first_row, second_row));
        Ok(orders.fold(Ordering::Equal, Ordering::then))
    }
}

#[async_trait]
impl Operator for AsOfJoin {
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
