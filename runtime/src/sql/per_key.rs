//! Lowers what keeps rows per key without a window, for a time-to-live: DISTINCT, DISTINCT ON, and the first rows per key
//! (`ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) AS n … WHERE n <= 3`).

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Distinct, DistinctOn, Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Window,
    WindowFunctionDefinition,
};

use crate::engine::operator::OperatorPlan;
use crate::engine::operators::updating::dedup::DedupPlan;
use crate::engine::operators::updating::emission::Emit;
use crate::engine::operators::updating::top_n::TopNPlan;
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::sql::lower::Lowering;
use crate::sql::marks;
use crate::sql::refuse::{OverRefusal, Refusal};
use crate::sql::updating::{event_time, final_field};
use crate::sql::windows::bound;

/// The most rows of a key that are kept.
const ROWS_PER_KEY_MAX: usize = 10_000;

/// What is to be kept of each key.
struct PerKey {
    /// The rows; all their columns are given out.
    input: LogicalPlan,
    keys: Vec<Expr>,
    order: Vec<Sort>,
    limit: usize,
    /// The column of the rank.
    rank: Option<Field>,
}

/// The columns of the region before the operator.
struct Columns {
    expressions: Vec<Expr>,
}

impl Columns {
    /// The number of the column that `expression` is, which is added where it is none yet.
    fn number(&mut self, expression: &Expr) -> usize {
        if let Some(number) = self.expressions.iter().position(|known| known.clone().unalias() == *expression) {
            return number;
        }
        let number = self.expressions.len();
        self.expressions.push(expression.clone().alias(format!("__c{number}")));
        number
    }
}

impl Lowering<'_> {
    /// Adds the nodes of DISTINCT and DISTINCT ON without a window, and returns the operator's.
    pub(crate) fn distinct_rows(&mut self, distinct: Distinct) -> Result<NodeId> {
        let input = match distinct {
            Distinct::All(input) => Arc::unwrap_or_clone(input),
            Distinct::On(on) => return self.distinct_on(on),
        };
        let passed = input.schema().fields().len();
        let input = with_event_time(input)?;
        let keys = columns(input.schema())[..passed].to_vec();
        self.per_key(PerKey { input, keys, order: vec![], limit: 1, rank: None }, passed)
    }

    fn distinct_on(&mut self, on: DistinctOn) -> Result<NodeId> {
        let names: Vec<Expr> = columns(&on.schema);
        let mut all = Columns { expressions: Vec::new() };
        for (expression, name) in on.select_expr.iter().zip(&names) {
            let Expr::Column(name) = name else { continue };
            let expression = expression.clone().unalias();
            all.expressions.push(expression.alias_qualified(name.relation.clone(), name.name.as_str()));
        }
        let passed = all.expressions.len();
        let numbers = |all: &mut Columns, expressions: Vec<Expr>| -> Vec<usize> {
            expressions.iter().map(|expression| all.number(expression)).collect()
        };
        let keys = numbers(&mut all, on.on_expr.clone());
        let sorts: Vec<Sort> =
            on.sort_expr.into_iter().flatten().filter(|sort| !on.on_expr.contains(&sort.expr)).collect();
        let order = numbers(&mut all, sorts.iter().map(|sort| sort.expr.clone()).collect());
        // Kept, so that keys can be freed by it.
        event_time(on.input.schema()).into_iter().for_each(|(time, _)| {
            all.number(&time);
        });
        let input = LogicalPlanBuilder::from(on.input).project(all.expressions)?.build()?;
        let named = columns(input.schema());
        let order = sorts.into_iter().zip(order).map(|(sort, column)| Sort { expr: named[column].clone(), ..sort });
        let per_key = PerKey {
            keys: keys.into_iter().map(|key| named[key].clone()).collect(),
            order: order.collect(),
            limit: 1,
            rank: None,
            input: marks::settle(input)?,
        };
        self.per_key(per_key, passed)
    }

    /// True where a key of `distinct` is a window's bound, which frees it.
    pub(crate) fn is_per_window(&self, distinct: &Distinct) -> bool {
        let (schema, keys) = match distinct {
            Distinct::All(input) => (input.schema(), columns(input.schema())),
            Distinct::On(on) => (on.input.schema(), on.on_expr.clone()),
        };
        keys.iter().any(|key| is_bound(key, schema))
    }

    /// Adds the nodes of `window`, where only the first rows per key are wanted of it and the step says how long a key
    /// is kept; returns the operator's.
    pub(crate) fn first_rows(&mut self, window: &Window) -> Result<Option<NodeId>> {
        let limit = self.settings.first_rows.take();
        let (Some(limit), [function]) = (limit, &window.window_expr[..]) else { return Ok(None) };
        let Some(function) = row_number(function) else { return Ok(None) };
        let (schema, params) = (window.input.schema(), &function.params);
        if params.partition_by.iter().any(|key| is_bound(key, schema)) {
            return Ok(None);
        }
        if !self.says_ttl() {
            // OVER alone would count the rows of each key for ever.
            let first_of_each =
                !params.partition_by.is_empty() && first_in_time(&params.order_by, limit, schema).is_some();
            if first_of_each && !self.reads_to_end(&window.input) {
                return Err(Refusal::Over(OverRefusal::FirstRows).into());
            }
            return Ok(None);
        }
        let per_key = PerKey {
            input: with_event_time(window.input.as_ref().clone())?,
            keys: function.params.partition_by.clone(),
            order: function.params.order_by.clone(),
            limit: limit.min(ROWS_PER_KEY_MAX + 1),
            rank: window.schema.fields().last().map(|field| field.as_ref().clone()),
        };
        if per_key.limit > ROWS_PER_KEY_MAX {
            return Err(Refusal::TooManyRows(ROWS_PER_KEY_MAX).into());
        }
        self.per_key(per_key, window.input.schema().fields().len()).map(Some)
    }

    /// Adds the nodes that keep the first rows per key; of the input's columns the first `passed` are given out.
    fn per_key(&mut self, per_key: PerKey, passed: usize) -> Result<NodeId> {
        let PerKey { input, keys, order, limit, rank } = per_key;
        let ttl = self.ttl(&input, Refusal::Distinct)?;
        let schema = input.schema().clone();
        let mut all = Columns { expressions: columns(&schema) };
        let keys: Vec<usize> = keys.iter().map(|key| all.number(key)).collect();
        let by = order.iter().map(|sort| {
            let options = SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first };
            (all.number(&sort.expr), options)
        });
        let by: Vec<(usize, SortOptions)> = by.collect();
        let ordered = first_in_time(&order, limit, &schema);
        let is_first = ordered.is_some() || order.is_empty() && limit == 1;
        // The order's own event time, or else the first one.
        let time = ordered.or_else(|| event_time(&schema));
        let (time, lag) = time.map(|(time, lag)| (all.number(&time), lag)).unzip();
        let text = format!("per key 1 {is_first} {limit} {keys:?} {by:?} {:?} {rank:?} {input}", all.expressions);
        let emit = if is_first { Emit::Final } else { self.emit() };
        if !is_first && !emit.updates() && !self.reads_to_end(&input) {
            return Err(Refusal::NoFinal.into());
        }
        let before = LogicalPlanBuilder::from(input).project(all.expressions)?.build()?;
        let node = self.region(before, Some("input"))?;
        let input = self.graph.nodes[node].schema.clone();
        let ranked = rank.is_some();
        let waits = (is_first && !by.is_empty()).then_some(time).flatten();
        let schema = output_schema(&input.fields()[..passed], is_first, waits, rank, emit);
        let (columns, node_keys) = (schema.clone(), keys.clone());
        let plan: Box<dyn OperatorPlan> = if is_first {
            let order = waits.map(|_| by[1..].to_vec());
            Box::new(DedupPlan { input, passed, keys, time, order, ranked, ttl, schema: columns })
        } else {
            let order = by;
            let plan = TopNPlan { input, passed, keys, order, limit, ranked, time, ttl, emit, schema: columns };
            // A column that cannot be kept as bytes is said now.
            plan.converter()?;
            Box::new(plan)
        };
        let node = Node {
            name: self.name(if is_first { "first" } else { "top" }),
            step: Some(self.step.to_owned()),
            inputs: vec![node],
            keys: Some(vec![node_keys]),
            lags: lag.into_iter().collect(),
            schema,
            kind: NodeKind::Operator(plan),
            fingerprint: Some(blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()),
        };
        Ok(self.graph.add(node))
    }
}

/// The event time by which one row per key is the first, and how far behind the watermark it may be.
fn first_in_time(order: &[Sort], limit: usize, schema: &DFSchema) -> Option<(Expr, i64)> {
    let sort = order.first().filter(|sort| sort.asc && limit == 1 && matches!(sort.expr, Expr::Column(_)))?;
    let (_, field) = sort.expr.to_field(schema).ok()?;
    Some((sort.expr.clone(), marks::lag(&field)?))
}

/// The columns `passed` with those that the operator adds. Where its rows wait for the watermark, by the column `waits`,
/// they are in the order of that time only.
fn output_schema(
    passed: &[Arc<Field>],
    is_first: bool,
    waits: Option<usize>,
    rank: Option<Field>,
    emit: Emit,
) -> SchemaRef {
    let passed = passed.iter().enumerate().map(|(index, field)| match (is_first, waits) {
        (true, None) => field.as_ref().clone(),
        (true, Some(time)) if time == index => {
            let mut metadata = field.metadata().clone();
            metadata.extend(marks::event_time(0));
            field.as_ref().clone().with_metadata(metadata)
        }
        _ => unmarked(field),
    });
    Arc::new(Schema::new(passed.chain(rank).chain(final_field(emit)).collect::<Vec<_>>()))
}

/// `plan` with the event time that it leaves out as its last column, where it leaves one out.
pub(crate) fn with_event_time(plan: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Projection(projection) = &plan else { return Ok(plan) };
    match event_time(projection.input.schema()) {
        Some((time, _)) if event_time(&projection.schema).is_none() => {
            let expressions = projection.expr.iter().cloned().chain([time.alias("__time")]);
            let input = LogicalPlanBuilder::from(projection.input.clone());
            marks::settle(input.project(expressions.collect::<Vec<_>>())?.build()?)
        }
        _ => Ok(plan),
    }
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    let column = |(qualifier, field): (Option<&_>, &Arc<Field>)| {
        Expr::Column(Column::new(
            Option::<&datafusion::common::TableReference>::cloned(qualifier),
            field.name().clone(),
        ))
    };
    schema.iter().map(column).collect()
}

fn unmarked(field: &Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.retain(|key, _| !marks::MARKS.contains(&key.as_str()));
    field.clone().with_metadata(metadata)
}

fn is_bound(expression: &Expr, schema: &DFSchema) -> bool {
    let column = matches!(expression.clone().unalias(), Expr::Column(_));
    column && expression.to_field(schema).is_ok_and(|(_, field)| bound(&field).is_some())
}

/// The call of ROW_NUMBER that `expression` is.
fn row_number(expression: &Expr) -> Option<WindowFunction> {
    let Expr::WindowFunction(function) = expression.clone().unalias() else { return None };
    let WindowFunctionDefinition::WindowUDF(udf) = &function.fun else { return None };
    (udf.name() == "row_number" && function.params.filter.is_none()).then_some(*function)
}

/// How many rows of each key `filter` lets through by the number that an OVER window below it gives them.
pub(crate) fn first_rows(filter: &Filter) -> Option<usize> {
    let parts = split_conjunction(&filter.predicate);
    let limit = parts.into_iter().filter_map(|part| {
        let (column, limit) = upper_bound(part)?;
        is_rank(&column, &filter.input).then_some(limit)
    });
    limit.min()
}

/// The column that `predicate` bounds from above, and its largest value.
fn upper_bound(predicate: &Expr) -> Option<(Column, usize)> {
    let (column, limit) = match predicate {
        Expr::Between(between) if !between.negated => (column_of(&between.expr)?, number_of(&between.high)?),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (column, op, number) = match (column_of(left), number_of(right)) {
                (Some(column), Some(number)) => (column, *op, number),
                _ => (column_of(right)?, op.swap()?, number_of(left)?),
            };
            match op {
                Operator::LtEq | Operator::Eq => (column, number),
                Operator::Lt => (column, number - 1),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some((column, usize::try_from(limit).ok().filter(|limit| *limit > 0)?))
}

fn column_of(expression: &Expr) -> Option<Column> {
    match expression {
        Expr::Column(column) => Some(column.clone()),
        Expr::Cast(cast) => column_of(&cast.expr),
        Expr::Alias(alias) => column_of(&alias.expr),
        _ => None,
    }
}

fn number_of(expression: &Expr) -> Option<i64> {
    match expression {
        Expr::Literal(value, _) => match value.cast_to(&DataType::Int64).ok()? {
            // A fraction is no number of rows.
            ScalarValue::Int64(number) if value.data_type().is_integer() => number,
            _ => None,
        },
        Expr::Cast(cast) => number_of(&cast.expr),
        _ => None,
    }
}

/// True where `column` of `plan` is the row number of an OVER window that only columns and filters stand above.
fn is_rank(column: &Column, plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => {
            let index = alias.schema.maybe_index_of_column(column);
            index.is_some_and(|index| is_rank(&Column::from(alias.input.schema().qualified_field(index)), &alias.input))
        }
        LogicalPlan::Filter(filter) => is_rank(column, &filter.input),
        LogicalPlan::Projection(projection) => {
            let index = projection.schema.maybe_index_of_column(column);
            let below = index.and_then(|index| column_of(&projection.expr[index]));
            below.is_some_and(|below| is_rank(&below, &projection.input))
        }
        LogicalPlan::Window(window) => {
            let index = window.schema.maybe_index_of_column(column);
            let below = window.input.schema().fields().len();
            let number = index.and_then(|index| index.checked_sub(below));
            number.is_some_and(|number| row_number(&window.window_expr[number]).is_some())
        }
        _ => false,
    }
}
