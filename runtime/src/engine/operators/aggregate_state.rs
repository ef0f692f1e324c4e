//! The state of [`WindowAggregate`] as rows, for snapshots.
//!
//! One row per open group: the window's bounds, the keys, the state of each accumulator. The rows of a window follow
//! each other, so its bounds are written once per run. Taking the state leaves the groups where they are: only the
//! accumulators are emptied and filled again, and no key is hashed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, RunArray};
use arrow::compute::{cast, concat, filter};
use arrow::datatypes::{Field, Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::EmitTo;

use crate::engine::exchange::{self, KEY_GROUPS};
use crate::engine::keyed::Selection;
use crate::engine::operators::aggregate::WindowAggregate;
use crate::engine::operators::window_parts::WindowKey;

/// The most rows of a batch of state: what is copied at a time while a snapshot is written.
const STATE_ROWS_MAX: usize = 1 << 16;
/// The columns of the window's bounds, and of panes the time up to which windows have been given out.
const BOUNDS: usize = 3;

/// The columns: window bounds, keys, then the state of each accumulator.
fn schema(operator: &WindowAggregate) -> Result<SchemaRef> {
    let bound = runs(&[])?.data_type().clone();
    let bound = |name: &str| Field::new(name, bound.clone(), false);
    let mut fields = vec![bound("window_end"), bound("window_start"), bound("given_out")];
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

/// Each value, so many times.
fn runs(runs: &[(i64, usize)]) -> Result<ArrayRef> {
    let ends = runs.iter().scan(0, |end, (_, length)| {
        *end += *length as i32;
        Some(*end)
    });
    let ends = Int32Array::from_iter_values(ends);
    let values = Int64Array::from_iter_values(runs.iter().map(|(value, _)| *value));
    Ok(Arc::new(RunArray::<Int32Type>::try_new(&ends, &values)?))
}

/// Pieces of windows that make up a batch.
struct Pieces {
    schema: SchemaRef,
    windows: Vec<(WindowKey, usize)>,
    given_out: i64,
    /// By piece: all columns but the bounds.
    columns: Vec<Vec<ArrayRef>>,
    rows: usize,
    batches: Vec<RecordBatch>,
}

impl Pieces {
    /// Adds the rows of a window, cut where a batch is full.
    fn add(&mut self, window: WindowKey, columns: &[ArrayRef], rows: usize) -> Result<()> {
        let mut start = 0;
        while start < rows {
            let taken = (rows - start).min(STATE_ROWS_MAX - self.rows);
            self.windows.push((window, taken));
            self.columns.push(columns.iter().map(|column| column.slice(start, taken)).collect());
            self.rows += taken;
            start += taken;
            if self.rows == STATE_ROWS_MAX {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let bound = |bound: fn(&WindowKey) -> i64| -> Result<ArrayRef> {
            runs(&self.windows.iter().map(|(window, rows)| (bound(window), *rows)).collect::<Vec<_>>())
        };
        let given_out = runs(&[(self.given_out, self.rows)])?;
        let mut columns = vec![bound(|window| window.0)?, bound(|window| window.1)?, given_out];
        for (index, field) in self.schema.fields().iter().skip(BOUNDS).enumerate() {
            let pieces: Vec<&dyn Array> = self.columns.iter().map(|columns| columns[index].as_ref()).collect();
            let column = concat(&pieces)?;
            columns.push(if column.data_type() == field.data_type() {
                column
            } else {
                cast(&column, field.data_type())?
            });
        }
        self.batches.push(RecordBatch::try_new(self.schema.clone(), columns)?);
        self.windows.clear();
        self.columns.clear();
        self.rows = 0;
        Ok(())
    }
}

/// The state of all open windows.
pub(super) fn snapshot(operator: &mut WindowAggregate) -> Result<Vec<RecordBatch>> {
    let schema = schema(operator)?;
    let given_out = operator.given_out;
    let mut pieces = Pieces { schema, windows: vec![], given_out, columns: vec![], rows: 0, batches: vec![] };
    let mut windows = std::mem::take(&mut operator.windows);
    for (key, window) in &mut windows {
        let count = window.group_count();
        let mut columns = match &window.table {
            Some(table) => operator.encoder.decode(table, &(0..count as u32).collect::<Vec<_>>())?,
            None => vec![],
        };
        let mut filled = operator.accumulators()?;
        operator.groups.clear();
        operator.groups.extend(0..count);
        for (accumulator, filled) in window.accumulators.iter_mut().zip(&mut filled) {
            let state = accumulator.state(EmitTo::All)?;
            filled.merge_batch(&state, &operator.groups, count)?;
            columns.extend(state);
        }
        window.accumulators = filled;
        pieces.add(*key, &columns, count)?;
    }
    operator.windows = windows;
    for (key, pane) in &operator.sealed {
        let all: Vec<u32> = (0..pane.groups as u32).collect();
        let mut columns = match &pane.table {
            Some(table) => operator.encoder.decode(table, &all)?,
            None => vec![],
        };
        columns.extend(pane.states.iter().flatten().cloned());
        pieces.add(*key, &columns, pane.groups)?;
    }
    pieces.flush()?;
    Ok(pieces.batches)
}

/// Takes back the rows of `state` whose key group `keep` accepts.
pub(super) fn restore(operator: &mut WindowAggregate, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<()> {
    let expected = schema(operator)?;
    if !state.schema().fields().iter().map(|f| f.data_type()).eq(expected.fields().iter().map(|f| f.data_type())) {
        return Err(DataFusionError::Execution("the snapshot's columns are not those of this operator".into()));
    }
    let keys = operator.plan.keys;
    let mine = match (0..KEY_GROUPS).all(keep) {
        true => None,
        false => {
            let groups = exchange::key_groups(state, &(BOUNDS..BOUNDS + keys).collect::<Vec<_>>())?;
            Some(BooleanArray::from_iter(groups.into_iter().map(|group| Some(keep(group)))))
        }
    };
    let (ends, starts) = (state.column(0).as_run::<Int32Type>(), state.column(1).as_run::<Int32Type>());
    let bounds = ends.values().as_primitive::<Int64Type>().values();
    let bounds = bounds.iter().zip(starts.values().as_primitive::<Int64Type>().values());
    // All shards have come to the same time.
    if let Some(given_out) = state.column(2).as_run::<Int32Type>().values().as_primitive::<Int64Type>().values().first()
    {
        operator.given_out = operator.given_out.max(*given_out);
    }
    let mut start = 0;
    for (run_end, (end, window_start)) in ends.run_ends().values().iter().zip(bounds) {
        let rows = *run_end as usize - start;
        let columns = state.columns()[BOUNDS..].iter().map(|column| {
            let column = column.slice(start, rows);
            match &mine {
                Some(mine) => filter(&column, &mine.slice(start, rows)),
                None => Ok(column),
            }
        });
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
        let rows = match &mine {
            Some(mine) => mine.slice(start, rows).true_count(),
            None => rows,
        };
        if rows > 0 {
            merge(operator, (*end, *window_start), &columns, rows)?;
        }
        start = *run_end as usize;
    }
    Ok(())
}

/// Merges rows of state that all belong to `key`: the keys, then the state of each accumulator.
fn merge(operator: &mut WindowAggregate, key: WindowKey, columns: &[ArrayRef], rows: usize) -> Result<()> {
    let keys = operator.plan.keys;
    if keys > 0 {
        operator.encoder.encode(&columns[..keys], &mut operator.keys)?;
    }
    operator.window(key)?;
    let Some(window) = operator.windows.get_mut(&key) else { return Ok(()) };
    window.groups_of(&operator.keys, Selection::Range { start: 0, len: rows }, &mut operator.groups);
    let groups = window.group_count();
    let mut column = keys;
    for (call, accumulator) in operator.plan.calls.iter().zip(&mut window.accumulators) {
        let width = call.aggregate.state_fields()?.len();
        accumulator.merge_batch(&columns[column..column + width], &operator.groups, groups)?;
        column += width;
    }
    Ok(())
}
