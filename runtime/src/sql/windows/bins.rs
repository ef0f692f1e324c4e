//! `GROUP BY date_bin(INTERVAL '1 minute', ts)` and `GROUP BY date_trunc('hour', ts)`: tumbling windows by another name.
//!
//! The group is replaced by the start of a window that a node of our own assigns below the aggregate.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalMonthDayNano};
use chrono::{DateTime, Datelike};
use datafusion::common::{Column, DFSchema, DFSchemaRef, ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use crate::sql::EVENT_TIME;
use crate::sql::relation::internal;
use crate::sql::windows::{DAY_NS, Length, Window, WindowKind, bound, planner, unit_ns};

/// The columns that are added: names that no one else has.
const NAMES: [&str; 2] = ["__bin_start", "__bin_end"];

/// Gives the rows of a query the bounds of their windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AssignNode {
    pub(crate) input: Arc<LogicalPlan>,
    pub(crate) window: Window,
    /// The type of the bounds: that of the expression in GROUP BY.
    bound: DataType,
    /// The input's columns, then the bounds.
    schema: DFSchemaRef,
}

impl AssignNode {
    fn new(input: Arc<LogicalPlan>, window: Window, bound: DataType) -> Result<Self> {
        let before = input.schema();
        let fields = before
            .iter()
            .map(|(qualifier, field)| (qualifier.cloned(), Arc::new(planner::passed(field, &window.kind))));
        let bounds = NAMES.into_iter().zip(window.kind.marks());
        let bounds =
            bounds.map(|(name, marks)| (None, Arc::new(Field::new(name, bound.clone(), false).with_metadata(marks))));
        let fields = fields.chain(bounds).collect();
        let schema = Arc::new(DFSchema::new_with_metadata(fields, before.as_arrow().metadata().clone())?);
        Ok(Self { input, window, bound, schema })
    }
}

impl Hash for AssignNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.window).hash(state);
    }
}

impl PartialOrd for AssignNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for AssignNode {
    fn name(&self) -> &'static str {
        "AssignWindow"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AssignWindow: {}", self.window.kind.describe())
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let input = inputs.into_iter().next().ok_or_else(|| internal("a window without an input"))?;
        Self::new(Arc::new(input), self.window.clone(), self.bound.clone())
    }
}

/// `aggregate`, with the first of its groups that is a bin of the event time as a window; as it was where it has none,
/// or groups by a window already. The marks of its input are settled.
pub(crate) fn windowed(aggregate: Aggregate) -> Result<Aggregate> {
    let input = aggregate.input.schema();
    let is_bound = |expression: &Expr| match expression.clone().unalias() {
        Expr::Column(column) => input.field_from_column(&column).is_ok_and(|field| bound(field).is_some()),
        _ => false,
    };
    if aggregate.group_expr.iter().any(is_bound) {
        return Ok(aggregate);
    }
    let bins = aggregate.group_expr.iter().enumerate();
    let mut bins = bins.filter_map(|(index, group)| bin(group, input).map(|window| (index, window)));
    let Some((index, (window, bound))) = bins.next() else { return Ok(aggregate) };
    drop(bins);
    let node = AssignNode::new(aggregate.input.clone(), window, bound)?;
    let mut group_expr = aggregate.group_expr.clone();
    let name = group_expr[index].schema_name().to_string();
    let original = group_expr[index].clone();
    for group in group_expr.iter_mut().filter(|group| **group == original) {
        *group = Expr::Column(Column::new_unqualified(NAMES[0])).alias(name.as_str());
    }
    let input = Arc::new(LogicalPlan::Extension(Extension { node: Arc::new(node) }));
    Aggregate::try_new(input, group_expr, aggregate.aggr_expr)
}

/// The tumbling window that `expression` gives the start of, and its type.
fn bin(expression: &Expr, input: &DFSchema) -> Option<(Window, DataType)> {
    let expression = expression.clone().unalias();
    let Expr::ScalarFunction(ScalarFunction { func, args }) = &expression else { return None };
    let data_type = expression.get_type(input).ok()?;
    let time_column = event_time(args.get(1)?, input)?;
    let DataType::Timestamp(unit, _) = input.field(time_column).data_type() else { return None };
    if !utc(&data_type) || args[1].get_type(input).ok()? != data_type {
        return None;
    }
    let kind = match (func.name(), args.len()) {
        ("date_bin", 2) => binned(literal(&args[0])?, None)?,
        ("date_bin", 3) => binned(literal(&args[0])?, Some(literal(&args[2])?))?,
        ("date_trunc", 2) => truncated(&literal(&args[0])?)?,
        _ => return None,
    };
    let whole = |ns: &i64| ns % unit_ns(*unit) == 0;
    let says = match &kind {
        WindowKind::Tumble { length: Length::Fixed(size), offset_ns } => whole(size) && whole(offset_ns),
        _ => true,
    };
    says.then_some((Window { time_column, kind, panes: false }, data_type))
}

/// The event-time column that `expression` is, perhaps in a finer unit.
fn event_time(expression: &Expr, input: &DFSchema) -> Option<usize> {
    match expression {
        Expr::Column(column) => {
            let column = input.maybe_index_of_column(column)?;
            let field = input.field(column);
            (field.metadata().contains_key(EVENT_TIME) && utc(field.data_type())).then_some(column)
        }
        Expr::Alias(alias) => event_time(&alias.expr, input),
        Expr::Cast(cast) => {
            let (from, to) = (cast.expr.get_type(input).ok()?, cast.field.data_type());
            let finer = match (&from, to) {
                (DataType::Timestamp(from, _), DataType::Timestamp(to, _)) => unit_ns(*to) <= unit_ns(*from),
                _ => false,
            };
            if finer && utc(to) { event_time(&cast.expr, input) } else { None }
        }
        _ => None,
    }
}

/// True for timestamps of UTC.
fn utc(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(_, zone) => zone.as_deref().is_none_or(|zone| matches!(zone, "UTC" | "+00:00" | "Z")),
        _ => false,
    }
}

/// The constant that `expression` is.
fn literal(expression: &Expr) -> Option<ScalarValue> {
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::new(DFSchema::empty())).build());
    match simplifier.simplify(expression.clone()).ok()? {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

/// The windows of `date_bin(stride, …, origin)`.
fn binned(stride: ScalarValue, origin: Option<ScalarValue>) -> Option<WindowKind> {
    let (months, ns) = match stride {
        ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds })) => {
            (months, i64::from(days).checked_mul(DAY_NS)?.checked_add(nanoseconds)?)
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            (0, i64::from(interval.days).checked_mul(DAY_NS)? + i64::from(interval.milliseconds) * 1_000_000)
        }
        ScalarValue::IntervalYearMonth(Some(months)) => (months, 0),
        _ => return None,
    };
    let origin = match origin {
        None => 0,
        Some(origin) => {
            match origin.cast_to(&DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None)).ok()? {
                ScalarValue::TimestampNanosecond(Some(origin), _) => origin,
                _ => return None,
            }
        }
    };
    match (months, ns) {
        (0, 1..) => Some(WindowKind::Tumble { length: Length::Fixed(ns), offset_ns: origin.rem_euclid(ns) }),
        (1.., 0) => {
            let date = DateTime::from_timestamp_nanos(origin);
            // Months that start on another day than the first are of lengths that cannot be told from their start.
            if origin.rem_euclid(DAY_NS) != 0 || date.day() != 1 {
                return None;
            }
            let month = (date.year() - 1970) * 12 + date.month0() as i32;
            Some(calendar(months, month.rem_euclid(months)))
        }
        _ => None,
    }
}

fn calendar(months: i32, phase: i32) -> WindowKind {
    WindowKind::Tumble { length: Length::Months { months, phase }, offset_ns: 0 }
}

/// The windows of `date_trunc(unit, …)`.
fn truncated(unit: &ScalarValue) -> Option<WindowKind> {
    const SECOND: i64 = 1_000_000_000;
    let fixed = |size, offset_ns| Some(WindowKind::Tumble { length: Length::Fixed(size), offset_ns });
    match unit.try_as_str()??.to_lowercase().as_str() {
        "microsecond" => fixed(1_000, 0),
        "millisecond" => fixed(1_000_000, 0),
        "second" => fixed(SECOND, 0),
        "minute" => fixed(60 * SECOND, 0),
        "hour" => fixed(3_600 * SECOND, 0),
        "day" => fixed(DAY_NS, 0),
        // The epoch was a Thursday, and weeks start on Mondays.
        "week" => fixed(7 * DAY_NS, 4 * DAY_NS),
        "month" => Some(calendar(1, 0)),
        "quarter" => Some(calendar(3, 0)),
        "year" => Some(calendar(12, 0)),
        _ => None,
    }
}
