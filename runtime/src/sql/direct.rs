//! A region that only filters and computes columns, run without DataFusion's streams.
//!
//! Most regions are so: their expressions are evaluated straight on the batch, which costs a small batch a fraction of
//! what resetting and executing a physical plan does. Everything else (joins with tables, subqueries, UNNEST) is left
//! to the plan.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::FilterBuilder;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use crate::sql::relation::{Leaf, LeafExec, internal};

/// What happens to the rows of one input: one branch of a UNION ALL, or the whole region.
#[derive(Debug, Clone)]
pub(crate) struct Branch {
    /// The region's input that it reads.
    input: usize,
    /// Which of the input's columns it reads.
    projection: Option<Vec<usize>>,
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    /// Keeps the rows for which the predicate is true, and these columns.
    Filter { predicate: Arc<dyn PhysicalExpr>, columns: Option<Vec<usize>>, schema: SchemaRef },
    /// Computes columns.
    Project { expressions: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef },
}

/// The branches of `plan`, where they are all that it does.
pub(crate) fn branches(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<Branch>> {
    if let Some(leaf) = plan.downcast_ref::<LeafExec>() {
        let Leaf::Slot(input, _) = &leaf.leaf else { return None };
        return Some(vec![Branch { input: *input, projection: leaf.projection().cloned(), steps: vec![] }]);
    }
    if let Some(union) = plan.downcast_ref::<UnionExec>() {
        let branches = union.inputs().iter().map(branches).collect::<Option<Vec<_>>>()?;
        return Some(branches.into_iter().flatten().collect());
    }
    if let Some(cooperative) = plan.downcast_ref::<CooperativeExec>() {
        return branches(cooperative.input());
    }
    let (child, step) = if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        if filter.fetch().is_some() {
            return None;
        }
        let columns = filter.projection().as_ref().map(|columns| columns.to_vec());
        (filter.input(), Step::Filter { predicate: filter.predicate().clone(), columns, schema: filter.schema() })
    } else {
        let projection = plan.downcast_ref::<ProjectionExec>()?;
        let expressions = projection.expr().iter().map(|column| column.expr.clone()).collect();
        (projection.input(), Step::Project { expressions, schema: projection.schema() })
    };
    let mut branches = branches(child)?;
    branches.iter_mut().for_each(|branch| branch.steps.push(step.clone()));
    Some(branches)
}

/// What `branches` make of `batch`, which is all that the input number `input` holds.
pub(crate) fn run(
    branches: &[Branch],
    schema: &SchemaRef,
    input: usize,
    batch: &RecordBatch,
) -> Result<Vec<RecordBatch>> {
    let mut results = Vec::new();
    for branch in branches.iter().filter(|branch| branch.input == input) {
        let result = branch.run(batch)?;
        if result.num_rows() > 0 {
            // The plan's own schema may lack the metadata that marks event time and windows.
            let rows = RecordBatchOptions::new().with_row_count(Some(result.num_rows()));
            results.push(RecordBatch::try_new_with_options(schema.clone(), result.columns().to_vec(), &rows)?);
        }
    }
    Ok(results)
}

impl Branch {
    fn run(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut batch = match &self.projection {
            Some(columns) => batch.project(columns)?,
            None => batch.clone(),
        };
        for step in &self.steps {
            if batch.num_rows() == 0 {
                break;
            }
            batch = step.run(batch)?;
        }
        Ok(batch)
    }
}

impl Step {
    fn run(&self, batch: RecordBatch) -> Result<RecordBatch> {
        match self {
            Self::Filter { predicate, columns, schema } => {
                let mask = predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
                let mask = mask.as_boolean_opt().ok_or_else(|| internal("a predicate that is no boolean"))?;
                let batch = match columns {
                    Some(columns) => batch.project(columns)?,
                    None => batch,
                };
                // Nulls do not count.
                if mask.true_count() == batch.num_rows() {
                    return Ok(batch);
                }
                let filter = FilterBuilder::new(mask);
                let filter = if batch.num_columns() > 1 { filter.optimize() } else { filter }.build();
                let columns = batch.columns().iter().map(|column| filter.filter(column));
                let rows = RecordBatchOptions::new().with_row_count(Some(filter.count()));
                let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
                Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &rows)?)
            }
            Self::Project { expressions, schema } => {
                let columns = expressions.iter().map(|expression| match expression.downcast_ref::<Column>() {
                    Some(column) => Ok(batch.column(column.index()).clone()),
                    None => expression.evaluate(&batch)?.into_array(batch.num_rows()),
                });
                let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let columns = columns.collect::<Result<Vec<_>>>()?;
                Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &rows)?)
            }
        }
    }
}
