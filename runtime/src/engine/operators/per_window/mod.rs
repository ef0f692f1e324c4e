//! A query per window: the rows of one or two inputs are kept by window, and when the watermark passes a window's end,
//! a physical plan is run once over all of them. Joins of windows, OVER, ORDER BY and everything else that needs to see
//! a window as a whole are done by it.
//!
//! What a window is, two columns of an input say: rows whose values are the same in both belong together. The one that
//! the watermark is compared with is a bound, so no more rows with its value can follow once the watermark is there.

mod buffer;
mod failing;
mod state;

use std::collections::BTreeMap;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, is_not_null};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;
use crate::engine::operator::{Description, Operator, OperatorPlan, Output, Site, StateSize};
use crate::engine::operators::per_window::buffer::Buffer;
use crate::engine::operators::window_parts::{Part, WindowKey, parts};
use crate::engine::times;
use crate::spec::model::OnError;
use crate::sql::region::{Region, RegionInstance};
use crate::sql::windows::unit_ns;

/// The results of small windows that close together are put into batches of so many rows.
const OUTPUT_ROWS: usize = 8192;

/// What is run, and over what.
#[derive(Debug)]
pub(crate) struct PerWindowPlan {
    /// The inputs; their windows are the same where the columns that say so have the same values.
    pub(crate) inputs: Vec<WindowedInput>,
    /// What is run over a window's rows: the region's input number n is the operator's.
    pub(crate) query: Region,
    /// What the query does, for people.
    pub(crate) does: String,
}

/// An input of a query per window.
#[derive(Debug, Clone)]
pub(crate) struct WindowedInput {
    pub(crate) schema: SchemaRef,
    /// The column that the watermark is compared with: a window's rows are complete when it is there.
    pub(crate) closes: usize,
    /// Another column in which all rows of a window have the same value.
    pub(crate) other: Option<usize>,
    /// The columns by which its rows are spread over shards.
    pub(crate) keys: Vec<usize>,
    /// Rows may come after their window has closed: another step has made the windows.
    pub(crate) late: bool,
}

#[async_trait]
impl OperatorPlan for PerWindowPlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        let query = self.query.instantiate().await.map_err(|error| site.failed(error.strip_backtrace()))?;
        Ok(Box::new(PerWindow::new(self.inputs.clone(), query, site)))
    }

    async fn check(&self) -> DataFusionResult<()> {
        self.query.instantiate().await.map(drop)
    }

    fn late(&self) -> Vec<SchemaRef> {
        self.inputs.iter().filter(|input| input.late).map(|input| input.schema.clone()).collect()
    }

    fn describe(&self) -> Description {
        let of = if self.inputs.len() > 1 { " of both inputs" } else { "" };
        Description {
            does: self.does.clone(),
            keeps: Some(format!("the rows of each open window{of}")),
            freed: Some("when the watermark passes the window's end".to_owned()),
        }
    }
}

/// The operator.
pub(crate) struct PerWindow {
    inputs: Vec<WindowedInput>,
    query: RegionInstance,
    site: Site,
    /// By window, then by input.
    windows: BTreeMap<WindowKey, Vec<Buffer>>,
    /// All that is kept.
    size: StateSize,
    /// The event time up to which windows have closed, in nanoseconds.
    watermark: i64,
    /// How many nanoseconds the unit of the window bounds has.
    unit_ns: i64,
    /// Results that wait for more, so that small windows do not make small batches.
    results: Vec<RecordBatch>,
}

impl PerWindow {
    /// An operator without state.
    pub(crate) fn new(inputs: Vec<WindowedInput>, query: RegionInstance, site: Site) -> Self {
        let bound = inputs.first().map(|input| input.schema.field(input.closes).data_type());
        let unit_ns = match bound {
            Some(DataType::Timestamp(unit, _)) => unit_ns(*unit),
            _ => 1,
        };
        Self {
            inputs,
            query,
            site,
            windows: BTreeMap::new(),
            size: StateSize::default(),
            watermark: i64::MIN,
            unit_ns,
            results: Vec::new(),
        }
    }

    fn is_closed(&self, window: WindowKey) -> bool {
        window.0.saturating_mul(self.unit_ns) <= self.watermark
    }

    /// The rows of each window in a batch of the input `input`; rows without a window leave as letters.
    fn parts(
        &self,
        input: usize,
        mut batch: RecordBatch,
        out: &mut Output,
    ) -> Result<(RecordBatch, Vec<Part>), ArrowError> {
        let WindowedInput { closes, other, .. } = self.inputs[input];
        let other = other.unwrap_or(closes);
        for column in [closes, other] {
            if batch.column(column).null_count() > 0 {
                batch = self.without_nulls(batch, column, out)?;
            }
        }
        let parts = parts(times::values(batch.column(closes))?, times::values(batch.column(other))?);
        Ok((batch, parts))
    }

    fn without_nulls(&self, batch: RecordBatch, column: usize, out: &mut Output) -> Result<RecordBatch, ArrowError> {
        let there = is_not_null(batch.column(column))?;
        for row in (0..batch.num_rows()).filter(|row| !there.value(*row)) {
            let reason = "the row's window bound is null, so it is in no window";
            out.letters.push(Letter::row(format!("step {}", self.site.step), reason, &batch.slice(row, 1)));
        }
        filter_record_batch(&batch, &there)
    }

    /// Keeps rows of an open window.
    fn keep(&mut self, input: usize, window: WindowKey, rows: RecordBatch) -> Result<(), ArrowError> {
        let inputs = self.inputs.len();
        let buffers = self.windows.entry(window).or_insert_with(|| (0..inputs).map(|_| Buffer::default()).collect());
        self.size.rows += rows.num_rows();
        let before = buffers[input].bytes();
        buffers[input].push(rows)?;
        self.size.bytes = self.size.bytes + buffers[input].bytes() - before;
        Ok(())
    }

    fn take(&mut self, input: usize, batch: RecordBatch, out: &mut Output) -> Result<(), ArrowError> {
        let (batch, parts) = self.parts(input, batch, out)?;
        for part in parts {
            let rows = part.of_batch(&batch)?;
            if self.is_closed(part.window) {
                out.late.push(rows);
            } else {
                self.keep(input, part.window, buffer::compact(rows, batch.num_rows())?)?;
            }
        }
        Ok(())
    }

    /// Runs the query over the rows of a window.
    async fn close(&mut self, buffers: Vec<Buffer>, out: &mut Output) -> Result<(), RunError> {
        let mut inputs = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            self.size.rows -= buffer.rows();
            self.size.bytes -= buffer.bytes();
            inputs.push(buffer.into_batches().map_err(|error| self.site.failed(error))?);
        }
        let results = match self.query.run_all(&inputs).await {
            Ok(results) => results,
            Err(error) if self.site.on_error == OnError::Fail => {
                return Err(self.site.failed(super::stateless::reason(&error)));
            }
            Err(error) => failing::without(&mut self.query, &self.inputs, &inputs, error, &self.site, out).await?,
        };
        self.results.extend(results);
        if self.results.iter().map(RecordBatch::num_rows).sum::<usize>() >= OUTPUT_ROWS {
            self.flush(out)?;
        }
        Ok(())
    }

    /// Gives out the results that waited.
    fn flush(&mut self, out: &mut Output) -> Result<(), RunError> {
        let mut results = std::mem::take(&mut self.results);
        if results.len() > 1 && results.iter().all(|batch| batch.num_rows() < OUTPUT_ROWS) {
            results = vec![concat_batches(&self.site.schema, &results).map_err(|error| self.site.failed(error))?];
        }
        out.batches.extend(results);
        Ok(())
    }
}

#[async_trait]
impl Operator for PerWindow {
    async fn batch(&mut self, input: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        self.take(input, batch, out).map_err(|error| self.site.failed(error))
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        while let Some((window, buffers)) = self.windows.pop_first() {
            if !self.is_closed(window) {
                self.windows.insert(window, buffers);
                break;
            }
            self.close(buffers, out).await?;
        }
        self.flush(out)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        state::snapshot(self).map_err(|error| self.site.failed(error))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        state::restore(self, state, keep).map_err(|error| self.site.failed(error))
    }

    fn state_size(&self) -> StateSize {
        self.size
    }
}

/// The rows of `batch` for which `keep` is true.
fn rows_where(batch: &RecordBatch, keep: impl Fn(usize) -> bool) -> Result<RecordBatch, ArrowError> {
    let keep: BooleanArray = (0..batch.num_rows()).map(|row| Some(keep(row))).collect();
    filter_record_batch(batch, &keep)
}
