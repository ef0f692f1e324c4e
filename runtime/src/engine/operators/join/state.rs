//! The rows that a join keeps, for snapshots: the columns of their side, and whether they have had a match. The batch's
//! metadata says which side it is.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;

use crate::engine::exchange;
use crate::engine::operators::join::side::Side;
use crate::engine::operators::join::store::Store;

/// The most rows of a batch of state.
const STATE_ROWS_MAX: usize = 1 << 16;
/// The metadata that holds the side's number.
const SIDE: &str = "side";

/// The rows of both sides.
pub(super) fn snapshot(sides: &[Side; 2], stores: &[Store; 2]) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut batches = Vec::new();
    for (number, (side, store)) in sides.iter().zip(stores).enumerate() {
        let fields = side.input.fields().iter().enumerate();
        let fields = fields.map(|(index, field)| Field::new(format!("c{index}"), field.data_type().clone(), true));
        let matched = Field::new("matched", DataType::Boolean, false);
        let metadata = HashMap::from([(SIDE.to_owned(), number.to_string())]);
        let schema = Schema::new_with_metadata(fields.chain([matched]).collect::<Vec<_>>(), metadata);
        let schema = Arc::new(schema);
        for (batch, matched) in store.all()? {
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(BooleanArray::from(matched)));
            let whole = RecordBatch::try_new(schema.clone(), columns)?;
            let starts = (0..whole.num_rows()).step_by(STATE_ROWS_MAX);
            batches.extend(starts.map(|start| whole.slice(start, STATE_ROWS_MAX.min(whole.num_rows() - start))));
        }
    }
    Ok(batches)
}

/// Rows that come back from a snapshot.
pub(super) struct Restored {
    pub(super) side: usize,
    pub(super) batch: RecordBatch,
    /// By row.
    pub(super) matched: Vec<bool>,
}

/// The rows of `state` whose key group `keep` accepts.
pub(super) fn restore(
    sides: &[Side; 2],
    state: &RecordBatch,
    keep: &dyn Fn(u16) -> bool,
) -> Result<Restored, ArrowError> {
    let wrong = || ArrowError::SchemaError("the snapshot's columns are not those of this operator".into());
    let schema = state.schema();
    let number = schema.metadata().get(SIDE).and_then(|side| side.parse::<usize>().ok()).ok_or_else(wrong)?;
    let side = sides.get(number).ok_or_else(wrong)?;
    let columns = side.input.fields().len();
    let types = schema.fields().iter().take(columns).map(|field| field.data_type());
    if schema.fields().len() != columns + 1 || !types.eq(side.input.fields().iter().map(|field| field.data_type())) {
        return Err(wrong());
    }
    let groups = exchange::key_groups(state, &side.keys)?;
    let mine = BooleanArray::from_iter(groups.into_iter().map(|group| Some(keep(group))));
    let kept = if mine.true_count() == state.num_rows() { state.clone() } else { filter_record_batch(state, &mine)? };
    let matched = kept.column(columns).as_boolean_opt().ok_or_else(wrong)?.values().iter().collect();
    let batch = RecordBatch::try_new(side.input.clone(), kept.columns()[..columns].to_vec())?;
    Ok(Restored { side: number, batch, matched })
}
