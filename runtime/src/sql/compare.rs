//! Refuses comparisons of text with numbers: DataFusion would read the text of every row as a number, and fail at each
//! that is none.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

use crate::sql::refuse::Refusal;

/// Looks through all expressions of `plan`, whose types are not yet made to fit one another.
pub(crate) fn check(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        let mut schema = DFSchema::empty();
        node.inputs().iter().for_each(|input| schema.merge(input.schema()));
        if let LogicalPlan::Join(join) = node {
            join.on.iter().try_for_each(|(left, right)| pair(left, right, &schema))?;
        }
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                match part {
                    Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
                        pair(left, right, &schema)?;
                    }
                    Expr::InList(list) => list.list.iter().try_for_each(|item| pair(&list.expr, item, &schema))?,
                    Expr::Between(between) => {
                        pair(&between.expr, &between.low, &schema)?;
                        pair(&between.expr, &between.high, &schema)?;
                    }
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Refuses `one` and `other`, where one is text and the other a number. A text that is written there is read as a
/// number once, when the query is planned.
fn pair(one: &Expr, other: &Expr, schema: &DFSchema) -> Result<()> {
    let (Ok(first), Ok(second)) = (one.get_type(schema), other.get_type(schema)) else { return Ok(()) };
    let (text, number) = match (first, second) {
        (text, number) if text.is_string() && number.is_numeric() => (one, other),
        (number, text) if text.is_string() && number.is_numeric() => (other, one),
        _ => return Ok(()),
    };
    if matches!(text, Expr::Literal(..)) {
        return Ok(());
    }
    let name = |expression: &Expr| match expression {
        Expr::Column(column) => column.name.clone(),
        Expr::Literal(value, _) => value.to_string(),
        other => other.human_display().to_string(),
    };
    let literal = matches!(number, Expr::Literal(..));
    Err(Refusal::TextAndNumber { text: name(text), number: name(number), literal }.into())
}
