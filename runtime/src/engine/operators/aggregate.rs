//! Aggregates per window and group: DataFusion's accumulators, one set per open window, emitted when the watermark
//! passes the window's end.
//!
//! Groups of one window come out sorted by their keys, so that the order does not depend on the order of arrival.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_plan::PhysicalExpr;

use crate::engine::error::RunError;
use crate::engine::keyed::{EncodedKeys, KeyEncoder, KeyTable, Selection};
use crate::engine::operator::{Description, Operator, OperatorPlan, Output, Site, StateSize};
use crate::engine::operators::pane_aggregate::{PaneAggregate, SealedPane};
use crate::engine::operators::window_bounds::Windows;
use crate::engine::operators::window_parts::{Part, WindowKey, parts};
use crate::engine::operators::{aggregate_state, packed};
use crate::engine::times;
use crate::sql::windows::{WindowKind, unit_ns};

/// The most rows of a batch of results.
const OUTPUT_ROWS_MAX: usize = 8192;

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
    /// Rows may come after their window has closed: another step has made the windows.
    pub(crate) late: bool,
    /// The windows, where the input's bounds are those of their panes.
    pub(crate) panes: Option<WindowKind>,
}

#[async_trait]
impl OperatorPlan for AggregatePlan {
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError> {
        let operator = WindowAggregate::new(self.clone(), site.step)?;
        Ok(match self.panes.as_ref().and_then(Windows::new) {
            Some(windows) => Box::new(PaneAggregate::new(operator, windows)),
            None => Box::new(operator),
        })
    }

    async fn check(&self) -> DataFusionResult<()> {
        try_accumulators(&self.calls)
    }

    fn late(&self) -> Vec<SchemaRef> {
        if self.late { vec![self.input.clone()] } else { vec![] }
    }

    fn describe(&self) -> Description {
        let calls: Vec<&str> = self.calls.iter().map(|call| call.aggregate.name()).collect();
        let (keeps, freed) = match &self.panes {
            None => {
                ("one accumulator per aggregate, open window and group", "when the watermark comes to the window's end")
            }
            Some(_) => (
                "one accumulator per aggregate, pane and group: a pane is a span whose rows are in the same windows",
                "when the watermark comes to the end of the pane's last window",
            ),
        };
        Description {
            does: format!("aggregates each window: {}", calls.join(", ")),
            keeps: Some(keeps.to_owned()),
            freed: Some(freed.to_owned()),
        }
    }
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

/// The open groups of one window.
pub(super) struct Window {
    /// `None` without keys: then there is one group.
    pub(super) table: Option<KeyTable>,
    pub(super) accumulators: Vec<Box<dyn GroupsAccumulator>>,
}

impl Window {
    pub(super) fn group_count(&self) -> usize {
        self.table.as_ref().map_or(1, KeyTable::len)
    }

    /// Fills `numbers` with the group of each of the selected rows.
    pub(super) fn groups_of(&mut self, keys: &EncodedKeys, selection: Selection<'_>, numbers: &mut Vec<usize>) {
        match &mut self.table {
            Some(table) => table.intern(keys, selection, numbers),
            None => {
                numbers.clear();
                numbers.resize(selection.len(), 0);
            }
        }
    }
}

/// What the aggregates are given for the rows of a batch.
pub(super) struct Arguments {
    /// By aggregate.
    pub(super) columns: Vec<Vec<ArrayRef>>,
    /// By aggregate: which rows count.
    pub(super) filters: Vec<Option<ArrayRef>>,
}

/// By aggregate and argument: constants, as many of them as the largest batch so far had rows.
pub(super) struct Constants(Vec<Vec<Option<ArrayRef>>>);

impl Constants {
    /// None yet, for the arguments of `calls`.
    pub(super) fn new(calls: &[AggregateCall]) -> Self {
        Self(calls.iter().map(|call| vec![None; call.arguments.len()]).collect())
    }

    /// What the aggregates `calls` are given for the rows of `batch`.
    pub(super) fn arguments(&mut self, calls: &[AggregateCall], batch: &RecordBatch) -> DataFusionResult<Arguments> {
        let rows = batch.num_rows();
        let mut columns = Vec::with_capacity(calls.len());
        for (call, constants) in calls.iter().zip(&mut self.0) {
            let arguments = call.arguments.iter().zip(constants).map(|(argument, constant)| {
                if argument.downcast_ref::<Literal>().is_none() {
                    return argument.evaluate(batch)?.into_array(rows);
                }
                if constant.as_ref().is_none_or(|constant| constant.len() < rows) {
                    *constant = Some(argument.evaluate(batch)?.into_array(rows)?);
                }
                Ok(constant.as_ref().map_or_else(|| batch.column(0).slice(0, 0), |constant| constant.slice(0, rows)))
            });
            columns.push(arguments.collect::<DataFusionResult<Vec<_>>>()?);
        }
        let filters = calls.iter().map(|call| call.filter.map(|column| batch.column(column).clone()));
        Ok(Arguments { columns, filters: filters.collect() })
    }
}

/// The operator.
pub(crate) struct WindowAggregate {
    pub(super) plan: AggregatePlan,
    step: String,
    pub(super) encoder: KeyEncoder,
    pub(super) windows: BTreeMap<WindowKey, Window>,
    /// Panes that have given out their state; empty where windows are not made of panes.
    pub(super) sealed: BTreeMap<WindowKey, SealedPane>,
    /// Where windows are made of panes: those that end up to this time have been given out. In nanoseconds.
    pub(super) given_out: i64,
    /// The table of a window that closed: the next one takes its memory.
    spare: Option<KeyTable>,
    /// The event time up to which windows have closed, in nanoseconds.
    watermark: i64,
    /// How many nanoseconds the unit of the window bounds has.
    pub(super) unit_ns: i64,
    constants: Constants,
    /// Keys and groups of the batch at hand; kept to reuse their memory.
    pub(super) keys: EncodedKeys,
    pub(super) groups: Vec<usize>,
}

impl WindowAggregate {
    /// An operator without state.
    pub(crate) fn new(plan: AggregatePlan, step: String) -> Result<Self, RunError> {
        let encoder = KeyEncoder::new(plan.input.fields()[..plan.keys].iter().map(AsRef::as_ref));
        let encoder = encoder.map_err(|error| RunError::fatal(format!("step {step}"), error))?;
        let unit_ns = match plan.input.field(plan.keys).data_type() {
            DataType::Timestamp(unit, _) => unit_ns(*unit),
            _ => 1,
        };
        let constants = Constants::new(&plan.calls);
        Ok(Self {
            plan,
            step,
            encoder,
            windows: BTreeMap::new(),
            sealed: BTreeMap::new(),
            given_out: i64::MIN,
            spare: None,
            watermark: i64::MIN,
            unit_ns,
            constants,
            keys: EncodedKeys::default(),
            groups: Vec::new(),
        })
    }

    pub(super) fn failed(&self, error: impl ToString) -> RunError {
        RunError::fatal(format!("step {}", self.step), error)
    }

    /// New accumulators, one per aggregate.
    pub(super) fn accumulators(&self) -> DataFusionResult<Vec<Box<dyn GroupsAccumulator>>> {
        let packed = packed::accumulators(&self.plan.calls, &self.plan.input);
        let calls = self.plan.calls.iter().zip(packed);
        calls.map(|(call, packed)| packed.map_or_else(|| accumulator(&call.aggregate), Ok)).collect()
    }

    /// The open window `key`, and what else is needed to put rows into it.
    pub(super) fn window(&mut self, key: WindowKey) -> DataFusionResult<()> {
        if !self.windows.contains_key(&key) {
            let window = match self.sealed.remove(&key) {
                Some(sealed) => sealed.opened(self.accumulators()?)?,
                None => self.empty_window()?,
            };
            self.windows.insert(key, window);
        }
        Ok(())
    }

    /// A window without groups.
    pub(super) fn empty_window(&mut self) -> DataFusionResult<Window> {
        let table = (self.plan.keys > 0).then(|| self.spare.take().unwrap_or_default());
        Ok(Window { table, accumulators: self.accumulators()? })
    }

    fn is_closed(&self, key: WindowKey) -> bool {
        key.0.saturating_mul(self.unit_ns) <= self.watermark
    }

    fn update(&mut self, batch: &RecordBatch, out: &mut Output) -> DataFusionResult<()> {
        let starts = batch.column(self.plan.keys);
        let ends = batch.column(self.plan.keys + 1);
        let parts = parts(times::values(ends)?, times::values(starts)?);
        let first_open = parts.partition_point(|part| self.is_closed(part.window));
        // Rows of a closed window can only come from a step that reads windows of another; they are late here.
        for part in &parts[..first_open] {
            out.late.push(part.of_batch(batch)?);
        }
        if first_open == parts.len() {
            return Ok(());
        }
        if self.plan.keys > 0 {
            self.encoder.encode(&batch.columns()[..self.plan.keys], &mut self.keys)?;
        }
        let arguments = self.constants.arguments(&self.plan.calls, batch)?;
        for part in &parts[first_open..] {
            self.update_window(part, batch.num_rows(), &arguments)?;
        }
        Ok(())
    }

    /// Adds the rows of one part of a batch of `rows` rows.
    fn update_window(&mut self, part: &Part, rows: usize, arguments: &Arguments) -> DataFusionResult<()> {
        self.window(part.window)?;
        let Some(window) = self.windows.get_mut(&part.window) else { return Ok(()) };
        window.groups_of(&self.keys, part.selection(rows), &mut self.groups);
        let groups = window.group_count();
        for (call, accumulator) in window.accumulators.iter_mut().enumerate() {
            let columns =
                arguments.columns[call].iter().map(|column| part.of(column)).collect::<Result<Vec<_>, _>>()?;
            let filter = arguments.filters[call].as_ref().map(|filter| part.of(filter)).transpose()?;
            accumulator.update_batch(&columns, &self.groups, filter.as_ref().map(|f| f.as_boolean()), groups)?;
        }
        Ok(())
    }

    /// Gives out the rows of a window that closes.
    pub(super) fn close(&mut self, (end, start): WindowKey, window: Window, out: &mut Output) -> DataFusionResult<()> {
        let count = window.group_count();
        let order = window.table.as_ref().map_or_else(|| vec![0], KeyTable::sorted);
        let mut accumulators = window.accumulators;
        let values = accumulators.iter_mut().map(|accumulator| accumulator.evaluate(EmitTo::All));
        let values = values.collect::<DataFusionResult<Vec<_>>>()?;
        let bound_type = self.plan.input.field(self.plan.keys).data_type().clone();
        for order in order.chunks(OUTPUT_ROWS_MAX) {
            let keys = match &window.table {
                Some(table) => self.encoder.decode(table, order)?,
                None => vec![],
            };
            let picked = UInt32Array::from(order.to_vec());
            let mut columns = Vec::with_capacity(self.plan.output.len());
            for (index, column) in self.plan.output.iter().enumerate() {
                let array = match column {
                    OutputColumn::Key(key) => keys[*key].clone(),
                    OutputColumn::Start => times::column(vec![start; order.len()], &bound_type)?,
                    OutputColumn::End => times::column(vec![end; order.len()], &bound_type)?,
                    OutputColumn::Aggregate(call) if count == 1 => values[*call].clone(),
                    OutputColumn::Aggregate(call) => take(&values[*call], &picked, None)?,
                };
                let wanted = self.plan.schema.field(index).data_type();
                columns.push(if array.data_type() == wanted { array } else { cast(&array, wanted)? });
            }
            out.batches.push(RecordBatch::try_new(self.plan.schema.clone(), columns)?);
        }
        if let Some(mut table) = window.table {
            table.clear();
            self.spare = Some(table);
        }
        Ok(())
    }
}

pub(super) fn accumulator(aggregate: &Arc<AggregateFunctionExpr>) -> DataFusionResult<Box<dyn GroupsAccumulator>> {
    if aggregate.groups_accumulator_supported() {
        return aggregate.create_groups_accumulator();
    }
    let aggregate = aggregate.clone();
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || aggregate.create_accumulator())))
}

/// Makes an accumulator of each of `calls`, for the error of those that cannot be made.
pub(super) fn try_accumulators(calls: &[AggregateCall]) -> DataFusionResult<()> {
    calls.iter().try_for_each(|call| match call.aggregate.groups_accumulator_supported() {
        true => call.aggregate.create_groups_accumulator().map(drop),
        false => call.aggregate.create_accumulator().map(drop),
    })
}

#[async_trait]
impl Operator for WindowAggregate {
    async fn batch(&mut self, _: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        self.update(&batch, out).map_err(|error| self.failed(error.strip_backtrace()))
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.watermark = watermark;
        while let Some(entry) = self.windows.first_entry() {
            if entry.key().0.saturating_mul(self.unit_ns) > watermark {
                break;
            }
            let (key, window) = entry.remove_entry();
            self.close(key, window, out).map_err(|error| self.failed(error.strip_backtrace()))?;
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        aggregate_state::snapshot(self).map_err(|error| self.failed(error.strip_backtrace()))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        aggregate_state::restore(self, state, keep).map_err(|error| self.failed(error.strip_backtrace()))
    }

    fn state_size(&self) -> StateSize {
        let accumulators = |window: &Window| window.accumulators.iter().map(|a| a.size()).sum::<usize>();
        let of = |window: &Window| window.table.as_ref().map_or(0, KeyTable::bytes) + accumulators(window);
        StateSize {
            rows: self.windows.values().map(Window::group_count).sum::<usize>()
                + self.sealed.values().map(|pane| pane.groups).sum::<usize>(),
            bytes: self.windows.values().map(of).sum::<usize>()
                + self.sealed.values().map(SealedPane::bytes).sum::<usize>(),
        }
    }
}
