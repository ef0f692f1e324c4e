//! One side of a join: its columns, and how the rows of a batch are sorted into late, broken and good ones.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::engine::dead_letter::Letter;
use crate::engine::operator::Output;
use crate::engine::times;
use crate::sql::windows::unit_ns;

/// A side of a join.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    /// The input's columns: those of the side, then keys that are none of them.
    pub(crate) input: SchemaRef,
    /// How many of them are the side's.
    pub(crate) columns: usize,
    /// The key columns.
    pub(crate) keys: Vec<usize>,
    /// The event-time column.
    pub(crate) time: usize,
}

/// The rows of a batch that go on, with their times in nanoseconds.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) batch: RecordBatch,
    /// By row; what stands in place of a null means nothing.
    pub(super) times: Vec<i64>,
    /// By row: it has a time. `None`: all have.
    pub(super) timed: Option<Vec<bool>>,
}

impl Rows {
    pub(super) fn has_time(&self, row: usize) -> bool {
        self.timed.as_ref().is_none_or(|timed| timed[row])
    }
}

impl Side {
    /// The columns of the side.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.input.fields()[..self.columns].to_vec()))
    }

    /// The rows of `batch` that are neither late nor broken; those go to `out`.
    pub(super) fn admit(
        &self,
        batch: RecordBatch,
        watermark: i64,
        component: &str,
        out: &mut Output,
    ) -> Result<Rows, ArrowError> {
        let column = batch.column(self.time).clone();
        let (times, whole) = nanoseconds(&column)?;
        let timed = |row: usize| column.is_valid(row);
        let nulls = column.null_count() > 0;
        let late = |row: usize| timed(row) && times[row] < watermark;
        if whole && !(0..times.len()).any(late) {
            let timed = nulls.then(|| (0..times.len()).map(timed).collect());
            return Ok(Rows { batch, times, timed });
        }
        // Only where something is wrong: row by row.
        let (mut is_late, mut keep) = (Vec::with_capacity(times.len()), Vec::with_capacity(times.len()));
        for (row, time) in times.iter().enumerate() {
            let broken = timed(row) && matches!(*time, i64::MIN | i64::MAX);
            if broken {
                let reason = "the event time is outside the years 1678 to 2261";
                out.letters.push(Letter::row(component.to_owned(), reason, &self.of_side(&batch.slice(row, 1))?));
            }
            is_late.push(!broken && late(row));
            keep.push(!broken && !late(row));
        }
        let is_late = BooleanArray::from(is_late);
        if is_late.true_count() > 0 {
            out.late.push(self.of_side(&filter_record_batch(&batch, &is_late)?)?);
        }
        let kept = |row: &usize| keep[*row];
        let timed = nulls.then(|| (0..keep.len()).filter(kept).map(timed).collect());
        let times = (0..keep.len()).filter(kept).map(|row| times[row]).collect();
        Ok(Rows { batch: filter_record_batch(&batch, &BooleanArray::from(keep))?, times, timed })
    }

    /// The side's columns of `batch`, as its late rows have them.
    fn of_side(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(self.schema(), batch.columns()[..self.columns].to_vec())
    }
}

/// The values of a time column in nanoseconds, and whether all of them have some.
fn nanoseconds(column: &ArrayRef) -> Result<(Vec<i64>, bool), ArrowError> {
    let factor = match column.data_type() {
        DataType::Timestamp(unit, _) => unit_ns(*unit),
        _ => 1,
    };
    let values = times::values(column)?;
    let times: Vec<i64> = values.iter().map(|value| value.saturating_mul(factor)).collect();
    let whole = times::extent(&times).is_none_or(|(low, high)| low > i64::MIN && high < i64::MAX);
    Ok((times, whole))
}
