//! Finds the rows for which a window's query fails, so that the others have their result.
//!
//! A query sees all rows of a window at once and says only that it fails. The rows are tried in their order: the first
//! one with which the query fails, where without it and all that follow it does not, is taken out; and again.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;
use crate::engine::operator::{Output, Site};
use crate::engine::operators::per_window::{WindowedInput, rows_where};
use crate::engine::operators::stateless::reason;
use crate::sql::region::RegionInstance;

/// So many rows of a window are found and taken out; where it fails even then, all its rows are.
const FAILING_ROWS_MAX: usize = 64;

/// The result over the rows of a window without those for which the query fails, which leave as letters; `error` is
/// what it fails with.
pub(super) async fn without(
    query: &mut RegionInstance,
    inputs: &[WindowedInput],
    batches: &[Vec<RecordBatch>],
    mut error: DataFusionError,
    site: &Site,
    out: &mut Output,
) -> Result<Vec<RecordBatch>, RunError> {
    let failed = |error: ArrowError| site.failed(error);
    let joined = inputs.iter().zip(batches).map(|(input, batches)| concat_batches(&input.schema, batches));
    let mut rows = joined.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if query.run_all(&first(&rows, 0)).await.is_err() {
        // It is not for the rows' sake.
        return Err(site.failed(reason(&error)));
    }
    let component = format!("step {}", site.step);
    for _ in 0..FAILING_ROWS_MAX {
        // It works with the first `works` rows and fails with the first `fails`.
        let (mut works, mut fails) = (0, rows.iter().map(RecordBatch::num_rows).sum());
        while works + 1 < fails {
            let middle = works + (fails - works) / 2;
            match query.run_all(&first(&rows, middle)).await {
                Ok(_) => works = middle,
                Err(of_middle) => (fails, error) = (middle, of_middle),
            }
        }
        let (input, row) = place(&rows, works);
        out.letters.push(Letter::row(component.clone(), &reason(&error), &rows[input].slice(row, 1)));
        rows[input] = rows_where(&rows[input], |other| other != row).map_err(failed)?;
        match query.run_all(&first(&rows, usize::MAX)).await {
            Ok(results) => return Ok(results),
            Err(next) => error = next,
        }
    }
    let reason = format!("{} (as many other rows of its window)", reason(&error));
    for batch in &rows {
        let letters = (0..batch.num_rows()).map(|row| Letter::row(component.clone(), &reason, &batch.slice(row, 1)));
        out.letters.extend(letters);
    }
    Ok(vec![])
}

/// The first `count` rows, those of the first input before those of the second.
fn first(rows: &[RecordBatch], mut count: usize) -> Vec<Vec<RecordBatch>> {
    let inputs = rows.iter().map(|batch| {
        let taken = count.min(batch.num_rows());
        count -= taken;
        vec![batch.slice(0, taken)]
    });
    inputs.collect()
}

/// The input and the row that the row with the number `row` over all inputs is.
fn place(rows: &[RecordBatch], mut row: usize) -> (usize, usize) {
    for (input, batch) in rows.iter().enumerate() {
        if row < batch.num_rows() {
            return (input, row);
        }
        row -= batch.num_rows();
    }
    (0, 0)
}
