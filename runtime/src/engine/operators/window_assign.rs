//! TUMBLE: gives every row the bounds of its window. Rows whose window has closed leave by the late route.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;
use crate::engine::operator::{Description, Narrowed, Operator, OperatorPlan, Output, Site, Wanted};
use crate::engine::times;
use crate::plan::projection::place;
use crate::sql::tumble::{Tumble, unit_ns};

/// Which windows rows are given.
#[derive(Debug)]
pub(crate) struct WindowAssignPlan {
    pub(crate) window: Tumble,
    /// The input's columns, then window_start and window_end.
    pub(crate) schema: SchemaRef,
}

/// The columns that are added.
const BOUNDS: usize = 2;

#[async_trait]
impl OperatorPlan for WindowAssignPlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        Ok(Box::new(WindowAssign::new(self.window.clone(), self.schema.clone(), site.step)))
    }

    fn late(&self) -> Vec<SchemaRef> {
        let columns = self.schema.fields().len() - BOUNDS;
        vec![Arc::new(Schema::new(self.schema.fields()[..columns].to_vec()))]
    }

    fn assigns_windows(&self) -> bool {
        true
    }

    fn reads(&self, _: usize, of_output: &dyn Fn() -> Wanted) -> Wanted {
        let columns = self.schema.fields().len() - BOUNDS;
        let mut wanted: BTreeSet<usize> = of_output()?.into_iter().filter(|column| *column < columns).collect();
        wanted.insert(self.window.time_column);
        Some(wanted)
    }

    fn narrow(&mut self, _: usize, schema: &SchemaRef, keep: &[usize]) -> DataFusionResult<Option<Narrowed>> {
        let bounds = self.schema.fields().len() - BOUNDS;
        self.window.time_column = place(keep, self.window.time_column)?;
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        fields.extend(self.schema.fields()[bounds..].iter().cloned());
        let mut kept = keep.to_vec();
        // What came after the columns of before has no number from before.
        kept.resize(schema.fields().len(), usize::MAX);
        kept.extend([bounds, bounds + 1]);
        self.schema = Arc::new(Schema::new(fields));
        Ok(Some(Narrowed { schema: self.schema.clone(), keep: kept }))
    }

    fn describe(&self) -> Description {
        let size = times::duration(self.window.size_ns);
        let time = self.schema.field(self.window.time_column).name();
        Description { does: format!("assigns tumbling windows of {size} over {time}"), ..Description::default() }
    }
}

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

    fn failed(&self, error: impl ToString) -> RunError {
        RunError::fatal(format!("step {}", self.step), error)
    }

    /// The bounds of the window that holds `value`, which is in units of `factor` nanoseconds.
    fn bounds(&self, value: i64, factor: i64) -> Option<(i64, i64)> {
        bounds(value.checked_mul(factor)?, self.window.size_ns, self.window.offset_ns)
    }

    /// The bounds of every row in the unit of `values`, where all rows have a window and none is late.
    fn all_on_time(&self, column: &ArrayRef, values: &[i64], factor: i64) -> Option<Bounds> {
        if column.null_count() > 0 {
            return None;
        }
        let (low, high) = times::extent(values)?;
        // What lies between has a window too.
        let (first, last) = (self.bounds(low, factor)?, self.bounds(high, factor)?);
        if first.1 <= self.watermark {
            return None;
        }
        let mut all = Bounds { starts: Vec::with_capacity(values.len()), ends: Vec::with_capacity(values.len()) };
        let raw = |(start, end): (i64, i64)| (start / factor, end / factor);
        if first == last {
            all.extend(values.len(), raw(first));
            return Some(all);
        }
        let (mut window, mut other) = (raw(first), raw(last));
        let mut row = 0;
        while row < values.len() {
            let inside = |(start, end): (i64, i64), value: i64| start <= value && value < end;
            let run = values[row..].iter().take_while(|value| inside(window, **value)).count();
            all.extend(run, window);
            row += run;
            if let Some(value) = values.get(row) {
                std::mem::swap(&mut window, &mut other);
                if !inside(window, *value) {
                    window = raw(self.bounds(*value, factor)?);
                }
            }
        }
        Some(all)
    }

    /// Rows where any may be late or without a window, one by one.
    fn mixed(&self, batch: RecordBatch, values: &[i64], factor: i64, out: &mut Output) -> Result<(), ArrowError> {
        let column = batch.column(self.window.time_column);
        let mut all = Bounds { starts: Vec::with_capacity(values.len()), ends: Vec::with_capacity(values.len()) };
        let (mut late, mut broken) = (vec![false; values.len()], Vec::new());
        let mut any_late = false;
        for (row, is_late) in late.iter_mut().enumerate() {
            let window = if column.is_null(row) { None } else { self.bounds(values[row], factor) };
            let (start, end) = window.unwrap_or_default();
            if window.is_none() {
                broken.push(row);
            } else if end <= self.watermark {
                *is_late = true;
                any_late = true;
            }
            all.extend(1, (start / factor, end / factor));
        }
        for &row in &broken {
            let reason = "the event time is null or outside the years 1678 to 2261, so the row is in no window";
            out.letters.push(Letter::row(format!("step {}", self.step), reason, &batch.slice(row, 1)));
        }
        if any_late {
            out.late.push(filter_record_batch(&batch, &BooleanArray::from(late.clone()))?);
        }
        let batch = all.beside(batch, &self.schema, self.window.time_column)?;
        broken.into_iter().for_each(|row| late[row] = true);
        let kept = filter_record_batch(&batch, &not(&BooleanArray::from(late))?)?;
        if kept.num_rows() > 0 {
            out.batches.push(kept);
        }
        Ok(())
    }
}

/// Window bounds by row.
struct Bounds {
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl Bounds {
    /// The next `rows` rows are in `window`.
    fn extend(&mut self, rows: usize, window: (i64, i64)) {
        self.starts.resize(self.starts.len() + rows, window.0);
        self.ends.resize(self.ends.len() + rows, window.1);
    }

    /// `batch` with the bounds as its last columns.
    fn beside(self, batch: RecordBatch, schema: &SchemaRef, time: usize) -> Result<RecordBatch, ArrowError> {
        let (_, mut columns, _) = batch.into_parts();
        let data_type = columns[time].data_type().clone();
        columns.push(times::column(self.starts, &data_type)?);
        columns.push(times::column(self.ends, &data_type)?);
        RecordBatch::try_new(Arc::clone(schema), columns)
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
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let column = batch.column(self.window.time_column).clone();
        let DataType::Timestamp(unit, _) = column.data_type() else {
            return Err(self.failed("the event time is no timestamp"));
        };
        let factor = unit_ns(*unit);
        let values = times::values(&column).map_err(|error| self.failed(error))?;
        match self.all_on_time(&column, values, factor) {
            Some(all) => {
                let batch = all.beside(batch, &self.schema, self.window.time_column);
                out.batches.push(batch.map_err(|error| self.failed(error))?);
                Ok(())
            }
            None => self.mixed(batch, values, factor, out).map_err(|error| self.failed(error)),
        }
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
