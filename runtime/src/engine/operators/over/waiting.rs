//! Rows that wait until the watermark has passed their time.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

use crate::engine::times;

/// Batches with fewer rows than this are put together with their neighbours.
const SMALL_ROWS: usize = if cfg!(test) { 4 } else { 1024 };

/// Waiting rows, in batches that are each sorted by time and otherwise in the order of arrival.
pub(super) struct Waiting {
    schema: SchemaRef,
    time: usize,
    order: Option<OrderRows>,
    pub(super) batches: Vec<RecordBatch>,
}

/// The columns of ORDER BY after the event time.
pub(super) struct OrderRows {
    columns: Vec<usize>,
    converter: RowConverter,
}

impl OrderRows {
    /// `None` where there are none.
    pub(super) fn new(order: &[(usize, SortOptions)], input: &SchemaRef) -> Result<Option<Self>, ArrowError> {
        if order.is_empty() {
            return Ok(None);
        }
        let fields = order
            .iter()
            .map(|(column, options)| SortField::new_with_options(input.field(*column).data_type().clone(), *options));
        let converter = RowConverter::new(fields.collect())?;
        Ok(Some(Self { columns: order.iter().map(|(column, _)| *column).collect(), converter }))
    }

    /// What the rows of `batch` are compared by.
    pub(super) fn of(&self, batch: &RecordBatch) -> Result<Rows, ArrowError> {
        let columns: Vec<_> = self.columns.iter().map(|column| batch.column(*column).clone()).collect();
        self.converter.convert_columns(&columns)
    }
}

impl Waiting {
    pub(super) fn new(schema: SchemaRef, time: usize, order: &[(usize, SortOptions)]) -> Result<Self, ArrowError> {
        let order = OrderRows::new(order, &schema)?;
        Ok(Self { schema, time, order, batches: Vec::new() })
    }

    /// `batch` sorted by time; rows of the same time stay as they are.
    fn by_time(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let values = times::values(batch.column(self.time))?;
        if values.is_sorted() {
            return Ok(batch);
        }
        let mut rows: Vec<u32> = (0..values.len() as u32).collect();
        rows.sort_by_key(|row| values[*row as usize]);
        take_record_batch(&batch, &UInt32Array::from(rows))
    }

    /// Adds rows, none of which is without a time.
    pub(super) fn add(&mut self, batch: RecordBatch) -> Result<(), ArrowError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let sorted = self.by_time(batch)?;
        self.batches.push(sorted);
        // Small batches become larger ones of twice the size: few of them, and each row is copied a few times only.
        while let [.., before, last] = &self.batches[..] {
            if last.num_rows() >= SMALL_ROWS || before.num_rows() > 2 * last.num_rows() {
                break;
            }
            let both = self.by_time(concat_batches(&self.schema, [before, last])?)?;
            self.batches.truncate(self.batches.len() - 2);
            self.batches.push(both);
        }
        Ok(())
    }

    /// Takes out all rows before `limit` (all there are where it is `None`), in their final order.
    pub(super) fn take(&mut self, limit: Option<i64>) -> Result<Option<RecordBatch>, ArrowError> {
        let mut taken = Vec::new();
        for batch in &mut self.batches {
            let values = times::values(batch.column(self.time))?;
            let count = limit.map_or(values.len(), |limit| values.partition_point(|time| *time < limit));
            if count > 0 {
                taken.push(batch.slice(0, count));
                *batch = batch.slice(count, batch.num_rows() - count);
            }
        }
        self.batches.retain(|batch| batch.num_rows() > 0);
        let whole = match &taken[..] {
            [] => return Ok(None),
            [only] => only.clone(),
            many => self.by_time(concat_batches(&self.schema, many)?)?,
        };
        self.ordered(whole).map(Some)
    }

    /// `batch`, which is sorted by time, with rows of the same time sorted by the other columns of ORDER BY.
    fn ordered(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let Some(order) = &self.order else { return Ok(batch) };
        let values = times::values(batch.column(self.time))?;
        if values.windows(2).all(|pair| pair[0] < pair[1]) {
            return Ok(batch);
        }
        let keys = order.of(&batch)?;
        let mut rows: Vec<u32> = (0..values.len() as u32).collect();
        let key = |row: u32| (values[row as usize], keys.row(row as usize));
        if rows.is_sorted_by(|a, b| key(*a) <= key(*b)) {
            return Ok(batch);
        }
        rows.sort_by(|a, b| key(*a).cmp(&key(*b)));
        take_record_batch(&batch, &UInt32Array::from(rows))
    }

    pub(super) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    pub(super) fn bytes(&self) -> usize {
        self.batches.iter().map(RecordBatch::get_array_memory_size).sum()
    }
}
