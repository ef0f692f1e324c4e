//! The state of [`PatternMatcher`] as rows, for snapshots: the rows of each partition in their order, then those that
//! wait. Searches are not in it: they are done again over the rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int8Array, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};

use crate::engine::exchange::{self, KEY_GROUPS};
use crate::engine::operators::pattern::operator::PatternMatcher;
use crate::engine::operators::pattern::rows::{Cell, Of};
use crate::engine::times;

/// The most rows of a batch of state.
const STATE_ROWS_MAX: usize = 1 << 16;
/// The columns before those of the row: its kind, and the number of matches of its partition.
const HEAD: usize = 2;

/// The kinds of rows.
mod kind {
    /// Of a partition; no match starts there.
    pub(super) const BEHIND: i8 = 0;
    /// Of a partition; a match may start there.
    pub(super) const AHEAD: i8 = 1;
    /// Waits for the watermark.
    pub(super) const WAITS: i8 = 2;
    /// Only says how many matches a partition had: it has no rows.
    pub(super) const NUMBER: i8 = 3;
}

fn schema(operator: &PatternMatcher) -> SchemaRef {
    let mut fields = vec![Field::new("kind", DataType::Int8, false), Field::new("matches", DataType::Int64, false)];
    let input = operator.plan.input.fields().iter().enumerate();
    // A row that only says a number has nothing but the partition's columns.
    fields.extend(input.map(|(index, field)| Field::new(format!("c{index}"), field.data_type().clone(), true)));
    Arc::new(Schema::new(fields))
}

/// Rows of one batch of state.
fn batch(schema: &SchemaRef, kinds: Vec<i8>, matches: Vec<i64>, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let rows = RecordBatchOptions::new().with_row_count(Some(kinds.len()));
    let mut all: Vec<ArrayRef> = vec![Arc::new(Int8Array::from(kinds)), Arc::new(Int64Array::from(matches))];
    all.extend(columns);
    Ok(RecordBatch::try_new_with_options(schema.clone(), all, &rows)?)
}

/// The state.
pub(super) fn snapshot(operator: &mut PatternMatcher) -> Result<Vec<RecordBatch>> {
    let schema = schema(operator);
    let mut rows: Vec<(i8, i64, Option<Cell>)> = Vec::new();
    for partition in operator.partitions.iter() {
        let numbers = partition.rows.first()..;
        rows.extend(partition.rows.iter().zip(numbers).map(|(row, number)| {
            let kind = if number < partition.start { kind::BEHIND } else { kind::AHEAD };
            (kind, partition.matches, Some(row.cell()))
        }));
    }
    let fields = operator.plan.input.fields();
    let mut batches = Vec::new();
    for rows in rows.chunks(STATE_ROWS_MAX) {
        let cells: Vec<Option<Cell>> = rows.iter().map(|(_, _, cell)| *cell).collect();
        let columns = fields.iter().enumerate();
        let columns = columns.map(|(c, field)| operator.chunks.column(Of::Input(c), &cells, field.data_type()));
        let (kinds, matches) = rows.iter().map(|(kind, matches, _)| (*kind, *matches)).unzip();
        batches.push(batch(&schema, kinds, matches, columns.collect::<Result<Vec<_>>>()?)?);
    }
    for waiting in operator.waiting.batches()? {
        for start in (0..waiting.num_rows()).step_by(STATE_ROWS_MAX) {
            let part = waiting.slice(start, STATE_ROWS_MAX.min(waiting.num_rows() - start));
            let rows = part.num_rows();
            batches.push(batch(&schema, vec![kind::WAITS; rows], vec![0; rows], part.columns().to_vec())?);
        }
    }
    for numbers in operator.partition_numbers().chunks(STATE_ROWS_MAX) {
        let (keys, matches): (Vec<_>, Vec<i64>) = numbers.iter().copied().unzip();
        let partition = operator.partitions.columns(&keys)?;
        let columns = fields.iter().enumerate().map(|(column, field)| {
            let place = operator.plan.partition.iter().position(|other| *other == column);
            place.map_or_else(
                || arrow::array::new_null_array(field.data_type(), keys.len()),
                |place| partition[place].clone(),
            )
        });
        batches.push(batch(&schema, vec![kind::NUMBER; keys.len()], matches, columns.collect())?);
    }
    merged(&schema, batches)
}

/// `batches` with small neighbours put together.
fn merged(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let (mut merged, mut open, mut rows) = (Vec::new(), Vec::new(), 0);
    for batch in batches {
        if rows + batch.num_rows() > STATE_ROWS_MAX {
            merged.push(concat_batches(schema, &std::mem::take(&mut open))?);
            rows = 0;
        }
        rows += batch.num_rows();
        open.push(batch);
    }
    if !open.is_empty() {
        merged.push(concat_batches(schema, &open)?);
    }
    Ok(merged)
}

/// Takes back the rows of `state` whose key group `keep` accepts.
pub(super) fn restore(operator: &mut PatternMatcher, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<()> {
    let expected = schema(operator);
    if !state.schema().fields().iter().map(|f| f.data_type()).eq(expected.fields().iter().map(|f| f.data_type())) {
        return Err(DataFusionError::Execution("the snapshot's columns are not those of this operator".into()));
    }
    let state = match (0..KEY_GROUPS).all(keep) {
        true => state.clone(),
        false => {
            let keys: Vec<usize> = operator.plan.partition.iter().map(|column| HEAD + column).collect();
            let groups = exchange::key_groups(state, &keys)?;
            filter_record_batch(state, &BooleanArray::from_iter(groups.into_iter().map(|group| Some(keep(group)))))?
        }
    };
    let kinds = state.column(0).as_primitive::<Int8Type>().clone();
    let rows_of = |wanted: &[i8]| -> Result<Option<(RecordBatch, RecordBatch)>> {
        let mask = BooleanArray::from_iter(kinds.values().iter().map(|kind| Some(wanted.contains(kind))));
        let rows = filter_record_batch(&state, &mask)?;
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let input = rows.columns()[HEAD..].to_vec();
        // A row that only says a number is none of the input.
        let schema = match wanted {
            [kind::NUMBER] => Arc::new(Schema::new(expected.fields()[HEAD..].to_vec())),
            _ => operator.plan.input.clone(),
        };
        let input = RecordBatch::try_new_with_options(schema, input, &options)?;
        Ok(Some((rows, input)))
    };
    let (ready, waiting, numbers) =
        (rows_of(&[kind::BEHIND, kind::AHEAD])?, rows_of(&[kind::WAITS])?, rows_of(&[kind::NUMBER])?);
    if let Some((head, input)) = ready {
        ready_rows(operator, &head, input)?;
    }
    if let Some((_, input)) = waiting {
        let times = event_times(operator, &input)?.into_iter().zip(0..).collect();
        operator.waiting.push(input, times);
    }
    if let Some((head, input)) = numbers {
        let matches = head.column(1).as_primitive::<Int64Type>();
        let partitions = operator.partitions.numbers(&input, &operator.plan.partition)?;
        for (number, matches) in partitions.into_iter().zip(matches.values()) {
            if let Some(partition) = operator.partitions.get_mut(number) {
                partition.matches = *matches;
            }
        }
    }
    Ok(())
}

/// The rows of partitions. Where the search stands follows from their kinds.
fn ready_rows(operator: &mut PatternMatcher, head: &RecordBatch, input: RecordBatch) -> Result<()> {
    let times = event_times(operator, &input)?;
    let partitions = operator.partitions.numbers(&input, &operator.plan.partition)?;
    let (kinds, matches) = (head.column(0).as_primitive::<Int8Type>(), head.column(1).as_primitive::<Int64Type>());
    for ((number, kind), matches) in partitions.iter().zip(kinds.values()).zip(matches.values()) {
        if let Some(partition) = operator.partitions.get_mut(*number) {
            partition.matches = *matches;
            partition.start += u64::from(*kind == kind::BEHIND);
        }
    }
    // What failed then was reported then.
    let touched = operator.append(input, times, &mut vec![])?;
    operator.wake(&touched);
    Ok(())
}

/// The event times of `rows` in nanoseconds.
fn event_times(operator: &PatternMatcher, rows: &RecordBatch) -> Result<Vec<i64>> {
    let values = times::values(rows.column(operator.plan.time_column))?;
    Ok(values.iter().map(|value| value.saturating_mul(operator.plan.unit_ns)).collect())
}
