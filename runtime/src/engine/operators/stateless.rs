//! Stateless SQL: a region run batch by batch. A row for which it fails goes to the dead letter, found by halving.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::error::DataFusionError;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;
use crate::engine::operator::{Operator, Output};
use crate::spec::model::OnError;
use crate::sql::region::RegionInstance;

/// Runs a region.
pub(crate) struct Stateless {
    region: RegionInstance,
    step: String,
    on_error: OnError,
}

impl Stateless {
    /// Runs `region` for the step `step`.
    pub(crate) fn new(region: RegionInstance, step: String, on_error: OnError) -> Self {
        Self { region, step, on_error }
    }
}

#[async_trait]
impl Operator for Stateless {
    async fn batch(&mut self, input: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        // A stack instead of recursion: the parts still to run, in order from the back.
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            match self.region.run(input, &part).await {
                Ok(batches) => out.batches.extend(batches),
                Err(error) if self.on_error == OnError::Fail => {
                    return Err(RunError::fatal(format!("step {}", self.step), reason(&error)));
                }
                Err(_) if part.num_rows() > 1 => {
                    let middle = part.num_rows() / 2;
                    parts.push(part.slice(middle, part.num_rows() - middle));
                    parts.push(part.slice(0, middle));
                }
                Err(error) => {
                    let component = format!("step {}", self.step);
                    out.letters.push(Letter::row(component, &reason(&error), &part));
                }
            }
        }
        Ok(())
    }
}

/// What went wrong, without the names of the layers that it came through.
pub(super) fn reason(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::External(error) => error.to_string(),
        other => other.strip_backtrace(),
    }
}
