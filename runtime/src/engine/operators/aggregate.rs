//! Aggregates per window and group: DataFusion's accumulators, one set per open window, emitted when the watermark
//! passes the window's end.
//!
//! Groups of one window come out sorted by their keys, so that the order does not depend on the order of arrival.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, cast, concat_batches, lexsort_to_indices, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use crate::engine::error::RunError;
use crate::engine::exchange;
use crate::engine::operator::{Operator, Output, StateSize};
use crate::sql::tumble::unit_ns;

/// What the operator computes. Its input has the keys first, then window_start and window_end, then arguments.
#[derive(Debug, Clone)]
pub(crate) struct AggregatePlan {
    /// The input's columns.
    pub(crate) input: SchemaRef,
    /// How many of them are keys.
    pub(crate) keys: usize,
    /// The aggregates.
    pub(crate) calls: Vec<AggregateCall>,
    /// Where each output column comes from.
    pub(crate) output: Vec<OutputColumn>,
    /// The output's columns.
    pub(crate) schema: SchemaRef,
}

/// One aggregate.
#[derive(Debug, Clone)]
pub(crate) struct AggregateCall {
    pub(crate) aggregate: Arc<AggregateFunctionExpr>,
    /// Its arguments over the input.
    pub(crate) arguments: Vec<Arc<dyn PhysicalExpr>>,
    /// The input's column that says which rows count.
    pub(crate) filter: Option<usize>,
}

/// Where an output column comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OutputColumn {
    /// The key with this number.
    Key(usize),
    /// The window's start.
    Start,
    /// The window's end.
    End,
    /// The aggregate with this number.
    Aggregate(usize),
}

/// A window's end and start, in the unit of the time column. Ordered by end: what closes first comes first.
type WindowKey = (i64, i64);

/// The open groups of one window.
struct Window {
    /// `None` without keys: then there is one group.
    groups: Option<Box<dyn GroupValues>>,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

impl Window {
    fn group_count(&self) -> usize {
        self.groups.as_ref().map_or(1, |groups| groups.len())
    }
}

/// The operator.
pub(crate) struct WindowAggregate {
    plan: AggregatePlan,
    step: String,
    key_schema: SchemaRef,
    windows: BTreeMap<WindowKey, Window>,
    /// The event time up to which windows have closed, in nanoseconds.
    watermark: i64,
    /// How many nanoseconds the unit of the window bounds has.
    unit_ns: i64,
    /// Group numbers of the batch at hand; kept to reuse its memory.
    group_ids: Vec<usize>,
}

impl WindowAggregate {
    /// An operator without state.
    pub(crate) fn new(plan: AggregatePlan, step: String) -> Self {
        let key_schema = Arc::new(Schema::new(plan.input.fields()[..plan.keys].to_vec()));
        let unit_ns = match plan.input.field(plan.keys).data_type() {
            DataType::Timestamp(unit, _) => unit_ns(*unit),
            _ => 1,
        };
        Self { plan, step, key_schema, windows: BTreeMap::new(), watermark: i64::MIN, unit_ns, group_ids: Vec::new() }
    }

    fn failed(&self, error: impl ToString) -> RunError {
        RunError::fatal(format!("step {}", self.step), error)
    }

    fn window(&self) -> DataFusionResult<Window> {
        let groups = match self.plan.keys {
            0 => None,
            _ => Some(new_group_values(self.key_schema.clone(), &GroupOrdering::None)?),
        };
        let accumulators = self.plan.calls.iter().map(|call| accumulator(&call.aggregate));
        Ok(Window { groups, accumulators: accumulators.collect::<DataFusionResult<_>>()? })
    }

    /// Adds rows that all belong to `key`.
    fn update(&mut self, key: WindowKey, batch: &RecordBatch) -> DataFusionResult<()> {
        if !self.windows.contains_key(&key) {
            let window = self.window()?;
            self.windows.insert(key, window);
        }
        let Some(window) = self.windows.get_mut(&key) else { return Ok(()) };
        intern(window, &batch.columns()[..self.plan.keys], batch.num_rows(), &mut self.group_ids)?;
        let groups = window.group_count();
        for (call, accumulator) in self.plan.calls.iter().zip(&mut window.accumulators) {
            let arguments =
                call.arguments.iter().map(|argument| argument.evaluate(batch)?.into_array(batch.num_rows()));
            let arguments = arguments.collect::<DataFusionResult<Vec<_>>>()?;
            let filter = call.filter.map(|column| batch.column(column).as_boolean());
            accumulator.update_batch(&arguments, &self.group_ids, filter, groups)?;
        }
        Ok(())
    }

    /// The rows of a window that closes.
    fn close(&self, (end, start): WindowKey, mut window: Window) -> DataFusionResult<RecordBatch> {
        let count = window.group_count();
        let keys = match &mut window.groups {
            Some(groups) => groups.emit(EmitTo::All)?,
            None => vec![],
        };
        let values = window.accumulators.iter_mut().map(|accumulator| accumulator.evaluate(EmitTo::All));
        let values = values.collect::<DataFusionResult<Vec<_>>>()?;
        let bound_type = self.plan.input.field(self.plan.keys).data_type();
        let bound = |value: i64| cast(&Int64Array::from_value(value, count), bound_type);
        let order = sorted(&keys)?;
        let mut columns = Vec::with_capacity(self.plan.output.len());
        for (index, column) in self.plan.output.iter().enumerate() {
            let array = match column {
                OutputColumn::Key(key) => in_order(&keys[*key], order.as_ref())?,
                OutputColumn::Start => bound(start)?,
                OutputColumn::End => bound(end)?,
                OutputColumn::Aggregate(call) => in_order(&values[*call], order.as_ref())?,
            };
            let wanted = self.plan.schema.field(index).data_type();
            columns.push(if array.data_type() == wanted { array } else { cast(&array, wanted)? });
        }
        Ok(RecordBatch::try_new(self.plan.schema.clone(), columns)?)
    }

    /// The columns of a snapshot: window bounds, keys, then the state of each accumulator.
    fn state_schema(&self) -> DataFusionResult<SchemaRef> {
        let mut fields =
            vec![Field::new("window_end", DataType::Int64, false), Field::new("window_start", DataType::Int64, false)];
        for (index, field) in self.key_schema.fields().iter().enumerate() {
            fields.push(Field::new(format!("key_{index}"), field.data_type().clone(), true));
        }
        for (call, aggregate) in self.plan.calls.iter().enumerate() {
            for (index, field) in aggregate.aggregate.state_fields()?.iter().enumerate() {
                fields.push(Field::new(format!("state_{call}_{index}"), field.data_type().clone(), true));
            }
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    /// The state of one window; taking it empties the window, so it is put back at once.
    fn take_state(&mut self, key: WindowKey, schema: &SchemaRef) -> DataFusionResult<Option<RecordBatch>> {
        let Some(mut window) = self.windows.remove(&key) else { return Ok(None) };
        let count = window.group_count();
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from_value(key.0, count)), Arc::new(Int64Array::from_value(key.1, count))];
        if let Some(groups) = &mut window.groups {
            columns.extend(groups.emit(EmitTo::All)?);
        }
        for accumulator in &mut window.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        let columns = columns.into_iter().zip(schema.fields());
        let columns = columns.map(|(array, field)| {
            if array.data_type() == field.data_type() { Ok(array) } else { cast(&array, field.data_type()) }
        });
        let batch = RecordBatch::try_new(schema.clone(), columns.collect::<Result<Vec<_>, _>>()?)?;
        self.merge(key, &batch)?;
        Ok(Some(batch))
    }

    /// Merges rows of state that all belong to `key`.
    fn merge(&mut self, key: WindowKey, state: &RecordBatch) -> DataFusionResult<()> {
        if !self.windows.contains_key(&key) {
            let window = self.window()?;
            self.windows.insert(key, window);
        }
        let Some(window) = self.windows.get_mut(&key) else { return Ok(()) };
        let first_state = 2 + self.plan.keys;
        intern(window, &state.columns()[2..first_state], state.num_rows(), &mut self.group_ids)?;
        let groups = window.group_count();
        let mut column = first_state;
        for (call, accumulator) in self.plan.calls.iter().zip(&mut window.accumulators) {
            let width = call.aggregate.state_fields()?.len();
            accumulator.merge_batch(&state.columns()[column..column + width], &self.group_ids, groups)?;
            column += width;
        }
        Ok(())
    }
}

fn accumulator(aggregate: &Arc<AggregateFunctionExpr>) -> DataFusionResult<Box<dyn GroupsAccumulator>> {
    if aggregate.groups_accumulator_supported() {
        return aggregate.create_groups_accumulator();
    }
    let aggregate = aggregate.clone();
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || aggregate.create_accumulator())))
}

/// Fills `ids` with the group number of each row.
fn intern(window: &mut Window, keys: &[ArrayRef], rows: usize, ids: &mut Vec<usize>) -> DataFusionResult<()> {
    match &mut window.groups {
        Some(groups) => groups.intern(keys, ids),
        None => {
            ids.clear();
            ids.resize(rows, 0);
            Ok(())
        }
    }
}

/// The order of the groups by their keys; `None` where there is nothing to sort or the types cannot be sorted.
fn sorted(keys: &[ArrayRef]) -> DataFusionResult<Option<UInt32Array>> {
    if keys.is_empty() || keys.iter().any(|key| key.data_type().is_nested()) {
        return Ok(None);
    }
    let columns: Vec<_> = keys.iter().map(|key| SortColumn { values: key.clone(), options: None }).collect();
    Ok(Some(lexsort_to_indices(&columns, None)?))
}

fn in_order(array: &ArrayRef, order: Option<&UInt32Array>) -> DataFusionResult<ArrayRef> {
    match order {
        Some(order) => Ok(take(array, order, None)?),
        None => Ok(array.clone()),
    }
}

/// The rows of `batch` by window. Mostly all are in one, and then nothing is copied.
fn by_window(
    batch: &RecordBatch,
    ends: &Int64Array,
    starts: &Int64Array,
) -> DataFusionResult<Vec<(WindowKey, RecordBatch)>> {
    let key = |row: usize| (ends.value(row), starts.value(row));
    if batch.num_rows() == 0 {
        return Ok(vec![]);
    }
    let first = key(0);
    if (1..batch.num_rows()).all(|row| key(row) == first) {
        return Ok(vec![(first, batch.clone())]);
    }
    let mut rows: BTreeMap<WindowKey, Vec<u32>> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        rows.entry(key(row)).or_default().push(row as u32);
    }
    let parts = rows.into_iter().map(|(key, rows)| {
        let rows = UInt32Array::from(rows);
        let columns = batch.columns().iter().map(|column| take(column, &rows, None)).collect::<Result<Vec<_>, _>>()?;
        Ok((key, RecordBatch::try_new(batch.schema(), columns)?))
    });
    parts.collect()
}

fn as_int64(array: &ArrayRef) -> DataFusionResult<Int64Array> {
    Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

#[async_trait]
impl Operator for WindowAggregate {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        let starts = as_int64(batch.column(self.plan.keys)).map_err(|error| self.failed(error))?;
        let ends = as_int64(batch.column(self.plan.keys + 1)).map_err(|error| self.failed(error))?;
        for (key, rows) in by_window(&batch, &ends, &starts).map_err(|error| self.failed(error))? {
            // Rows of a closed window can only come from a step that reads windows of another; they are late here.
            if key.0.saturating_mul(self.unit_ns) <= self.watermark {
                out.late.push(rows);
                continue;
            }
            self.update(key, &rows).map_err(|error| self.failed(error.strip_backtrace()))?;
        }
        Ok(())
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        while let Some(entry) = self.windows.first_entry() {
            if entry.key().0.saturating_mul(self.unit_ns) > watermark {
                break;
            }
            let (key, window) = entry.remove_entry();
            let rows = self.close(key, window).map_err(|error| self.failed(error.strip_backtrace()))?;
            if rows.num_rows() > 0 {
                out.batches.push(rows);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Option<RecordBatch>, RunError> {
        let schema = self.state_schema().map_err(|error| self.failed(error))?;
        let keys: Vec<WindowKey> = self.windows.keys().copied().collect();
        let mut batches = Vec::with_capacity(keys.len());
        for key in keys {
            batches.extend(self.take_state(key, &schema).map_err(|error| self.failed(error))?);
        }
        concat_batches(&schema, &batches).map(Some).map_err(|error| self.failed(error))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        let expected = self.state_schema().map_err(|error| self.failed(error))?;
        if !state.schema().fields().iter().map(|f| f.data_type()).eq(expected.fields().iter().map(|f| f.data_type())) {
            return Err(self.failed("the snapshot's columns are not those of this operator"));
        }
        let key_columns: Vec<usize> = (2..2 + self.plan.keys).collect();
        let groups = exchange::key_groups(state, &key_columns).map_err(|error| self.failed(error))?;
        let mine: BooleanArray = groups.iter().map(|group| Some(keep(*group))).collect();
        let state = arrow::compute::filter_record_batch(state, &mine).map_err(|error| self.failed(error))?;
        let (ends, starts) = (as_int64(state.column(0)), as_int64(state.column(1)));
        let (ends, starts) = (ends.map_err(|e| self.failed(e))?, starts.map_err(|e| self.failed(e))?);
        for (key, rows) in by_window(&state, &ends, &starts).map_err(|error| self.failed(error))? {
            self.merge(key, &rows).map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        StateSize { rows: self.windows.values().map(Window::group_count).sum() }
    }
}
