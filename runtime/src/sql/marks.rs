//! Which columns are the event time or a window's bound, decided by us: DataFusion hands metadata on through casts and
//! takes that of a UNION's first input, where the column's meaning is lost.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DFSchemaRef, Result};
use datafusion::logical_expr::logical_plan::Projection;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};

use crate::sql::{EVENT_TIME, WINDOW_BOUND};

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
                union.schema = keep(&union.schema, |column, mark| {
                    let marks = union.inputs.iter().map(|input| input.schema().field(column).metadata().get(mark));
                    let marks: Vec<_> = marks.collect();
                    // Sources have names of their own; a start is no end.
                    marks.iter().all(|m| m.is_some() && (mark == EVENT_TIME || *m == marks[0]))
                })?;
                LogicalPlan::Union(union)
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
    let fields = schema.iter().enumerate().map(|(index, (qualifier, field))| {
        let mut metadata = field.metadata().clone();
        metadata.retain(|key, _| (key != EVENT_TIME && key != WINDOW_BOUND) || keeps(index, key));
        let field: Field = field.as_ref().clone().with_metadata(metadata);
        (qualifier.cloned(), Arc::new(field))
    });
    let fresh = DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone())?;
    Ok(Arc::new(fresh.with_functional_dependencies(schema.functional_dependencies().clone())?))
}
