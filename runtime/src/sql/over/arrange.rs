//! Puts OVER windows in an order in which they can run, and leaves out columns that nothing above them reads.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection, Window};

use crate::sql::EVENT_TIME;
use crate::sql::lower::reads_stream;
use crate::sql::over::{by_window, frame, function};
use crate::sql::refuse::{OverRefusal, Refusal};

/// `plan`, with each OVER window over a stream of one PARTITION BY and ORDER BY, those that wait for following rows last.
pub(crate) fn arrange(plan: LogicalPlan) -> Result<LogicalPlan> {
    let narrowed = plan.transform_down(|node| match node {
        LogicalPlan::Projection(projection) => narrow(projection),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(narrowed.data.transform_down(stack)?.data)
}

/// A projection over OVER windows whose input has columns that nothing reads: those are left out.
fn narrow(projection: Projection) -> Result<Transformed<LogicalPlan>> {
    let mut read: HashSet<Column> = HashSet::new();
    projection.expr.iter().for_each(|expression| read.extend(expression.column_refs().into_iter().cloned()));
    let (mut node, mut above) = (projection.input.clone(), Vec::new());
    let mut windows = 0;
    loop {
        let next = match node.as_ref() {
            LogicalPlan::Filter(filter) => {
                read.extend(filter.predicate.column_refs().into_iter().cloned());
                filter.input.clone()
            }
            LogicalPlan::Window(window) => {
                windows += 1;
                for expression in &window.window_expr {
                    read.extend(expression.column_refs().into_iter().cloned());
                }
                window.input.clone()
            }
            _ => break,
        };
        above.push(node);
        node = next;
    }
    let read: HashSet<usize> = read.iter().filter_map(|column| node.schema().maybe_index_of_column(column)).collect();
    // What the event time is must be known also where the query does not go by it.
    let is_time = |field: &Field| field.metadata().contains_key(EVENT_TIME);
    let columns = node.schema().iter().enumerate();
    let columns = columns.filter(|(index, (_, field))| read.contains(index) || is_time(field));
    let columns = columns.map(|(_, (qualifier, field))| Column::new(qualifier.cloned(), field.name().clone()));
    let kept: Vec<Expr> = columns.map(Expr::Column).collect();
    let whole = LogicalPlan::Projection(projection.clone());
    if windows == 0 || kept.is_empty() || kept.len() == node.schema().fields().len() || !reads_stream(&node)? {
        return Ok(Transformed::no(whole));
    }
    let mut plan = LogicalPlanBuilder::from(node.as_ref().clone()).project(kept)?.build()?;
    for node in above.into_iter().rev() {
        plan = match node.as_ref() {
            LogicalPlan::Filter(filter) => {
                LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(plan))?)
            }
            LogicalPlan::Window(window) => {
                LogicalPlan::Window(Window::try_new(window.window_expr.clone(), Arc::new(plan))?)
            }
            _ => plan,
        };
    }
    let schema = projection.schema.clone();
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new_with_schema(
        projection.expr,
        Arc::new(plan),
        schema,
    )?)))
}

/// Functions of one PARTITION BY and ORDER BY.
struct Group {
    partition_by: Vec<Expr>,
    order_by: Vec<Sort>,
    functions: Vec<Expr>,
    following: frame::Following,
}

/// OVER windows that stand right above each other.
fn stack(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Window(top) = &node else { return Ok(Transformed::no(node)) };
    if !reads_stream(&node)? {
        return Ok(Transformed::no(node));
    }
    let mut windows = vec![top];
    while let LogicalPlan::Window(below) = windows[windows.len() - 1].input.as_ref() {
        windows.push(below);
    }
    let base = windows[windows.len() - 1].input.clone();
    let mut groups: Vec<Group> = Vec::new();
    for window in windows.iter().rev() {
        for expression in &window.window_expr {
            let called = function(Some(expression))?;
            let (partition_by, order_by) = (&called.params.partition_by, &called.params.order_by);
            // Where all rows of a window come together, any of them may follow.
            let whole = by_window(expression, window);
            let following = if whole { frame::Following::None } else { frame::of_function(called, window)? };
            match groups.iter_mut().find(|g| g.partition_by == *partition_by && g.order_by == *order_by) {
                Some(group) => {
                    group.functions.push(expression.clone());
                    group.following = group.following.max(following);
                }
                None => groups.push(Group {
                    partition_by: partition_by.clone(),
                    order_by: order_by.clone(),
                    functions: vec![expression.clone()],
                    following,
                }),
            }
        }
    }
    groups.sort_by_key(|group| group.following);
    if let [.., Group { following: frame::Following::Rows, .. }, Group { following: frame::Following::Rows, .. }] =
        &groups[..]
    {
        return Err(Refusal::Over(OverRefusal::TwiceAhead).into());
    }
    let same = groups.len() == windows.len()
        && groups.iter().zip(windows.iter().rev()).all(|(group, window)| group.functions == window.window_expr);
    if same {
        return Ok(Transformed::no(node));
    }
    let mut plan = base.as_ref().clone();
    for group in groups {
        plan = LogicalPlan::Window(Window::try_new(group.functions, Arc::new(plan))?);
    }
    let columns = node.schema().iter();
    let columns = columns.map(|(qualifier, field)| Column::new(qualifier.cloned(), field.name().clone()));
    let ordered = LogicalPlanBuilder::from(plan).project(columns.map(Expr::Column).collect::<Vec<_>>())?.build()?;
    // What is below has been arranged: going further down would only find the same again.
    Ok(Transformed::yes(ordered))
}
