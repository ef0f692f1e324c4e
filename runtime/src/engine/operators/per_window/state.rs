//! The state of [`PerWindow`] for snapshots: the rows that are kept, with the columns of their input. Their windows are
//! among these. The schema's metadata says which input a batch is of.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::engine::exchange::{self, KEY_GROUPS};
use crate::engine::operator::Output;
use crate::engine::operators::per_window::{PerWindow, buffer, rows_where};

/// The most rows of a batch of state.
const STATE_ROWS_MAX: usize = 1 << 16;
/// The schema's metadata that has the number of the input.
const INPUT: &str = "millstream.input";

/// The rows of all open windows, in the order of their windows.
pub(super) fn snapshot(operator: &PerWindow) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut states = Vec::new();
    for (input, of) in operator.inputs.iter().enumerate() {
        let metadata = HashMap::from([(INPUT.to_owned(), input.to_string())]);
        let schema: SchemaRef = Arc::new(Schema::new_with_metadata(of.schema.fields().clone(), metadata));
        let mut waiting: Vec<RecordBatch> = Vec::new();
        let mut rows = 0;
        for batch in operator.windows.values().flat_map(|buffers| buffers[input].batches()) {
            let mut start = 0;
            while start < batch.num_rows() {
                let taken = (batch.num_rows() - start).min(STATE_ROWS_MAX - rows);
                waiting.push(batch.slice(start, taken));
                start += taken;
                rows += taken;
                if rows == STATE_ROWS_MAX {
                    states.push(concat_batches(&schema, &std::mem::take(&mut waiting))?);
                    rows = 0;
                }
            }
        }
        if rows > 0 {
            states.push(concat_batches(&schema, &waiting)?);
        }
    }
    Ok(states)
}

/// Takes back the rows of `state` whose key group `keep` accepts.
pub(super) fn restore(
    operator: &mut PerWindow,
    state: &RecordBatch,
    keep: &dyn Fn(u16) -> bool,
) -> Result<(), ArrowError> {
    let schema = state.schema();
    let input = schema.metadata().get(INPUT).and_then(|input| input.parse::<usize>().ok());
    let Some((input, of)) = input.and_then(|input| Some((input, operator.inputs.get(input)?.clone()))) else {
        return Err(ArrowError::SchemaError("the snapshot does not say which input its rows are of".into()));
    };
    let types = |schema: &Schema| schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
    if types(&schema) != types(&of.schema) {
        return Err(ArrowError::SchemaError("the snapshot's columns are not those of this operator".into()));
    }
    let mut rows = RecordBatch::try_new(of.schema.clone(), state.columns().to_vec())?;
    if !(0..KEY_GROUPS).all(keep) {
        let groups = exchange::key_groups(&rows, &of.keys)?;
        rows = rows_where(&rows, |row| keep(groups[row]))?;
    }
    // What is kept has a window, so nothing leaves here.
    let (rows, parts) = operator.parts(input, rows, &mut Output::default())?;
    for part in parts {
        let of_window = buffer::compact(part.of_batch(&rows)?, rows.num_rows())?;
        operator.keep(input, part.window, of_window)?;
    }
    Ok(())
}
