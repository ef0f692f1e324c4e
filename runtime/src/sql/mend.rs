//! Takes what is unknown out of a query, so that DataFusion, which stops at the first mistake, can look at the rest.
//!
//! A mended query is only looked at for further names that are not known; it is never run.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Select, SelectItem, Spanned, Statement, Value, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::Span;

/// A name of a query that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// A column, by the place where it is named: line and column from 1.
    Column((u64, u64)),
    /// A function, by its name in lower case.
    Function(String),
}

/// Puts NULL in the place of what is unknown. Returns the places where it stood, from 1.
pub(crate) fn mend(statement: &mut Statement, unknown: &Unknown) -> Vec<(u64, u64)> {
    let mut mender = Mender { unknown, places: Vec::new() };
    let _: ControlFlow<()> = statement.visit(&mut mender);
    mender.places.sort_unstable();
    mender.places.dedup();
    mender.places
}

struct Mender<'a> {
    unknown: &'a Unknown,
    places: Vec<(u64, u64)>,
}

impl Mender<'_> {
    /// The place of `expression`, where it is the one.
    fn matches(&self, expression: &Expr) -> Option<(u64, u64)> {
        let start = |span: Span| (span.start.line, span.start.column);
        match (self.unknown, expression) {
            (Unknown::Column(place), Expr::Identifier(ident)) => (start(ident.span) == *place).then_some(*place),
            (Unknown::Column(place), Expr::CompoundIdentifier(idents)) => {
                idents.iter().any(|ident| start(ident.span) == *place).then_some(*place)
            }
            (Unknown::Function(name), Expr::Function(function)) => {
                (function.name.to_string().to_lowercase() == *name).then(|| start(function.name.span()))
            }
            _ => None,
        }
    }
}

impl VisitorMut for Mender<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        // Keeps the column's name, by which others may know it.
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expression) = item
                && let Some(place) = self.matches(expression)
            {
                self.places.push(place);
                let alias = match &expression {
                    Expr::Identifier(ident) => ident.clone(),
                    Expr::CompoundIdentifier(idents) => idents.last().cloned().unwrap_or_else(|| Ident::new("c")),
                    other => Ident::with_quote('"', other.to_string()),
                };
                *item = SelectItem::ExprWithAlias { expr: null(), alias };
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        if let Some(place) = self.matches(expression) {
            self.places.push(place);
            *expression = null();
        }
        ControlFlow::Continue(())
    }
}

fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}
