//! The rest of a join's condition: evaluated once per batch of candidates.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::physical_plan::PhysicalExpr;

use crate::engine::dead_letter::Letter;
use crate::engine::operator::Output;
use crate::spec::model::OnError;

/// A condition over columns of both sides.
#[derive(Debug, Clone)]
pub(crate) struct Residual {
    /// Over the columns of `schema`.
    pub(crate) expression: Arc<dyn PhysicalExpr>,
    /// Which columns of the join's output they are.
    pub(crate) columns: Vec<usize>,
    pub(crate) schema: SchemaRef,
    /// As it is written.
    pub(crate) text: String,
}

impl Residual {
    /// Which of the candidates with these values of its columns are meant. One for which the condition cannot be told
    /// is none; there is a letter about it, or the step fails, as `on_error` says.
    pub(super) fn matches(
        &self,
        columns: Vec<ArrayRef>,
        rows: usize,
        (component, on_error): (&str, OnError),
        out: &mut Output,
    ) -> Result<BooleanArray> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        let error = match self.evaluate(&batch) {
            Ok(matches) => return Ok(matches),
            Err(error) => error,
        };
        if on_error == OnError::Fail {
            return Err(error);
        }
        // One by one: the pair that fails is found, the others go on.
        let mut matches = Vec::with_capacity(rows);
        for row in 0..rows {
            let pair = batch.slice(row, 1);
            matches.push(match self.evaluate(&pair) {
                Ok(matched) => matched.is_valid(0) && matched.value(0),
                Err(error) => {
                    out.letters.push(Letter::row(component.to_owned(), &reason(&error), &pair));
                    false
                }
            });
        }
        Ok(BooleanArray::from(matches))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let matches = self.expression.evaluate(batch)?.into_array(batch.num_rows())?;
        matches.as_boolean_opt().cloned().ok_or_else(|| DataFusionError::Internal("a condition is no boolean".into()))
    }
}

/// What went wrong, without the names of the layers that it came through.
fn reason(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::External(error) => error.to_string(),
        other => other.strip_backtrace(),
    }
}
