//! Window functions in FROM, as the SQL planner sees them: `TUMBLE(stream, time column, size [, offset])` and its kin.
//!
//! It only resolves and checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, Schema, SchemaRef};
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
use crate::sql::windows::{BOUND_NAMES, DAY_NS, Length, Window, WindowKind, bound, unit_ns};
use crate::sql::{EVENT_TIME, WINDOW_BOUND, WINDOW_LENGTH, WINDOW_PAIR};

/// The streams that a window function may name. (DataFusion finds the tables of a statement before it plans it, and does not look
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

/// A window function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Tumble,
    Hop,
    Cumulate,
    Session,
}

impl Function {
    pub(crate) const ALL: [Self; 4] = [Self::Tumble, Self::Hop, Self::Cumulate, Self::Session];

    /// The function of this name, in any case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name().eq_ignore_ascii_case(name))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE",
            Self::Hop => "HOP",
            Self::Cumulate => "CUMULATE",
            Self::Session => "SESSION",
        }
    }

    /// How it is written.
    pub(crate) fn usage(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE(stream, time column, INTERVAL '1 minute' [, INTERVAL 'offset'])",
            Self::Hop => "HOP(stream, time column, INTERVAL 'slide', INTERVAL 'size' [, INTERVAL 'offset'])",
            Self::Cumulate => "CUMULATE(stream, time column, INTERVAL 'step', INTERVAL 'max' [, INTERVAL 'offset'])",
            Self::Session => "SESSION(stream, time column, INTERVAL 'gap' [, key column, …])",
        }
    }

    /// How many arguments it takes, in words, and whether `count` is such a number.
    fn takes(self, count: usize) -> (&'static str, bool) {
        match self {
            Self::Tumble => ("3 or 4", (3..=4).contains(&count)),
            Self::Hop | Self::Cumulate => ("4 or 5", (4..=5).contains(&count)),
            Self::Session => ("3 or more", count >= 3),
        }
    }
}

/// Plans window functions in FROM.
#[derive(Debug)]
pub(crate) struct WindowPlanner(pub(crate) Streams);

impl RelationPlanner for WindowPlanner {
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
        let Some(function) = Function::named(&name.to_string()) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let mut call = Call { function, streams: &self.0, context };
        call.plan(name, alias.clone(), arguments).map(|plan| RelationPlanning::Planned(Box::new(plan)))
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

/// A length of time as it was written.
#[derive(Debug, Clone, Copy, Default)]
struct Interval {
    months: i32,
    ns: i64,
}

/// A call that is being planned.
struct Call<'a> {
    function: Function,
    streams: &'a Streams,
    context: &'a mut dyn RelationPlannerContext,
}

impl Call<'_> {
    fn plan(
        &mut self,
        name: &ObjectName,
        alias: Option<TableAlias>,
        arguments: &[FunctionArg],
    ) -> Result<PlannedRelation> {
        let (function, usage) = (self.function.name(), format!("write {}", self.function.usage()));
        let mut expressions = Vec::new();
        for argument in arguments {
            match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => expressions.push(expression.clone()),
                other => return Err(at_with(format!("`{other}` is no argument of {function}"), usage, other)),
            }
        }
        let (takes, right) = self.function.takes(expressions.len());
        let [stream, time, rest @ ..] = &expressions[..] else {
            let message = format!("{function} takes {takes} arguments and has {}", expressions.len());
            return Err(at_with(message, usage, name));
        };
        if !right {
            let message = format!("{function} takes {takes} arguments and has {}", expressions.len());
            return Err(at_with(message, usage, name));
        }
        let (relation, reference) = self.stream(stream)?;
        let time_column = self.time(time, &relation)?;
        let kind = match self.function {
            Function::Tumble => self.tumble(rest)?,
            Function::Hop => self.hop(rest)?,
            Function::Cumulate => self.cumulate(rest)?,
            Function::Session => self.session(rest, &relation.schema, stream)?,
        };
        let time_type = relation.schema.field(time_column).data_type().clone();
        check_unit(&kind, &time_type, rest)?;
        let schema = self.schema(&relation.schema, &kind, &time_type, stream)?;
        let window = Window { time_column, kind, panes: false };
        let windowed = StreamRelation { node: relation.node, schema, window: Some(window) };
        let plan = LogicalPlanBuilder::scan(reference, provider_as_source(Arc::new(windowed)), None)?.build()?;
        Ok(PlannedRelation::new(plan, alias))
    }

    /// The columns of `input` with those that the window adds. Bounds of an earlier window give way to them.
    fn schema(
        &self,
        input: &SchemaRef,
        kind: &WindowKind,
        time_type: &DataType,
        stream: &SqlExpr,
    ) -> Result<SchemaRef> {
        for name in BOUND_NAMES {
            if input.column_with_name(name).is_some_and(|(_, field)| bound(field).is_none()) {
                let message = format!("{stream} already has a column {name}, which {} would add", self.function.name());
                return Err(at(message, stream));
            }
        }
        let mut fields: Vec<_> = passes(input).into_iter().map(|column| passed(input.field(column), kind)).collect();
        for (name, marks) in BOUND_NAMES.into_iter().zip(kind.marks()) {
            fields.push(Field::new(name, time_type.clone(), false).with_metadata(marks));
        }
        Ok(Arc::new(Schema::new(fields)))
    }

    fn tumble(&mut self, arguments: &[SqlExpr]) -> Result<WindowKind> {
        let size = self.interval("size", &arguments[0])?;
        let offset = arguments.get(1).map_or(Ok(Interval::default()), |offset| self.interval("offset", offset))?;
        positive("size", size, &arguments[0])?;
        if size.months != 0 && size.ns != 0 {
            let message = "the window's size is in months or in days and less, not in both".to_owned();
            return Err(at_with(message, "such as INTERVAL '1 month'", &arguments[0]));
        }
        let length = match size.months {
            0 => Length::Fixed(size.ns),
            months => Length::Months { months, phase: offset.months.rem_euclid(months) },
        };
        if size.months == 0 {
            arguments.get(1).map_or(Ok(()), |argument| fixed("offset", offset, argument))?;
        }
        Ok(WindowKind::Tumble { length, offset_ns: offset.ns })
    }

    fn hop(&mut self, arguments: &[SqlExpr]) -> Result<WindowKind> {
        let slide_ns = self.length("slide", &arguments[0])?;
        let size_ns = self.length("size", &arguments[1])?;
        Ok(WindowKind::Hop { slide_ns, size_ns, offset_ns: self.offset(arguments.get(2))? })
    }

    fn cumulate(&mut self, arguments: &[SqlExpr]) -> Result<WindowKind> {
        let step_ns = self.length("step", &arguments[0])?;
        let max_ns = self.length("max", &arguments[1])?;
        if max_ns % step_ns != 0 {
            let message = "the window's max must be a multiple of its step".to_owned();
            return Err(at_with(message, "such as INTERVAL '1 hour', INTERVAL '1 day'", &arguments[1]));
        }
        Ok(WindowKind::Cumulate { step_ns, max_ns, offset_ns: self.offset(arguments.get(2))? })
    }

    fn session(&mut self, arguments: &[SqlExpr], schema: &SchemaRef, stream: &SqlExpr) -> Result<WindowKind> {
        let gap_ns = self.length("gap", &arguments[0])?;
        let mut keys = Vec::new();
        for argument in &arguments[1..] {
            let ident = match argument {
                SqlExpr::Identifier(ident) => ident.clone(),
                SqlExpr::CompoundIdentifier(idents) if !idents.is_empty() => idents[idents.len() - 1].clone(),
                other => {
                    let message = format!("a key of SESSION is a column, not `{other}`");
                    return Err(at_with(message, "compute it in a step before, and write its name", other));
                }
            };
            let name = self.context.normalize_ident(ident);
            let Some((column, _)) = schema.column_with_name(&name) else {
                let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                let hint = match nearest(&name, names.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are: {}", names.join(", ")),
                };
                return Err(at_with(format!("{stream} has no column `{name}`"), hint, argument));
            };
            if !keys.contains(&column) {
                keys.push(column);
            }
        }
        Ok(WindowKind::Session { gap_ns, keys })
    }

    /// The stream that the first argument names.
    fn stream(&mut self, argument: &SqlExpr) -> Result<(StreamRelation, TableReference)> {
        let function = self.function.name();
        let SqlExpr::Identifier(ident) = argument else {
            let message = format!("{function}'s first argument is the name of a source or step, not `{argument}`");
            return Err(at_with(message, "make the query a step of its own, and write that step's name", argument));
        };
        let name = self.context.normalize_ident(ident.clone());
        let Some((node, schema)) = self.streams.get(&name) else {
            let names = self.streams.names();
            let message = format!("`{name}` is not a stream; {function} takes a source or a step by its name");
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

    /// The event-time column that the second argument names.
    fn time(&mut self, argument: &SqlExpr, stream: &StreamRelation) -> Result<usize> {
        let ident = match argument {
            SqlExpr::Identifier(ident) => ident.clone(),
            SqlExpr::CompoundIdentifier(idents) if !idents.is_empty() => idents[idents.len() - 1].clone(),
            other => {
                let function = self.function.name();
                return Err(at(format!("{function}'s second argument is the event-time column, not `{other}`"), other));
            }
        };
        let name = self.context.normalize_ident(ident);
        let is_time = |field: &Field| field.metadata().contains_key(EVENT_TIME);
        let times = stream.schema.fields().iter().filter(|field| is_time(field)).map(|field| field.name().as_str());
        let times: Vec<&str> = times.collect();
        if times.is_empty() {
            if self.streams.some_without_time() {
                return Err(Refusal::Unjudged.into());
            }
            let hint = "give its source `event_time: {column: …, watermark: …}` (or `event_time: processing`, the clock), and \
                        let the steps in between pass that column on";
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

    /// A fixed length of more than 0, in nanoseconds.
    fn length(&mut self, what: &str, argument: &SqlExpr) -> Result<i64> {
        let length = self.interval(what, argument)?;
        fixed(what, length, argument)?;
        positive(what, length, argument)?;
        Ok(length.ns)
    }

    /// A fixed offset in nanoseconds; 0 where none is written.
    fn offset(&mut self, argument: Option<&SqlExpr>) -> Result<i64> {
        let Some(argument) = argument else { return Ok(0) };
        let offset = self.interval("offset", argument)?;
        fixed("offset", offset, argument)?;
        Ok(offset.ns)
    }

    fn interval(&mut self, what: &str, argument: &SqlExpr) -> Result<Interval> {
        let expression = self.context.sql_to_expr(argument.clone(), &DFSchema::empty())?;
        let hint = "write it so: INTERVAL '1 minute'";
        let wrong = || at_with(format!("the window's {what} is an interval"), hint, argument);
        let (Expr::Literal(value, _), negative) = (match &expression {
            Expr::Negative(inner) => (inner.as_ref(), true),
            other => (other, false),
        }) else {
            return Err(wrong());
        };
        let whole_days = |days: i32| i64::from(days).checked_mul(DAY_NS);
        let (months, ns) = match value {
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano { months, days, nanoseconds })) => {
                (*months, whole_days(*days).and_then(|days| days.checked_add(*nanoseconds)))
            }
            ScalarValue::IntervalDayTime(Some(interval)) => {
                let rest = i64::from(interval.milliseconds) * 1_000_000;
                (0, whole_days(interval.days).and_then(|days| days.checked_add(rest)))
            }
            ScalarValue::IntervalYearMonth(Some(months)) => (*months, Some(0)),
            _ => return Err(wrong()),
        };
        let too_long = || at(format!("the window's {what} is longer than 292 years"), argument);
        // No year from 1678 to 2261 is further from another.
        let ns = ns.filter(|_| months.unsigned_abs() < 292 * 12).ok_or_else(too_long)?;
        Ok(if negative { Interval { months: -months, ns: ns.saturating_neg() } } else { Interval { months, ns } })
    }
}

/// The columns of `input` that a window function passes on: all but the bounds of an earlier window of the same names.
pub(crate) fn passes(input: &Schema) -> Vec<usize> {
    let replaced = |field: &Field| BOUND_NAMES.contains(&field.name().as_str());
    (0..input.fields().len()).filter(|column| !replaced(input.field(*column))).collect()
}

/// A column that a window function of `kind` passes on: it is no bound any more, and behind a session, which holds rows
/// back, no event time either.
pub(crate) fn passed(field: &Field, kind: &WindowKind) -> Field {
    let mut metadata = field.metadata().clone();
    for mark in [WINDOW_BOUND, WINDOW_LENGTH, WINDOW_PAIR] {
        metadata.remove(mark);
    }
    if matches!(kind, WindowKind::Session { .. }) {
        metadata.remove(EVENT_TIME);
    }
    field.clone().with_metadata(metadata)
}

fn positive(what: &str, length: Interval, argument: &SqlExpr) -> Result<()> {
    if length.months < 0 || length.ns < 0 || (length.months == 0 && length.ns == 0) {
        let message = format!("the window's {what} must be more than 0");
        return Err(at_with(message, "such as INTERVAL '1 minute'", argument));
    }
    Ok(())
}

fn fixed(what: &str, length: Interval, argument: &SqlExpr) -> Result<()> {
    if length.months != 0 {
        let message = format!("the window's {what} cannot be months or years");
        return Err(at_with(message, "use days or hours, such as INTERVAL '30 days'", argument));
    }
    Ok(())
}

/// The bounds must be times that the time column can say.
fn check_unit(kind: &WindowKind, time_type: &DataType, arguments: &[SqlExpr]) -> Result<()> {
    let DataType::Timestamp(unit, _) = time_type else { return Ok(()) };
    let lengths = match kind {
        WindowKind::Tumble { length: Length::Fixed(size), offset_ns } => vec![*size, *offset_ns],
        WindowKind::Tumble { length: Length::Months { .. }, offset_ns } => vec![0, *offset_ns],
        WindowKind::Hop { slide_ns, size_ns, offset_ns } => vec![*slide_ns, *size_ns, *offset_ns],
        WindowKind::Cumulate { step_ns, max_ns, offset_ns } => vec![*step_ns, *max_ns, *offset_ns],
        WindowKind::Session { gap_ns, .. } => vec![*gap_ns],
    };
    let Some(finer) = lengths.into_iter().position(|length| length % unit_ns(*unit) != 0) else { return Ok(()) };
    let message = format!(
        "the window's bounds are finer than its time column, which has the unit {unit}; declare the column as \
         `timestamp`, or write a window of whole units"
    );
    Err(at(message, &arguments[finer.min(arguments.len() - 1)]))
}
