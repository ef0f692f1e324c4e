//! Lowers what is bounded within a window: OVER with the window bounds in PARTITION BY, DISTINCT, ORDER BY, aggregates
//! that need all rows of a group. Each becomes a query that is run once per window
//! ([`crate::engine::operators::per_window`]).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result};
use datafusion::logical_expr::expr::{AggregateFunction, GroupingSet, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, ExprSchemable, Limit, LogicalPlan, LogicalPlanBuilder, Sort, Window,
};

use crate::engine::operators::per_window::{PerWindowPlan, WindowedInput};
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::sql::aggregate::windows_of;
use crate::sql::lower::Lowering;
use crate::sql::marks::{self, MARKS, event_time};
use crate::sql::refuse::Refusal;
use crate::sql::region::Region;
use crate::sql::relation::internal;
use crate::sql::subqueries::without_names;
use crate::sql::windows::length_max;
use crate::sql::{EVENT_TIME, WINDOW_BOUND};

/// An input of a query per window.
pub(crate) struct Side {
    pub(crate) plan: LogicalPlan,
    /// The bound with which a window is complete.
    pub(crate) closes: Bound,
    /// Another bound that all rows of a window have in common.
    pub(crate) other: Option<Bound>,
    /// Rows that have to meet have the same values of these.
    pub(crate) keys: Vec<Expr>,
}

/// A window's bound, as an expression of a query names it: a column, perhaps cast to another precision.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bound {
    column: Column,
    expression: Expr,
    pub(crate) data_type: DataType,
    /// How far behind the watermark its values may be; `None` where that is not known.
    pub(crate) lag: Option<i64>,
}

/// A query per window.
pub(crate) struct PerWindowQuery {
    /// For the node's name.
    pub(crate) kind: &'static str,
    /// For people.
    pub(crate) does: String,
    pub(crate) sides: Vec<Side>,
    /// By column of the result: which column of which side it is.
    pub(crate) sources: Vec<Option<(usize, usize)>>,
    /// The columns of the result.
    pub(crate) schema: DFSchemaRef,
}

/// The bound that `expression` is over the columns `schema`.
pub(crate) fn bound_of(expression: &Expr, schema: &DFSchema) -> Option<Bound> {
    let (column, cast) = match expression {
        Expr::Column(column) => (column, None),
        Expr::Alias(alias) => return bound_of(&alias.expr, schema),
        Expr::Cast(cast) => match cast.expr.as_ref() {
            Expr::Column(column) => (column, Some(cast.field.data_type().clone())),
            _ => return None,
        },
        _ => return None,
    };
    let field = schema.field(schema.maybe_index_of_column(column)?);
    field.metadata().get(WINDOW_BOUND)?;
    let data_type = cast.unwrap_or_else(|| field.data_type().clone());
    if !keeps_instants(field.data_type(), &data_type) {
        return None;
    }
    Some(Bound { column: column.clone(), expression: expression.clone(), data_type, lag: lag_of(field) })
}

/// True where a cast changes at most how an instant is written, and none is rounded.
fn keeps_instants(from: &DataType, to: &DataType) -> bool {
    let utc = |zone: &Option<Arc<str>>| zone.as_deref().is_none_or(|zone| matches!(zone, "+00:00" | "UTC" | "Z"));
    let fine = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    match (from, to) {
        (DataType::Timestamp(from, from_zone), DataType::Timestamp(to, to_zone)) => {
            fine(from) <= fine(to) && (from_zone == to_zone || (utc(from_zone) && utc(to_zone)))
        }
        (from, to) => from == to,
    }
}

/// How far behind the watermark the values of a window's bound may be. An end is never: a row whose window has ended is
/// late.
fn lag_of(bound: &Field) -> Option<i64> {
    marks::lag(bound).or(is_bound(bound, "end").then_some(0)).or_else(|| length_max(bound))
}

/// True where rows can be spread over shards by values of `data_type`.
pub(crate) fn shardable(data_type: &DataType) -> bool {
    data_type.is_primitive()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
        )
}

/// The columns of an input, with those that are added for the operator.
struct Columns {
    schema: DFSchemaRef,
    added: Vec<Expr>,
}

impl Columns {
    /// The number of the column that `expression` is.
    fn number(&mut self, expression: &Expr) -> usize {
        let own = match expression {
            Expr::Column(column) => self.schema.maybe_index_of_column(column),
            _ => None,
        };
        own.unwrap_or_else(|| {
            let known = self.added.iter().position(|added| added == expression);
            let added = known.unwrap_or_else(|| {
                self.added.push(expression.clone());
                self.added.len() - 1
            });
            self.schema.fields().len() + added
        })
    }

    /// `plan`, which has the columns, with those that were added.
    fn of(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        if self.added.is_empty() {
            return Ok(plan);
        }
        let own = self.schema.columns().into_iter().map(Expr::Column);
        let added = self.added.iter().enumerate();
        let added = added.map(|(number, expression)| expression.clone().alias(format!("__window_key_{number}")));
        LogicalPlanBuilder::from(plan).project(own.chain(added))?.build()
    }
}

impl Lowering<'_> {
    /// Adds the nodes of a query per window and returns the operator's. `build` makes the query over plans that have
    /// the columns of the sides.
    pub(crate) fn per_window(
        &mut self,
        query: PerWindowQuery,
        build: impl FnOnce(Vec<LogicalPlan>) -> Result<LogicalPlan>,
    ) -> Result<NodeId> {
        let (mut nodes, mut plans, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
        let (mut closings, mut lags) = (Vec::new(), Vec::new());
        let mut text = format!("per window 1 {}", query.kind);
        for side in query.sides {
            text.push_str(&format!("\n{}", windows_of(&side.plan)));
            let schema = side.plan.schema().clone();
            let mut columns = Columns { schema: schema.clone(), added: vec![] };
            let closes = columns.number(&side.closes.expression);
            let other = side.other.as_ref().map(|other| columns.number(&other.expression));
            let keys = side.keys.iter().map(|key| columns.number(key)).collect();
            let node = self.region(columns.of(side.plan)?, Some("input"))?;
            let lowered = self.graph.nodes[node].schema.clone();
            let bound = schema.index_of_column(&side.closes.column)?;
            let closing = Closing { column: bound, is_start: is_bound(lowered.field(bound), "start") };
            closings.push((lowered.clone(), closing));
            // What the operators before it make of the bound is only known now.
            lags.push(lag_of(lowered.field(bound)).ok_or_else(|| internal("a window bound is none any more"))?);
            plans.push(self.slot(&mut nodes, node, &schema)?);
            text.push_str(&format!("\n{closes} {other:?} {keys:?} {}", types(&lowered)));
            inputs.push(WindowedInput { schema: lowered, closes, other, keys, late: !self.windows_are_own(node) });
        }
        let plan = build(plans)?;
        if plan.schema().fields().len() != query.schema.fields().len() {
            return Err(internal("a query per window has other columns than it was to have"));
        }
        let region = Region::new(&plan, self.state.clone())?;
        let schema = Arc::new(marked(region.schema(), &closings, &query.sources));
        text.push_str(&format!("\n{} {}", plan.display_indent(), types(&schema)));
        let keys = inputs.iter().map(|input| input.keys.clone()).collect();
        let operator = PerWindowPlan { inputs, query: region.marked(schema.clone()), does: query.does };
        let node = Node {
            name: self.name(query.kind),
            step: Some(self.step.to_owned()),
            inputs: nodes,
            keys: Some(keys),
            lags,
            schema,
            kind: NodeKind::Operator(Box::new(operator)),
            fingerprint: Some(self.hashed(&text)),
        };
        Ok(self.graph.add(node))
    }

    /// A fingerprint of `text` and of the modules whose functions it calls.
    fn hashed(&self, text: &str) -> String {
        let mut text = without_names(text);
        let called = self.function_hashes.iter().filter(|(function, _)| text.contains(&format!("{function}(")));
        let mut called: Vec<String> = called.map(|(function, hash)| format!("\n{function}={hash}")).collect();
        called.sort_unstable();
        text.extend(called);
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }

    /// Adds the nodes of `window` and returns the operator's, where all its functions are computed within windows.
    pub(crate) fn over_per_window(&mut self, window: &Window) -> Result<Option<NodeId>> {
        // All OVER windows that follow each other are computed at once, where they have bounds in common.
        let mut levels = vec![window];
        let Some(mut bounds) = common_bounds(window, None) else { return Ok(None) };
        let mut input = window.input.as_ref();
        while let LogicalPlan::Window(next) = input
            && let Some(common) = common_bounds(next, Some(&bounds))
        {
            (bounds, input) = (common, next.input.as_ref());
            levels.push(next);
        }
        let Some((closes, other)) = choose(bounds) else { return Ok(None) };
        let schema = input.schema();
        let functions: Vec<&Expr> = levels.iter().rev().flat_map(|level| &level.window_expr).collect();
        let mut keys: Option<Vec<Expr>> = None;
        for partitions in functions.iter().filter_map(|function| partition_by(function)) {
            let shared = |key: &&Expr| keys.as_ref().is_none_or(|keys| keys.contains(key));
            let fits = |key: &&Expr| {
                bound_of(key, schema).is_none()
                    && !key.is_volatile()
                    && key.column_refs().iter().all(|column| schema.has_column(column))
                    && key.get_type(schema).is_ok_and(|data_type| shardable(&data_type))
            };
            keys = Some(partitions.iter().filter(shared).filter(fits).cloned().collect());
        }
        let shown: Vec<String> = functions.iter().map(|function| function.schema_name().to_string()).collect();
        let passed =
            (0..window.schema.fields().len()).map(|column| (column < schema.fields().len()).then_some((0, column)));
        let query = PerWindowQuery {
            kind: "window-over",
            does: format!("computes over the rows of each window: {}", shown.join(", ")),
            sides: vec![Side { plan: input.clone(), closes, other, keys: keys.unwrap_or_default() }],
            sources: passed.collect(),
            schema: window.schema.clone(),
        };
        let levels: Vec<Vec<Expr>> = levels.into_iter().rev().map(|level| level.window_expr.clone()).collect();
        let build = |inputs: Vec<LogicalPlan>| {
            let input = only(inputs)?;
            levels.into_iter().try_fold(input, |input, functions| {
                Ok(LogicalPlan::Window(Window::try_new(functions, Arc::new(input))?))
            })
        };
        self.per_window(query, build).map(Some)
    }

    /// Adds the nodes of `aggregate` and returns the operator's, where it needs all rows of a group at once.
    pub(crate) fn aggregate_per_window(&mut self, aggregate: &Aggregate) -> Result<Option<NodeId>> {
        let sets = matches!(aggregate.group_expr[..], [Expr::GroupingSet(_)]);
        if !sets && !aggregate.aggr_expr.iter().any(needs_order) {
            return Ok(None);
        }
        let schema = aggregate.input.schema();
        let groups = common_groups(&aggregate.group_expr);
        let bounds = groups.iter().filter_map(|group| bound_of(group, schema)).collect();
        let Some((closes, other)) = choose(bounds) else { return Ok(None) };
        let fits = |key: &&Expr| {
            let data_type = key.get_type(schema);
            bound_of(key, schema).is_none() && !key.is_volatile() && data_type.is_ok_and(|of| shardable(&of))
        };
        let keys: Vec<Expr> = groups.iter().filter(fits).cloned().collect();
        let in_all = |expression: &Expr| groups.contains(expression);
        let output = grouped(&aggregate.group_expr).into_iter();
        let mut sources: Vec<_> =
            output.map(|group| if in_all(&group) { source(&group, schema) } else { None }).collect();
        sources.resize(aggregate.schema.fields().len(), None);
        let shown: Vec<String> = aggregate.aggr_expr.iter().map(|call| call.schema_name().to_string()).collect();
        let query = PerWindowQuery {
            kind: "window-aggregate",
            does: format!("aggregates the rows of each window: {}", shown.join(", ")),
            sides: vec![Side { plan: aggregate.input.as_ref().clone(), closes, other, keys }],
            sources,
            schema: aggregate.schema.clone(),
        };
        let (groups, calls) = (aggregate.group_expr.clone(), aggregate.aggr_expr.clone());
        let build = |inputs: Vec<LogicalPlan>| {
            Ok(LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(only(inputs)?), groups, calls)?))
        };
        self.per_window(query, build).map(Some)
    }

    /// Adds the nodes of DISTINCT, and returns the operator's.
    pub(crate) fn distinct(&mut self, distinct: Distinct) -> Result<NodeId> {
        let on = match distinct {
            Distinct::All(input) => return self.distinct_all(input),
            Distinct::On(on) => on,
        };
        let schema = on.input.schema();
        let bounds = on.on_expr.iter().filter_map(|expression| bound_of(expression, schema)).collect();
        let Some((closes, other)) = choose(bounds) else { return Err(Refusal::Distinct.into()) };
        let fits = |key: &&Expr| {
            bound_of(key, schema).is_none() && key.get_type(schema).is_ok_and(|data_type| shardable(&data_type))
        };
        let keys = on.on_expr.iter().filter(fits).cloned().collect();
        let shown: Vec<String> = on.on_expr.iter().map(Expr::to_string).collect();
        let query = PerWindowQuery {
            kind: "window-distinct",
            does: format!("keeps one row of each window and of the same {}", shown.join(", ")),
            sides: vec![Side { plan: on.input.as_ref().clone(), closes, other, keys }],
            sources: on.select_expr.iter().map(|expression| source(expression, schema)).collect(),
            schema: on.schema.clone(),
        };
        let build = |inputs: Vec<LogicalPlan>| {
            let input = Arc::new(only(inputs)?);
            let on = LogicalPlan::Distinct(Distinct::On(datafusion::logical_expr::DistinctOn { input, ..on }));
            on.recompute_schema()
        };
        self.per_window(query, build)
    }

    /// DISTINCT over all columns is a GROUP BY of all of them, which keeps each row once.
    fn distinct_all(&mut self, input: Arc<LogicalPlan>) -> Result<NodeId> {
        let schema = input.schema().clone();
        let columns: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
        let bounds: Vec<Bound> = columns.iter().filter_map(|column| bound_of(column, &schema)).collect();
        let has_one = |bound: &str| schema.fields().iter().filter(|field| is_bound(field, bound)).count() == 1;
        if has_one("start") && has_one("end") {
            let grouped = LogicalPlan::Aggregate(Aggregate::try_new(input, columns, vec![])?);
            let LogicalPlan::Aggregate(grouped) = marks::settle(grouped)? else {
                return Err(internal("an aggregate without its groups"));
            };
            return self.aggregate(grouped);
        }
        let Some((closes, other)) = choose(bounds) else {
            let union = matches!(input.as_ref(), LogicalPlan::Union(_));
            return Err(if union { Refusal::SetOperation("UNION") } else { Refusal::Distinct }.into());
        };
        let fits = |key: &&Expr| {
            bound_of(key, &schema).is_none() && key.get_type(&schema).is_ok_and(|data_type| shardable(&data_type))
        };
        let keys = columns.iter().filter(fits).cloned().collect();
        let query = PerWindowQuery {
            kind: "window-distinct",
            does: "keeps each row of a window once".to_owned(),
            sides: vec![Side { plan: input.as_ref().clone(), closes, other, keys }],
            sources: (0..columns.len()).map(|column| Some((0, column))).collect(),
            schema,
        };
        self.per_window(query, |inputs| LogicalPlanBuilder::from(only(inputs)?).distinct()?.build())
    }

    /// Adds the nodes of ORDER BY, and returns the operator's.
    pub(crate) fn sort(&mut self, sort: Sort) -> Result<NodeId> {
        let schema = sort.input.schema().clone();
        let first = sort.expr.first().filter(|first| first.asc);
        let bound = first.and_then(|first| bound_of(&first.expr, &schema));
        let Some((closes, _)) = choose(bound.into_iter().collect()) else { return Err(Refusal::OrderBy.into()) };
        if sort.fetch.is_some() {
            return Err(Refusal::Limit.into());
        }
        let shown: Vec<String> = sort.expr.iter().map(ToString::to_string).collect();
        let query = PerWindowQuery {
            kind: "window-order",
            does: format!("puts the rows of each window in order: {}", shown.join(", ")),
            sides: vec![Side { plan: sort.input.as_ref().clone(), closes, other: None, keys: vec![] }],
            sources: (0..schema.fields().len()).map(|column| Some((0, column))).collect(),
            schema,
        };
        let order = sort.expr;
        self.per_window(query, |inputs| LogicalPlanBuilder::from(only(inputs)?).sort(order)?.build())
    }

    /// Adds the nodes of LIMIT, and returns the operator's.
    pub(crate) fn limit(&mut self, limit: Limit) -> Result<NodeId> {
        drop(limit);
        Err(Refusal::Limit.into())
    }
}

fn only(mut inputs: Vec<LogicalPlan>) -> Result<LogicalPlan> {
    inputs.pop().ok_or_else(|| internal("a query per window without an input"))
}

/// What a query groups by in all its grouping sets.
fn common_groups(groups: &[Expr]) -> Vec<Expr> {
    match groups {
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => {
            let first = sets.first().cloned().unwrap_or_default();
            first.into_iter().filter(|group| sets.iter().all(|set| set.contains(group))).collect()
        }
        // They contain the empty set.
        [Expr::GroupingSet(_)] => vec![],
        groups => groups.to_vec(),
    }
}

/// The columns that the groups make.
fn grouped(groups: &[Expr]) -> Vec<Expr> {
    match groups {
        [Expr::GroupingSet(sets)] => sets.distinct_expr().into_iter().cloned().collect(),
        groups => groups.to_vec(),
    }
}

/// True for an aggregate that must see its rows in the order that it asks for.
fn needs_order(call: &Expr) -> bool {
    match call {
        Expr::Alias(alias) => needs_order(&alias.expr),
        Expr::AggregateFunction(AggregateFunction { func, params }) => {
            !params.order_by.is_empty() && func.order_sensitivity() == AggregateOrderSensitivity::HardRequirement
        }
        _ => false,
    }
}

/// The column of `schema` that `expression` is.
fn source(expression: &Expr, schema: &DFSchema) -> Option<(usize, usize)> {
    match expression {
        Expr::Alias(alias) => source(&alias.expr, schema),
        Expr::Column(column) => schema.maybe_index_of_column(column).map(|column| (0, column)),
        _ => None,
    }
}

fn partition_by(function: &Expr) -> Option<&Vec<Expr>> {
    match function {
        Expr::Alias(alias) => partition_by(&alias.expr),
        Expr::WindowFunction(function) => {
            let WindowFunction { params: WindowFunctionParams { partition_by, .. }, .. } = function.as_ref();
            Some(partition_by)
        }
        _ => None,
    }
}

/// The bounds by which all functions of `window` partition, and that are among `known`; `None` where there are none.
fn common_bounds(window: &Window, known: Option<&Vec<Bound>>) -> Option<Vec<Bound>> {
    let mut common: Option<Vec<Bound>> = known.cloned();
    for function in &window.window_expr {
        let bounds = partition_by(function)?.iter().filter_map(|key| bound_of(key, window.input.schema()));
        let shared = |bound: &Bound| common.as_ref().is_none_or(|common| common.contains(bound));
        common = Some(bounds.filter(shared).collect());
    }
    common.filter(|bounds| bounds.iter().any(|bound| bound.lag.is_some()))
}

/// The bound with which a window is complete first, and another one.
fn choose(bounds: Vec<Bound>) -> Option<(Bound, Option<Bound>)> {
    let closes = bounds.iter().filter(|bound| bound.lag.is_some()).min_by_key(|bound| bound.lag)?.clone();
    let other = bounds.into_iter().find(|bound| bound.column != closes.column && bound.data_type == closes.data_type);
    Some((closes, other))
}

fn types(schema: &Schema) -> String {
    let types: Vec<String> = schema.fields().iter().map(|field| field.data_type().to_string()).collect();
    types.join(", ")
}

/// What an input's window is complete with.
struct Closing {
    /// The column of the input that is the bound; the operator may go by a cast of it.
    column: usize,
    is_start: bool,
}

/// `schema` with the marks that its columns have after the rows of a window have come out together. `sources` says by
/// column which one of an input it is.
fn marked(schema: &Schema, inputs: &[(SchemaRef, Closing)], sources: &[Option<(usize, usize)>]) -> Schema {
    let fields = schema.fields().iter().zip(sources).map(|(field, source)| {
        let mut metadata: HashMap<String, String> = field.metadata().clone();
        metadata.retain(|key, _| !MARKS.contains(&key.as_str()));
        if let Some((input, column)) = source {
            let (input, closing) = &inputs[*input];
            let of = input.field(*column);
            let of_window = |(mark, _): &(&String, &String)| MARKS.contains(&mark.as_str()) && *mark != EVENT_TIME;
            let marks = of.metadata().iter().filter(of_window).map(|(mark, value)| (mark.clone(), value.clone()));
            metadata.extend(marks);
            metadata.extend(lag_after(input, closing, *column).map(event_time).unwrap_or_default());
        }
        field.as_ref().clone().with_metadata(metadata)
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// How far behind the watermark the values of `column` may be when the rows of a window come out; `None` where that is
/// not known. The watermark has then just come to the bound with which the window is complete.
fn lag_after(input: &Schema, closing: &Closing, column: usize) -> Option<i64> {
    let field = input.field(column);
    if column == closing.column {
        return Some(0);
    }
    if closing.is_start {
        // All times of the window's rows are later.
        return if is_bound(field, "end") { Some(0) } else { marks::lag(field) };
    }
    let mut starts = input.fields().iter().enumerate().filter(|(_, field)| is_bound(field, "start"));
    let (Some((start, length)), None) = (starts.next(), starts.next()) else { return None };
    // How long the window is, and how far behind its window's start a row may be.
    let length = length_max(length).or_else(|| marks::lag(length))?;
    if start == column { Some(length) } else { Some(length.saturating_add(marks::lag(field)?)) }
}

fn is_bound(field: &Field, bound: &str) -> bool {
    field.metadata().get(WINDOW_BOUND).is_some_and(|known| known == bound)
}
