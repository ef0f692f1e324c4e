//! The rows that a match may still be made of: kept in the batches in which they became ready, shared by all partitions
//! and by everything that looks at them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, interleave_record_batch, take_record_batch};
use arrow::datatypes::DataType;
use datafusion::common::Result;

/// A row's place: its batch, and its number in there.
pub(super) type Cell = (u32, u32);

/// A row of a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowRef {
    /// Its event time in nanoseconds.
    pub(super) time: i64,
    pub(super) chunk: u32,
    pub(super) row: u32,
}

impl RowRef {
    pub(super) fn cell(self) -> Cell {
        (self.chunk, self.row)
    }
}

/// Rows that became ready together.
pub(super) struct Chunk {
    /// As they came.
    pub(super) input: RecordBatch,
    /// What is computed of each of them ([`super::PatternPlan::columns`]).
    pub(super) columns: Vec<ArrayRef>,
    /// By variable, where that can be told before any match: which of them fulfil its condition.
    pub(super) holds: Vec<Option<BooleanArray>>,
    /// How many of them are still in a partition.
    pub(super) live: usize,
    /// The memory that they take.
    pub(super) bytes: usize,
}

/// The batches of rows, by number.
#[derive(Default)]
pub(super) struct Chunks {
    chunks: Vec<Option<Chunk>>,
    free: Vec<u32>,
    /// Batches without a row in a partition; what is to be given out may still be in them.
    emptied: Vec<u32>,
    /// Of all batches; of these, in a partition.
    pub(super) rows: usize,
    pub(super) live: usize,
    pub(super) bytes: usize,
}

/// Which column of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of {
    Input(usize),
    Computed(usize),
}

impl Chunks {
    /// Keeps `chunk` and returns its number.
    pub(super) fn add(&mut self, chunk: Chunk) -> u32 {
        self.rows += chunk.input.num_rows();
        self.live += chunk.live;
        self.bytes += chunk.bytes;
        match self.free.pop() {
            Some(number) => {
                self.chunks[number as usize] = Some(chunk);
                number
            }
            None => {
                self.chunks.push(Some(chunk));
                self.chunks.len() as u32 - 1
            }
        }
    }

    pub(super) fn get(&self, number: u32) -> Option<&Chunk> {
        self.chunks.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Chunk> {
        self.chunks.get_mut(number as usize)?.as_mut()
    }

    /// How many batches there are.
    pub(super) fn len(&self) -> usize {
        self.chunks.len() - self.free.len()
    }

    /// Batches that are few rows, or have few that are left: those that are worth to be put together.
    pub(super) fn sparse(&self, rows_min: usize) -> Vec<u32> {
        let sparse = |chunk: &Chunk| chunk.live < rows_min || chunk.live * 4 < chunk.input.num_rows();
        let chunks = self.chunks.iter().enumerate();
        chunks.filter(|(_, c)| c.as_ref().is_some_and(sparse)).map(|(number, _)| number as u32).collect()
    }

    /// The row is in no partition any more.
    pub(super) fn release(&mut self, cell: Cell) {
        if let Some(chunk) = self.get_mut(cell.0) {
            chunk.live -= 1;
            let is_empty = chunk.live == 0;
            self.live -= 1;
            self.emptied.extend(is_empty.then_some(cell.0));
        }
    }

    /// Forgets the batches without rows.
    pub(super) fn sweep(&mut self) {
        for number in std::mem::take(&mut self.emptied) {
            if let Some(chunk) = self.chunks[number as usize].take() {
                self.rows -= chunk.input.num_rows();
                self.bytes -= chunk.bytes;
                self.free.push(number);
            }
        }
    }

    /// The values of a column for the rows at `cells`; null where there is none.
    pub(super) fn column(&self, of: Of, cells: &[Option<Cell>], data_type: &DataType) -> Result<ArrayRef> {
        let nulls = new_null_array(data_type, 1);
        let mut arrays: Vec<&dyn Array> = vec![nulls.as_ref()];
        let mut known: HashMap<u32, usize> = HashMap::new();
        let mut last = (u32::MAX, 0);
        let mut picked = Vec::with_capacity(cells.len());
        for cell in cells {
            let Some((number, row)) = cell else {
                picked.push((0, 0));
                continue;
            };
            if last.0 != *number {
                let index = *known.entry(*number).or_insert(arrays.len());
                if index == arrays.len() {
                    let array = self.get(*number).map(|chunk| match of {
                        Of::Input(column) => chunk.input.column(column),
                        Of::Computed(column) => &chunk.columns[column],
                    });
                    arrays.push(array.map_or(nulls.as_ref(), AsRef::as_ref));
                }
                last = (*number, index);
            }
            picked.push((last.1, *row as usize));
        }
        Ok(interleave(&arrays, &picked)?)
    }

    /// The input's row at `cell`, alone.
    pub(super) fn row(&self, cell: Cell) -> Option<RecordBatch> {
        self.get(cell.0).map(|chunk| chunk.input.slice(cell.1 as usize, 1))
    }

    /// Whether the row at `cell` fulfils the condition of `variable`, where that can be told of the row.
    pub(super) fn holds(&self, cell: Cell, variable: u8) -> bool {
        let holds = self.get(cell.0).and_then(|chunk| chunk.holds[usize::from(variable)].as_ref());
        holds.is_some_and(|holds| holds.value(cell.1 as usize))
    }
}

/// The rows of a partition that are kept, in their order. Rows are numbered from the partition's first row on.
#[derive(Default)]
pub(super) struct PartitionRows {
    rows: VecDeque<RowRef>,
    /// The number of the first one that is kept.
    base: u64,
}

impl PartitionRows {
    /// The number of the first one that is kept.
    pub(super) fn first(&self) -> u64 {
        self.base
    }

    /// The number that the next row will have.
    pub(super) fn end(&self) -> u64 {
        self.base + self.rows.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn push(&mut self, row: RowRef) {
        self.rows.push_back(row);
    }

    pub(super) fn pop(&mut self) -> Option<RowRef> {
        let row = self.rows.pop_front();
        self.base += u64::from(row.is_some());
        row
    }

    pub(super) fn get(&self, number: u64) -> Option<RowRef> {
        let index = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.rows.get(index).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = RowRef> {
        self.rows.iter().copied()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut RowRef> {
        self.rows.iter_mut()
    }

    /// The row that is `offset` rows behind the row `number`, where it is less than `within` apart from it.
    pub(super) fn near(&self, number: u64, offset: i64, within: i64) -> Option<RowRef> {
        let (row, other) = (self.get(number)?, self.get(number.checked_add_signed(offset)?)?);
        (row.time.abs_diff(other.time) < within.unsigned_abs()).then_some(other)
    }
}

/// Rows that the watermark has not passed yet.
#[derive(Default)]
pub(super) struct Waiting {
    /// By the time of their first row, and the order in which they came.
    runs: BTreeMap<(i64, u64), Run>,
    came: u64,
    pub(super) rows: usize,
}

/// The rows of one batch that wait.
struct Run {
    batch: RecordBatch,
    /// Their time and number, sorted.
    rows: VecDeque<(i64, u32)>,
}

impl Waiting {
    /// Keeps these rows of `batch`, which are given with their times.
    pub(super) fn push(&mut self, batch: RecordBatch, mut rows: Vec<(i64, u32)>) {
        rows.sort_unstable();
        self.rows += rows.len();
        self.came += 1;
        if let Some((time, _)) = rows.first() {
            self.runs.insert((*time, self.came), Run { batch, rows: rows.into() });
        }
    }

    /// Takes the rows before `watermark`, with their times, in the order in which they came.
    pub(super) fn take(&mut self, watermark: i64) -> Result<Option<(RecordBatch, Vec<i64>)>> {
        let mut ready = Vec::new();
        let (mut batches, mut rest) = (Vec::new(), Vec::new());
        while let Some(entry) = self.runs.first_entry().filter(|entry| entry.key().0 < watermark) {
            let ((_, came), mut run) = entry.remove_entry();
            let count = run.rows.partition_point(|(time, _)| *time < watermark);
            ready.extend(run.rows.drain(..count).map(|(time, row)| (came, row, time, batches.len())));
            batches.push(run.batch.clone());
            if let Some((time, _)) = run.rows.front() {
                rest.push(((*time, came), run));
            }
        }
        for (key, mut run) in rest {
            // Few rows must not keep a large batch.
            if run.rows.len() * 4 < run.batch.num_rows() {
                let mut rows: Vec<u32> = run.rows.iter().map(|(_, row)| *row).collect();
                rows.sort_unstable();
                for (_, row) in &mut run.rows {
                    *row = rows.binary_search(row).unwrap_or_default() as u32;
                }
                run.batch = take_record_batch(&run.batch, &UInt32Array::from(rows))?;
            }
            self.runs.insert(key, run);
        }
        if ready.is_empty() {
            return Ok(None);
        }
        self.rows -= ready.len();
        ready.sort_unstable();
        let picked: Vec<(usize, usize)> = ready.iter().map(|(_, row, _, batch)| (*batch, *row as usize)).collect();
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        let times = ready.iter().map(|(_, _, time, _)| *time).collect();
        Ok(Some((interleave_record_batch(&batches, &picked)?, times)))
    }

    /// The rows that wait, in the order in which they came.
    pub(super) fn batches(&self) -> Result<Vec<RecordBatch>> {
        let mut runs: Vec<_> = self.runs.iter().map(|((_, came), run)| (*came, run)).collect();
        runs.sort_unstable_by_key(|(came, _)| *came);
        let batches = runs.into_iter().map(|(_, run)| {
            let mut rows: Vec<u32> = run.rows.iter().map(|(_, row)| *row).collect();
            rows.sort_unstable();
            Ok(take_record_batch(&run.batch, &UInt32Array::from(rows))?)
        });
        batches.collect()
    }

    /// The memory that they take.
    pub(super) fn bytes(&self) -> usize {
        self.runs.values().map(|run| run.batch.get_array_memory_size() + 16 * run.rows.len()).sum()
    }
}
