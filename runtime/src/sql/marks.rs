//! Which columns are the event time or a window's bound, decided by us: DataFusion hands metadata on through casts and
//! takes that of a UNION's first input, where the column's meaning is lost.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DFSchemaRef, ExprSchema, JoinType, Result};
use datafusion::logical_expr::expr::GroupingSet;
use datafusion::logical_expr::logical_plan::Projection;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, Join, LogicalPlan};

use crate::sql::windows::{bins, bound, length_max, unit_ns};
use crate::sql::{EVENT_TIME, WINDOW_BOUND, WINDOW_LENGTH, WINDOW_PAIR, over};

/// All marks.
pub(crate) const MARKS: [&str; 4] = [EVENT_TIME, WINDOW_BOUND, WINDOW_LENGTH, WINDOW_PAIR];

/// The mark of a column whose times are those that the stream's watermark speaks of, or up to `lag` nanoseconds earlier:
/// where the watermark has come to a time, no row will follow whose value is more than `lag` before it. What goes by
/// such a column takes the watermark for so much earlier ([`crate::plan::graph::Node::lags`]).
pub(crate) fn event_time(lag: i64) -> HashMap<String, String> {
    HashMap::from([(EVENT_TIME.to_owned(), lag.to_string())])
}

/// How far the times of an event-time column may be behind the watermark; `None` where the column is none.
pub(crate) fn lag(field: &Field) -> Option<i64> {
    field.metadata().get(EVENT_TIME).and_then(|lag| lag.parse().ok())
}

/// `plan`, with marks only on columns that are what they were when they were marked.
pub(crate) fn settle(plan: LogicalPlan) -> Result<LogicalPlan> {
    let settled = plan.transform_up(|node| {
        let node = match node {
            // Its schema is that of its first input, and settled below.
            LogicalPlan::Union(union) => LogicalPlan::Union(union),
            other => other.recompute_schema()?,
        };
        Ok(Transformed::yes(match node {
            LogicalPlan::Projection(projection) => {
                let input = projection.input.schema().clone();
                let rounded = |column: usize| rounded(&projection.expr[column], &input);
                let schema = keep(&projection.schema, |column, mark| match mark {
                    EVENT_TIME => rounded(column).is_some(),
                    _ => is_column(&projection.expr[column]),
                })?;
                let schema = mapped(&schema, |column, metadata| {
                    let before = metadata.get(EVENT_TIME).and_then(|lag| lag.parse::<i64>().ok());
                    if let (Some(lag), Some(further)) = (before, rounded(column)) {
                        metadata.extend(event_time(lag.saturating_add(further)));
                    }
                })?;
                LogicalPlan::Projection(Projection::try_new_with_schema(projection.expr, projection.input, schema)?)
            }
            LogicalPlan::Union(mut union) => {
                let lags = furthest(&union.inputs, lag);
                let lengths = furthest(&union.inputs, length_max);
                let schema = keep(&union.schema, |column, mark| {
                    let marks = union.inputs.iter().map(|input| input.schema().field(column).metadata().get(mark));
                    let marks: Vec<_> = marks.collect();
                    // Times may lag behind differently, and windows be of other lengths; a start is no end.
                    let may_differ = mark == EVENT_TIME || mark == WINDOW_LENGTH;
                    marks.iter().all(|m| m.is_some() && (may_differ || *m == marks[0]))
                })?;
                union.schema = mapped(&schema, |column, metadata| {
                    if let (Some(lag), true) = (lags[column], metadata.contains_key(EVENT_TIME)) {
                        metadata.extend(event_time(lag));
                    }
                    if let (Some(length), Some(mark)) = (lengths[column], metadata.get_mut(WINDOW_LENGTH)) {
                        *mark = length.to_string();
                    }
                })?;
                LogicalPlan::Union(union)
            }
            LogicalPlan::Join(mut join) => {
                join.schema = keep(&join.schema, |column, mark| mark == EVENT_TIME || has_partner(&join, column))?;
                LogicalPlan::Join(join)
            }
            LogicalPlan::Window(mut window) => {
                window.schema = over::marked(&window)?;
                LogicalPlan::Window(window)
            }
            LogicalPlan::Aggregate(aggregate) => LogicalPlan::Aggregate(aggregated(bins::windowed(aggregate)?)?),
            other => other,
        }))
    })?;
    Ok(settled.data)
}

/// True where the column of `join` is never null because a row of the other side has no partner.
fn has_partner(join: &Join, column: usize) -> bool {
    let of_left = column < join.left.schema().fields().len();
    match join.join_type {
        JoinType::Left => of_left,
        JoinType::Right => !of_left,
        JoinType::Full => false,
        _ => true,
    }
}

/// By column that the groups make: the group, where no grouping set leaves it out.
fn in_all_sets(groups: &[Expr]) -> Vec<Option<&Expr>> {
    match groups {
        [Expr::GroupingSet(all)] => {
            let in_all = |group: &Expr| match all {
                GroupingSet::GroupingSets(sets) => sets.iter().all(|set| set.contains(group)),
                // They contain the empty set.
                GroupingSet::Rollup(_) | GroupingSet::Cube(_) => false,
            };
            all.distinct_expr().into_iter().map(|group| Some(group).filter(|group| in_all(group))).collect()
        }
        groups => unique(groups).into_iter().map(Some).collect(),
    }
}

/// True where `expression` is a column as it is.
fn is_column(expression: &Expr) -> bool {
    match expression {
        Expr::Column(_) => true,
        Expr::Alias(alias) => is_column(&alias.expr),
        _ => false,
    }
}

/// By how many nanoseconds at most a time of `expression` is earlier than that of the column which it is, where it is a
/// column, as it is or in another precision: the order stays, but a coarser unit cuts off what it does not have.
fn rounded(expression: &Expr, input: &DFSchema) -> Option<i64> {
    match expression {
        Expr::Column(_) => Some(0),
        Expr::Alias(alias) => rounded(&alias.expr, input),
        Expr::Cast(cast) => {
            let (Ok(DataType::Timestamp(from, _)), DataType::Timestamp(to, _)) =
                (cast.expr.get_type(input), cast.field.data_type())
            else {
                return None;
            };
            let cut_off = (unit_ns(*to) - unit_ns(from)).max(0);
            Some(rounded(&cast.expr, input)?.saturating_add(cut_off))
        }
        _ => None,
    }
}

/// `schema` without the marks that `keeps` does not want.
fn keep(schema: &DFSchemaRef, keeps: impl Fn(usize, &str) -> bool) -> Result<DFSchemaRef> {
    mapped(schema, |index, metadata| {
        metadata.retain(|key, _| !MARKS.contains(&key.as_str()) || keeps(index, key));
    })
}

/// By column: the largest length of time that `of` finds in any of `inputs`.
fn furthest(inputs: &[Arc<LogicalPlan>], of: impl Fn(&Field) -> Option<i64>) -> Vec<Option<i64>> {
    let columns = inputs.first().map_or(0, |input| input.schema().fields().len());
    let in_column = |column: usize| inputs.iter().filter_map(|input| of(input.schema().field(column))).max();
    (0..columns).map(in_column).collect()
}

/// `aggregate`, with marks on those of its groups that are bounds of its windows. As results come out when the watermark
/// has come to their window's end, and only then, both bounds are event times: the end as it is, the start behind by the
/// window's length.
fn aggregated(aggregate: Aggregate) -> Result<Aggregate> {
    let input = aggregate.input.schema();
    let bounds: Vec<HashMap<String, String>> = in_all_sets(&aggregate.group_expr)
        .into_iter()
        .map(|group| {
            let Some(Expr::Column(column)) = group.map(|group| group.clone().unalias()) else { return HashMap::new() };
            let Ok(field) = input.field_from_column(&column) else { return HashMap::new() };
            let mut metadata = field.metadata().clone();
            metadata.retain(|key, _| MARKS.contains(&key.as_str()) && key != EVENT_TIME);
            match bound(field) {
                Some("end") => metadata.extend(event_time(0)),
                Some(_) => metadata.extend(length_max(field).map(event_time).unwrap_or_default()),
                None => metadata.clear(),
            }
            metadata
        })
        .collect();
    let schema = mapped(&aggregate.schema, |column, metadata| {
        metadata.retain(|key, _| !MARKS.contains(&key.as_str()));
        metadata.extend(bounds.get(column).cloned().unwrap_or_default());
    })?;
    Aggregate::try_new_with_schema(aggregate.input, aggregate.group_expr, aggregate.aggr_expr, schema)
}

/// `GROUP BY k, k` has one column.
fn unique(groups: &[Expr]) -> Vec<&Expr> {
    let first = |(index, group): &(usize, &Expr)| !groups[..*index].contains(group);
    groups.iter().enumerate().filter(first).map(|(_, group)| group).collect()
}

/// `schema` with its columns' metadata changed by `change`.
pub(crate) fn mapped(
    schema: &DFSchemaRef,
    change: impl Fn(usize, &mut HashMap<String, String>),
) -> Result<DFSchemaRef> {
    let fields = schema.iter().enumerate().map(|(index, (qualifier, field))| {
        let mut metadata = field.metadata().clone();
        change(index, &mut metadata);
        let field: Field = field.as_ref().clone().with_metadata(metadata);
        (qualifier.cloned(), Arc::new(field))
    });
    let fresh = DFSchema::new_with_metadata(fields.collect(), schema.as_arrow().metadata().clone())?;
    Ok(Arc::new(fresh.with_functional_dependencies(schema.functional_dependencies().clone())?))
}
