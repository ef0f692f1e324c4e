//! The rows that are kept of one input for one window, in their order.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;

/// Batches with fewer rows are put together.
const SMALL_ROWS: usize = 1024;
/// So many small batches are put together at the latest: more of them would take more memory than their rows.
const SMALL_BATCHES_MAX: usize = 64;
/// Rows that are less than this share of a batch are copied out of it, because they would keep all of it alive.
const SHARE_MIN: usize = 2;

/// Rows in their order.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    large: Vec<RecordBatch>,
    /// Small batches that came after those.
    small: Vec<RecordBatch>,
    small_rows: usize,
    rows: usize,
    bytes: usize,
}

impl Buffer {
    /// Adds rows at the end.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<(), ArrowError> {
        self.rows += batch.num_rows();
        self.bytes += bytes(&batch);
        if batch.num_rows() >= SMALL_ROWS {
            self.join_small()?;
            self.large.append(&mut self.small);
            self.small_rows = 0;
            self.large.push(batch);
            return Ok(());
        }
        self.small_rows += batch.num_rows();
        self.small.push(batch);
        if self.small_rows >= SMALL_ROWS {
            self.join_small()?;
            self.large.append(&mut self.small);
            self.small_rows = 0;
        } else if self.small.len() >= SMALL_BATCHES_MAX {
            self.join_small()?;
        }
        Ok(())
    }

    fn join_small(&mut self) -> Result<(), ArrowError> {
        if self.small.len() > 1 {
            self.small = vec![concat_batches(&self.small[0].schema(), &self.small)?];
        }
        Ok(())
    }

    /// All rows, in few batches.
    pub(super) fn into_batches(mut self) -> Result<Vec<RecordBatch>, ArrowError> {
        self.join_small()?;
        self.large.append(&mut self.small);
        Ok(self.large)
    }

    /// All batches.
    pub(super) fn batches(&self) -> impl Iterator<Item = &RecordBatch> {
        self.large.iter().chain(&self.small)
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// `rows`, which are a part of a batch of `of` rows, copied where they would keep much more alive than they are.
pub(super) fn compact(rows: RecordBatch, of: usize) -> Result<RecordBatch, ArrowError> {
    if rows.num_rows() * SHARE_MIN >= of {
        return Ok(rows);
    }
    take_record_batch(&rows, &UInt32Array::from_iter_values(0..rows.num_rows() as u32))
}

fn bytes(batch: &RecordBatch) -> usize {
    // An error means that a length overflows, which no batch in memory has.
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn rows_keep_their_order_and_small_batches_are_few() {
        let (mut buffer, mut next) = (Buffer::default(), 0);
        for rows in (1..300).chain([SMALL_ROWS, 1, 5, SMALL_ROWS - 1, 2 * SMALL_ROWS]).chain([1; 3000]) {
            let column = Arc::new(Int64Array::from_iter_values(next..next + rows as i64));
            next += rows as i64;
            buffer.push(RecordBatch::try_from_iter([("n", column as _)]).unwrap()).unwrap();
            assert!(buffer.batches().count() <= buffer.rows() / SMALL_ROWS + SMALL_BATCHES_MAX + 1);
        }
        assert_eq!((buffer.rows(), buffer.bytes()), (next as usize, next as usize * 8));
        let batches = buffer.into_batches().unwrap();
        let values = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().iter());
        assert!(values.copied().eq(0..next));
    }
}
