//! Keys by number with the time-to-live of each: what deduplication and the first rows per key share.

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::Result;
use tokio::time::Instant;

use super::retention::Retention;
use crate::engine::keyed::{EncodedKeys, KeyEncoder, KeyTable, Selection};
use crate::engine::times;
use crate::sql::windows::unit_ns;

/// Keys are numbered anew where so many numbers are out of use, and more than half of all.
const UNUSED_NUMBERS_MAX: usize = 1024;

/// Keys by number.
pub(super) struct Keys {
    columns: Vec<usize>,
    encoder: KeyEncoder,
    encoded: EncodedKeys,
    table: KeyTable,
    pub(super) retention: Retention,
    /// By row of the batch at hand.
    pub(super) numbers: Vec<usize>,
}

impl Keys {
    /// No keys yet: they are the columns `columns` of batches of `schema`.
    pub(super) fn new(schema: &SchemaRef, columns: &[usize], ttl: Option<i64>, event_time: bool) -> Result<Self> {
        let encoder = KeyEncoder::new(columns.iter().map(|column| schema.field(*column)))?;
        Ok(Self {
            columns: columns.to_vec(),
            encoder,
            encoded: EncodedKeys::default(),
            table: KeyTable::default(),
            retention: Retention::new(ttl, event_time || ttl.is_none()),
            numbers: Vec::new(),
        })
    }

    fn intern_columns(&mut self, columns: &[ArrayRef], rows: usize) -> Result<()> {
        if columns.is_empty() {
            self.numbers.clear();
            self.numbers.resize(rows, 0);
            return Ok(());
        }
        self.encoder.encode(columns, &mut self.encoded)?;
        self.table.intern(&self.encoded, Selection::Range { start: 0, len: rows }, &mut self.numbers);
        Ok(())
    }

    /// Fills `numbers` for the rows of `batch`.
    pub(super) fn intern(&mut self, batch: &RecordBatch) -> Result<()> {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|column| batch.column(*column).clone()).collect();
        self.intern_columns(&columns, batch.num_rows())
    }

    /// The same for columns that are keys as [`Keys::columns`] gives them.
    pub(super) fn intern_keys(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        self.intern_columns(keys, rows)
    }

    /// The key columns of the keys with these numbers.
    pub(super) fn columns(&self, numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        if self.columns.is_empty() {
            return Ok(vec![]);
        }
        Ok(self.encoder.decode(&self.table, numbers)?)
    }

    /// The numbers of all keys that are kept.
    pub(super) fn live(&self) -> Vec<u32> {
        (0..self.retention.numbered() as u32).filter(|key| self.retention.is_live(*key)).collect()
    }

    /// True where so many numbers are out of use that [`Keys::renumber`] pays.
    pub(super) fn is_sparse(&self) -> bool {
        let unused = self.retention.numbered() - self.retention.live();
        unused > UNUSED_NUMBERS_MAX && unused > self.retention.live()
    }

    /// Numbers the keys that are kept anew, from zero on, and returns the numbers that they had.
    pub(super) fn renumber(&mut self) -> Result<Vec<u32>> {
        let live = self.live();
        let columns = self.columns(&live)?;
        let newest: Vec<i64> = live.iter().map(|key| self.retention.newest(*key)).collect();
        self.table = KeyTable::default();
        self.retention.clear();
        self.intern_columns(&columns, live.len())?;
        for (number, newest) in newest.into_iter().enumerate() {
            self.retention.touch(number as u32, newest);
        }
        Ok(live)
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.bytes() + self.retention.bytes()
    }
}

/// The times of a batch's rows by which keys are kept, in nanoseconds: of the column `time`, or the clock on the wall.
/// What has no time is taken for one at `watermark`.
pub(super) fn row_times(
    batch: &RecordBatch,
    time: Option<usize>,
    retention: &Retention,
    watermark: i64,
) -> Result<Vec<i64>> {
    if let Some(now) = retention.clock(Instant::now()) {
        return Ok(vec![now; batch.num_rows()]);
    }
    let Some(time) = time else { return Ok(vec![0; batch.num_rows()]) };
    let column = batch.column(time);
    let factor = match column.data_type() {
        DataType::Timestamp(unit, _) => unit_ns(*unit),
        _ => 1,
    };
    let values = times::values(column)?.iter().enumerate();
    Ok(values.map(|(row, value)| if column.is_null(row) { watermark } else { value.saturating_mul(factor) }).collect())
}

/// These rows of `batch`.
pub(super) fn picked(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    if rows.len() == batch.num_rows() && rows.is_sorted() {
        return Ok(batch.clone());
    }
    let rows = UInt32Array::from(rows);
    let columns = batch.columns().iter().map(|column| Ok(take(column, &rows, None)?)).collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}
