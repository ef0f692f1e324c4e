//! Moves conditions and the choice of columns below the nodes that keep rows, so that these keep no more than they need:
//! what [`crate::sql::join_prepare`] does not, which knows the four kinds of join that give rows of both sides.
//!
//! DataFusion's optimizer does the same, but only within a region: what is beyond a stateful node, it does not see.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, Result};
use datafusion::logical_expr::logical_plan::Projection;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Distinct, Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder};

use crate::sql::lower::joins_streams;
use crate::sql::marks::MARKS;

/// `plan`, in which joins of streams and OVER windows read fewer rows and columns. Its columns are the same.
pub(crate) fn push_down(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_down(|node| match node {
        LogicalPlan::Join(join) if joins_streams(&join)? => push_to_sides(join),
        other => Ok(Transformed::no(other)),
    })?;
    prune(plan.data, None)
}

/// True where it does not matter when `condition` is evaluated, and what it reads can be seen.
fn can_move(condition: &Expr) -> bool {
    !condition.is_volatile() && !has_subquery(condition)
}

fn has_subquery(expression: &Expr) -> bool {
    let is_one = |part: &Expr| {
        Ok(matches!(part, Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_)))
    };
    expression.exists(is_one).unwrap_or(true)
}

/// The conditions of `join` that are about one side only are put below it, where that side's rows do not come out, or
/// only with a match.
fn push_to_sides(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
    let (to_left, to_right) = match join.join_type {
        LeftSemi | RightSemi => (true, true),
        LeftAnti | LeftMark => (false, true),
        RightAnti | RightMark => (true, false),
        Inner | Left | Right | Full => return Ok(Transformed::no(LogicalPlan::Join(join))),
    };
    if join.null_aware || join.filter.is_none() {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    let (mut left, mut right, mut stays) = (Vec::new(), Vec::new(), Vec::new());
    for condition in join.filter.take().map(split_conjunction_owned).unwrap_or_default() {
        let columns = condition.column_refs();
        let only = |schema: &DFSchema| {
            !columns.is_empty() && columns.iter().all(|column| schema.has_column(column)) && can_move(&condition)
        };
        if to_left && only(join.left.schema()) {
            left.push(condition);
        } else if to_right && only(join.right.schema()) {
            right.push(condition);
        } else {
            stays.push(condition);
        }
    }
    let moved = !left.is_empty() || !right.is_empty();
    for (side, conditions) in [(&mut join.left, left), (&mut join.right, right)] {
        if let Some(predicate) = conjunction(conditions) {
            *side = Arc::new(LogicalPlan::Filter(Filter::try_new(predicate, side.clone())?));
        }
    }
    join.filter = conjunction(stays);
    Ok(Transformed::new(LogicalPlan::Join(join), moved, TreeNodeRecursion::Continue))
}

/// The columns of a plan that are read, by number; `None` where it may be all.
type Needed = Option<BTreeSet<usize>>;

/// `plan`, whose joins of streams and OVER windows are given only those columns of their inputs that are `needed` of it
/// or by themselves.
fn prune(plan: LogicalPlan, needed: Needed) -> Result<LogicalPlan> {
    let cuts = match &plan {
        LogicalPlan::Window(_) | LogicalPlan::Distinct(Distinct::On(_)) => true,
        LogicalPlan::Join(join) => joins_streams(join)?,
        _ => false,
    };
    let plan = without_unread(plan, needed.as_ref())?;
    let mut of_inputs = of_inputs(&plan, needed.as_ref());
    if let (LogicalPlan::Join(join), true) = (&plan, cuts) {
        of_inputs = with_namesakes(join, of_inputs);
    }
    let mut of_inputs = of_inputs.into_iter();
    let pruned = plan.map_children(|input| {
        let needed = of_inputs.next().flatten();
        let some = |columns: &&BTreeSet<usize>| !columns.is_empty() && columns.len() < input.schema().fields().len();
        let chosen = needed.as_ref().filter(some).filter(|_| cuts).map(|columns| {
            let column = |column: &usize| Expr::Column(Column::from(input.schema().qualified_field(*column)));
            columns.iter().map(column).collect::<Vec<_>>()
        });
        let input = prune(input, needed)?;
        Ok(Transformed::yes(match chosen {
            Some(columns) => LogicalPlanBuilder::from(input).project(columns)?.build()?,
            None => input,
        }))
    })?;
    // Its columns are those of its inputs, which may be fewer now.
    pruned.data.recompute_schema()
}

/// What is needed of a join's inputs, and of each the columns that are needed of the other under the same name: the late
/// rows of both may go to one sink, which takes rows of one shape.
fn with_namesakes(join: &Join, needed: Vec<Needed>) -> Vec<Needed> {
    let inputs = [&join.left, &join.right];
    let names_of = |(columns, input): (&Needed, &Arc<LogicalPlan>)| {
        let schema = input.schema().clone();
        columns.iter().flatten().map(|column| schema.field(*column).name().clone()).collect::<Vec<_>>()
    };
    let names: BTreeSet<String> = needed.iter().zip(inputs).flat_map(names_of).collect();
    let extended = needed.into_iter().zip(inputs).map(|(columns, input)| {
        let mut columns = columns?;
        let fields = input.schema().fields().iter().enumerate();
        columns.extend(fields.filter(|(_, field)| names.contains(field.name())).map(|(column, _)| column));
        Some(columns)
    });
    extended.collect()
}

/// `plan` without the expressions of a projection that nobody reads.
fn without_unread(plan: LogicalPlan, needed: Option<&BTreeSet<usize>>) -> Result<LogicalPlan> {
    match (plan, needed) {
        (LogicalPlan::Projection(projection), Some(needed)) if !needed.is_empty() => {
            let read = needed.iter().filter_map(|column| projection.expr.get(*column).cloned()).collect();
            Ok(LogicalPlan::Projection(Projection::try_new(read, projection.input)?))
        }
        (plan, _) => Ok(plan),
    }
}

/// By input of `plan`: the columns that are read of it, where of the plan those are that are `needed`.
fn of_inputs(plan: &LogicalPlan, needed: Option<&BTreeSet<usize>>) -> Vec<Needed> {
    let inputs = plan.inputs();
    let expressions = plan.expressions();
    // A subquery may read anything.
    if expressions.iter().any(has_subquery) {
        return vec![None; inputs.len()];
    }
    let read: Vec<&Column> = expressions.iter().flat_map(Expr::column_refs).collect();
    let of_input = |(number, input): (usize, &&LogicalPlan)| {
        let mut columns = passed_on(plan, number, input.schema().fields().len(), needed)?;
        columns.extend(read.iter().filter_map(|column| input.schema().maybe_index_of_column(column)));
        // What goes by windows and times may look for them without naming them.
        let marked =
            |column: &usize| MARKS.iter().any(|mark| input.schema().field(*column).metadata().contains_key(*mark));
        columns.extend((0..input.schema().fields().len()).filter(marked));
        Some(columns)
    };
    inputs.iter().enumerate().map(of_input).collect()
}

/// The columns of the input `number` of `plan`, which has `count` of them, that it passes on and that are `needed`.
fn passed_on(plan: &LogicalPlan, number: usize, count: usize, needed: Option<&BTreeSet<usize>>) -> Needed {
    use JoinType::{LeftAnti, LeftMark, LeftSemi, RightAnti, RightMark, RightSemi};
    let first = match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(Distinct::On(_)) => {
            return Some(BTreeSet::new());
        }
        LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Sort(_) | LogicalPlan::Window(_) => 0,
        LogicalPlan::Join(join) => match (join.join_type, number) {
            (LeftSemi | LeftAnti | LeftMark, 1) | (RightSemi | RightAnti | RightMark, 0) => {
                return Some(BTreeSet::new());
            }
            (RightSemi | RightAnti | RightMark, _) | (_, 0) => 0,
            _ => join.left.schema().fields().len(),
        },
        _ => return None,
    };
    Some(needed?.iter().filter_map(|column| column.checked_sub(first)).filter(|column| *column < count).collect())
}
