//! Lowers GROUP BY over a window: a region that computes keys and arguments, then the operator.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::{Column, DataFusionError, ExprSchema, Result, TableReference};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;

use crate::engine::operator::OperatorPlan;
use crate::engine::operators::aggregate::{AggregateCall, AggregatePlan, OutputColumn};
use crate::engine::operators::updating::aggregate::UpdatingAggregatePlan;
use crate::engine::operators::updating::emission::Emit;
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::sql::WINDOW_PAIR;
use crate::sql::lower::Lowering;
use crate::sql::refuse::Refusal;
use crate::sql::updating;
use crate::sql::windows::bins::AssignNode;
use crate::sql::windows::{bound, panes};

/// What the region before the operator computes, column by column.
pub(crate) struct Inputs {
    pub(crate) expressions: Vec<Expr>,
}

impl Inputs {
    /// Adds `expression` as a column and returns the column.
    pub(crate) fn column(&mut self, expression: Expr) -> Expr {
        let name = format!("c{}", self.expressions.len());
        self.expressions.push(expression.alias(name.as_str()));
        Expr::Column(Column::new_unqualified(name))
    }
}

/// The group columns, told apart.
struct Groups {
    start: Expr,
    end: Expr,
    keys: Vec<Expr>,
    output: Vec<OutputColumn>,
}

impl Lowering<'_> {
    /// Adds the nodes of `aggregate` and returns the operator's.
    pub(crate) fn aggregate(&mut self, aggregate: Aggregate) -> Result<NodeId> {
        if let Some(node) = self.aggregate_per_window(&aggregate)? {
            return Ok(node);
        }
        if !is_windowed(&aggregate) {
            return self.group_by(aggregate);
        }
        let groups = groups(&aggregate)?;
        let emit = self.emit();
        // Early results are those of windows, not of their panes.
        let pre_aggregated = if emit.updates() { None } else { panes::pre_aggregated(&aggregate)? };
        let (panes, aggregate) = match pre_aggregated {
            Some((windows, aggregate)) => (Some(windows), aggregate),
            None => (None, aggregate),
        };
        let simplifier =
            ExprSimplifier::new(SimplifyContext::builder().with_schema(aggregate.input.schema().clone()).build());
        let mut inputs = Inputs { expressions: Vec::new() };
        for expression in groups.keys.iter().chain([&groups.start, &groups.end]) {
            inputs.column(expression.clone());
        }
        let calls = aggregate.aggr_expr.iter().map(|expression| move_arguments(expression, &mut inputs, &simplifier));
        let calls = calls.collect::<Result<Vec<_>>>()?;
        let keys = groups.keys.len();
        let before = LogicalPlanBuilder::from(aggregate.input.as_ref().clone()).project(inputs.expressions)?.build()?;
        let input_schema = before.schema().clone();
        let input = self.region(before, Some("input"))?;
        let physical = self.graph.nodes[input].schema.clone();
        let calls = calls.into_iter().map(|call| call.lower(&input_schema, &physical)).collect::<Result<Vec<_>>>()?;
        let mut output = groups.output;
        output.extend((0..calls.len()).map(OutputColumn::Aggregate));
        if output.len() != aggregate.schema.fields().len() {
            return Err(DataFusionError::Internal("an aggregate's columns are not its groups and its results".into()));
        }
        let schema = output_schema(&aggregate, emit);
        // Its own step's late rows leave before it.
        let late = !self.windows_are_own(input);
        let fingerprint = self.fingerprint(&aggregate, emit);
        let (input_schema, columns) = (physical, schema.clone());
        let plan: Box<dyn OperatorPlan> = match emit.updates() {
            false => Box::new(AggregatePlan { input: input_schema, keys, calls, output, schema: columns, late, panes }),
            true => Box::new(UpdatingAggregatePlan {
                input: input_schema,
                keys,
                calls,
                output,
                schema: columns,
                windowed: true,
                late,
                event_time: false,
                ttl: None,
                emit,
            }),
        };
        let node = Node {
            name: self.name("aggregate"),
            step: Some(self.step.to_owned()),
            inputs: vec![input],
            keys: Some(vec![(0..keys).collect()]),
            lags: vec![],
            schema,
            kind: NodeKind::Operator(plan),
            fingerprint: Some(fingerprint),
        };
        Ok(self.graph.add(node))
    }

    /// What the operator's state depends on: window, keys, aggregates, their types, and the modules that they call.
    pub(crate) fn fingerprint(&self, aggregate: &Aggregate, emit: Emit) -> String {
        let mut text = String::from(if emit.updates() { "updating aggregate 1\n" } else { "aggregate 3\n" });
        text.push_str(&windows_of(&aggregate.input));
        for (expression, (_, field)) in
            aggregate.group_expr.iter().chain(&aggregate.aggr_expr).zip(aggregate.schema.iter())
        {
            let shown = expression.to_string();
            text.push_str(&format!("\n{shown} {}", field.data_type()));
            for (function, hash) in self.function_hashes {
                if shown.contains(&format!("{function}(")) {
                    text.push_str(&format!(" {function}={hash}"));
                }
            }
        }
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// The output's columns; where `emit` gives updates, `is_final` is the last.
pub(crate) fn output_schema(aggregate: &Aggregate, emit: Emit) -> SchemaRef {
    let fields = aggregate.schema.fields().iter().map(|field| field.as_ref().clone());
    Arc::new(Schema::new(fields.chain(updating::final_field(emit)).collect::<Vec<_>>()))
}

/// True where a window's bound is among what is grouped by.
fn is_windowed(aggregate: &Aggregate) -> bool {
    aggregate.group_expr.iter().any(|expression| {
        let column = matches!(expression.clone().unalias(), Expr::Column(_));
        let field = expression.to_field(aggregate.input.schema().as_ref());
        column && field.is_ok_and(|(_, field)| bound(&field).is_some())
    })
}

/// The windows that are assigned in `plan`, for fingerprints.
pub(crate) fn windows_of(plan: &LogicalPlan) -> String {
    let mut windows = Vec::new();
    let walked = datafusion::common::tree_node::TreeNode::apply(plan, |node: &LogicalPlan| {
        if let Some((_, provider)) = crate::sql::relation::as_stream(node)
            && let Some(window) = crate::sql::relation::stream_of(&provider).and_then(|stream| stream.window.clone())
        {
            windows.push(format!("{}{}", window.kind.identity(), if window.panes { " in panes" } else { "" }));
        }
        if let LogicalPlan::Extension(extension) = node
            && let Some(node) = extension.node.as_any().downcast_ref::<AssignNode>()
        {
            windows.push(node.window.kind.identity());
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok(), "the closure does not fail");
    windows.join("\n")
}

/// Tells window bounds from keys among the group expressions.
fn groups(aggregate: &Aggregate) -> Result<Groups> {
    if matches!(aggregate.group_expr[..], [Expr::GroupingSet(_)]) {
        return Err(Refusal::GroupingSets.into());
    }
    let (mut start, mut end, mut keys, mut output) = (None, None, Vec::new(), Vec::new());
    for (index, expression) in aggregate.group_expr.iter().enumerate() {
        // `GROUP BY k, k` has one column.
        if aggregate.group_expr[..index].contains(expression) {
            continue;
        }
        let (_, field) = expression.to_field(aggregate.input.schema().as_ref())?;
        let column = matches!(expression.clone().unalias(), Expr::Column(_));
        match bound(&field).filter(|_| column) {
            Some("start") => {
                output.push(OutputColumn::Start);
                start = Some(expression.clone());
            }
            Some("end") => {
                output.push(OutputColumn::End);
                end = Some(expression.clone());
            }
            _ => {
                output.push(OutputColumn::Key(keys.len()));
                keys.push(expression.clone());
            }
        }
    }
    let input = aggregate.input.schema();
    // The bound that is not written follows from the other one, if that can be.
    let other = |known: &Expr, name: &'static str, wanted: &str| {
        let Expr::Column(column) = known.clone().unalias() else { return Err(Refusal::NoWindow) };
        if !input.field_from_column(&column).is_ok_and(|field| field.metadata().contains_key(WINDOW_PAIR)) {
            return Err(Refusal::HalfWindow(name));
        }
        let found = input.iter().find(|(_, field)| bound(field) == Some(wanted));
        let column = |(qualifier, field): (Option<&TableReference>, &FieldRef)| {
            Expr::Column(Column::new(qualifier.cloned(), field.name().clone()))
        };
        found.map(column).ok_or(Refusal::NoWindow)
    };
    let (start, end) = match (start, end) {
        (Some(start), Some(end)) => (start, end),
        (Some(start), None) => (start.clone(), other(&start, "window_start", "end")?),
        (None, Some(end)) => (other(&end, "window_end", "start")?, end),
        (None, None) => return Err(Refusal::NoWindow.into()),
    };
    Ok(Groups { start, end, keys, output })
}

/// An aggregate whose arguments are columns of the region before it.
pub(crate) struct Call {
    name: String,
    function: AggregateFunction,
    filter: Option<usize>,
}

/// Moves the arguments of an aggregate into the region, all but constants, which some aggregates need to see.
pub(crate) fn move_arguments(expression: &Expr, inputs: &mut Inputs, simplifier: &ExprSimplifier) -> Result<Call> {
    let name = expression.schema_name().to_string();
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expression.clone().unalias() else {
        return Err(DataFusionError::Internal(format!("{expression} is no aggregate")));
    };
    let AggregateFunctionParams { args, distinct, filter, mut order_by, null_treatment } = params;
    let mut args_moved = Vec::new();
    for argument in args {
        let argument = simplifier.simplify(argument)?;
        args_moved.push(match argument {
            Expr::Literal(..) => argument,
            other => inputs.column(other),
        });
    }
    for sort in &mut order_by {
        sort.expr = inputs.column(sort.expr.clone());
    }
    let filter = filter.map(|filter| {
        inputs.column(*filter);
        inputs.expressions.len() - 1
    });
    let params = AggregateFunctionParams { args: args_moved, distinct, filter: None, order_by, null_treatment };
    Ok(Call { name, function: AggregateFunction { func, params }, filter })
}

impl Call {
    pub(crate) fn lower(self, logical: &datafusion::common::DFSchema, physical: &Schema) -> Result<AggregateCall> {
        let expression = Expr::AggregateFunction(self.function);
        // The region's columns are unqualified in its output.
        let logical = datafusion::common::DFSchema::from_unqualified_fields(
            logical.fields().clone(),
            logical.metadata().clone(),
        )?;
        let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let lowered = LoweredAggregateBuilder::new(&expression, &logical, physical, &properties, &context)
            .with_name(self.name.clone())
            .build()?;
        let hard = lowered.aggregate.order_sensitivity() == AggregateOrderSensitivity::HardRequirement;
        if hard && !lowered.order_bys.is_empty() {
            return Err(Refusal::SortedAggregate(self.name).into());
        }
        let mut arguments = lowered.aggregate.expressions();
        arguments.extend(lowered.order_bys.iter().map(|sort| sort.expr.clone()));
        Ok(AggregateCall { aggregate: lowered.aggregate, arguments, filter: self.filter })
    }
}
