//! Which columns are the event time or a window's bound, decided by us: DataFusion hands metadata on through casts and
//! takes that of a UNION's first input, where the column's meaning is lost.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DFSchemaRef, Result};
use datafusion::logical_expr::logical_plan::Projection;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

use crate::sql::{EVENT_TIME, WINDOW_BOUND, over};

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
                let schema = keep(&projection.schema, |column, mark| same(&projection.expr[column], &input, mark))?;
                LogicalPlan::Projection(Projection::try_new_with_schema(projection.expr, projection.input, schema)?)
            }
            LogicalPlan::Union(mut union) => {
                let lags = furthest_behind(&union.inputs);
                let schema = keep(&union.schema, |column, mark| {
                    let marks = union.inputs.iter().map(|input| input.schema().field(column).metadata().get(mark));
                    let marks: Vec<_> = marks.collect();
                    // Times may lag behind differently; a start is no end.
                    marks.iter().all(|m| m.is_some() && (mark == EVENT_TIME || *m == marks[0]))
                })?;
                union.schema = mapped(&schema, |column, metadata| {
                    if let (Some(lag), true) = (lags[column], metadata.contains_key(EVENT_TIME)) {
                        metadata.extend(event_time(lag));
                    }
                })?;
                LogicalPlan::Union(union)
            }
            LogicalPlan::Window(mut window) => {
                window.schema = over::marked(&window)?;
                LogicalPlan::Window(window)
            }
            other => other,
        }))
    })?;
    Ok(settled.data)
}

/// True where `expression` is a column as it is. An event time may be cast to another precision: its order stays.
fn same(expression: &Expr, input: &DFSchema, mark: &str) -> bool {
    match expression {
        Expr::Column(_) => true,
        Expr::Alias(alias) => same(&alias.expr, input, mark),
        Expr::Cast(cast) if mark == EVENT_TIME => {
            let from = cast.expr.get_type(input);
            let times =
                matches!((from, cast.field.data_type()), (Ok(DataType::Timestamp(..)), DataType::Timestamp(..)));
            times && same(&cast.expr, input, mark)
        }
        _ => false,
    }
}

/// `schema` without the marks that `keeps` does not want.
fn keep(schema: &DFSchemaRef, keeps: impl Fn(usize, &str) -> bool) -> Result<DFSchemaRef> {
    mapped(schema, |index, metadata| {
        metadata.retain(|key, _| (key != EVENT_TIME && key != WINDOW_BOUND) || keeps(index, key));
    })
}

/// By column: how far behind the watermark its times may be in any of `inputs`.
fn furthest_behind(inputs: &[Arc<LogicalPlan>]) -> Vec<Option<i64>> {
    let columns = inputs.first().map_or(0, |input| input.schema().fields().len());
    let of = |column: usize| inputs.iter().filter_map(|input| lag(input.schema().field(column))).max();
    (0..columns).map(of).collect()
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
    let fresh = DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())?;
    Ok(Arc::new(fresh.with_functional_dependencies(schema.functional_dependencies().clone())?))
}
