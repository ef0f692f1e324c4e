//! `JOIN rates FOR SYSTEM_TIME AS OF o.ts` and `ASOF JOIN quotes MATCH_CONDITION (t.ts >= q.ts)`.
//!
//! DataFusion plans neither. Here they become a plain join with one more condition, `__as_of('kind', left, right)`,
//! which lowering takes out again ([`crate::sql::join`]); it is never evaluated.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr as LogicalExpr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Join,
    JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Select, Spanned, Statement, TableFactor, TableVersion,
    TableWithJoins, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan};

/// The function that marks the join.
pub(crate) const MARKER: &str = "__as_of";
/// The marker's kind of `FOR SYSTEM_TIME AS OF`.
pub(crate) const VERSION: &str = "version";

/// What is wrong with such a join: message, hint, and place from 1.
pub(crate) type Wrong = (String, &'static str, (u64, u64));

/// How both forms are written.
const TEMPORAL_USAGE: &str =
    "write: FROM orders o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.currency = r.currency";
const AS_OF_USAGE: &str =
    "write: FROM trades t ASOF JOIN quotes q MATCH_CONDITION (t.ts >= q.ts) ON t.symbol = q.symbol";

/// `FOR SYSTEM_TIME AS OF expression`, taken out of the text, because the parser of our dialect does not read it.
#[derive(Debug)]
pub(crate) struct Version {
    /// Where the name (or alias) before it ends.
    after: Location,
    time: Expr,
    place: (u64, u64),
}

/// Takes every `FOR SYSTEM_TIME AS OF expression` out of `tokens`.
pub(crate) fn lift(tokens: &mut Vec<TokenWithSpan>, levels_max: usize) -> Result<Vec<Version>, ParserError> {
    const CLAUSE: [Keyword; 4] = [Keyword::FOR, Keyword::SYSTEM_TIME, Keyword::AS, Keyword::OF];
    let significant = |token: &TokenWithSpan| !matches!(token.token, Token::Whitespace(_));
    let is = |token: &TokenWithSpan, wanted| matches!(&token.token, Token::Word(w) if w.keyword == wanted && w.quote_style.is_none());
    let mut versions = Vec::new();
    let mut from = 0;
    while from < tokens.len() {
        let words: Vec<usize> =
            (from..tokens.len()).filter(|at| significant(&tokens[*at])).take(CLAUSE.len()).collect();
        let here = words.len() == CLAUSE.len() && words.iter().zip(CLAUSE).all(|(at, word)| is(&tokens[*at], word));
        if !here || words[0] != from {
            from += 1;
            continue;
        }
        let before = tokens[..from].iter().rfind(|token| significant(token)).map(|token| token.span.end);
        let start = tokens[from].span.start;
        let rest = tokens[words[CLAUSE.len() - 1] + 1..].to_vec();
        let length = rest.len();
        let mut parser =
            Parser::new(&GenericDialect {}).with_recursion_limit(levels_max).with_tokens_with_locations(rest);
        let time = parser.parse_expr()?;
        let taken = parser.index().min(length);
        tokens.drain(from..words[CLAUSE.len() - 1] + 1 + taken);
        let after = before.unwrap_or(Location { line: 0, column: 0 });
        versions.push(Version { after, time, place: (start.line, start.column) });
    }
    Ok(versions)
}

/// Makes plain joins with a marker of all joins as of a time in `statement`, whose `versions` were lifted out.
pub(crate) fn rewrite(statement: &mut Statement, versions: Vec<Version>) -> Result<(), Wrong> {
    let mut rewriter = Rewriter { versions };
    match VisitMut::visit(statement, &mut rewriter) {
        ControlFlow::Break(wrong) => Err(wrong),
        ControlFlow::Continue(()) => match rewriter.versions.first() {
            Some(version) => Err((
                "FOR SYSTEM_TIME AS OF stands behind the name on the right of a JOIN".to_owned(),
                TEMPORAL_USAGE,
                version.place,
            )),
            None => Ok(()),
        },
    }
}

struct Rewriter {
    versions: Vec<Version>,
}

impl VisitorMut for Rewriter {
    type Break = Wrong;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Wrong> {
        select.from.iter_mut().try_for_each(|from| self.joins(from))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Wrong> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => self.joins(table_with_joins),
            TableFactor::Table { version: Some(TableVersion::ForSystemTimeAsOf(_)), .. } => ControlFlow::Continue(()),
            TableFactor::Table { version: Some(_), name, .. } => {
                let message = "only FOR SYSTEM_TIME AS OF says which version is meant".to_owned();
                ControlFlow::Break((message, TEMPORAL_USAGE, start(name.span())))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Rewriter {
    fn joins(&mut self, from: &mut TableWithJoins) -> ControlFlow<Wrong> {
        from.joins.iter_mut().try_for_each(|join| self.join(join))
    }

    fn join(&mut self, join: &mut Join) -> ControlFlow<Wrong> {
        if let JoinOperator::AsOf { match_condition, constraint } = &join.join_operator {
            let (kind, left, right) = match comparison(match_condition) {
                ControlFlow::Continue(parts) => parts,
                ControlFlow::Break(wrong) => return ControlFlow::Break(wrong),
            };
            let marker = marker(kind, vec![left, right]);
            let constraint = self.with_marker(constraint.clone(), marker, "ASOF JOIN", AS_OF_USAGE, &join.relation)?;
            join.join_operator = JoinOperator::LeftOuter(constraint);
            return ControlFlow::Continue(());
        }
        let Some(version) = self.version_of(&join.relation) else { return ControlFlow::Continue(()) };
        let marker = marker(VERSION, vec![version.time]);
        let what = "a join FOR SYSTEM_TIME AS OF";
        match &mut join.join_operator {
            JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint) => {
                *constraint = self.with_marker(constraint.clone(), marker, what, TEMPORAL_USAGE, &join.relation)?;
                ControlFlow::Continue(())
            }
            _ => {
                let message = "FOR SYSTEM_TIME AS OF goes with JOIN and LEFT JOIN only".to_owned();
                ControlFlow::Break((message, TEMPORAL_USAGE, version.place))
            }
        }
    }

    /// The version that was lifted out behind `factor`.
    fn version_of(&mut self, factor: &TableFactor) -> Option<Version> {
        let (name, alias) = match factor {
            TableFactor::Table { name, alias, .. } => (Some(name), alias.as_ref()),
            TableFactor::Derived { alias, .. } => (None, alias.as_ref()),
            _ => return None,
        };
        let ends = [name.map(|name| name.span().end), alias.map(|alias| alias.name.span.end)];
        let found = self.versions.iter().position(|version| ends.contains(&Some(version.after)))?;
        Some(self.versions.remove(found))
    }

    fn with_marker(
        &self,
        constraint: JoinConstraint,
        marker: Expr,
        what: &str,
        usage: &'static str,
        factor: &TableFactor,
    ) -> ControlFlow<Wrong, JoinConstraint> {
        let condition = match constraint {
            JoinConstraint::On(condition) => Expr::BinaryOp {
                left: Box::new(Expr::Nested(Box::new(condition))),
                op: BinaryOperator::And,
                right: Box::new(marker),
            },
            JoinConstraint::None => marker,
            JoinConstraint::Using(_) | JoinConstraint::Natural => {
                return ControlFlow::Break((format!("{what} takes its keys in ON"), usage, start(factor.span())));
            }
        };
        ControlFlow::Continue(JoinConstraint::On(condition))
    }
}

fn start(span: Span) -> (u64, u64) {
    (span.start.line, span.start.column)
}

/// `left >= right` in its parts.
fn comparison(condition: &Expr) -> ControlFlow<Wrong, (&'static str, Expr, Expr)> {
    let inner = match condition {
        Expr::Nested(inner) => inner,
        other => other,
    };
    let Expr::BinaryOp { left, op, right } = inner else {
        return ControlFlow::Break((
            "MATCH_CONDITION compares the event times of both sides".to_owned(),
            AS_OF_USAGE,
            start(condition.span()),
        ));
    };
    let kind = match op {
        BinaryOperator::GtEq => ">=",
        BinaryOperator::Gt => ">",
        BinaryOperator::LtEq => "<=",
        BinaryOperator::Lt => "<",
        other => {
            let message = format!("MATCH_CONDITION compares by >= or >, not by {other}");
            return ControlFlow::Break((message, AS_OF_USAGE, start(condition.span())));
        }
    };
    ControlFlow::Continue((kind, left.as_ref().clone(), right.as_ref().clone()))
}

/// `__as_of('kind', times…)`.
fn marker(kind: &str, times: Vec<Expr>) -> Expr {
    let kind = Expr::Value(Value::SingleQuotedString(kind.to_owned()).with_empty_span());
    let args = std::iter::once(kind).chain(times);
    let args = args.map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(MARKER))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// The arguments of the marker, if `expression` is it.
pub(crate) fn as_marker(expression: &LogicalExpr) -> Option<&[LogicalExpr]> {
    match expression {
        LogicalExpr::ScalarFunction(call) if call.func.name() == MARKER => Some(&call.args),
        _ => None,
    }
}

/// The marker as a function, so that the planner knows it.
pub(crate) fn function() -> ScalarUDF {
    ScalarUDF::new_from_impl(Marker { signature: Signature::variadic_any(Volatility::Volatile) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker {
    signature: Signature,
}

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &str {
        MARKER
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("the marker of a join as of a time was left in a plan that is to be run")
    }
}
