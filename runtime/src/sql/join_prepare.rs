//! Readies an analysed plan for the lowering of joins of two streams: conditions move to where they bound or filter the
//! join's inputs, and the inputs keep only the columns that the query uses, because they are kept as state.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, Result};
use datafusion::logical_expr::logical_plan::{Filter, Projection};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Join, LogicalPlan};

use crate::sql::as_of::{self, as_marker};
use crate::sql::join::refusal_with;
use crate::sql::lower::{joins_streams, reads_stream};
use crate::sql::{EVENT_TIME, WINDOW_BOUND};

/// `plan` with its joins of two streams made ready. Where it has none, it stays as it is.
pub(crate) fn prepare(plan: LogicalPlan) -> Result<LogicalPlan> {
    let used = columns_named(&plan)?;
    let prepared = plan.transform_down(|node| {
        let (join, above) = match node {
            LogicalPlan::Filter(filter) => match filter.input.as_ref() {
                LogicalPlan::Join(join) if joins_streams(join)? => (join.clone(), Some(filter.predicate)),
                _ => return Ok(Transformed::no(LogicalPlan::Filter(filter))),
            },
            LogicalPlan::Join(join) if joins_streams(&join)? => (join, None),
            LogicalPlan::Join(join) => return without_marker(join),
            other => return Ok(Transformed::no(other)),
        };
        let mut parts = Parts::new(join);
        let rest = parts.take(above.map(split_conjunction_owned).unwrap_or_default());
        let join = LogicalPlan::Join(parts.build(used.as_ref())?);
        Ok(Transformed::yes(match conjunction(rest) {
            // The walk comes to the join below it once more, and finds nothing left to move.
            Some(rest) => LogicalPlan::Filter(Filter::try_new(rest, Arc::new(join))?),
            None => join,
        }))
    })?;
    Ok(prepared.data)
}

/// The names of all columns that any expression of `plan` names; `None` where some node reads columns without a name.
fn columns_named(plan: &LogicalPlan) -> Result<Option<BTreeSet<String>>> {
    let (mut names, mut known) = (BTreeSet::new(), true);
    plan.apply_with_subqueries(|node| {
        known &= !matches!(node, LogicalPlan::Extension(_));
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                if let Expr::Column(column) | Expr::OuterReferenceColumn(_, column) = part {
                    names.insert(column.name.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(known.then_some(names))
}

/// A join with a table as of a time: the table as it is now.
fn without_marker(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let conditions = join.filter.take().map(split_conjunction_owned).unwrap_or_default();
    let (markers, rest): (Vec<_>, Vec<_>) = conditions.into_iter().partition(|part| as_marker(part).is_some());
    let versions = markers.iter().filter_map(as_marker).all(is_version);
    if !versions && (reads_stream(&join.left)? || reads_stream(&join.right)?) {
        let why = "ASOF JOIN joins two streams, and one of these is a table";
        return Err(refusal_with(&join, why, "join with the table as it is now: JOIN … ON …").into());
    }
    join.filter = conjunction(rest);
    Ok(Transformed::new(LogicalPlan::Join(join), !markers.is_empty(), TreeNodeRecursion::Continue))
}

/// True where a marker's arguments are those of FOR SYSTEM_TIME AS OF.
pub(crate) fn is_version(arguments: &[Expr]) -> bool {
    matches!(arguments.first(), Some(Expr::Literal(kind, _)) if kind.try_as_str().flatten() == Some(as_of::VERSION))
}

/// A join in parts, with the conditions that belong to one input only.
struct Parts {
    join: Join,
    /// By input.
    filters: [Vec<Expr>; 2],
    conditions: Vec<Expr>,
    as_of: bool,
}

/// Which inputs of a join an expression reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    None,
    One(usize),
    Both,
}

/// Which of `sides` the columns of `expression` are of.
pub(crate) fn reads(expression: &Expr, sides: [&DFSchema; 2]) -> Reads {
    let mut found = Reads::None;
    for column in expression.column_refs() {
        let side = usize::from(!sides[0].has_column(column));
        found = match found {
            Reads::None => Reads::One(side),
            Reads::One(other) if other == side => found,
            _ => Reads::Both,
        };
    }
    found
}

/// True where `expression` may be evaluated elsewhere: it asks no clock, dice or subquery.
fn moves(expression: &Expr) -> bool {
    let subquery = expression.exists(|part| {
        Ok(matches!(
            part,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::ScalarSubquery(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
        ))
    });
    !expression.is_volatile() && !subquery.unwrap_or(true)
}

impl Parts {
    fn new(mut join: Join) -> Self {
        let conditions = join.filter.take().map(split_conjunction_owned).unwrap_or_default();
        let as_of = conditions.iter().any(|condition| as_marker(condition).is_some());
        let mut parts = Self { join, filters: [vec![], vec![]], conditions: vec![], as_of };
        for condition in conditions {
            match parts.reads(&condition) {
                Reads::One(side) if !parts.as_of && moves(&condition) && !parts.keeps(side) => {
                    parts.filters[side].push(condition);
                }
                _ => parts.conditions.push(condition),
            }
        }
        parts
    }

    fn reads(&self, expression: &Expr) -> Reads {
        reads(expression, [self.join.left.schema(), self.join.right.schema()])
    }

    /// True where unmatched rows of input `side` come out.
    fn keeps(&self, side: usize) -> bool {
        match self.join.join_type {
            JoinType::Inner => false,
            JoinType::Left => side == 0,
            JoinType::Right => side == 1,
            _ => true,
        }
    }

    /// Takes of the conditions above the join those that are the same below it, and returns the others.
    fn take(&mut self, above: Vec<Expr>) -> Vec<Expr> {
        let mut rest = Vec::new();
        for condition in above {
            let reads = self.reads(&condition);
            // A row of this input stands in the output as it is; it is not added where the other has no match.
            let plain = matches!(
                (self.join.join_type, reads),
                (JoinType::Inner, _) | (JoinType::Left, Reads::One(0)) | (JoinType::Right, Reads::One(1))
            );
            match reads {
                _ if !plain || !moves(&condition) => rest.push(condition),
                // Fewer versions would be other versions.
                Reads::One(1) if self.as_of => rest.push(condition),
                Reads::One(side) => self.filters[side].push(condition),
                Reads::Both if !self.as_of => self.conditions.push(condition),
                Reads::Both | Reads::None => rest.push(condition),
            }
        }
        rest
    }

    fn build(self, used: Option<&BTreeSet<String>>) -> Result<Join> {
        let Self { join, filters: [left, right], conditions, .. } = self;
        Join::try_new(
            Arc::new(input(join.left, left, used)?),
            Arc::new(input(join.right, right, used)?),
            join.on,
            conjunction(conditions),
            join.join_type,
            join.join_constraint,
            join.null_equality,
            join.null_aware,
        )
    }
}

/// An input with its filters, and without the columns that nobody names.
fn input(plan: Arc<LogicalPlan>, filters: Vec<Expr>, used: Option<&BTreeSet<String>>) -> Result<LogicalPlan> {
    let filtered = match conjunction(filters) {
        Some(filter) => Arc::new(LogicalPlan::Filter(Filter::try_new(filter, plan)?)),
        None => plan,
    };
    let schema = filtered.schema().clone();
    let wanted = |(_, field): &(_, &Arc<arrow::datatypes::Field>)| {
        let marked = field.metadata().contains_key(EVENT_TIME) || field.metadata().contains_key(WINDOW_BOUND);
        marked || used.is_none_or(|used| used.contains(field.name()))
    };
    let kept: Vec<Expr> = schema
        .iter()
        .filter(wanted)
        .map(|(qualifier, field)| Expr::Column(Column::new(qualifier.cloned(), field.name().clone())))
        .collect();
    if kept.len() == schema.fields().len() || kept.is_empty() {
        return Ok(Arc::unwrap_or_clone(filtered));
    }
    Ok(LogicalPlan::Projection(Projection::try_new(kept, filtered)?))
}
