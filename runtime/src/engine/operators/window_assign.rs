//! TUMBLE, HOP and CUMULATE: give every row the bounds of its windows, with a copy of it per window. Rows whose windows
//! have all closed leave by the late route.
//!
//! Where the step aggregates the windows, rows are given the bounds of their pane instead, without copies: see
//! [`crate::engine::operators::pane_aggregate`].

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, not, take};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;
use crate::engine::operator::{Description, Narrowed, Operator, OperatorPlan, Output, Site, Wanted};
use crate::engine::operators::window_bounds::{Span, Windows};
use crate::engine::times;
use crate::plan::projection::place;
use crate::sql::windows::{Window, unit_ns};

/// Which windows rows are given.
#[derive(Debug)]
pub(crate) struct WindowAssignPlan {
    pub(crate) window: Window,
    /// The input's columns.
    pub(crate) input: SchemaRef,
    /// Those of them that go on.
    pub(crate) passes: Vec<usize>,
    /// Those that go on, then window_start and window_end.
    pub(crate) schema: SchemaRef,
}

/// The most rows of a batch that is put together from runs of rows.
const OUTPUT_ROWS_MAX: usize = 8192;
/// A run of so many rows of the same windows is passed on as it is, without a copy.
const RUN_ROWS_MIN: usize = 256;

/// Why a row is in no window.
pub(super) const NO_WINDOW: &str =
    "the event time is null or outside the years 1678 to 2261, so the row is in no window";

#[async_trait]
impl OperatorPlan for WindowAssignPlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        let windows =
            Windows::new(&self.window.kind).ok_or_else(|| site.failed("a session has an operator of its own"))?;
        Ok(Box::new(WindowAssign {
            one: self.window.panes || windows.is_partition(),
            windows,
            time_column: self.window.time_column,
            passes: self.passes.clone(),
            bound_ns: times_unit(self.schema.field(self.passes.len()).data_type()),
            schema: self.schema.clone(),
            step: site.step,
            watermark: i64::MIN,
        }))
    }

    fn late(&self) -> Vec<SchemaRef> {
        vec![self.input.clone()]
    }

    fn assigns_windows(&self) -> bool {
        true
    }

    fn reads(&self, _: usize, of_output: &dyn Fn() -> Wanted) -> Wanted {
        let mut wanted: BTreeSet<usize> =
            of_output()?.into_iter().filter_map(|column| self.passes.get(column).copied()).collect();
        wanted.insert(self.window.time_column);
        Some(wanted)
    }

    fn narrow(&mut self, _: usize, schema: &SchemaRef, keep: &[usize]) -> DataFusionResult<Option<Narrowed>> {
        self.window.time_column = place(keep, self.window.time_column)?;
        let before = std::mem::take(&mut self.passes);
        let bounds = self.schema.fields()[before.len()..].to_vec();
        let mut fields: Vec<_> = Vec::new();
        let mut kept = Vec::new();
        for (column, field) in schema.fields().iter().enumerate() {
            // What came after the columns of before has no number from before.
            let number = match keep.get(column) {
                Some(old) => before.iter().position(|passed| passed == old),
                None => Some(usize::MAX),
            };
            if let Some(number) = number {
                let marked = self.schema.fields().get(number);
                fields.push(marked.unwrap_or(field).clone());
                kept.push(number);
                self.passes.push(column);
            }
        }
        kept.extend(before.len()..before.len() + bounds.len());
        fields.extend(bounds);
        self.input = schema.clone();
        self.schema = Arc::new(Schema::new(fields));
        Ok(Some(Narrowed { schema: self.schema.clone(), keep: kept }))
    }

    fn describe(&self) -> Description {
        let time = self.input.field(self.window.time_column).name();
        Description { does: format!("assigns {} over {time}", self.window.kind.describe()), ..Description::default() }
    }
}

/// Assigns windows.
struct WindowAssign {
    windows: Windows,
    /// Rows are given the bounds of their pane, which may be their only window.
    one: bool,
    time_column: usize,
    passes: Vec<usize>,
    /// The columns that go on, then window_start and window_end.
    schema: SchemaRef,
    /// How many nanoseconds the unit of the bounds has.
    bound_ns: i64,
    step: String,
    watermark: i64,
}

/// How many nanoseconds the unit of a timestamp type has.
fn times_unit(data_type: &DataType) -> i64 {
    match data_type {
        DataType::Timestamp(unit, _) => unit_ns(*unit),
        _ => 1,
    }
}

/// Rows that follow each other and are in the same windows.
struct Run {
    rows: Range<usize>,
    pane: Span,
}

impl WindowAssign {
    fn failed(&self, error: impl ToString) -> RunError {
        RunError::fatal(format!("step {}", self.step), error)
    }

    /// The pane of `value`, which is in units of `factor` nanoseconds.
    fn pane(&self, value: i64, factor: i64) -> Option<Span> {
        self.windows.pane(value.checked_mul(factor)?)
    }

    fn is_late(&self, pane: Span) -> bool {
        self.windows.last_end(pane).is_some_and(|end| end <= self.watermark)
    }

    /// The panes of all rows, where each has one and none is late.
    fn all_on_time(&self, column: &ArrayRef, values: &[i64], factor: i64) -> Option<Vec<Run>> {
        if column.null_count() > 0 {
            return None;
        }
        let (low, high) = times::extent(values)?;
        // What lies between has windows too.
        let (first, last) = (self.pane(low, factor)?, self.pane(high, factor)?);
        // A time between windows is as late as a window that ends with it.
        if self.windows.last_end(first).unwrap_or(first.1) <= self.watermark {
            return None;
        }
        if first == last {
            return Some(vec![Run { rows: 0..values.len(), pane: first }]);
        }
        let (mut pane, mut other) = (first, last);
        let (mut row, mut runs) = (0, Vec::new());
        while row < values.len() {
            let inside = |pane: Span, value: i64| pane.0 / factor <= value && value < pane.1 / factor;
            let (start, end) = (pane.0 / factor, pane.1 / factor);
            let run = values[row..].iter().take_while(|value| start <= **value && **value < end).count();
            if run > 0 {
                runs.push(Run { rows: row..row + run, pane });
            }
            row += run;
            if let Some(value) = values.get(row) {
                std::mem::swap(&mut pane, &mut other);
                if !inside(pane, *value) {
                    pane = self.pane(*value, factor)?;
                }
            }
        }
        Some(runs)
    }

    /// The rows of `batch` that are on time, and their panes; the others go where they belong.
    fn sorted_out(
        &self,
        batch: &RecordBatch,
        values: &[i64],
        factor: i64,
        out: &mut Output,
    ) -> Result<(RecordBatch, Vec<Run>), ArrowError> {
        let column = batch.column(self.time_column);
        let (mut late, mut gone) = (vec![false; values.len()], vec![false; values.len()]);
        let (mut any_late, mut kept, mut runs) = (false, 0, Vec::<Run>::new());
        for (row, value) in values.iter().enumerate() {
            let pane = if column.is_null(row) { None } else { self.pane(*value, factor) };
            let Some(pane) = pane else {
                out.letters.push(Letter::row(format!("step {}", self.step), NO_WINDOW, &batch.slice(row, 1)));
                gone[row] = true;
                continue;
            };
            if self.is_late(pane) {
                (late[row], gone[row], any_late) = (true, true, true);
                continue;
            }
            match runs.last_mut().filter(|run| run.pane == pane) {
                Some(run) => run.rows.end += 1,
                None => runs.push(Run { rows: kept..kept + 1, pane }),
            }
            kept += 1;
        }
        if any_late {
            out.late.push(filter_record_batch(batch, &BooleanArray::from(late))?);
        }
        Ok((filter_record_batch(batch, &not(&BooleanArray::from(gone))?)?, runs))
    }

    /// `rows` with one pair of bounds each.
    fn beside(&self, batch: &RecordBatch, bounds: Bounds) -> Result<RecordBatch, ArrowError> {
        let data_type = self.schema.field(self.passes.len()).data_type();
        let mut columns: Vec<ArrayRef> = self.passes.iter().map(|column| batch.column(*column).clone()).collect();
        columns.push(times::column(bounds.starts, data_type)?);
        columns.push(times::column(bounds.ends, data_type)?);
        RecordBatch::try_new(self.schema.clone(), columns)
    }

    /// Gives the rows of `runs` the bounds of their panes.
    fn with_panes(&self, batch: &RecordBatch, runs: &[Run], out: &mut Output) -> Result<(), ArrowError> {
        let mut bounds = Bounds::with_capacity(batch.num_rows());
        runs.iter().for_each(|run| bounds.extend(run.rows.len(), run.pane, self.bound_ns));
        out.batches.push(self.beside(batch, bounds)?);
        Ok(())
    }

    /// Gives out the rows of `runs` once for each of their open windows.
    fn with_copies(&self, batch: &RecordBatch, runs: &[Run], out: &mut Output) -> Result<(), ArrowError> {
        let mut copies = Copies { rows: Vec::new(), bounds: Bounds::with_capacity(0) };
        for run in runs {
            let mut after = self.watermark;
            while let Some(window) = self.windows.next(run.pane, after) {
                after = window.1;
                if run.rows.len() >= RUN_ROWS_MIN {
                    self.flush(batch, &mut copies, out)?;
                    let mut bounds = Bounds::with_capacity(run.rows.len());
                    bounds.extend(run.rows.len(), window, self.bound_ns);
                    out.batches.push(self.beside(&batch.slice(run.rows.start, run.rows.len()), bounds)?);
                    continue;
                }
                copies.rows.extend(run.rows.start as u32..run.rows.end as u32);
                copies.bounds.extend(run.rows.len(), window, self.bound_ns);
                if copies.rows.len() >= OUTPUT_ROWS_MAX {
                    self.flush(batch, &mut copies, out)?;
                }
            }
        }
        self.flush(batch, &mut copies, out)
    }

    fn flush(&self, batch: &RecordBatch, copies: &mut Copies, out: &mut Output) -> Result<(), ArrowError> {
        if copies.rows.is_empty() {
            return Ok(());
        }
        let rows = UInt32Array::from(std::mem::take(&mut copies.rows));
        let columns = batch.columns().iter().map(|column| take(column, &rows, None)).collect::<Result<Vec<_>, _>>()?;
        let rows = RecordBatch::try_new(batch.schema(), columns)?;
        let bounds = std::mem::replace(&mut copies.bounds, Bounds::with_capacity(0));
        out.batches.push(self.beside(&rows, bounds)?);
        Ok(())
    }

    fn assign(&self, batch: &RecordBatch, out: &mut Output) -> Result<(), ArrowError> {
        let column = batch.column(self.time_column);
        let DataType::Timestamp(unit, _) = column.data_type() else {
            return Err(ArrowError::SchemaError("the event time is no timestamp".to_owned()));
        };
        let factor = unit_ns(*unit);
        let values = times::values(column)?;
        let (batch, runs) = match self.all_on_time(column, values, factor) {
            Some(runs) => (batch.clone(), runs),
            None => self.sorted_out(batch, values, factor, out)?,
        };
        if batch.num_rows() == 0 {
            return Ok(());
        }
        match self.one {
            true => self.with_panes(&batch, &runs, out),
            false => self.with_copies(&batch, &runs, out),
        }
    }
}

/// Rows with bounds that wait to be put together.
struct Copies {
    rows: Vec<u32>,
    bounds: Bounds,
}

/// Window bounds by row.
struct Bounds {
    starts: Vec<i64>,
    ends: Vec<i64>,
}

impl Bounds {
    fn with_capacity(rows: usize) -> Self {
        Self { starts: Vec::with_capacity(rows), ends: Vec::with_capacity(rows) }
    }

    /// The next `rows` rows are in `window`, whose bounds are written in units of `factor` nanoseconds.
    fn extend(&mut self, rows: usize, window: Span, factor: i64) {
        self.starts.resize(self.starts.len() + rows, window.0 / factor);
        self.ends.resize(self.ends.len() + rows, window.1 / factor);
    }
}

#[async_trait]
impl Operator for WindowAssign {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.assign(&batch, out).map_err(|error| self.failed(error))
    }

    async fn watermark(&mut self, watermark: i64, _: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        Ok(())
    }
}
