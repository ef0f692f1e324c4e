//! Evaluates an expression so that one failing row does not take the others with it.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::concat;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::PhysicalExpr;

/// What an expression is for the rows of a batch.
pub(super) struct Evaluated {
    /// By row; null where it failed.
    pub(super) values: ArrayRef,
    /// The rows for which it failed, and why.
    pub(super) failed: Vec<(usize, String)>,
}

/// The values of `expression`, which has a row of its own fail alone: found by halving.
pub(super) fn evaluate(expression: &dyn PhysicalExpr, batch: &RecordBatch) -> Result<Evaluated> {
    let rows = batch.num_rows();
    match expression.evaluate(batch).and_then(|value| value.into_array(rows)) {
        Ok(values) => Ok(Evaluated { values, failed: vec![] }),
        Err(error) if rows <= 1 => {
            let values = new_null_array(&expression.data_type(&batch.schema())?, rows);
            Ok(Evaluated { values, failed: vec![(0, reason(&error))] })
        }
        Err(_) => {
            let middle = rows / 2;
            let mut first = evaluate(expression, &batch.slice(0, middle))?;
            let second = evaluate(expression, &batch.slice(middle, rows - middle))?;
            first.failed.extend(second.failed.into_iter().map(|(row, reason)| (row + middle, reason)));
            Ok(Evaluated { values: concat(&[first.values.as_ref(), second.values.as_ref()])?, failed: first.failed })
        }
    }
}

/// What went wrong, without the names of the layers that it came through.
fn reason(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::External(error) => error.to_string(),
        other => other.strip_backtrace(),
    }
}

/// `values` as conditions: what is null does not hold.
pub(super) fn truths(values: &ArrayRef) -> BooleanArray {
    match values.as_boolean_opt() {
        Some(values) => BooleanArray::new(
            match values.nulls() {
                Some(nulls) => values.values() & nulls.inner(),
                None => values.values().clone(),
            },
            None,
        ),
        // A condition that is always null has no other type.
        None => BooleanArray::from(vec![false; values.len()]),
    }
}
