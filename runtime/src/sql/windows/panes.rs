//! Aggregates over HOP and CUMULATE, without a copy of each row per window.
//!
//! The time axis is cut into panes: all times of a pane are in the same windows. Rows are aggregated per pane, and the
//! panes' accumulators are merged when a window closes. That gives the same as aggregating the copies, as long as
//! nothing between looks at the window of a row.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ExprSchema, Result};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};

use crate::sql::lower::reads_stream;
use crate::sql::relation::{StreamRelation, as_stream, stream_of};
use crate::sql::windows::{WindowKind, bound};

/// The most panes of a hopping window: with more of them, merging would cost more than copying.
const PANES_MAX: i64 = 10_000;

/// The windows that `aggregate` merges from panes, and the same aggregate over rows with their panes; `None` where it
/// needs each row's windows.
pub(crate) fn pre_aggregated(aggregate: &Aggregate) -> Result<Option<(WindowKind, Aggregate)>> {
    let input = aggregate.input.schema();
    let groups = aggregate.group_expr.iter().filter(|group| !matches!((*group).clone().unalias(), Expr::Column(_)));
    for expression in groups.chain(&aggregate.aggr_expr) {
        if looks_at_bounds(expression, &[input])? {
            return Ok(None);
        }
    }
    let Some(kind) = windows_below(&aggregate.input)? else { return Ok(None) };
    let input = aggregate.input.as_ref().clone().transform_down(|node| {
        let Some((scan, provider)) = as_stream(&node) else { return Ok(Transformed::no(node)) };
        let Some(stream) = stream_of(&provider) else { return Ok(Transformed::no(node)) };
        let window = stream.window.clone().map(|window| crate::sql::windows::Window { panes: true, ..window });
        let stream = StreamRelation { node: stream.node, schema: stream.schema.clone(), window };
        let mut scan = scan.clone();
        scan.source = provider_as_source(Arc::new(stream));
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    })?;
    let mut aggregate = aggregate.clone();
    aggregate.input = Arc::new(input.data);
    Ok(Some((kind, aggregate)))
}

/// The only window function of `plan`, where it has panes and no expression looks at the bounds that it assigns.
fn windows_below(plan: &LogicalPlan) -> Result<Option<WindowKind>> {
    let (mut found, mut streams, mut plain) = (None, 0, true);
    plan.apply(|node| {
        if let Some((_, provider)) = as_stream(node) {
            streams += 1;
            found = stream_of(&provider).and_then(|stream| stream.window.clone()).map(|window| window.kind);
            return Ok(TreeNodeRecursion::Continue);
        }
        if !reads_stream(node)? {
            return Ok(TreeNodeRecursion::Jump);
        }
        let schemas: Vec<&DFSchema> = node.inputs().into_iter().map(|input| input.schema().as_ref()).collect();
        match node {
            LogicalPlan::Projection(projection) => {
                for expression in &projection.expr {
                    let passed = matches!(expression.clone().unalias(), Expr::Column(_));
                    plain &= passed || !looks_at_bounds(expression, &schemas)?;
                }
            }
            LogicalPlan::Filter(_) | LogicalPlan::Join(_) | LogicalPlan::Unnest(_) => {
                node.apply_expressions(|expression| {
                    plain &= !looks_at_bounds(expression, &schemas)?;
                    Ok(TreeNodeRecursion::Continue)
                })?;
            }
            LogicalPlan::SubqueryAlias(_) => {}
            _ => plain = false,
        }
        Ok(if plain { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(found.filter(|kind| plain && streams == 1 && has_panes(kind)))
}

/// True where windows overlap and are quickly put together from panes.
fn has_panes(kind: &WindowKind) -> bool {
    match kind {
        WindowKind::Hop { slide_ns, size_ns, .. } => {
            slide_ns < size_ns && size_ns / greatest_divisor(*slide_ns, *size_ns) <= PANES_MAX
        }
        WindowKind::Cumulate { step_ns, max_ns, .. } => step_ns < max_ns,
        WindowKind::Tumble { .. } | WindowKind::Session { .. } => false,
    }
}

/// The greatest common divisor of two numbers above 0.
pub(crate) fn greatest_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_divisor(b, a % b) }
}

/// True where `expression`, over columns of `schemas`, reads a window's bound.
fn looks_at_bounds(expression: &Expr, schemas: &[&DFSchema]) -> Result<bool> {
    let is_bound = |field: &Field| bound(field).is_some();
    expression.exists(|part| {
        Ok(match part {
            Expr::Column(column) => {
                schemas.iter().any(|schema| schema.field_from_column(column).is_ok_and(|field| is_bound(field)))
            }
            // What a subquery reads of the row is not looked into.
            Expr::OuterReferenceColumn(field, _) => is_bound(field),
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => true,
            _ => false,
        })
    })
}
