//! Lowers joins of two streams that are windowed alike: equal window bounds are among the conditions, so rows of one
//! window meet only rows of the same, and all kinds of join end with it.

use std::sync::Arc;

use datafusion::common::{JoinType, Result};
use datafusion::logical_expr::utils::{find_valid_equijoin_key_pair, split_conjunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Join, LogicalPlan, Operator};

use crate::plan::graph::NodeId;
use crate::sql::lower::Lowering;
use crate::sql::per_window::{Bound, PerWindowQuery, Side, bound_of, shardable};
use crate::sql::subqueries::without_names;
use crate::sql::wording::join_words;

/// A pair of equal expressions, of the left and of the right side.
type Pair = (Expr, Expr);

impl Lowering<'_> {
    /// Adds the nodes of `join` and returns the operator's, where it joins windows.
    pub(crate) fn window_join(&mut self, join: &Join) -> Result<Option<NodeId>> {
        let Some((left, right)) = sides(join)? else { return Ok(None) };
        let columns = |side: usize, plan: &LogicalPlan| -> Vec<_> {
            (0..plan.schema().fields().len()).map(|column| Some((side, column))).collect()
        };
        let (of_left, of_right) = (columns(0, &join.left), columns(1, &join.right));
        let nothing = |columns: Vec<_>| vec![None; columns.len()];
        // Columns that may be null because a row has no partner are no window bounds.
        let sources = match join.join_type {
            JoinType::Inner => [of_left, of_right].concat(),
            JoinType::Left => [of_left, nothing(of_right)].concat(),
            JoinType::Right => [nothing(of_left), of_right].concat(),
            JoinType::Full => [nothing(of_left), nothing(of_right)].concat(),
            JoinType::LeftSemi | JoinType::LeftAnti => of_left,
            JoinType::LeftMark => [of_left, vec![None]].concat(),
            JoinType::RightSemi | JoinType::RightAnti => of_right,
            JoinType::RightMark => [of_right, vec![None]].concat(),
        };
        let conditions: Vec<String> = join.on.iter().map(|(left, right)| format!("{left} = {right}")).collect();
        let conditions: Vec<String> = conditions.into_iter().chain(join.filter.iter().map(Expr::to_string)).collect();
        let query = PerWindowQuery {
            kind: "window-join",
            does: format!(
                "joins the rows of each window: {} on {}",
                join_words(join.join_type),
                without_names(&conditions.join(" AND "))
            ),
            sides: vec![left, right],
            sources,
            schema: join.schema.clone(),
        };
        let join = join.clone();
        let build = |mut inputs: Vec<LogicalPlan>| {
            let (right, left) = (inputs.pop(), inputs.pop());
            let (Some(left), Some(right)) = (left, right) else { return Ok(LogicalPlan::Join(join)) };
            LogicalPlan::Join(Join { left: Arc::new(left), right: Arc::new(right), ..join }).recompute_schema()
        };
        self.per_window(query, build).map(Some)
    }
}

/// True where `join` is one of windows.
pub(crate) fn joins_windows(join: &Join) -> Result<bool> {
    Ok(sides(join)?.is_some())
}

/// What the windows and the keys of both sides are; `None` where no window bounds have to be equal.
fn sides(join: &Join) -> Result<Option<(Side, Side)>> {
    // NOT IN goes by all rows of the other side, also those of other windows.
    if join.null_aware {
        return Ok(None);
    }
    let (left, right) = (join.left.schema(), join.right.schema());
    let mut windows: Vec<(Bound, Bound)> = Vec::new();
    let mut keys: Vec<Pair> = Vec::new();
    for (of_left, of_right) in pairs(join)? {
        let types = (of_left.get_type(left)?, of_right.get_type(right)?);
        if types.0 != types.1 {
            continue;
        }
        match (bound_of(&of_left, left), bound_of(&of_right, right)) {
            (Some(of_left), Some(of_right)) => windows.push((of_left, of_right)),
            _ if shardable(&types.0) && !of_left.is_volatile() && !of_right.is_volatile() => {
                keys.push((of_left, of_right));
            }
            _ => {}
        }
    }
    // Ends are known to be complete with the watermark; starts only where it is known how long windows are.
    let closing = |(left, right): &(Bound, Bound)| Some(left.lag?.max(right.lag?));
    let Some(closes) = windows.iter().filter(|pair| closing(pair).is_some()).min_by_key(|pair| closing(pair)) else {
        return Ok(None);
    };
    let same_type = |(of_left, _): &&(Bound, Bound)| of_left.data_type == closes.0.data_type;
    let other = windows.iter().filter(|pair| *pair != closes).find(same_type);
    let (of_left, of_right): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
    let side = |plan: &Arc<LogicalPlan>, closes: &Bound, other: Option<&Bound>, keys| Side {
        plan: plan.as_ref().clone(),
        closes: closes.clone(),
        other: other.cloned(),
        keys,
    };
    Ok(Some((
        side(&join.left, &closes.0, other.map(|other| &other.0), of_left),
        side(&join.right, &closes.1, other.map(|other| &other.1), of_right),
    )))
}

/// Everything that the join demands to be equal.
fn pairs(join: &Join) -> Result<Vec<Pair>> {
    let mut pairs = join.on.clone();
    for condition in join.filter.iter().flat_map(split_conjunction) {
        if let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = condition {
            let pair = find_valid_equijoin_key_pair(left, right, join.left.schema(), join.right.schema())?;
            pairs.extend(pair);
        }
    }
    Ok(pairs)
}
