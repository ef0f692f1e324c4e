//! Resolves the expressions of MATCH_RECOGNIZE: what they say about rows of a match (`A.price`, `PREV(…)`, `avg(A.price)`,
//! `CLASSIFIER()`) becomes a column, and the rest is SQL over these columns.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, Result};
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query,
    Spanned, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::engine::operators::pattern::{From, Input, Variables};
use crate::sql::pattern_node::Resolved;
use crate::sql::pattern_plan::{Names, wrong};
use crate::sql::pattern_syntax::{FINAL, RUNNING};
use crate::sql::survey::normalised;

/// The furthest that PREV, NEXT, FIRST and LAST reach.
const OFFSET_MAX: u32 = 1000;

/// Resolves the expressions of one MATCH_RECOGNIZE.
pub(crate) struct Resolver<'a> {
    context: &'a mut dyn RelationPlannerContext,
    input: &'a DFSchemaRef,
    names: &'a Names,
    columns: Vec<Expr>,
    calls: Vec<Expr>,
}

impl<'a> Resolver<'a> {
    /// Over rows of `input`.
    pub(crate) fn new(context: &'a mut dyn RelationPlannerContext, input: &'a DFSchemaRef, names: &'a Names) -> Self {
        Self { context, input, names, columns: vec![], calls: vec![] }
    }

    /// What is computed of each row, and the aggregates.
    pub(crate) fn finish(self) -> (Vec<Expr>, Vec<Expr>) {
        (self.columns, self.calls)
    }

    /// The condition of the variable with this number.
    pub(crate) fn condition(&mut self, variable: u8, expression: SqlExpr) -> Result<Resolved> {
        let span = expression.span();
        let resolved = self.resolve(expression, Some(variable))?;
        match resolved.data_type {
            DataType::Boolean | DataType::Null => Ok(resolved),
            _ => {
                let message = format!("the definition of `{}` is no condition", self.names.shown(variable.into()));
                Err(wrong(message, "compare: A AS A.price > 10", span))
            }
        }
    }

    /// A measure.
    pub(crate) fn measure(&mut self, expression: SqlExpr) -> Result<Resolved> {
        self.resolve(expression, None)
    }

    fn resolve(&mut self, mut expression: SqlExpr, variable: Option<u8>) -> Result<Resolved> {
        let mut rewriter = Rewriter { resolver: self, variable, inputs: vec![], fields: vec![] };
        if let ControlFlow::Break(error) = VisitMut::visit(&mut expression, &mut rewriter) {
            return Err(error);
        }
        let (inputs, fields) = (rewriter.inputs, rewriter.fields);
        let schema = DFSchema::from_unqualified_fields(fields.into(), HashMap::new())?;
        let expression = self.context.sql_to_expr(expression, &schema)?;
        let expression = coerced(expression, &schema)?;
        let data_type = expression.get_type(&schema)?;
        Ok(Resolved { inputs, schema, expression, data_type })
    }

    /// The number and type of the column that is `expression` of a row.
    fn column(&mut self, expression: SqlExpr) -> Result<(usize, DataType)> {
        let expression = self.context.sql_to_expr(expression, self.input)?;
        let expression = coerced(expression, self.input)?;
        let data_type = expression.get_type(self.input)?;
        let known = self.columns.iter().position(|column| *column == expression);
        let number = known.unwrap_or_else(|| {
            self.columns.push(expression);
            self.columns.len() - 1
        });
        Ok((number, data_type))
    }

    /// `expression` without the variable that its columns are of, and that variable.
    fn strip(&self, expression: &mut SqlExpr) -> Result<Option<Variables>> {
        let mut stripper = Stripper { names: self.names, input: self.input, of: vec![] };
        if let ControlFlow::Break(error) = VisitMut::visit(expression, &mut stripper) {
            return Err(error);
        }
        let first = stripper.of.first().map(|(of, _)| *of);
        match (first, stripper.of.iter().find(|(of, _)| Some(*of) != first)) {
            (_, Some((_, span))) => {
                let message = "the columns here are of different variables, so they are of different rows";
                Err(wrong(message, "give each its own: LAST(A.price) - LAST(B.price)", *span))
            }
            (first, None) => Ok(first.flatten()),
        }
    }
}

/// `expression` with its types made to fit.
fn coerced(expression: Expr, schema: &DFSchema) -> Result<Expr> {
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    ExprSimplifier::new(context).coerce(expression, schema)
}

/// Puts columns in the place of what is said about rows of the match.
struct Rewriter<'a, 'b> {
    resolver: &'a mut Resolver<'b>,
    /// The variable whose condition this is; `None`: a measure.
    variable: Option<u8>,
    inputs: Vec<Input>,
    fields: Vec<FieldRef>,
}

impl VisitorMut for Rewriter<'_, '_> {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        let message = "MATCH_RECOGNIZE takes no subqueries";
        ControlFlow::Break(wrong(message, "join with a table in a step before or after", query.span()))
    }

    fn pre_visit_expr(&mut self, expression: &mut SqlExpr) -> ControlFlow<DataFusionError> {
        join_names(expression);
        match self.replacement(expression) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(replacement)) => {
                *expression = replacement;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Rewriter<'_, '_> {
    fn replacement(&mut self, expression: &SqlExpr) -> Result<Option<SqlExpr>> {
        match expression {
            SqlExpr::Identifier(_) | SqlExpr::CompoundIdentifier(_) => {
                let (input, data_type) = self.value(expression.clone(), From::Last(0), 0, false)?;
                Ok(Some(self.put(input, data_type, expression)))
            }
            SqlExpr::Function(function) => self.function(function, expression),
            _ => Ok(None),
        }
    }

    /// A column in the place of `shown`.
    fn put(&mut self, input: Input, data_type: DataType, shown: &SqlExpr) -> SqlExpr {
        let number = self.inputs.iter().position(|known| *known == input).unwrap_or_else(|| {
            let mut name = shown.to_string().replace(['\u{1}', '"'], "");
            while self.fields.iter().any(|field| *field.name() == name) {
                name.push('\'');
            }
            self.inputs.push(input);
            self.fields.push(Arc::new(Field::new(name, data_type, true)));
            self.inputs.len() - 1
        });
        let mut name = Ident::with_quote('"', self.fields[number].name().as_str());
        name.span = shown.span();
        SqlExpr::Identifier(name)
    }

    fn value(&mut self, mut argument: SqlExpr, from: From, offset: i64, whole: bool) -> Result<(Input, DataType)> {
        let of = self.resolver.strip(&mut argument)?;
        let (column, data_type) = self.resolver.column(argument)?;
        Ok((Input::Value { column, of, from, offset, whole }, data_type))
    }

    /// A column in the place of a call, where it is about rows of the match.
    fn function(&mut self, function: &Function, shown: &SqlExpr) -> Result<Option<SqlExpr>> {
        let span = function.name.span();
        let [part] = &function.name.0[..] else { return Ok(None) };
        let Some(ident) = part.as_ident() else { return Ok(None) };
        let (name, whole, marked) = marks(&ident.value);
        if whole && self.variable.is_some() {
            let message = "a condition cannot know the whole match: FINAL is for MEASURES";
            return Err(wrong(message, "leave FINAL out", span));
        }
        let resolved = match name.as_str() {
            "prev" | "next" | "first" | "last" => {
                let mut walk = Walk { from: From::Last(0), offset: 0 };
                let argument = walk.take(function, &name)?;
                self.value(argument, walk.from, walk.offset, whole)?
            }
            "classifier" => match self.variable {
                Some(variable) => {
                    let name = self.resolver.names.shown(variable.into()).to_owned();
                    return Ok(Some(SqlExpr::Value(Value::SingleQuotedString(name).with_span(span))));
                }
                None => (Input::Classifier { whole }, DataType::Utf8),
            },
            "match_number" if self.variable.is_some() => {
                let message = "MATCH_NUMBER() is for MEASURES: in DEFINE there is no match yet";
                return Err(wrong(message, "leave it out", span));
            }
            "match_number" => (Input::MatchNumber, DataType::Int64),
            other if self.resolver.context.context_provider().get_aggregate_meta(other).is_some() => {
                self.aggregate(function, other, whole)?
            }
            "lag" | "lead" if function.over.is_none() => {
                let instead = if name == "lag" { "PREV" } else { "NEXT" };
                let message = format!("MATCH_RECOGNIZE has no {}", name.to_uppercase());
                return Err(wrong(message, format!("use {instead}(…)"), span));
            }
            other if marked => {
                let message = format!("{} is no function over the rows of a match", other.to_uppercase());
                return Err(wrong(message, "FINAL and RUNNING stand before FIRST, LAST and aggregates", span));
            }
            _ => return Ok(None),
        };
        let (input, data_type) = resolved;
        Ok(Some(self.put(input, data_type, shown)))
    }

    fn aggregate(&mut self, function: &Function, name: &str, whole: bool) -> Result<(Input, DataType)> {
        let span = function.name.span();
        let extra = function.filter.is_some() || function.over.is_some() || !function.within_group.is_empty();
        let mut function = function.clone();
        function.name = ObjectName::from(vec![Ident { span, ..Ident::new(name) }]);
        let FunctionArguments::List(list) = &mut function.args else {
            return Err(wrong(format!("{name} needs arguments"), format!("write {name}(A.column)"), span));
        };
        if extra || !list.clauses.is_empty() {
            let message = "in MATCH_RECOGNIZE, aggregates have no FILTER, ORDER BY or OVER";
            return Err(wrong(message, "use CASE WHEN … THEN … END within the aggregate", span));
        }
        let mut all = None;
        for argument in &mut list.args {
            let FunctionArg::Unnamed(argument) = argument else { continue };
            let rows = match argument {
                FunctionArgExpr::QualifiedWildcard(of) => {
                    let of = of.0.first().and_then(|part| part.as_ident());
                    let known = of.and_then(|of| self.resolver.names.get(of));
                    Some(known.ok_or_else(|| wrong("this is no variable of the pattern", "write count(A.*)", span))?)
                }
                FunctionArgExpr::Wildcard => None,
                _ => continue,
            };
            *argument = FunctionArgExpr::Expr(SqlExpr::Value(Value::Number("1".into(), false).with_span(span)));
            all = Some(rows);
        }
        let mut expression = SqlExpr::Function(function);
        let stripped = self.resolver.strip(&mut expression)?;
        let of = all.unwrap_or(stripped);
        let call = self.resolver.context.sql_to_expr(expression, self.resolver.input)?;
        let refused = |_| {
            let message = format!("{name} cannot take a value of this type");
            wrong(message, "use CAST, or another aggregate", span)
        };
        let call = coerced(call, self.resolver.input).map_err(refused)?;
        let Expr::AggregateFunction(_) = &call else {
            return Err(wrong(format!("{name} cannot be used here"), "use another aggregate", span));
        };
        let data_type = call.get_type(self.resolver.input).map_err(refused)?;
        let calls = &mut self.resolver.calls;
        let number = calls.iter().position(|known| *known == call).unwrap_or_else(|| {
            calls.push(call);
            calls.len() - 1
        });
        Ok((Input::Aggregate { call: number, of, whole }, data_type))
    }
}

/// The name of a function without FINAL or RUNNING; whether it is about the whole match; whether one of them was there.
fn marks(name: &str) -> (String, bool, bool) {
    let (rest, whole, marked) = match (name.strip_prefix(FINAL), name.strip_prefix(RUNNING)) {
        (Some(rest), _) => (rest, true, true),
        (None, Some(rest)) => (rest, false, true),
        (None, None) => (name, false, false),
    };
    (rest.to_lowercase(), whole, marked)
}

/// From a row of the match to another row: FIRST or LAST, then PREV or NEXT around it.
struct Walk {
    from: From,
    offset: i64,
}

impl Walk {
    /// Takes in the call of `function`; what is left is what is computed of the row.
    fn take(&mut self, function: &Function, name: &str) -> Result<SqlExpr> {
        let (argument, offset) = arguments(function, name)?;
        match name {
            "first" => self.from = From::First(offset.unwrap_or(0)),
            "last" => self.from = From::Last(offset.unwrap_or(0)),
            "prev" => self.offset = -i64::from(offset.unwrap_or(1)),
            _ => self.offset = i64::from(offset.unwrap_or(1)),
        }
        if let ("prev" | "next", SqlExpr::Function(inner)) = (name, &argument)
            && let Some(ident) = inner.name.0.first().and_then(|part| part.as_ident())
        {
            let (inner_name, whole, _) = marks(&ident.value);
            if matches!(inner_name.as_str(), "first" | "last") {
                if whole {
                    let hint = format!("write FINAL {name}({inner_name}(…))");
                    return Err(wrong("FINAL stands before the outer function", hint, ident.span));
                }
                return self.take(inner, &inner_name);
            }
        }
        Ok(argument)
    }
}

/// The argument of a function that leads to a row, and its number of rows.
fn arguments(function: &Function, name: &str) -> Result<(SqlExpr, Option<u32>)> {
    let span = function.name.span();
    let usage = || {
        let shown = name.to_uppercase();
        wrong(format!("{shown} takes a column and a number"), format!("write {shown}(A.price, 2)"), span)
    };
    let FunctionArguments::List(list) = &function.args else { return Err(usage()) };
    let expressions = list.args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Ok(expression),
        _ => Err(usage()),
    });
    let expressions = expressions.collect::<Result<Vec<_>>>()?;
    let (argument, offset) = match expressions[..] {
        [argument] => return Ok((argument.clone(), None)),
        [argument, SqlExpr::Value(value)] => (argument, value),
        _ => return Err(usage()),
    };
    let number = match &offset.value {
        Value::Number(text, _) => text.parse::<u32>().ok(),
        _ => None,
    };
    match number {
        Some(number) if number <= OFFSET_MAX => Ok((argument.clone(), Some(number))),
        Some(_) => {
            let message = format!("{} reaches at most {OFFSET_MAX} rows", name.to_uppercase());
            Err(wrong(message, "write a smaller number", offset.span))
        }
        None => Err(usage()),
    }
}

/// `A.tags[1]` names a column by `A.tags`.
fn join_names(expression: &mut SqlExpr) {
    let SqlExpr::CompoundFieldAccess { root, access_chain } = expression else { return };
    let (SqlExpr::Identifier(first), Some(AccessExpr::Dot(SqlExpr::Identifier(second)))) =
        (root.as_ref(), access_chain.first())
    else {
        return;
    };
    **root = SqlExpr::CompoundIdentifier(vec![first.clone(), second.clone()]);
    access_chain.remove(0);
}

/// Takes the variables off the columns.
struct Stripper<'a> {
    names: &'a Names,
    input: &'a DFSchemaRef,
    /// By column: of which variables, and where.
    of: Vec<(Option<Variables>, Span)>,
}

impl Stripper<'_> {
    /// True where `name`, which has a dot behind it, is neither a variable nor of the input.
    fn is_unknown(&self, name: &Ident) -> bool {
        let normal = normalised(name);
        let of_input = self.input.iter().any(|(qualifier, field)| {
            *field.name() == normal || qualifier.is_some_and(|qualifier| qualifier.table() == normal)
        });
        !of_input && self.names.get(name).is_none()
    }
}

impl VisitorMut for Stripper<'_> {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        let message = "MATCH_RECOGNIZE takes no subqueries";
        ControlFlow::Break(wrong(message, "join with a table in a step before or after", query.span()))
    }

    fn pre_visit_expr(&mut self, expression: &mut SqlExpr) -> ControlFlow<DataFusionError> {
        join_names(expression);
        let span = expression.span();
        match expression {
            SqlExpr::Identifier(_) => self.of.push((None, span)),
            SqlExpr::CompoundIdentifier(names) if names.first().is_some_and(|name| self.is_unknown(name)) => {
                let message = format!("there is no variable `{}`", names[0].value);
                return ControlFlow::Break(wrong(message, self.names.hint(&names[0]), names[0].span));
            }
            SqlExpr::CompoundIdentifier(names) => match names.first().and_then(|name| self.names.get(name)) {
                Some(of) if names.len() > 1 => {
                    self.of.push((Some(of), span));
                    names.remove(0);
                    if let [name] = &names[..] {
                        *expression = SqlExpr::Identifier(name.clone());
                        return ControlFlow::Continue(());
                    }
                }
                _ => self.of.push((None, span)),
            },
            SqlExpr::Function(function) => {
                let name = function.name.0.first().and_then(|part| part.as_ident());
                let name = name.map(|name| marks(&name.value).0).unwrap_or_default();
                if ["prev", "next", "first", "last", "classifier", "match_number"].contains(&name.as_str()) {
                    let message =
                        format!("{} cannot stand here, inside another function over rows", name.to_uppercase());
                    let hint = "PREV and NEXT may have FIRST or LAST inside them; nothing else nests";
                    return ControlFlow::Break(wrong(message, hint, span));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
