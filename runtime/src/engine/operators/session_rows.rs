//! Rows that wait for the end of their session: the batches that they came in, and which of their rows are still wanted.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

/// A row that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowRef {
    /// Its time, in nanoseconds.
    pub(super) time: i64,
    batch: u32,
    row: u32,
}

/// Batches are copied together where fewer than one in so many of their rows is wanted.
const ROWS_PER_WANTED: usize = 4;
/// Fewer rows than this are never copied together.
const COMPACTED_ROWS_MIN: usize = 1 << 16;
/// The most rows of a batch that is copied together.
const COPIED_ROWS_MAX: usize = 8192;

#[derive(Debug)]
struct Stored {
    batch: RecordBatch,
    wanted: usize,
    bytes: usize,
}

/// The rows.
#[derive(Debug, Default)]
pub(super) struct RowStore {
    batches: HashMap<u32, Stored>,
    next: u32,
    /// All rows of the batches, and those that are wanted.
    stored: usize,
    wanted: usize,
    bytes: usize,
}

impl RowStore {
    /// The row `row` of the batch that is added next.
    pub(super) fn expect(&self, row: usize, time: i64) -> RowRef {
        RowRef { time, batch: self.next, row: row as u32 }
    }

    /// Keeps `batch`, all rows of which are wanted.
    pub(super) fn add(&mut self, batch: RecordBatch) {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let (rows, bytes) = (batch.num_rows(), batch.get_array_memory_size());
        if rows > 0 {
            self.batches.insert(number, Stored { batch, wanted: rows, bytes });
            self.stored += rows;
            self.wanted += rows;
            self.bytes += bytes;
        }
    }

    /// The rows `rows` as a batch with the columns of `schema`.
    pub(super) fn gather(&self, rows: &[RowRef], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        let (mut numbers, mut batches) = (HashMap::new(), Vec::new());
        let mut indices = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(stored) = self.batches.get(&row.batch) else {
                return Err(ArrowError::InvalidArgumentError("a row of a session is gone".to_owned()));
            };
            let number = *numbers.entry(row.batch).or_insert_with(|| {
                batches.push(&stored.batch);
                batches.len() - 1
            });
            indices.push((number, row.row as usize));
        }
        if batches.is_empty() {
            return Ok(RecordBatch::new_empty(schema.clone()));
        }
        let gathered = interleave_record_batch(&batches, &indices)?;
        RecordBatch::try_new(schema.clone(), gathered.columns().to_vec())
    }

    /// These rows are no longer wanted.
    pub(super) fn release(&mut self, rows: &[RowRef]) {
        for row in rows {
            let Some(stored) = self.batches.get_mut(&row.batch) else { continue };
            stored.wanted -= 1;
            self.wanted -= 1;
            if stored.wanted == 0 {
                self.stored -= stored.batch.num_rows();
                self.bytes -= stored.bytes;
                self.batches.remove(&row.batch);
            }
        }
    }

    /// Copies the wanted rows together where few of those stored are: `all` gives the rows, group by group.
    pub(super) fn compact<'a>(
        &mut self,
        schema: &SchemaRef,
        all: impl Iterator<Item = &'a mut Vec<RowRef>>,
    ) -> Result<(), ArrowError> {
        if self.stored < COMPACTED_ROWS_MIN || self.stored < ROWS_PER_WANTED * self.wanted {
            return Ok(());
        }
        let mut rows: Vec<&mut RowRef> = all.flatten().collect();
        let mut fresh = Self { next: self.next, ..Self::default() };
        for chunk in rows.chunks_mut(COPIED_ROWS_MAX) {
            let old: Vec<RowRef> = chunk.iter().map(|row| **row).collect();
            chunk.iter_mut().enumerate().for_each(|(place, row)| **row = fresh.expect(place, row.time));
            fresh.add(self.gather(&old, schema)?);
        }
        *self = fresh;
        Ok(())
    }

    /// How many rows are wanted, and how many bytes all batches take.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.wanted, self.bytes)
    }
}
