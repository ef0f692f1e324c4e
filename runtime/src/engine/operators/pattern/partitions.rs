//! The partitions: found by their key, numbered, and woken by the watermark.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::row::{RowConverter, SortField};
use datafusion::common::Result as DataFusionResult;
use datafusion::common::utils::normalize_float_zero;

use crate::engine::operators::pattern::PatternPlan;
use crate::engine::operators::pattern::rows::PartitionRows;
use crate::engine::operators::pattern::search::Search;

/// One partition.
pub(super) struct Partition {
    /// Its columns' values, encoded.
    pub(super) key: Box<[u8]>,
    pub(super) rows: PartitionRows,
    /// The row at which the next match may start.
    pub(super) start: u64,
    /// The search from there, once it has begun.
    pub(super) search: Option<Search>,
    /// How many matches there were.
    pub(super) matches: i64,
    /// The watermark that brings it further without a row, where there is one.
    timer: Option<i64>,
}

/// The partitions, by number.
pub(super) struct Partitions {
    converter: Option<RowConverter>,
    numbers: HashMap<Box<[u8]>, u32>,
    pub(super) list: Vec<Option<Partition>>,
    free: Vec<u32>,
    timers: BTreeSet<(i64, u32)>,
}

impl Partitions {
    pub(super) fn new(plan: &PatternPlan) -> DataFusionResult<Self> {
        let fields = plan.partition.iter().map(|column| plan.input.field(*column).data_type().clone());
        let converter = match plan.partition.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields.map(SortField::new).collect())?),
        };
        let numbers = HashMap::new();
        Ok(Self { converter, numbers, list: vec![], free: vec![], timers: BTreeSet::new() })
    }

    /// The numbers of the partitions that the rows of `batch` belong to.
    pub(super) fn numbers(&mut self, batch: &RecordBatch, partition: &[usize]) -> DataFusionResult<Vec<u32>> {
        let Some(converter) = &self.converter else {
            let number = self.number(&[]);
            return Ok(vec![number; batch.num_rows()]);
        };
        let columns: Vec<ArrayRef> = partition.iter().map(|c| normalize_float_zero(batch.column(*c))).collect();
        let rows = converter.convert_columns(&columns)?;
        Ok(rows.iter().map(|row| self.number(row.data())).collect())
    }

    fn number(&mut self, key: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let partition = Partition {
            key: key.into(),
            rows: PartitionRows::default(),
            start: 0,
            search: None,
            matches: 0,
            timer: None,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.list[number as usize] = Some(partition);
                number
            }
            None => {
                self.list.push(Some(partition));
                self.list.len() as u32 - 1
            }
        };
        self.numbers.insert(key.into(), number);
        number
    }

    pub(super) fn get(&self, number: u32) -> Option<&Partition> {
        self.list.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Partition> {
        self.list.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Partition> {
        self.list.iter().flatten()
    }

    pub(super) fn forget(&mut self, number: u32) {
        if let Some(partition) = self.list.get_mut(number as usize).and_then(Option::take) {
            self.numbers.remove(&partition.key);
            self.free.push(number);
        }
    }

    pub(super) fn set_timer(&mut self, number: u32, timer: Option<i64>) {
        let Some(partition) = self.list.get_mut(number as usize).and_then(Option::as_mut) else { return };
        if partition.timer == timer {
            return;
        }
        if let Some(time) = std::mem::replace(&mut partition.timer, timer) {
            self.timers.remove(&(time, number));
        }
        self.timers.extend(timer.map(|time| (time, number)));
    }

    /// The partition's columns of the partitions with these keys.
    pub(super) fn columns(&self, keys: &[&[u8]]) -> DataFusionResult<Vec<ArrayRef>> {
        let Some(converter) = &self.converter else { return Ok(vec![]) };
        let parser = converter.parser();
        Ok(converter.convert_rows(keys.iter().map(|key| parser.parse(key)))?)
    }

    /// The partitions that the watermark brings further.
    pub(super) fn due(&self, watermark: i64) -> impl Iterator<Item = u32> {
        self.timers.range(..=(watermark, u32::MAX)).map(|(_, number)| *number)
    }
}
