//! `QUALIFY f(x) OVER w`: DataFusion resolves names of WINDOW in SELECT only, so QUALIFY is given what they stand for.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, NamedWindowDefinition, NamedWindowExpr, Select, Statement, VisitMut, VisitorMut, WindowType,
};

use crate::sql::survey::normalised;

/// Puts into every QUALIFY of `statement` what the names of windows in it stand for.
pub(crate) fn resolve(statement: &mut Statement) {
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = VisitMut::visit(statement, &mut Selects);
}

struct Selects;

impl VisitorMut for Selects {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        match &mut select.qualify {
            Some(qualify) => VisitMut::visit(qualify, &mut Names(&select.named_window)),
            None => ControlFlow::Continue(()),
        }
    }
}

struct Names<'a>(&'a [NamedWindowDefinition]);

impl VisitorMut for Names<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expression
            && let Some(WindowType::NamedWindow(name)) = &function.over
            && let Some(NamedWindowDefinition(_, NamedWindowExpr::WindowSpec(window))) =
                self.0.iter().find(|definition| normalised(&definition.0) == normalised(name))
        {
            function.over = Some(WindowType::WindowSpec(window.clone()));
        }
        ControlFlow::Continue(())
    }
}
