//! The state of [`Over`] as rows, for snapshots. Three kinds of batches, told apart by the name of their first column:
//! rows that wait, what each key has counted, and the released rows that are kept. In all but the first kind the keys
//! come first.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt64Type};
use datafusion::common::{DataFusionError, Result};

use crate::engine::exchange::{self, KEY_GROUPS};
use crate::engine::keyed::Selection;
use crate::engine::operators::over::Over;
use crate::engine::operators::over::sequence::Sequence;

/// The most rows of a batch of state.
const STATE_ROWS_MAX: usize = if cfg!(test) { 5 } else { 1 << 16 };
/// The first column's name, by kind.
const WAITING: &str = "waiting";
const KEY: &str = "key";
const ROW: &str = "row";

/// The columns after the keys of a key: its position of the next row to come out, of the end of what RANGE … FOLLOWING
/// has cleared, of the next row to come, the number of groups, and the newest group's start.
const KEY_FACTS: usize = 5;
/// The columns after the keys of a row: position, time, group, the group's start, order of release.
const ROW_FACTS: usize = 5;

/// The whole state.
pub(super) fn snapshot(over: &mut Over) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for batch in &over.waiting.batches {
        let mut fields: Vec<Field> = over.plan.input.fields().iter().map(|field| field.as_ref().clone()).collect();
        fields.insert(0, Field::new(WAITING, DataType::Boolean, true));
        let mut columns = batch.columns().to_vec();
        columns.insert(0, Arc::new(BooleanArray::from(vec![true; batch.num_rows()])));
        cut(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?, &mut batches);
    }
    if !over.sequences.is_empty() {
        cut(keys(over)?, &mut batches);
        for part in rows(over).chunks(STATE_ROWS_MAX) {
            batches.push(released(over, part)?);
        }
    }
    Ok(batches)
}

fn cut(batch: RecordBatch, batches: &mut Vec<RecordBatch>) {
    for start in (0..batch.num_rows()).step_by(STATE_ROWS_MAX) {
        batches.push(batch.slice(start, STATE_ROWS_MAX.min(batch.num_rows() - start)));
    }
}

/// The columns that every kept batch begins with: its kind, and the keys with these numbers.
fn start(over: &Over, kind: &str, numbers: &[u32]) -> Result<(Vec<Field>, Vec<ArrayRef>)> {
    let mut fields = vec![Field::new(kind, DataType::Boolean, true)];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(BooleanArray::from(vec![true; numbers.len()]))];
    if let Some(encoder) = &over.encoder {
        columns.extend(encoder.decode(&over.table, numbers)?);
        fields.extend(over.plan.keys.iter().enumerate().map(|(index, key)| {
            Field::new(format!("key_{index}"), over.plan.input.field(*key).data_type().clone(), true)
        }));
    }
    Ok((fields, columns))
}

/// Something that is known of a key.
type Fact = fn(&Sequence) -> u64;

/// What is known of each key.
fn keys(over: &mut Over) -> Result<RecordBatch> {
    let count = over.sequences.len();
    let (mut fields, mut columns) = start(over, KEY, &(0..count as u32).collect::<Vec<_>>())?;
    let facts: [(&str, Fact); KEY_FACTS] = [
        ("next", |sequence| sequence.next),
        ("cleared", |sequence| sequence.cleared),
        ("end", Sequence::end),
        ("groups", |sequence| sequence.groups),
        ("group_start", |sequence| sequence.group_start),
    ];
    for (name, fact) in facts {
        fields.push(Field::new(name, DataType::UInt64, false));
        columns.push(Arc::new(UInt64Array::from_iter_values(over.sequences.iter().map(fact))));
    }
    for (index, function) in over.functions.iter_mut().enumerate() {
        for (field, column) in function.state_fields()?.into_iter().zip(function.state(count)?) {
            fields.push(Field::new(format!("f{index}_{}", field.name()), field.data_type().clone(), true));
            columns.push(column);
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The key, position and slot of every row that is kept.
fn rows(over: &Over) -> Vec<(u32, u64, u32)> {
    let of = |(key, sequence): (usize, &Sequence)| {
        let positions = sequence.base..;
        positions.zip(sequence.slots.clone()).map(move |(position, slot)| (key as u32, position, slot))
    };
    over.sequences.iter().enumerate().flat_map(of).collect()
}

/// Rows that are kept.
fn released(over: &Over, rows: &[(u32, u64, u32)]) -> Result<RecordBatch> {
    let (mut fields, mut columns) = start(over, ROW, &rows.iter().map(|row| row.0).collect::<Vec<_>>())?;
    let numbers = |of: &dyn Fn(&(u32, u64, u32)) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(of)))
    };
    let facts = &over.facts;
    let times = Int64Array::from_iter_values(rows.iter().map(|row| facts.times[row.2 as usize]));
    let parts: [(&str, ArrayRef); ROW_FACTS] = [
        ("position", numbers(&|row| row.1)),
        ("time", Arc::new(times)),
        ("group", numbers(&|row| facts.groups[row.2 as usize])),
        ("group_start", numbers(&|row| facts.starts[row.2 as usize])),
        ("order", numbers(&|row| facts.orders[row.2 as usize])),
    ];
    for (name, column) in parts {
        fields.push(Field::new(name, column.data_type().clone(), false));
        columns.push(column);
    }
    for (index, store) in over.stores.iter().chain(&over.kept).enumerate() {
        let mut reading = store.reading(rows.len());
        rows.iter().for_each(|row| store.pick(&mut reading, Some(row.2)));
        for (number, column) in store.finish_state(reading)?.into_iter().enumerate() {
            fields.push(Field::new(format!("s{index}_{number}"), column.data_type().clone(), true));
            columns.push(column);
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// Takes back the rows of `state` whose key group `keep` accepts.
pub(super) fn restore(over: &mut Over, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<()> {
    let kind = state.schema().field(0).name().clone();
    let keys: Vec<usize> = match kind.as_str() {
        WAITING => over.plan.keys.iter().map(|key| key + 1).collect(),
        _ => (1..=over.plan.keys.len()).collect(),
    };
    let mine = match (0..KEY_GROUPS).all(keep) {
        true => state.clone(),
        false => {
            let groups = exchange::key_groups(state, &keys)?;
            filter_record_batch(state, &BooleanArray::from_iter(groups.into_iter().map(|group| Some(keep(group)))))?
        }
    };
    if mine.num_rows() == 0 {
        return Ok(());
    }
    over.stale = true;
    match kind.as_str() {
        WAITING => {
            let columns = mine.columns()[1..].to_vec();
            let batch = RecordBatch::try_new(over.plan.input.clone(), columns);
            Ok(over.waiting.add(batch.map_err(|_| unknown())?)?)
        }
        KEY => restore_keys(over, &mine),
        ROW => restore_rows(over, &mine),
        _ => Err(unknown()),
    }
}

fn unknown() -> DataFusionError {
    DataFusionError::Execution("the snapshot's columns are not those of this operator".into())
}

/// Fills `over.numbers` with the number of each row's key.
fn number(over: &mut Over, state: &RecordBatch) -> Result<()> {
    let rows = state.num_rows();
    match &over.encoder {
        Some(encoder) => {
            encoder.encode(&state.columns()[1..=over.plan.keys.len()], &mut over.keys)?;
            over.table.intern(&over.keys, Selection::Range { start: 0, len: rows }, &mut over.numbers);
            over.sequences.resize_with(over.table.len(), Sequence::default);
        }
        None => {
            over.numbers.clear();
            over.numbers.resize(rows, 0);
            over.sequences.resize_with(1, Sequence::default);
        }
    }
    Ok(())
}

fn restore_keys(over: &mut Over, state: &RecordBatch) -> Result<()> {
    let mut column = 1 + over.plan.keys.len();
    let widths = over.functions.iter().map(|function| Ok(function.state_fields()?.len()));
    let widths = widths.collect::<Result<Vec<_>>>()?;
    if state.num_columns() != column + KEY_FACTS + widths.iter().sum::<usize>() {
        return Err(unknown());
    }
    number(over, state)?;
    let fact = |index: usize| state.column(column + index).as_primitive::<UInt64Type>();
    let (next, cleared, end, groups, starts) = (fact(0), fact(1), fact(2), fact(3), fact(4));
    for (row, key) in over.numbers.iter().enumerate() {
        let sequence = &mut over.sequences[*key];
        sequence.next = next.value(row);
        sequence.cleared = cleared.value(row);
        // The rows that are kept come later, and say where they begin.
        sequence.base = end.value(row);
        sequence.groups = groups.value(row);
        sequence.group_start = starts.value(row);
    }
    column += KEY_FACTS;
    for (function, width) in over.functions.iter_mut().zip(widths) {
        function.restore(&state.columns()[column..column + width], &over.numbers)?;
        column += width;
    }
    Ok(())
}

fn restore_rows(over: &mut Over, state: &RecordBatch) -> Result<()> {
    let mut column = 1 + over.plan.keys.len();
    let stored: usize = over.stores.iter().chain(&over.kept).map(|store| store.state_types().len()).sum();
    if state.num_columns() != column + ROW_FACTS + stored {
        return Err(unknown());
    }
    number(over, state)?;
    let fact = |index: usize| state.column(column + index).as_primitive::<UInt64Type>();
    let (positions, groups, starts, orders) = (fact(0), fact(2), fact(3), fact(4));
    let times = state.column(column + 1).as_primitive::<Int64Type>();
    let slots: Vec<u32> = over.numbers.iter().map(|_| over.slots.take()).collect();
    let count = over.slots.count();
    over.facts.grow(count);
    for (row, (key, slot)) in over.numbers.iter().zip(&slots).enumerate() {
        let (sequence, at) = (&mut over.sequences[*key], *slot as usize);
        if sequence.slots.is_empty() {
            sequence.base = positions.value(row);
        }
        sequence.slots.push_back(*slot);
        over.facts.times[at] = times.value(row);
        over.facts.groups[at] = groups.value(row);
        over.facts.starts[at] = starts.value(row);
        over.facts.orders[at] = orders.value(row);
        over.released = over.released.max(orders.value(row) + 1);
    }
    column += ROW_FACTS;
    for store in over.stores.iter_mut().chain(&mut over.kept) {
        let width = store.state_types().len();
        store.put_state(&state.columns()[column..column + width], &slots, count)?;
        column += width;
    }
    Ok(())
}
