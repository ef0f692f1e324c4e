//! Takes what is unknown out of a query, so that DataFusion, which stops at the first mistake, can look at the rest.
//!
//! A mended query is only looked at for further names that are not known; it is never run.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Select, SelectItem, Spanned, Statement, Value, Visit, VisitMut, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::sql::survey::normalised;

/// A name of a query that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// A column, by the place where it is named: line and column from 1.
    Column((u64, u64)),
    /// A column wherever it is named with these parts.
    Columns(Vec<String>),
    /// A function, by its name in lower case.
    Function(String),
}

/// Puts NULL in the place of what is unknown. Returns the places where it stood, from 1.
pub(crate) fn mend(statement: &mut Statement, unknown: &Unknown) -> Vec<(u64, u64)> {
    let mut mender = Mender { unknown, places: Vec::new() };
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = VisitMut::visit(statement, &mut mender);
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
            (Unknown::Columns(parts), Expr::Identifier(ident)) => {
                (parts[..] == [normalised(ident)]).then(|| start(ident.span))
            }
            (Unknown::Columns(parts), Expr::CompoundIdentifier(idents)) => {
                let named = idents.iter().map(normalised).eq(parts.iter().cloned());
                idents.first().filter(|_| named).map(|ident| start(ident.span))
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

/// The query with its `index`-th expression that is more than a name or a value gone, and where that stood. Trying them
/// all tells which one an error without a place is about.
pub(crate) fn without(statement: &Statement, index: usize) -> Option<(Statement, (u64, u64))> {
    let mut cutter = Cutter { left: index, place: None };
    let mut statement = statement.clone();
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = VisitMut::visit(&mut statement, &mut cutter);
    Some((statement, cutter.place?))
}

struct Cutter {
    left: usize,
    place: Option<(u64, u64)>,
}

impl VisitorMut for Cutter {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        let leaf = matches!(expression, Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_));
        if leaf || self.place.is_some() {
            return ControlFlow::Continue(());
        }
        if self.left > 0 {
            self.left -= 1;
            return ControlFlow::Continue(());
        }
        let start = expression.span().start;
        self.place = Some((start.line, start.column));
        *expression = null();
        ControlFlow::Break(())
    }
}

/// The place that `find` gives for the first SELECT that has it.
pub(crate) fn clause(statement: &Statement, find: impl Fn(&Select) -> Option<Span>) -> Option<(u64, u64)> {
    struct Finder<F>(F);
    impl<F: Fn(&Select) -> Option<Span>> Visitor for Finder<F> {
        type Break = Span;

        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Span> {
            match self.0(select).filter(|span| span.start.line > 0) {
                Some(span) => ControlFlow::Break(span),
                None => ControlFlow::Continue(()),
            }
        }
    }
    match Visit::visit(statement, &mut Finder(find)) {
        ControlFlow::Break(span) => Some((span.start.line, span.start.column)),
        ControlFlow::Continue(()) => None,
    }
}
