//! Lowers what is only bounded by a time-to-live, GROUP BY without a window; and what a step says about when its results
//! come, with the column `is_final` that this adds.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, Result};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Union, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use crate::engine::operators::aggregate::OutputColumn;
use crate::engine::operators::updating::aggregate::UpdatingAggregatePlan;
use crate::engine::operators::updating::emission::Emit;
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::spec::model::{EmitSpec, StepSpec};
use crate::sql::aggregate::{Inputs, move_arguments, output_schema};
use crate::sql::lower::Lowering;
use crate::sql::per_key::with_event_time;
use crate::sql::refuse::Refusal;
use crate::sql::relation::{as_stream, stream_of};
use crate::sql::{IS_FINAL, marks};

/// The name of `is_final` within a step, where the SQL's own names are.
pub(crate) const FINAL: &str = "__is_final";

/// What a step says about its results and its state, and what has gone by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    emit: Emit,
    /// In nanoseconds.
    ttl: Option<i64>,
    /// How many stateful nodes are being lowered, each within the one before.
    pub(crate) depth: usize,
    /// How many rows of each key the filter lets through that stands above the next OVER window.
    pub(crate) first_rows: Option<usize>,
    pub(crate) emit_used: bool,
    pub(crate) ttl_used: bool,
}

impl Settings {
    /// What `step` says.
    pub(crate) fn new(step: &StepSpec) -> Self {
        let emit = match step.emit {
            EmitSpec::Final => Emit::Final,
            EmitSpec::Changes => Emit::Changes,
            EmitSpec::Every(every) => Emit::Every(every.0),
        };
        let ttl = step.state.ttl.map(|ttl| i64::try_from(ttl.0.as_nanos()).unwrap_or(i64::MAX));
        Self { emit, ttl, depth: 0, first_rows: None, emit_used: false, ttl_used: false }
    }
}

/// A step that is in the graph.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lowered {
    pub(crate) node: NodeId,
    /// Its rows replace one another.
    pub(crate) updating: bool,
    /// Something goes by the step's `emit`, or by its `ttl`.
    pub(crate) emit_used: bool,
    pub(crate) ttl_used: bool,
}

/// The column that says whether a row is final, where `emit` makes one.
pub(crate) fn final_field(emit: Emit) -> Option<Field> {
    let mark = [(IS_FINAL.to_owned(), String::new())].into();
    emit.updates().then(|| Field::new("is_final", DataType::Boolean, false).with_metadata(mark))
}

impl Lowering<'_> {
    /// When the node that is being lowered gives out results: what the step says counts for its last stateful nodes.
    pub(crate) fn emit(&mut self) -> Emit {
        if self.settings.depth > 1 {
            return Emit::Final;
        }
        self.settings.emit_used |= self.settings.emit.updates();
        self.settings.emit
    }

    /// How long a key is kept that no window frees; `None` where the input's end bounds the state. `refusal` says what
    /// is missing.
    pub(crate) fn ttl(&mut self, input: &LogicalPlan, refusal: Refusal) -> Result<Option<i64>> {
        if self.settings.ttl.is_none() && !self.reads_to_end(input) {
            return Err(refusal.into());
        }
        self.settings.ttl_used = true;
        Ok(self.settings.ttl)
    }

    /// True where the step says how long state is kept.
    pub(crate) fn says_ttl(&self) -> bool {
        self.settings.ttl.is_some()
    }

    pub(crate) fn reads_to_end(&self, plan: &LogicalPlan) -> bool {
        if let Some((_, provider)) = as_stream(plan) {
            return stream_of(&provider).is_some_and(|stream| self.graph.ends(stream.node));
        }
        plan.inputs().into_iter().all(|input| self.reads_to_end(input))
    }

    /// True where rows of `plan` replace one another, because they do so in a step that it reads.
    pub(crate) fn replaces_rows(&self, plan: &LogicalPlan) -> bool {
        if let Some((_, provider)) = as_stream(plan) {
            return stream_of(&provider).is_some_and(|stream| self.graph.updating.contains(&stream.node));
        }
        if let LogicalPlan::Filter(filter) = plan
            && split_conjunction(&filter.predicate).into_iter().any(|part| is_final(part, filter.input.schema()))
        {
            return false;
        }
        plan.inputs().into_iter().any(|input| self.replaces_rows(input))
    }

    /// Adds the nodes of a GROUP BY without a window, and returns the operator's.
    pub(crate) fn group_by(&mut self, mut aggregate: Aggregate) -> Result<NodeId> {
        if matches!(aggregate.group_expr[..], [Expr::GroupingSet(_)]) {
            return Err(Refusal::GroupingSets.into());
        }
        aggregate.input = Arc::new(with_event_time(Arc::unwrap_or_clone(aggregate.input))?);
        let emit = self.emit();
        // Where nothing is given out before the end, a time-to-live would only change the result.
        if !emit.updates() && !self.reads_to_end(&aggregate.input) {
            let refusal = if self.settings.ttl.is_some() { Refusal::NoFinal } else { Refusal::NoWindow };
            return Err(refusal.into());
        }
        let ttl = if emit.updates() { self.ttl(&aggregate.input, Refusal::NoWindow)? } else { None };
        let simplifier =
            ExprSimplifier::new(SimplifyContext::builder().with_schema(aggregate.input.schema().clone()).build());
        let mut inputs = Inputs { expressions: Vec::new() };
        let mut output = Vec::new();
        for (index, expression) in aggregate.group_expr.iter().enumerate() {
            // `GROUP BY k, k` has one column.
            if !aggregate.group_expr[..index].contains(expression) {
                output.push(OutputColumn::Key(inputs.expressions.len()));
                inputs.column(expression.clone());
            }
        }
        let keys = inputs.expressions.len();
        let time = event_time(aggregate.input.schema()).filter(|_| ttl.is_some());
        time.iter().for_each(|(column, _)| drop(inputs.column(column.clone())));
        let calls = aggregate.aggr_expr.iter().map(|expression| move_arguments(expression, &mut inputs, &simplifier));
        let calls = calls.collect::<Result<Vec<_>>>()?;
        if inputs.expressions.is_empty() {
            inputs.column(lit(true));
        }
        let before = LogicalPlanBuilder::from(aggregate.input.as_ref().clone()).project(inputs.expressions)?.build()?;
        let input_schema = before.schema().clone();
        let input = self.region(before, Some("input"))?;
        let physical = self.graph.nodes[input].schema.clone();
        let calls = calls.into_iter().map(|call| call.lower(&input_schema, &physical)).collect::<Result<Vec<_>>>()?;
        output.extend((0..calls.len()).map(OutputColumn::Aggregate));
        if output.len() != aggregate.schema.fields().len() {
            return Err(DataFusionError::Internal("an aggregate's columns are not its groups and its results".into()));
        }
        let schema = output_schema(&aggregate, emit);
        let fingerprint = format!("{}/{}", self.fingerprint(&aggregate, emit), time.is_some());
        let plan = UpdatingAggregatePlan {
            input: physical,
            keys,
            calls,
            output,
            schema: schema.clone(),
            windowed: false,
            late: false,
            event_time: time.is_some(),
            ttl,
            emit,
        };
        let node = Node {
            name: self.name("aggregate"),
            step: Some(self.step.to_owned()),
            inputs: vec![input],
            keys: Some(vec![(0..keys).collect()]),
            lags: time.into_iter().map(|(_, lag)| lag).collect(),
            schema,
            kind: NodeKind::Operator(Box::new(plan)),
            fingerprint: Some(fingerprint),
        };
        Ok(self.graph.add(node))
    }
}

/// The first column of event time, and how far behind the watermark it may be.
pub(crate) fn event_time(schema: &DFSchema) -> Option<(Expr, i64)> {
    schema.iter().find_map(|(qualifier, field)| {
        let lag = marks::lag(field)?;
        Some((Expr::Column(Column::new(qualifier.cloned(), field.name().clone())), lag))
    })
}

/// True where `expression` is the column `is_final` of an updating step.
fn is_final(expression: &Expr, schema: &DFSchema) -> bool {
    let column = match expression {
        Expr::IsTrue(inner) => inner.as_ref(),
        other => other,
    };
    let field = column.to_field(schema);
    matches!(column, Expr::Column(_)) && field.is_ok_and(|(_, field)| field.metadata().contains_key(IS_FINAL))
}

/// The column [`FINAL`] among `schema`.
fn final_column(schema: &DFSchema) -> Option<Expr> {
    let found = schema.iter().find(|(_, field)| field.name() == FINAL);
    found.map(|(qualifier, field)| Expr::Column(Column::new(qualifier.cloned(), field.name().clone())))
}

/// `plan` with [`FINAL`] handed through from the slots that have it, as its last column `is_final`. What has none is
/// final.
pub(crate) fn with_is_final(plan: LogicalPlan) -> Result<LogicalPlan> {
    let handed = plan.transform_up(|node| {
        Ok(match node {
            LogicalPlan::Projection(projection) => match final_column(projection.input.schema()) {
                Some(column) if final_column(&projection.schema).is_none() => {
                    let expressions = projection.expr.iter().cloned().chain([column]);
                    let input = LogicalPlanBuilder::from(projection.input.clone());
                    Transformed::yes(input.project(expressions.collect::<Vec<_>>())?.build()?)
                }
                _ => Transformed::no(LogicalPlan::Projection(projection)),
            },
            LogicalPlan::Union(union) if union.inputs.iter().any(|input| final_column(input.schema()).is_some()) => {
                let inputs = union.inputs.into_iter().map(|input| Ok(Arc::new(last_is_final(&input)?)));
                Transformed::yes(LogicalPlan::Union(Union::try_new(inputs.collect::<Result<Vec<_>>>()?)?))
            }
            LogicalPlan::TableScan(_) => Transformed::no(node),
            other if other.inputs().iter().any(|input| final_column(input.schema()).is_some()) => {
                Transformed::yes(other.recompute_schema()?)
            }
            other => Transformed::no(other),
        })
    })?;
    let Some(column) = final_column(handed.data.schema()) else { return Ok(handed.data) };
    let others = others(handed.data.schema());
    let named = others.into_iter().chain([column.alias("is_final")]).collect::<Vec<_>>();
    LogicalPlanBuilder::from(handed.data).project(named)?.build()
}

/// All columns but [`FINAL`].
fn others(schema: &DFSchema) -> Vec<Expr> {
    let others = schema.iter().filter(|(_, field)| field.name() != FINAL);
    others.map(|(qualifier, field)| Expr::Column(Column::new(qualifier.cloned(), field.name().clone()))).collect()
}

/// `plan` with [`FINAL`] as its last column.
fn last_is_final(plan: &LogicalPlan) -> Result<LogicalPlan> {
    let column = final_column(plan.schema()).unwrap_or_else(|| lit(true).alias(FINAL));
    let columns = others(plan.schema()).into_iter().chain([column]).collect::<Vec<_>>();
    LogicalPlanBuilder::from(plan.clone()).project(columns)?.build()
}
