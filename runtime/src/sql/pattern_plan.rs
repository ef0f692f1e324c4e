//! Plans MATCH_RECOGNIZE in FROM: resolves its columns, variables and functions, and says what is not possible.

use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::common::{DFSchema, DataFusionError, Diagnostic, Result, ScalarValue, Span, plan_datafusion_err};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan};
use datafusion::sql::sqlparser::ast::{
    AfterMatchSkip, EmptyMatchesMode, Expr as SqlExpr, Ident, MatchRecognizePattern, MatchRecognizeSymbol, Measure,
    OrderByExpr, RepetitionQuantifier, RowsPerMatch, Spanned, SymbolDefinition, TableAlias, TableFactor,
};

use crate::engine::operators::pattern::{Automaton, PLACES_MAX, Skip, Term, VARIABLES_MAX, Variables};
use crate::spec::problem::nearest;
use crate::sql::EVENT_TIME;
use crate::sql::pattern_names::Resolver;
use crate::sql::pattern_node::{PatternNode, PatternSpec, Resolved};
use crate::sql::pattern_syntax::{RELUCTANT, SUBSET, WITHIN};
use crate::sql::survey::normalised;

/// Plans `… MATCH_RECOGNIZE (…)` in FROM.
#[derive(Debug)]
pub(crate) struct PatternPlanner;

impl RelationPlanner for PatternPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let place = relation.span();
        let TableFactor::MatchRecognize {
            table,
            partition_by,
            order_by,
            measures,
            rows_per_match,
            after_match_skip,
            pattern,
            symbols,
            alias,
        } = relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let input = context.plan(*table)?;
        let clause =
            Clause { partition_by, order_by, measures, rows_per_match, after_match_skip, pattern, symbols, place };
        clause.plan(input, alias, context).map(|plan| RelationPlanning::Planned(Box::new(plan)))
    }
}

/// An error that points at `span` in the SQL, with what to write instead.
pub(crate) fn wrong(
    message: impl Into<String>,
    hint: impl Into<String>,
    span: datafusion::sql::sqlparser::tokenizer::Span,
) -> DataFusionError {
    let message = message.into();
    let diagnostic = Diagnostic::new_error(&message, Span::try_from_sqlparser_span(span)).with_help(hint, None);
    plan_datafusion_err!("{message}").with_diagnostic(diagnostic)
}

/// What stands in the parentheses.
struct Clause {
    partition_by: Vec<SqlExpr>,
    order_by: Vec<OrderByExpr>,
    measures: Vec<Measure>,
    rows_per_match: Option<RowsPerMatch>,
    after_match_skip: Option<AfterMatchSkip>,
    pattern: MatchRecognizePattern,
    symbols: Vec<SymbolDefinition>,
    place: datafusion::sql::sqlparser::tokenizer::Span,
}

/// The variables of a pattern.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// By variable: its name as SQL reads it, and as it was written.
    variables: Vec<(String, String)>,
    /// Names for several variables.
    subsets: Vec<(String, Variables)>,
}

impl Names {
    /// The variables that `name` stands for.
    pub(crate) fn get(&self, name: &Ident) -> Option<Variables> {
        let name = normalised(name);
        let subset = self.subsets.iter().find(|(known, _)| *known == name).map(|(_, of)| *of);
        subset.or_else(|| self.number(&name).map(|number| 1 << number))
    }

    /// What may be meant by `name`, which is none.
    pub(crate) fn hint(&self, name: &Ident) -> String {
        let known = self.variables.iter().map(|(_, shown)| shown.as_str());
        let known: Vec<&str> = known.chain(self.subsets.iter().map(|(name, _)| name.as_str())).collect();
        match nearest(&name.value, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", known.join(", ")),
        }
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.variables.iter().position(|(known, _)| known == name)
    }

    /// The name of the variable `number`, as it was written.
    pub(crate) fn shown(&self, number: usize) -> &str {
        &self.variables[number].1
    }

    fn add(&mut self, name: &Ident) -> Result<u8> {
        let normal = normalised(name);
        let number = self.number(&normal).unwrap_or(self.variables.len());
        if number == VARIABLES_MAX {
            let message = format!("a pattern has at most {VARIABLES_MAX} variables");
            return Err(wrong(message, "split it into several steps", name.span));
        }
        if number == self.variables.len() {
            self.variables.push((normal, name.value.clone()));
        }
        Ok(number as u8)
    }
}

impl Clause {
    fn plan(
        mut self,
        input: LogicalPlan,
        alias: Option<TableAlias>,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<PlannedRelation> {
        let schema = input.schema().clone();
        let (time_column, order) = self.order(&schema, context)?;
        let partition = self.partition_by.iter().map(|column| {
            let hint = "compute it in a step before, and write the column";
            self::column(column, "PARTITION BY", hint, &schema, context)
        });
        let partition = partition.collect::<Result<Vec<_>>>()?;
        let (term, names) = self.pattern()?;
        let automaton = self.automaton(&term)?;
        let within_ns = self.within(context)?;
        let names = self.subsets(names)?;
        let skip = self.skip(&names, &automaton)?;
        let all_rows = self.all_rows()?;
        let mut resolver = Resolver::new(context, &schema, &names);
        let conditions = self.conditions(&mut resolver, &names)?;
        let mut measures = Vec::new();
        for Measure { expr, alias } in &self.measures {
            measures.push((normalised(alias), resolver.measure(expr.clone())?));
        }
        self.check_columns(&measures, &partition, all_rows, &schema)?;
        let (columns, calls) = resolver.finish();
        let spec = PatternSpec {
            time_column,
            partition,
            order,
            within_ns,
            automaton,
            shown: shown(&self.pattern),
            names: (0..names.variables.len()).map(|number| names.shown(number).to_owned()).collect(),
            conditions,
            measures,
            skip,
            all_rows,
        };
        let node = PatternNode::new(input, Arc::new(spec), columns, calls)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(PlannedRelation::new(plan, alias))
    }

    /// The event-time column, and what sorts rows of the same time.
    fn order(
        &self,
        schema: &DFSchema,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<(usize, Vec<(usize, SortOptions)>)> {
        const HINT: &str = "write ORDER BY and the event-time column of the stream";
        let times = (0..schema.fields().len()).filter(|i| schema.field(*i).metadata().contains_key(EVENT_TIME));
        let times: Vec<usize> = times.collect();
        let Some(first) = self.order_by.first() else {
            return Err(wrong("MATCH_RECOGNIZE needs rows in the order of event time", HINT, self.place));
        };
        let mut order = Vec::with_capacity(self.order_by.len());
        for sort in &self.order_by {
            let column = column(&sort.expr, "ORDER BY", "compute it in a step before", schema, context)?;
            let descending = sort.options.asc == Some(false);
            let nulls_first = sort.options.nulls_first.unwrap_or(descending);
            order.push((column, SortOptions { descending, nulls_first }));
        }
        if times.is_empty() {
            let hint = "give its source `event_time: {column: …, watermark: …}`, and let the steps in between pass that \
                        column on";
            return Err(wrong("this stream has no event time", hint, first.expr.span()));
        }
        let (time, options) = order.remove(0);
        if !times.contains(&time) {
            let names: Vec<&str> = times.iter().map(|time| schema.field(*time).name().as_str()).collect();
            let names = names.join("` or `");
            let message = format!("MATCH_RECOGNIZE goes by event time: ORDER BY starts with `{names}`");
            return Err(wrong(message, format!("write ORDER BY {names}"), first.expr.span()));
        }
        if options.descending {
            let message = "a stream has no last row to begin with: ORDER BY the event time ascends";
            return Err(wrong(message, "leave DESC out", first.expr.span()));
        }
        Ok((time, order))
    }

    /// The pattern, and the variables in it.
    fn pattern(&self) -> Result<(Term, Names)> {
        let mut names = Names::default();
        let term = self.term(&self.pattern, &mut names)?;
        Ok((term, names))
    }

    fn term(&self, pattern: &MatchRecognizePattern, names: &mut Names) -> Result<Term> {
        use MatchRecognizePattern as P;
        let variable = |symbol: &MatchRecognizeSymbol, names: &mut Names| match symbol {
            MatchRecognizeSymbol::Named(name) => names.add(name).map(Term::Variable),
            MatchRecognizeSymbol::Start | MatchRecognizeSymbol::End => {
                let message =
                    "^ and $ are not supported: a stream's partition has no end, and its start is one row only";
                Err(wrong(message, "leave them out", self.place))
            }
        };
        Ok(match pattern {
            P::Symbol(symbol) => variable(symbol, names)?,
            P::Exclude(_) => {
                let hint = "give CLASSIFIER() as a measure, and leave rows out by WHERE";
                return Err(wrong("an exclusion in a pattern is not supported", hint, self.place));
            }
            P::Permute(symbols) => {
                let symbols = symbols.iter().map(|symbol| variable(symbol, names));
                permutations(&symbols.collect::<Result<Vec<_>>>()?).ok_or_else(|| {
                    let message = format!("PERMUTE takes at most {PERMUTED_MAX} variables");
                    wrong(message, "write the orders that matter, with | between them", self.place)
                })?
            }
            P::Concat(parts) => Term::Sequence(parts.iter().map(|part| self.term(part, names)).collect::<Result<_>>()?),
            P::Group(inner) => self.term(inner, names)?,
            P::Alternation(parts) => {
                Term::Either(parts.iter().map(|part| self.term(part, names)).collect::<Result<_>>()?)
            }
            P::Repetition(inner, quantifier) => {
                let (inner, quantifier, greedy) = match (inner.as_ref(), quantifier) {
                    (P::Repetition(inner, quantifier), mark) if *mark == RELUCTANT => {
                        (inner.as_ref(), quantifier, false)
                    }
                    _ => (inner.as_ref(), quantifier, true),
                };
                if let P::Repetition(..) = inner {
                    let message = format!("`{}` has two quantifiers", shown(pattern));
                    return Err(wrong(message, "put the first one in parentheses: (A+)?", self.place));
                }
                let (min, max) = self.bounds(quantifier)?;
                Term::Repeat { term: Box::new(self.term(inner, names)?), min, max, greedy }
            }
        })
    }

    fn bounds(&self, quantifier: &RepetitionQuantifier) -> Result<(u32, Option<u32>)> {
        use RepetitionQuantifier as Q;
        let (min, max) = match *quantifier {
            Q::ZeroOrMore => (0, None),
            Q::OneOrMore => (1, None),
            Q::AtMostOne => (0, Some(1)),
            Q::Exactly(count) => (count, Some(count)),
            Q::AtLeast(min) => (min, None),
            Q::AtMost(max) => (0, Some(max)),
            Q::Range(min, max) => (min, Some(max)),
        };
        if max.is_some_and(|max| max < min || max == 0) {
            let message = "a quantifier of the pattern allows no number of rows";
            return Err(wrong(message, "write the smaller number first: {1,3}", self.place));
        }
        Ok((min, max))
    }

    fn automaton(&self, term: &Term) -> Result<Automaton> {
        if term.repeats_nothing() {
            let message = "the pattern repeats a part without a limit that may have no row at all";
            return Err(wrong(message, "write (A | B)* in place of (A? B?)*, and A* in place of (A*)+", self.place));
        }
        Automaton::new(term).map_err(|_| {
            let message =
                format!("the pattern is too large: at most {PLACES_MAX} variables, with repetitions by number");
            wrong(message, "use + or *, and count in DEFINE", self.place)
        })
    }

    /// Takes the interval out of the definitions.
    fn within(&mut self, context: &mut dyn RelationPlannerContext) -> Result<i64> {
        let Some(at) = self.symbols.iter().position(|definition| definition.symbol.value == WITHIN) else {
            let message = "MATCH_RECOGNIZE without WITHIN would keep rows for ever, because a match may always go on";
            let hint = "say how long a match may take: PATTERN (A B+) WITHIN INTERVAL '1 hour'";
            return Err(wrong(message, hint, self.place));
        };
        let definition = self.symbols.remove(at);
        let value = context.sql_to_expr(definition.definition.clone(), &DFSchema::empty())?;
        let fixed = match value {
            Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) if interval.months == 0 => {
                let days = i64::from(interval.days).checked_mul(DAY_NS);
                days.and_then(|days| days.checked_add(interval.nanoseconds))
            }
            Expr::Literal(ScalarValue::IntervalDayTime(Some(interval)), _) => {
                let days = i64::from(interval.days).checked_mul(DAY_NS);
                days.and_then(|days| days.checked_add(i64::from(interval.milliseconds) * 1_000_000))
            }
            _ => None,
        };
        fixed.filter(|interval| *interval > 0).ok_or_else(|| {
            let message = "WITHIN takes an interval of more than 0, in days or less";
            wrong(message, "write it so: WITHIN INTERVAL '10 minutes'", definition.symbol.span)
        })
    }

    /// Takes the subsets out of the definitions.
    fn subsets(&mut self, mut names: Names) -> Result<Names> {
        let (subsets, symbols): (Vec<_>, Vec<_>) = std::mem::take(&mut self.symbols)
            .into_iter()
            .partition(|definition| definition.symbol.value.starts_with(SUBSET));
        self.symbols = symbols;
        for SymbolDefinition { symbol, definition } in subsets {
            let members: Vec<&SqlExpr> = match &definition {
                SqlExpr::Tuple(members) => members.iter().collect(),
                SqlExpr::Nested(member) => vec![member.as_ref()],
                other => vec![other],
            };
            let mut of = 0;
            for member in members {
                let known = match member {
                    SqlExpr::Identifier(name) => names.number(&normalised(name)),
                    _ => None,
                };
                of |= 1 << known.ok_or_else(|| names.unknown(&member.to_string(), member.span()))?;
            }
            let name = symbol.value.trim_start_matches(SUBSET).to_owned();
            if names.number(&name).is_some() || names.subsets.iter().any(|(known, _)| *known == name) {
                let message = format!("`{name}` is a variable already");
                return Err(wrong(message, "give the subset another name", symbol.span));
            }
            names.subsets.push((name, of));
        }
        Ok(names)
    }

    fn skip(&self, names: &Names, automaton: &Automaton) -> Result<Skip> {
        let of = |name: &Ident| names.get(name).ok_or_else(|| names.unknown(&name.value, name.span));
        let again = |name: &Ident| {
            let message = format!(
                "`{}` is the first row of the match: the search would find the same match again for ever",
                name.value
            );
            wrong(message, "write AFTER MATCH SKIP TO NEXT ROW", name.span)
        };
        Ok(match &self.after_match_skip {
            None | Some(AfterMatchSkip::PastLastRow) => Skip::PastLastRow,
            Some(AfterMatchSkip::ToNextRow) => Skip::ToNextRow,
            Some(AfterMatchSkip::ToFirst(name)) if automaton.always_starts_with(of(name)?) => return Err(again(name)),
            Some(AfterMatchSkip::ToLast(name)) if automaton.only_starts_with(of(name)?) => return Err(again(name)),
            Some(AfterMatchSkip::ToFirst(name)) => Skip::ToFirst(of(name)?),
            Some(AfterMatchSkip::ToLast(name)) => Skip::ToLast(of(name)?),
        })
    }

    fn all_rows(&self) -> Result<bool> {
        match &self.rows_per_match {
            None | Some(RowsPerMatch::OneRow) => Ok(false),
            Some(RowsPerMatch::AllRows(None | Some(EmptyMatchesMode::Omit))) => Ok(true),
            Some(RowsPerMatch::AllRows(Some(mode))) => {
                let message = format!("ALL ROWS PER MATCH {mode} is not supported: only rows of matches come out");
                Err(wrong(message, "write ALL ROWS PER MATCH", self.place))
            }
        }
    }

    /// By variable: its condition.
    fn conditions(&self, resolver: &mut Resolver<'_>, names: &Names) -> Result<Vec<Option<Resolved>>> {
        let mut conditions: Vec<Option<Resolved>> = (0..names.variables.len()).map(|_| None).collect();
        for SymbolDefinition { symbol, definition } in &self.symbols {
            let number = names.number(&normalised(symbol));
            let number = number.ok_or_else(|| names.unknown(&symbol.value, symbol.span))?;
            if conditions[number].is_some() {
                let message = format!("`{}` is defined twice", symbol.value);
                return Err(wrong(message, "join the conditions with AND", symbol.span));
            }
            conditions[number] = Some(resolver.condition(number as u8, definition.clone())?);
        }
        Ok(conditions)
    }

    /// Every column of the result has a name of its own, and there is one.
    fn check_columns(
        &self,
        measures: &[(String, Resolved)],
        partition: &[usize],
        all_rows: bool,
        schema: &DFSchema,
    ) -> Result<()> {
        let passed_on: Vec<usize> = if all_rows { (0..schema.fields().len()).collect() } else { partition.to_vec() };
        let mut names: Vec<&str> = passed_on.iter().map(|column| schema.field(*column).name().as_str()).collect();
        for ((name, _), measure) in measures.iter().zip(&self.measures) {
            if names.contains(&name.as_str()) {
                let message = format!("the result has two columns named `{name}`");
                return Err(wrong(message, "give the measure another name", measure.alias.span));
            }
            names.push(name);
        }
        if names.is_empty() {
            let hint = "add MEASURES … AS …, PARTITION BY, or ALL ROWS PER MATCH";
            return Err(wrong("the result has no column", hint, self.place));
        }
        Ok(())
    }
}

const DAY_NS: i64 = 86_400_000_000_000;

impl Names {
    fn unknown(&self, name: &str, span: datafusion::sql::sqlparser::tokenizer::Span) -> DataFusionError {
        let known: Vec<&str> = self.variables.iter().map(|(_, shown)| shown.as_str()).collect();
        let message = format!("`{name}` is no variable of the pattern");
        wrong(message, format!("there are: {}", known.join(", ")), span)
    }
}

/// The number of the column that `expression` names.
fn column(
    expression: &SqlExpr,
    clause: &str,
    hint: &str,
    schema: &DFSchema,
    context: &mut dyn RelationPlannerContext,
) -> Result<usize> {
    match context.sql_to_expr(expression.clone(), schema)? {
        Expr::Column(column) => schema.index_of_column(&column),
        _ => Err(wrong(format!("{clause} of MATCH_RECOGNIZE takes columns"), hint, expression.span())),
    }
}

/// The most variables of PERMUTE: all their orders are spelled out.
const PERMUTED_MAX: usize = 5;

/// All orders of `terms`, those first that keep the first ones first.
fn permutations(terms: &[Term]) -> Option<Term> {
    fn orders(left: &[Term]) -> Vec<Vec<Term>> {
        if left.is_empty() {
            return vec![vec![]];
        }
        let mut all = Vec::new();
        for index in 0..left.len() {
            let mut rest = left.to_vec();
            let first = rest.remove(index);
            all.extend(orders(&rest).into_iter().map(|mut order| {
                order.insert(0, first.clone());
                order
            }));
        }
        all
    }
    (terms.len() <= PERMUTED_MAX).then(|| Term::Either(orders(terms).into_iter().map(Term::Sequence).collect()))
}

/// The pattern as it was written.
fn shown(pattern: &MatchRecognizePattern) -> String {
    pattern.to_string().replace(&RELUCTANT.to_string(), "?").replace("( ", "(").replace(" )", ")")
}
