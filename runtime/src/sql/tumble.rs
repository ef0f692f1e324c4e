//! `FROM TUMBLE(stream, time column, size [, offset])`: the window table function, as the SQL planner sees it.
//!
//! It only resolves and checks; assigning rows to windows is the operator
//! [`crate::engine::operators::window_assign`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, Schema, SchemaRef, TimeUnit};
use datafusion::common::{DFSchema, Diagnostic, Result, ScalarValue, Span, TableReference, plan_datafusion_err};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, ObjectName, Spanned, TableAlias, TableFactor,
};

use crate::plan::graph::NodeId;
use crate::spec::problem::nearest;
use crate::sql::refuse::Refusal;
use crate::sql::relation::StreamRelation;
use crate::sql::{EVENT_TIME, WINDOW_BOUND};

/// A tumbling window: [start, start + size), aligned to the epoch plus the offset.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tumble {
    /// The index of the event-time column in the stream's schema.
    pub(crate) time_column: usize,
    /// The window's length.
    pub(crate) size_ns: i64,
    /// How far the windows are shifted from the epoch.
    pub(crate) offset_ns: i64,
}

/// The table functions that are known and not yet supported, with the name to tell.
const LATER: &[&str] = &["hop", "cumulate", "session"];

/// The streams that TUMBLE may name. (DataFusion finds the tables of a statement before it plans it, and does not look
/// into a table function's arguments.)
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    streams: BTreeMap<String, (NodeId, SchemaRef)>,
    /// Streams whose event time has a mistake that was reported.
    without_time: BTreeSet<String>,
}

impl Streams {
    /// Makes the output of `node` known as `name`.
    pub(crate) fn add(&self, name: &str, node: NodeId, schema: SchemaRef) {
        self.known().streams.insert(name.to_owned(), (node, schema));
    }

    /// Remembers that the event time of `name` cannot be judged.
    pub(crate) fn add_without_time(&self, name: &str) {
        self.known().without_time.insert(name.to_owned());
    }

    fn get(&self, name: &str) -> Option<(NodeId, SchemaRef)> {
        self.known().streams.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.known().streams.keys().cloned().collect()
    }

    /// True where some stream's event time cannot be judged: it may be the one that a step passes on.
    fn some_without_time(&self) -> bool {
        !self.known().without_time.is_empty()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Plans `TUMBLE(…)` in FROM.
#[derive(Debug)]
pub(crate) struct TumblePlanner(pub(crate) Streams);

impl RelationPlanner for TumblePlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (name, alias, arguments) = match &relation {
            TableFactor::Table { name, alias, args: Some(arguments), .. } => (name, alias, &arguments.args),
            TableFactor::Function { name, alias, args, .. } => (name, alias, args),
            _ => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let function = name.to_string().to_lowercase();
        if LATER.contains(&function.as_str()) {
            let message = format!("the window function {} is not supported yet; use TUMBLE", function.to_uppercase());
            return Err(at(message, name));
        }
        if function != "tumble" {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        }
        plan_tumble(name, alias.clone(), arguments, &self.0, context)
            .map(|plan| RelationPlanning::Planned(Box::new(plan)))
    }
}

/// An error that points at `place` in the SQL.
fn at(message: String, place: &impl Spanned) -> datafusion::common::DataFusionError {
    let span = Span::try_from_sqlparser_span(place.span());
    plan_datafusion_err!("{message}").with_diagnostic(Diagnostic::new_error(message, span))
}

/// The same, with what to write instead.
fn at_with(message: String, hint: impl Into<String>, place: &impl Spanned) -> datafusion::common::DataFusionError {
    let span = Span::try_from_sqlparser_span(place.span());
    let diagnostic = Diagnostic::new_error(&message, span).with_help(hint, None);
    plan_datafusion_err!("{message}").with_diagnostic(diagnostic)
}

/// How it is written.
pub(crate) const USAGE: &str = "TUMBLE(stream, time column, INTERVAL '1 minute' [, INTERVAL 'offset'])";

fn plan_tumble(
    name: &ObjectName,
    alias: Option<TableAlias>,
    arguments: &[FunctionArg],
    streams: &Streams,
    context: &mut dyn RelationPlannerContext,
) -> Result<PlannedRelation> {
    let mut expressions = Vec::new();
    for argument in arguments {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => expressions.push(expression.clone()),
            other => {
                return Err(at_with(format!("`{other}` is no argument of TUMBLE"), format!("write {USAGE}"), other));
            }
        }
    }
    let (stream, time, size, offset) = match &expressions[..] {
        [stream, time, size] => (stream, time, size, None),
        [stream, time, size, offset] => (stream, time, size, Some(offset)),
        _ => {
            let message = format!("TUMBLE takes 3 or 4 arguments and has {}", expressions.len());
            return Err(at_with(message, format!("write {USAGE}"), name));
        }
    };
    let (relation, reference) = stream_argument(stream, streams, context)?;
    let time_column = time_argument(time, &relation, streams, context)?;
    let size_ns = interval_argument("size", size, context)?;
    if size_ns <= 0 {
        return Err(at_with("the window's size must be more than 0".into(), "such as INTERVAL '1 minute'", size));
    }
    let offset_ns = offset.map_or(Ok(0), |offset| interval_argument("offset", offset, context))?;
    let window = Tumble { time_column, size_ns, offset_ns };
    let time_type = relation.schema.field(time_column).data_type().clone();
    if let DataType::Timestamp(unit, _) = &time_type
        && (size_ns % unit_ns(*unit) != 0 || offset_ns % unit_ns(*unit) != 0)
    {
        let message = format!(
            "the window's bounds are finer than its time column, which has the unit {unit}; declare the column as \
             `timestamp`, or write a window of whole units"
        );
        return Err(at(message, size));
    }
    let mut fields: Vec<_> = relation.schema.fields().iter().cloned().collect();
    for (column, bound) in [("window_start", "start"), ("window_end", "end")] {
        if relation.schema.column_with_name(column).is_some() {
            return Err(at(format!("{stream} already has a column {column}, which TUMBLE would add"), stream));
        }
        let metadata = HashMap::from([(WINDOW_BOUND.to_owned(), bound.to_owned())]);
        fields.push(Arc::new(Field::new(column, time_type.clone(), false).with_metadata(metadata)));
    }
    let schema = Arc::new(Schema::new(fields));
    let windowed = StreamRelation { node: relation.node, schema, window: Some(window) };
    let plan = LogicalPlanBuilder::scan(reference, provider_as_source(Arc::new(windowed)), None)?.build()?;
    Ok(PlannedRelation::new(plan, alias))
}

/// The stream that TUMBLE's first argument names.
fn stream_argument(
    argument: &SqlExpr,
    streams: &Streams,
    context: &mut dyn RelationPlannerContext,
) -> Result<(StreamRelation, TableReference)> {
    let SqlExpr::Identifier(ident) = argument else {
        let message = format!("TUMBLE's first argument is the name of a source or step, not `{argument}`");
        return Err(at_with(message, "make the query a step of its own, and write that step's name", argument));
    };
    let name = context.normalize_ident(ident.clone());
    let Some((node, schema)) = streams.get(&name) else {
        let names = streams.names();
        let message = format!("`{name}` is not a stream; TUMBLE takes a source or a step by its name");
        let hint = match nearest(&name, names.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "a table has no windows, and a query behind WITH must be a step of its own; streams here: {}",
                names.join(", ")
            ),
        };
        return Err(at_with(message, hint, argument));
    };
    Ok((StreamRelation { node, schema, window: None }, TableReference::bare(name)))
}

/// The event-time column that TUMBLE's second argument names.
fn time_argument(
    argument: &SqlExpr,
    stream: &StreamRelation,
    streams: &Streams,
    context: &mut dyn RelationPlannerContext,
) -> Result<usize> {
    let ident = match argument {
        SqlExpr::Identifier(ident) => ident.clone(),
        SqlExpr::CompoundIdentifier(idents) if !idents.is_empty() => idents[idents.len() - 1].clone(),
        other => {
            return Err(at(format!("TUMBLE's second argument is the event-time column, not `{other}`"), other));
        }
    };
    let name = context.normalize_ident(ident);
    let is_time = |field: &Field| field.metadata().contains_key(EVENT_TIME);
    let times = stream.schema.fields().iter().filter(|field| is_time(field)).map(|field| field.name().as_str());
    let times: Vec<&str> = times.collect();
    if times.is_empty() {
        if streams.some_without_time() {
            return Err(Refusal::Unjudged.into());
        }
        let hint = "give its source `event_time: {column: …, watermark: …}`, and let the steps in between pass that \
                    column on";
        return Err(at_with("this stream has no event time".into(), hint, argument));
    }
    let found = stream.schema.fields().iter().position(|field| field.name() == &name && is_time(field));
    let Some(event_time) = found else {
        let names = times.join("` or `");
        let message = format!("`{name}` is not the event-time column; that is `{names}`");
        return Err(at_with(message, format!("write `{names}`"), argument));
    };
    let expected = stream.schema.field(event_time);
    if !matches!(expected.data_type(), DataType::Timestamp(_, _)) {
        return Err(at(format!("`{name}` is {}, not a timestamp", expected.data_type()), argument));
    }
    Ok(event_time)
}

/// A fixed interval in nanoseconds.
fn interval_argument(what: &str, argument: &SqlExpr, context: &mut dyn RelationPlannerContext) -> Result<i64> {
    let expression = context.sql_to_expr(argument.clone(), &DFSchema::empty())?;
    let wrong = || at_with(format!("the window's {what} is an interval"), "write it so: INTERVAL '1 minute'", argument);
    let (Expr::Literal(value, _), negative) = (match &expression {
        Expr::Negative(inner) => (inner.as_ref(), true),
        other => (other, false),
    }) else {
        return Err(wrong());
    };
    let nanoseconds = match value {
        ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months: 0, days, nanoseconds })) => {
            i64::from(*days).checked_mul(DAY_NS).and_then(|days| days.checked_add(*nanoseconds))
        }
        ScalarValue::IntervalDayTime(Some(interval)) => i64::from(interval.days)
            .checked_mul(DAY_NS)
            .and_then(|days| days.checked_add(i64::from(interval.milliseconds) * 1_000_000)),
        ScalarValue::IntervalMonthDayNano(Some(_)) | ScalarValue::IntervalYearMonth(Some(_)) => {
            let message = format!("the window's {what} cannot be months or years");
            return Err(at_with(message, "use days or hours, such as INTERVAL '30 days'", argument));
        }
        _ => return Err(wrong()),
    };
    nanoseconds
        .map(|n| if negative { -n } else { n })
        .ok_or_else(|| at(format!("the window's {what} is longer than 292 years"), argument))
}

const DAY_NS: i64 = 86_400_000_000_000;

/// How many nanoseconds one unit of a timestamp column has.
pub(crate) fn unit_ns(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}
