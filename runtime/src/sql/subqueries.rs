//! `IN (SELECT …)` and `EXISTS` over a windowed stream: where a subquery is tied to the row's window, it is a join of
//! windows, and becomes one. Every other subquery over a stream is refused in [`crate::sql::lower`].

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::OptimizerRule;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;

use crate::sql::lower::joins_streams;
use crate::sql::lower::refuse_stream_subqueries;
use crate::sql::window_join::joins_windows;

/// What DataFusion names the subqueries that become joins, before a number.
const ALIAS: &str = "__correlated_sq_";

/// `plan`, with joins in place of the subqueries over streams in its conditions, as far as they are within windows.
pub(crate) fn joined(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    let joined = plan.transform_up(|node| {
        if !matches!(node, LogicalPlan::Filter(_)) || refuse_stream_subqueries(&node).is_ok() {
            return Ok(Transformed::no(node));
        }
        let rewritten = DecorrelatePredicateSubquery::new().rewrite(node.clone(), state)?;
        let done = rewritten.transformed && are_within_windows(&rewritten.data)?;
        Ok(if done { rewritten } else { Transformed::no(node) })
    })?;
    Ok(joined.data)
}

/// True where no subquery over a stream is left in `plan`, and those that are joins now are joins of windows.
fn are_within_windows(plan: &LogicalPlan) -> Result<bool> {
    let mut all = true;
    plan.apply(|node| {
        all &= refuse_stream_subqueries(node).is_ok();
        if let LogicalPlan::Join(join) = node
            && matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark)
            && joins_streams(join)?
        {
            all &= joins_windows(join)?;
        }
        Ok(if all { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(all)
}

/// `text` of a plan without the names of subqueries, which nobody wrote and which depend on what else was planned.
pub(crate) fn without_names(text: &str) -> String {
    let mut parts = text.split(ALIAS);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + "subquery" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_plan_reads_the_same_whatever_number_its_subquery_has() {
        let text = |number: u32| format!("a = __correlated_sq_{number}.b AND __correlated_sq_{number}.c5");
        assert_eq!(super::without_names(&text(1)), super::without_names(&text(27)));
        assert_eq!(super::without_names(&text(3)), "a = subquery.b AND subquery.c5");
        assert_eq!(super::without_names("x"), "x");
    }
}
