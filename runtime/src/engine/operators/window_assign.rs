//! TUMBLE: gives every row the bounds of its window. Rows whose window has closed leave by the late route.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch, not};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use async_trait::async_trait;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;
use crate::engine::operator::{Operator, Output};
use crate::sql::tumble::{Tumble, unit_ns};

/// Assigns windows.
pub(crate) struct WindowAssign {
    window: Tumble,
    /// The input's columns, then window_start and window_end.
    schema: SchemaRef,
    step: String,
    watermark: i64,
}

impl WindowAssign {
    /// Assigns `window`; `schema` is that of the output.
    pub(crate) fn new(window: Tumble, schema: SchemaRef, step: String) -> Self {
        Self { window, schema, step, watermark: i64::MIN }
    }
}

/// The bounds of the tumbling window that `time` is in, all in nanoseconds; `None` where they cannot be represented.
pub(crate) fn bounds(time: i64, size: i64, offset: i64) -> Option<(i64, i64)> {
    let shifted = time.checked_sub(offset)?;
    let start = shifted.div_euclid(size).checked_mul(size)?.checked_add(offset)?;
    Some((start, start.checked_add(size)?))
}

#[async_trait]
impl Operator for WindowAssign {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        let failed = |error: arrow::error::ArrowError| RunError::fatal(format!("step {}", self.step), error);
        let times = batch.column(self.window.time_column).clone();
        let DataType::Timestamp(unit, _) = times.data_type().clone() else {
            return Err(RunError::fatal(format!("step {}", self.step), "the event time is no timestamp"));
        };
        let factor = unit_ns(unit);
        let values = cast(&times, &DataType::Int64).map_err(failed)?;
        let values = values.as_primitive::<Int64Type>();
        let (mut starts, mut ends) = (Vec::with_capacity(batch.num_rows()), Vec::with_capacity(batch.num_rows()));
        let (mut late, mut broken) = (vec![false; batch.num_rows()], Vec::new());
        let mut any_late = false;
        for (row, is_late) in late.iter_mut().enumerate() {
            let window = (!values.is_null(row))
                .then(|| values.value(row).checked_mul(factor))
                .flatten()
                .and_then(|time| bounds(time, self.window.size_ns, self.window.offset_ns));
            let (start, end) = window.unwrap_or_default();
            if window.is_none() {
                broken.push(row);
            } else if end <= self.watermark {
                *is_late = true;
                any_late = true;
            }
            starts.push(start / factor);
            ends.push(end / factor);
        }
        for &row in &broken {
            let reason = "the event time is null or outside the years 1678 to 2261, so the row is in no window";
            out.letters.push(Letter::row(format!("step {}", self.step), reason, &batch.slice(row, 1)));
        }
        let mut batch = batch;
        let bound = |values: Vec<i64>| -> Result<ArrayRef, RunError> {
            let array: PrimitiveArray<Int64Type> = values.into();
            cast(&array, times.data_type()).map_err(failed)
        };
        let (mut starts, mut ends) = (bound(starts)?, bound(ends)?);
        if any_late || !broken.is_empty() {
            let is_late = BooleanArray::from(late.clone());
            if any_late {
                out.late.push(filter_record_batch(&batch, &is_late).map_err(failed)?);
            }
            broken.iter().for_each(|row| late[*row] = true);
            let keep = not(&BooleanArray::from(late)).map_err(failed)?;
            batch = filter_record_batch(&batch, &keep).map_err(failed)?;
            starts = arrow::compute::filter(&starts, &keep).map_err(failed)?;
            ends = arrow::compute::filter(&ends, &keep).map_err(failed)?;
        }
        if batch.num_rows() > 0 {
            let mut columns = batch.columns().to_vec();
            columns.extend([starts, ends]);
            out.batches.push(RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(failed)?);
        }
        Ok(())
    }

    async fn watermark(&mut self, watermark: i64, _: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::bounds;

    #[test]
    fn windows_are_aligned_to_the_epoch_also_before_1970() {
        assert_eq!(bounds(25, 10, 0), Some((20, 30)));
        assert_eq!(bounds(30, 10, 0), Some((30, 40)));
        assert_eq!(bounds(-1, 10, 0), Some((-10, 0)));
        assert_eq!(bounds(25, 10, 7), Some((17, 27)));
        assert_eq!(bounds(25, 10, -3), Some((17, 27)));
        assert_eq!(bounds(i64::MAX, 10, 0), None);
    }
}
