//! What is not supported, why, what to write instead, and where in the SQL it stands.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Function, GroupByExpr, Query, Select, SetExpr, SetOperator, SetQuantifier, Spanned, Statement,
    Value, Visit, Visitor, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowType,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::sql::survey::{self, normalised};

/// A query that cannot run over a stream without end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("this query reads no stream, so it would never have anything to do")]
    NoStream,
    #[error("DISTINCT over a stream would keep every row for ever")]
    Distinct,
    #[error("{0}")]
    Over(OverRefusal),
    #[error("ORDER BY over a stream would wait for its end, which never comes")]
    OrderBy,
    #[error("LIMIT over a stream has no meaning: the stream has no first rows of a whole")]
    Limit,
    #[error("GROUP BY without a window would keep every group for ever")]
    NoWindow,
    #[error("nothing here is final before the end of the input, which never comes")]
    NoFinal,
    #[error("rows of the step that this reads replace one another: they would count several times")]
    Updates,
    #[error("at most {0} rows of each key can be kept")]
    TooManyRows(usize),
    #[error("GROUPING SETS, CUBE and ROLLUP without a window in each of them would keep every group for ever")]
    GroupingSets,
    /// `right` is the name of what stands on the right of the join.
    #[error("{why}")]
    StreamJoin { why: String, hint: String, right: Option<String> },
    #[error("a {0} join that keeps the table's unmatched rows cannot end: a later row of the stream may still match")]
    OuterTable(String),
    #[error("a subquery over a stream would keep every row of it for ever")]
    StreamSubquery,
    #[error("the result has two columns named `{0}`")]
    DuplicateColumn(String),
    #[error("{0} needs its input sorted, which is not supported yet")]
    SortedAggregate(String),
    #[error("{0} of streams would keep every row for ever")]
    SetOperation(&'static str),
    #[error("a recursive query over a stream would never end")]
    Recursive,
    #[error("GROUP BY {0} alone is not enough: several windows have the same one")]
    HalfWindow(&'static str),
    #[error("each row would be copied into {0} windows; at most {max} are possible", max = crate::sql::windows::lower::COPIES_MAX)]
    ManyWindows(i64),
    /// With the place where OVER stands.
    #[error("{0} cannot use OVER")]
    OverIn(&'static str),
    #[error("only count takes `*`, not `{0}`")]
    Star(String),
    #[error("{0} is not supported")]
    Clause(&'static str),
    #[error("`{0}` is not supported over a stream")]
    Other(String),
    /// What is wrong was reported elsewhere; this is never shown.
    #[error("`{text}` is text and `{number}` a number: they cannot be compared")]
    TextAndNumber {
        text: String,
        number: String,
        /// The number is written there.
        literal: bool,
    },
    #[error("this cannot be judged before another mistake is mended")]
    Unjudged,
}

/// An OVER window that cannot run over a stream without end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OverRefusal {
    /// With the columns that are event time, and whether it numbers rows.
    #[error("OVER must begin its ORDER BY with the event time, ascending: rows come out as time passes them")]
    Order(Vec<String>, bool),
    #[error("a frame to UNBOUNDED FOLLOWING would wait for the stream's end, which never comes")]
    Unbounded,
    #[error("{0} needs all rows of its partition, and those of a stream have no end")]
    Whole(String),
    #[error("frames in GROUPS are not supported over a stream")]
    Groups,
    #[error("the frame begins after its end")]
    EmptyFrame,
    #[error("the frame's interval {0}")]
    Interval(&'static str),
    #[error("RANGE takes an interval of time, not a number")]
    RangeNumber,
    #[error("ROWS counts rows and takes no interval")]
    RowsInterval,
    #[error("the offset and the default of {0} must be constants")]
    Constant(String),
    #[error("{0} looks further than 1,000,000 rows, all of which would be kept for each key")]
    Reach(String),
    #[error("{0} takes no FILTER")]
    Filter(String),
    #[error("{0} over all rows so far would keep every value for ever")]
    Keeps(String),
    #[error("LEAD with IGNORE NULLS would wait for ever where no value follows")]
    LeadNulls,
    #[error(
        "two OVER windows that wait for following rows cannot stand in one query: the first leaves no order of time"
    )]
    TwiceAhead,
    #[error("the first row of each key can only be found while all keys are remembered, which would be for ever")]
    FirstRows,
}

impl OverRefusal {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Order(times, true) if !times.is_empty() => {
                "for the newest or best rows of a key keep QUALIFY row_number() OVER (…) <= n, and give the step `emit: \
                 changes` and `state: {ttl: 1h}`; within a window write PARTITION BY window_start, window_end"
            }
            Self::Order(times, _) => match times.first() {
                Some(time) => return Some(format!("write OVER (PARTITION BY … ORDER BY {time})")),
                None => {
                    "this stream has no event time: give its source `event_time: {column: …, watermark: …}`, and pass \
                     that column on"
                }
            },
            Self::Unbounded => "end the frame with CURRENT ROW, n FOLLOWING or INTERVAL '1 minute' FOLLOWING",
            Self::Whole(_) => "use ROW_NUMBER, RANK or DENSE_RANK, which count the rows so far",
            Self::Groups => "write the frame in ROWS, or in RANGE with an interval",
            Self::EmptyFrame => "write the earlier bound first: BETWEEN 5 PRECEDING AND 2 PRECEDING",
            Self::Interval(_) => {
                "write it in days, hours or seconds: RANGE BETWEEN INTERVAL '1 minute' PRECEDING AND CURRENT ROW"
            }
            Self::RangeNumber => {
                "write RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW; ROWS counts rows"
            }
            Self::RowsInterval => "write RANGE for an interval",
            Self::Constant(_) => "write numbers: lag(value, 2, 0)",
            Self::Reach(_) => "write a smaller number",
            Self::Filter(_) => "filter in a step before, or write CASE WHEN … THEN … END as its argument",
            Self::Keeps(_) => {
                "bound the frame: ROWS BETWEEN 99 PRECEDING AND CURRENT ROW, or RANGE BETWEEN INTERVAL '1 hour' \
                 PRECEDING AND CURRENT ROW"
            }
            Self::LeadNulls => "leave the nulls out in a step before: WHERE value IS NOT NULL",
            Self::FirstRows => {
                "say on the step how long a key is remembered, `state.ttl: 1h`, or number the rows of each window: \
                 PARTITION BY …, window_start, window_end"
            }
            Self::TwiceAhead => "give them the same PARTITION BY and ORDER BY, or let all but one look back only",
        };
        Some(hint.to_owned())
    }

    /// True where this may be about `function`.
    fn is_about(&self, function: &Function) -> bool {
        let Some(WindowType::WindowSpec(spec)) = &function.over else { return function.over.is_some() };
        let name = function.name.to_string().to_uppercase();
        let frame = spec.window_frame.as_ref();
        match self {
            Self::Order(times, _) => !spec.order_by.first().is_some_and(|order| {
                let column = match &order.expr {
                    Expr::Identifier(ident) => Some(ident),
                    Expr::CompoundIdentifier(idents) => idents.last(),
                    _ => None,
                };
                let names = column.is_some_and(|ident| times.contains(&normalised(ident)));
                names && order.options.asc != Some(false)
            }),
            Self::Unbounded => match frame {
                Some(frame) => matches!(frame.end_bound, Some(WindowFrameBound::Following(None))),
                None => spec.order_by.is_empty(),
            },
            Self::Groups => frame.is_some_and(|frame| frame.units == WindowFrameUnits::Groups),
            Self::Interval(_) => frame.is_some_and(|frame| frame.units == WindowFrameUnits::Range),
            Self::RangeNumber => frame.is_some_and(|frame| bounded_by(frame, WindowFrameUnits::Range, is_number)),
            Self::RowsInterval => frame.is_some_and(has_rows_interval),
            Self::EmptyFrame => frame.is_some(),
            Self::Whole(of) | Self::Constant(of) | Self::Reach(of) | Self::Filter(of) => name == *of,
            Self::Keeps(of) => of.starts_with(&name),
            Self::LeadNulls => name == "LEAD",
            Self::FirstRows => name == "ROW_NUMBER",
            Self::TwiceAhead => true,
        }
    }
}

/// True where a bound of `frame`, which is in `units`, is what `is` says.
fn bounded_by(frame: &WindowFrame, units: WindowFrameUnits, is: fn(&Expr) -> bool) -> bool {
    let bounds = [Some(&frame.start_bound), frame.end_bound.as_ref()];
    let found = bounds.into_iter().flatten().any(|bound| match bound {
        WindowFrameBound::Preceding(Some(value)) | WindowFrameBound::Following(Some(value)) => is(value),
        _ => false,
    });
    found && frame.units == units
}

fn is_number(value: &Expr) -> bool {
    matches!(value, Expr::Value(value) if matches!(value.value, Value::Number(..)))
}

/// True where `frame` is in ROWS and a bound of it is an interval.
pub(crate) fn has_rows_interval(frame: &WindowFrame) -> bool {
    bounded_by(frame, WindowFrameUnits::Rows, |value| matches!(value, Expr::Interval(_)))
}

impl Refusal {
    /// The same, nearer to what the query writes.
    pub(crate) fn as_written(&self, statement: Option<&Statement>) -> Self {
        // The planner reads a number in RANGE as months.
        let number = Self::Over(OverRefusal::RangeNumber);
        match self {
            Self::Over(OverRefusal::Interval(_)) if statement.is_some_and(|it| number.locate(it).is_some()) => number,
            other => other.clone(),
        }
    }

    /// The nearest form that works.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoStream => "name a source (without `table:`) or another step in FROM",
            Self::Distinct => {
                "within a window: SELECT DISTINCT …, window_start, window_end FROM TUMBLE(stream, ts, INTERVAL '1 minute'); \
                 or say on the step how long a row is remembered: `state.ttl: 1h`"
            }
            Self::Over(over) => return over.hint(),
            Self::OrderBy => {
                "leave it out (rows keep their order per key), or order the rows of each window: FROM TUMBLE(stream, ts, \
                 INTERVAL '1 minute') … ORDER BY window_end, …"
            }
            Self::Limit => {
                "number the rows of each window: SELECT … FROM TUMBLE(stream, ts, INTERVAL '1 minute') QUALIFY \
                 ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY …) <= 3"
            }
            Self::NoWindow => {
                "group by a window too: FROM TUMBLE(stream, ts, INTERVAL '1 minute') … GROUP BY …, window_start, \
                 window_end; or say on the step how long a group is kept and when it is given out: `state.ttl: 1h` and \
                 `emit: changes`"
            }
            Self::TooManyRows(_) => "ask for fewer rows",
            Self::NoFinal => "say on the step when results come: `emit: changes`, or `emit.every: 5s`",
            Self::Updates => "read its final rows only, with WHERE is_final",
            Self::GroupingSets => {
                "put a window into every grouping: FROM TUMBLE(stream, ts, INTERVAL '1 minute') … GROUP BY window_start, \
                  window_end, ROLLUP (…)"
            }
            Self::StreamJoin { hint, .. } => hint,
            Self::TextAndNumber { text, number, literal: true } => {
                return Some(format!("write '{number}', or make a number of the text: TRY_CAST({text} AS double)"));
            }
            Self::TextAndNumber { text, number, .. } => {
                return Some(format!("make both the same: CAST({number} AS text), or TRY_CAST({text} AS double)"));
            }
            Self::OuterTable(_) => "turn it round: FROM stream LEFT JOIN table",
            Self::StreamSubquery => {
                "use a table in the subquery, or rows of the same window: EXISTS (SELECT 1 FROM TUMBLE(b, ts, INTERVAL '1 \
                 minute') b WHERE b.window_start = a.window_start AND b.window_end = a.window_end AND …)"
            }
            Self::DuplicateColumn(_) => "give one of them another name with AS",
            Self::SetOperation(_) => {
                "within windows: select window_start and window_end in both, FROM TUMBLE(stream, ts, INTERVAL '1 minute')"
            }
            Self::Recursive => "leave RECURSIVE out; a step may read other steps",
            Self::HalfWindow(_) => "write GROUP BY …, window_start, window_end",
            Self::ManyWindows(_) => {
                "aggregate in the same step, with window_start and window_end in GROUP BY only, or make the windows fewer: \
                 a longer slide or step, one that divides the size"
            }
            Self::OverIn("WHERE" | "HAVING") => "filter with QUALIFY, or compute it in a step before",
            Self::OverIn(_) => "compute it in a step before",
            Self::Star(name) => return Some(format!("write a column: {name}(value)")),
            Self::Clause("LATERAL") => "use a join, or unnest(…) in SELECT for lists",
            Self::Clause("PIVOT" | "UNPIVOT") => "write one CASE WHEN … END per column",
            Self::Clause("TABLESAMPLE") => "filter with WHERE, such as WHERE random() < 0.1",
            Self::Clause("TOP" | "FETCH") => {
                "number the rows of each window: SELECT … FROM TUMBLE(stream, ts, INTERVAL '1 minute') QUALIFY \
                 ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY …) <= 3"
            }
            Self::Clause("INTO") => "leave it out: a sink takes the step's rows by `from:`",
            Self::Clause("FOR UPDATE") => "leave it out",
            Self::Clause(_) => "leave it out",
            Self::SortedAggregate(_) | Self::Other(_) | Self::Unjudged => return None,
        };
        Some(hint.to_owned())
    }

    /// Where the reason stands in the SQL: line and column from 1.
    pub(crate) fn locate(&self, statement: &Statement) -> Option<(u64, u64)> {
        let mut finder = Finder { refusal: self, found: None };
        // A visit that breaks off has found what it looked for.
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) = statement.visit(&mut finder);
        finder.found.filter(|span| span.start.line > 0).map(|span| (span.start.line, span.start.column))
    }
}

/// Looks for the first place that a refusal is about.
struct Finder<'a> {
    refusal: &'a Refusal,
    found: Option<Span>,
}

impl Finder<'_> {
    fn take(&mut self, span: Span) -> ControlFlow<()> {
        if span.start.line == 0 {
            return ControlFlow::Continue(());
        }
        self.found = Some(span);
        ControlFlow::Break(())
    }

    fn select(&mut self, select: &Select) -> ControlFlow<()> {
        match self.refusal {
            Refusal::Distinct => match &select.distinct {
                Some(Distinct::Distinct | Distinct::On(_)) => {
                    self.take(select.projection.first().map_or(select.span(), Spanned::span))
                }
                _ => ControlFlow::Continue(()),
            },
            Refusal::NoWindow | Refusal::GroupingSets | Refusal::HalfWindow(_) => match &select.group_by {
                GroupByExpr::Expressions(expressions, _) if !expressions.is_empty() => self.take(expressions[0].span()),
                GroupByExpr::All(_) | GroupByExpr::Expressions(..) => self.take(select.span()),
            },
            Refusal::StreamJoin { right: Some(right), .. } => self.relation(select, right),
            Refusal::StreamJoin { .. } | Refusal::OuterTable(_) => {
                let join = select.from.iter().find_map(|from| from.joins.first());
                match join {
                    Some(join) => self.take(join.relation.span()),
                    None => select.from.get(1).map_or(ControlFlow::Continue(()), |from| self.take(from.span())),
                }
            }
            Refusal::ManyWindows(_) => {
                select.from.first().map_or(ControlFlow::Continue(()), |from| self.take(from.span()))
            }
            Refusal::DuplicateColumn(_)
            | Refusal::NoStream
            | Refusal::NoFinal
            | Refusal::Updates
            | Refusal::OverIn(_)
            | Refusal::TooManyRows(_)
            | Refusal::Other(_) => self.take(select.span()),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Finder<'_> {
    /// What has the name or alias `name` in FROM.
    fn relation(&mut self, select: &Select, name: &str) -> ControlFlow<()> {
        let joined = select.from.iter().flat_map(|from| from.joins.iter().map(|join| &join.relation));
        let found = joined.chain(select.from.iter().map(|from| &from.relation)).find(|factor| {
            let names = survey::name_of(factor).map(|read| read.name);
            survey::alias_of(factor).or(names).as_deref() == Some(name)
        });
        found.map_or(ControlFlow::Continue(()), |factor| self.take(factor.span()))
    }
}

impl Visitor for Finder<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        match self.refusal {
            Refusal::OrderBy => {
                if let Some(order) = &query.order_by {
                    return self.take(order.span());
                }
            }
            Refusal::Limit => {
                if let Some(limit) = &query.limit_clause {
                    return self.take(limit.span());
                }
            }
            _ => {}
        }
        if let (
            Refusal::Distinct,
            SetExpr::SetOperation { op: SetOperator::Union, set_quantifier: SetQuantifier::None, right, .. },
        ) = (self.refusal, query.body.as_ref())
        {
            return self.take(right.span());
        }
        if let (Refusal::SetOperation(name), SetExpr::SetOperation { op, right, .. }) =
            (self.refusal, query.body.as_ref())
            && *name == set_operation(op)
        {
            return self.take(right.span());
        }
        if let SetExpr::Select(select) = query.body.as_ref() {
            return self.select(select);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match (self.refusal, expression) {
            (Refusal::Over(over), Expr::Function(function)) if over.is_about(function) => self.take(expression.span()),
            (Refusal::TextAndNumber { text, number, .. }, _) if compares(expression, text, number) => {
                self.take(expression.span())
            }
            (Refusal::StreamSubquery, Expr::InSubquery { .. } | Expr::Exists { .. } | Expr::Subquery(_)) => {
                self.take(expression.span())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// True where `expression` compares `text` with `number`, as far as both are columns or written there.
fn compares(expression: &Expr, text: &str, number: &str) -> bool {
    let is = |side: &Expr, name: &str| match side {
        Expr::Identifier(ident) => normalised(ident) == name,
        Expr::CompoundIdentifier(idents) => idents.last().is_some_and(|ident| normalised(ident) == name),
        Expr::Value(value) => value.to_string() == name,
        // What it is called in the plan is not known here.
        _ => !name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.'),
    };
    match expression {
        Expr::BinaryOp { left, right, .. } => {
            (is(left, text) && is(right, number)) || (is(left, number) && is(right, text))
        }
        Expr::InList { expr, list, .. } => {
            list.iter().any(|item| (is(expr, text) && is(item, number)) || (is(expr, number) && is(item, text)))
        }
        Expr::Between { expr, low, high, .. } => [low, high]
            .into_iter()
            .any(|bound| (is(expr, text) && is(bound, number)) || (is(expr, number) && is(bound, text))),
        _ => false,
    }
}

/// The name of a set operation, as refusals have it.
fn set_operation(op: &SetOperator) -> &'static str {
    match op {
        SetOperator::Union => "UNION",
        SetOperator::Except | SetOperator::Minus => "EXCEPT",
        SetOperator::Intersect => "INTERSECT",
    }
}
