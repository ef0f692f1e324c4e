//! The rows that a side of a join keeps, in the batches that they came in.
//!
//! A row has a number for as long as it is kept. Small batches are put together, and batches most of whose rows are gone
//! are copied without them, so that memory stays near that of the rows that are kept.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat, filter_record_batch, interleave, take};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

/// Two batches are put together where the result has at most so many rows.
const CHUNK_ROWS_MAX: usize = 8192;
/// A batch is copied where fewer than one of so many of its rows are left.
const ROWS_PER_ROW_KEPT: usize = 3;
/// What a row takes beside its columns: time, number, key, marks, place in the order.
const ROW_BYTES: usize = 32;

/// Stands for "no row": nulls.
pub(super) const NOTHING: u64 = u64::MAX;

/// A row whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) time: i64,
    pub(super) number: u64,
    pub(super) key: u32,
    /// It has had a match.
    pub(super) matched: bool,
}

/// Rows that came together.
#[derive(Debug)]
struct Chunk {
    batch: RecordBatch,
    /// By row: its number, ascending.
    numbers: Vec<u64>,
    times: Vec<i64>,
    keys: Vec<u32>,
    matched: Vec<bool>,
    alive: Vec<bool>,
    alive_count: usize,
    /// The rows by time, and how many of them have been due.
    order: Vec<u32>,
    due: usize,
    bytes: usize,
}

impl Chunk {
    fn new(batch: RecordBatch, numbers: Vec<u64>, times: Vec<i64>, keys: Vec<u32>, matched: Vec<bool>) -> Self {
        let rows = batch.num_rows();
        let bytes = batch.get_array_memory_size() + rows * ROW_BYTES;
        let mut order: Vec<u32> = (0..rows as u32).collect();
        order.sort_by_key(|row| times[*row as usize]);
        Self { batch, numbers, times, keys, matched, alive: vec![true; rows], alive_count: rows, order, due: 0, bytes }
    }

    /// The rows that are left.
    fn shrunk(&self) -> Result<Self, ArrowError> {
        let kept = || (0..self.alive.len()).filter(|row| self.alive[*row]);
        let batch = filter_record_batch(&self.batch, &BooleanArray::from(self.alive.clone()))?;
        Ok(Self::new(
            batch,
            kept().map(|row| self.numbers[row]).collect(),
            kept().map(|row| self.times[row]).collect(),
            kept().map(|row| self.keys[row]).collect(),
            kept().map(|row| self.matched[row]).collect(),
        ))
    }

    /// The rows of this and the next chunk.
    fn followed_by(self, next: Self) -> Result<Self, ArrowError> {
        fn both<T>(mut first: Vec<T>, second: Vec<T>) -> Vec<T> {
            first.extend(second);
            first
        }
        let columns = self.batch.columns().iter().zip(next.batch.columns());
        let columns = columns.map(|(first, second)| concat(&[first.as_ref(), second.as_ref()]));
        let batch = RecordBatch::try_new(self.batch.schema(), columns.collect::<Result<Vec<_>, _>>()?)?;
        Ok(Self::new(
            batch,
            both(self.numbers, next.numbers),
            both(self.times, next.times),
            both(self.keys, next.keys),
            both(self.matched, next.matched),
        ))
    }
}

/// The rows of one side.
#[derive(Debug)]
pub(super) struct Store {
    schema: SchemaRef,
    /// In the order of their numbers.
    chunks: Vec<Chunk>,
    next_number: u64,
    rows: usize,
}

impl Store {
    /// A store of rows with the columns of `schema`.
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self { schema, chunks: Vec::new(), next_number: 0, rows: 0 }
    }

    /// Adds rows and returns the first one's number; the others have the next ones.
    pub(super) fn push(&mut self, batch: RecordBatch, times: Vec<i64>, keys: Vec<u32>, matched: Vec<bool>) -> u64 {
        let first = self.next_number;
        let rows = batch.num_rows();
        self.next_number += rows as u64;
        self.rows += rows;
        if rows > 0 {
            self.chunks.push(Chunk::new(batch, (first..self.next_number).collect(), times, keys, matched));
        }
        first
    }

    /// Where the row `number` is: chunk and row. It must be kept.
    fn place(&self, number: u64) -> (usize, usize) {
        let after = self.chunks.partition_point(|chunk| chunk.numbers.first().is_some_and(|first| *first <= number));
        let chunk = after.saturating_sub(1);
        let numbers = &self.chunks[chunk].numbers;
        let guess = number.saturating_sub(numbers.first().copied().unwrap_or_default()) as usize;
        // Mostly the numbers follow each other.
        let row = match numbers.get(guess) {
            Some(found) if *found == number => guess,
            _ => numbers.partition_point(|other| *other < number),
        };
        (chunk, row)
    }

    /// The columns of the row `number`, and its place in them.
    pub(super) fn row(&self, number: u64) -> (usize, &RecordBatch, usize) {
        let (chunk, row) = self.place(number);
        (chunk, &self.chunks[chunk].batch, row)
    }

    /// Remembers that the row `number` has a match.
    pub(super) fn mark(&mut self, number: u64) {
        let (chunk, row) = self.place(number);
        self.chunks[chunk].matched[row] = true;
    }

    /// The rows whose time is `past` that have not been due before, in the order of time and number. `past` must be
    /// true of every time that is before one of which it is true.
    pub(super) fn due(&mut self, past: impl Fn(i64) -> bool) -> Vec<Due> {
        let mut found = Vec::new();
        for chunk in &mut self.chunks {
            while let Some(row) = chunk.order.get(chunk.due).map(|row| *row as usize) {
                if !past(chunk.times[row]) {
                    break;
                }
                chunk.due += 1;
                if chunk.alive[row] {
                    found.push(Due {
                        time: chunk.times[row],
                        number: chunk.numbers[row],
                        key: chunk.keys[row],
                        matched: chunk.matched[row],
                    });
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Forgets the row `number`.
    pub(super) fn remove(&mut self, number: u64) {
        let (chunk, row) = self.place(number);
        let chunk = &mut self.chunks[chunk];
        if std::mem::replace(&mut chunk.alive[row], false) {
            chunk.alive_count -= 1;
            self.rows -= 1;
        }
    }

    /// Gives memory back, and puts small batches together.
    pub(super) fn tidy(&mut self) -> Result<(), ArrowError> {
        let sparse = |chunk: &Chunk| chunk.alive_count * ROWS_PER_ROW_KEPT < chunk.alive.len();
        let small = |first: &Chunk, second: &Chunk| {
            let (first, second) = (first.alive.len(), second.alive.len());
            // Each row is copied so rarely: into a batch that is at least one and a half times as large.
            first + second <= CHUNK_ROWS_MAX && second * 2 > first
        };
        let fine = self.chunks.iter().all(|chunk| chunk.alive_count > 0 && !sparse(chunk));
        if fine && self.chunks.windows(2).all(|pair| !small(&pair[0], &pair[1])) {
            return Ok(());
        }
        let mut kept: Vec<Chunk> = Vec::with_capacity(self.chunks.len());
        for chunk in std::mem::take(&mut self.chunks) {
            if chunk.alive_count == 0 {
                continue;
            }
            let mut last = if sparse(&chunk) { chunk.shrunk()? } else { chunk };
            while let Some(before) = kept.pop_if(|before| small(before, &last)) {
                let before = if before.alive_count < before.alive.len() { before.shrunk()? } else { before };
                let after = if last.alive_count < last.alive.len() { last.shrunk()? } else { last };
                last = before.followed_by(after)?;
            }
            kept.push(last);
        }
        self.chunks = kept;
        Ok(())
    }

    /// The values of the columns `columns` of the rows `numbers`; nulls for [`NOTHING`].
    pub(super) fn gather(&self, numbers: &[u64], columns: &[usize]) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut used: Vec<usize> = Vec::new();
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(numbers.len());
        let mut position = vec![usize::MAX; self.chunks.len()];
        let mut nulls = false;
        for number in numbers {
            if *number == NOTHING {
                nulls = true;
                places.push((usize::MAX, 0));
                continue;
            }
            let (chunk, row) = self.place(*number);
            if position[chunk] == usize::MAX {
                position[chunk] = used.len();
                used.push(chunk);
            }
            places.push((position[chunk], row));
        }
        if let ([one], false) = (&used[..], nulls) {
            let rows = UInt32Array::from_iter_values(places.iter().map(|(_, row)| *row as u32));
            let batch = &self.chunks[*one].batch;
            return columns.iter().map(|column| take(batch.column(*column), &rows, None)).collect();
        }
        places.iter_mut().filter(|(chunk, _)| *chunk == usize::MAX).for_each(|place| place.0 = used.len());
        let of = |column: &usize| {
            let data_type = self.schema.field(*column).data_type();
            if used.is_empty() {
                return Ok(new_null_array(data_type, numbers.len()));
            }
            let null = nulls.then(|| new_null_array(data_type, 1));
            let arrays = used.iter().map(|chunk| self.chunks[*chunk].batch.column(*column)).chain(&null);
            let arrays: Vec<&dyn Array> = arrays.map(Arc::as_ref).collect();
            interleave(&arrays, &places)
        };
        columns.iter().map(of).collect()
    }

    /// All rows: their columns, and which of them have a match.
    pub(super) fn all(&self) -> Result<Vec<(RecordBatch, Vec<bool>)>, ArrowError> {
        let left = self.chunks.iter().filter(|chunk| chunk.alive_count > 0);
        let batches = left.map(|chunk| {
            if chunk.alive_count == chunk.alive.len() {
                return Ok((chunk.batch.clone(), chunk.matched.clone()));
            }
            let shrunk = chunk.shrunk()?;
            Ok((shrunk.batch, shrunk.matched))
        });
        batches.collect()
    }

    /// Calls `visit` with the keys of all rows.
    pub(super) fn keys(&self, visit: &mut dyn FnMut(u32)) {
        for chunk in &self.chunks {
            chunk.keys.iter().zip(&chunk.alive).filter(|(_, alive)| **alive).for_each(|(key, _)| visit(*key));
        }
    }

    /// The keys have new numbers: by old number, the new ones.
    pub(super) fn renumber_keys(&mut self, new: &[u32]) {
        for key in self.chunks.iter_mut().flat_map(|chunk| &mut chunk.keys) {
            *key = new.get(*key as usize).copied().unwrap_or(super::index::NO_KEY);
        }
    }

    /// How many rows it keeps.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// How many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes).sum()
    }
}
