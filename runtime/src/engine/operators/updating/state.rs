//! The state of [`UpdatingAggregate`] as rows, for snapshots: a row per group with its window's bounds (or the newest
//! time of its rows), whether it has changed since it was given out, its keys, and the state of each accumulator.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use tokio::time::Instant;

use super::STATE_ROWS_MAX;
use super::aggregate::UpdatingAggregate;
use crate::engine::exchange::{self, KEY_GROUPS};
use crate::engine::keyed::Selection;
use crate::engine::operators::window_parts::WindowKey;

/// The columns before the keys.
const HEAD: usize = 3;

fn schema(operator: &UpdatingAggregate) -> Result<SchemaRef> {
    let mut fields = vec![
        Field::new("window_end", DataType::Int64, false),
        Field::new("window_start_or_newest", DataType::Int64, false),
        Field::new("changed", DataType::Boolean, false),
    ];
    for (index, field) in operator.plan.input.fields()[..operator.plan.keys].iter().enumerate() {
        fields.push(Field::new(format!("key_{index}"), field.data_type().clone(), true));
    }
    for (call, aggregate) in operator.plan.calls.iter().enumerate() {
        for (index, field) in aggregate.aggregate.state_fields()?.iter().enumerate() {
            fields.push(Field::new(format!("state_{call}_{index}"), field.data_type().clone(), true));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The state of all groups.
pub(super) fn snapshot(operator: &mut UpdatingAggregate) -> Result<Vec<RecordBatch>> {
    let schema = schema(operator)?;
    let mut batches = Vec::new();
    for (key, groups) in &mut operator.windows {
        let kept = |group: &u32| operator.plan.windowed || operator.retention.is_live(*group);
        let numbers: Vec<u32> = (0..groups.len() as u32).filter(kept).collect();
        for numbers in numbers.chunks(STATE_ROWS_MAX) {
            let second = |group: &u32| if operator.plan.windowed { key.1 } else { operator.retention.newest(*group) };
            let mut columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(vec![key.0; numbers.len()])),
                Arc::new(Int64Array::from_iter_values(numbers.iter().map(second))),
                Arc::new(BooleanArray::from_iter(numbers.iter().map(|group| Some(groups.is_changed(*group))))),
            ];
            if let Some(table) = &groups.table {
                columns.extend(operator.encoder.decode(table, numbers)?);
            }
            columns.extend(groups.states(&operator.plan.calls, numbers)?.into_iter().flatten());
            for (column, field) in columns.iter_mut().zip(schema.fields()) {
                if column.data_type() != field.data_type() {
                    *column = cast(column, field.data_type())?;
                }
            }
            batches.push(RecordBatch::try_new(schema.clone(), columns)?);
        }
    }
    Ok(batches)
}

/// Takes back the rows of `state` whose key group `keep` accepts. Where the operator `resumes` a former run, time on the
/// wall begins anew.
pub(super) fn restore(
    operator: &mut UpdatingAggregate,
    state: &RecordBatch,
    keep: &dyn Fn(u16) -> bool,
    resumes: bool,
) -> Result<()> {
    let expected = schema(operator)?;
    if !state.schema().fields().iter().map(|f| f.data_type()).eq(expected.fields().iter().map(|f| f.data_type())) {
        return Err(DataFusionError::Execution("the snapshot's columns are not those of this operator".into()));
    }
    let keys = operator.plan.keys;
    let mine;
    let state = match (0..KEY_GROUPS).all(keep) {
        true => state,
        false => {
            let groups = exchange::key_groups(state, &(HEAD..HEAD + keys).collect::<Vec<_>>())?;
            let kept = BooleanArray::from_iter(groups.into_iter().map(|group| Some(keep(group))));
            mine = filter_record_batch(state, &kept)?;
            &mine
        }
    };
    let bounds = |row: usize| -> WindowKey {
        let of = |column: usize| state.column(column).as_primitive::<Int64Type>().value(row);
        (of(0), of(1))
    };
    // The rows of a window follow each other.
    let window = |row: usize| if operator.plan.windowed { bounds(row) } else { (bounds(row).0, i64::MAX) };
    let windows: Vec<WindowKey> = (0..state.num_rows()).map(window).collect();
    let mut first = 0;
    for run in windows.chunk_by(|a, b| a == b) {
        merge(operator, run[0], &state.slice(first, run.len()), resumes)?;
        first += run.len();
    }
    Ok(())
}

/// Merges rows that all belong to the window `key`.
fn merge(operator: &mut UpdatingAggregate, key: WindowKey, state: &RecordBatch, resumes: bool) -> Result<()> {
    let keys = operator.plan.keys;
    if keys > 0 {
        operator.encoder.encode(&state.columns()[HEAD..HEAD + keys], &mut operator.keys)?;
    }
    operator.intern(key, Selection::Range { start: 0, len: state.num_rows() });
    let numbers = std::mem::take(&mut operator.numbers);
    let mut states = Vec::with_capacity(operator.plan.calls.len());
    let mut column = HEAD + keys;
    for call in &operator.plan.calls {
        let width = call.aggregate.state_fields()?.len();
        states.push(state.columns()[column..column + width].to_vec());
        column += width;
    }
    let calls = operator.plan.calls.clone();
    let groups = operator.groups(key);
    groups.merge(&calls, &states, &numbers)?;
    let changed = state.column(HEAD - 1).as_boolean();
    let mut any = false;
    for (row, number) in numbers.iter().enumerate() {
        if changed.value(row) {
            groups.mark(*number);
            any = true;
        }
    }
    if any {
        operator.emission.changed();
    }
    if !operator.plan.windowed {
        let newest = state.column(1).as_primitive::<Int64Type>();
        let now = operator.retention.clock(Instant::now()).filter(|_| resumes);
        for (row, number) in numbers.iter().enumerate() {
            operator.retention.touch(*number as u32, now.unwrap_or_else(|| newest.value(row)));
        }
    }
    operator.numbers = numbers;
    Ok(())
}
