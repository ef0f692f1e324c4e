//! Matches as rows of the output.

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::{cast, filter_record_batch};
use datafusion::common::{Result, ScalarValue};
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::operators::pattern::aggregates::{extended, state};
use crate::engine::operators::pattern::evaluate::evaluate;
use crate::engine::operators::pattern::rows::{Cell, Chunks, Of, RowRef};
use crate::engine::operators::pattern::search::{Failure, Found, View};
use crate::engine::operators::pattern::{From, Input, PatternPlan, Variables};

/// The most rows of a batch of results; one more match may go beyond it.
pub(super) const OUTPUT_ROWS_MAX: usize = 8192;

/// What an input of a measure is, by row of the output.
enum Values {
    Cells(Vec<Option<Cell>>),
    Scalars(Vec<ScalarValue>),
    /// The numbers of variables.
    Names(Vec<u8>),
    Numbers(Vec<i64>),
}

/// Rows of the output that are being gathered.
pub(super) struct Gathered {
    /// The row of the input that each is about.
    cells: Vec<Option<Cell>>,
    /// By measure and input.
    measures: Vec<Vec<Values>>,
}

impl Gathered {
    pub(super) fn new(plan: &PatternPlan) -> Self {
        let values = |input: &Input| match input {
            Input::Value { .. } => Values::Cells(vec![]),
            Input::Aggregate { .. } => Values::Scalars(vec![]),
            Input::Classifier { .. } => Values::Names(vec![]),
            Input::MatchNumber => Values::Numbers(vec![]),
        };
        let measures = plan.measures.iter().map(|measure| measure.inputs.iter().map(values).collect());
        Self { cells: vec![], measures: measures.collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Adds the rows of a match, which is the partition's number `number` and starts at its row `start`.
    pub(super) fn add(&mut self, view: &View<'_>, start: u64, found: &Found, number: i64) -> Result<()> {
        let plan = view.plan;
        let count = found.variables.len();
        // For one row per match: as seen from the last one.
        let rows: Vec<usize> = if plan.all_rows { (0..count).collect() } else { vec![count - 1] };
        let about = rows.iter().map(|row| if plan.all_rows { *row } else { row + 1 - count });
        self.cells.extend(about.map(|row| view.rows.get(start + row as u64).map(RowRef::cell)));
        let mut members = Members { found, of: BTreeMap::new() };
        for (measure, values) in plan.measures.iter().zip(&mut self.measures) {
            for (input, values) in measure.inputs.iter().zip(values) {
                let seen_from = |whole: bool| rows.iter().map(move |row| if whole { count - 1 } else { *row });
                match (input, values) {
                    (Input::Value { of, from, offset, whole, .. }, Values::Cells(cells)) => {
                        let members = members.of(*of);
                        cells.extend(seen_from(*whole).map(|row| {
                            let member = u64::from(pick(members, row, *from)?);
                            view.rows.near(start + member, *offset, plan.within_ns).map(RowRef::cell)
                        }));
                    }
                    (Input::Aggregate { call, of, whole }, Values::Scalars(scalars)) => {
                        let rows: Vec<usize> = seen_from(*whole).collect();
                        aggregates(view, *call, start, members.of(*of), &rows, scalars)?;
                    }
                    (Input::Classifier { whole }, Values::Names(names)) => {
                        names.extend(seen_from(*whole).map(|row| found.variables[row]));
                    }
                    (Input::MatchNumber, Values::Numbers(numbers)) => {
                        numbers.resize(numbers.len() + rows.len(), number);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What was gathered, as a batch. Rows for which a measure fails are left out and reported.
    pub(super) fn batch(self, plan: &PatternPlan, chunks: &Chunks, failures: &mut Vec<Failure>) -> Result<RecordBatch> {
        let rows = self.cells.len();
        let mut columns = Vec::with_capacity(plan.schema.fields().len());
        for column in &plan.passed_on {
            columns.push(chunks.column(Of::Input(*column), &self.cells, plan.input.field(*column).data_type())?);
        }
        let mut good = vec![true; rows];
        for (measure, values) in plan.measures.iter().zip(self.measures) {
            let inputs = measure.inputs.iter().zip(values).map(|(input, values)| column(plan, chunks, input, values));
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            let batch = RecordBatch::try_new_with_options(measure.schema.clone(), inputs, &options)?;
            let evaluated = evaluate(measure.expression.as_ref(), &batch)?;
            for (row, reason) in evaluated.failed {
                if let (true, Some(cell)) = (std::mem::replace(&mut good[row], false), self.cells[row]) {
                    failures.push(Failure { reason, cell });
                }
            }
            let wanted = plan.schema.field(columns.len()).data_type();
            let values = evaluated.values;
            columns.push(if values.data_type() == wanted { values } else { cast(&values, wanted)? });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(plan.schema.clone(), columns, &options)?;
        if good.iter().all(|good| *good) {
            return Ok(batch);
        }
        Ok(filter_record_batch(&batch, &BooleanArray::from(good))?)
    }
}

/// An input of a measure as a column.
fn column(plan: &PatternPlan, chunks: &Chunks, input: &Input, values: Values) -> Result<ArrayRef> {
    Ok(match (values, input) {
        (Values::Cells(cells), Input::Value { column, .. }) => {
            let data_type = plan.columns[*column].data_type(&plan.input)?;
            chunks.column(Of::Computed(*column), &cells, &data_type)?
        }
        (Values::Scalars(scalars), _) => ScalarValue::iter_to_array(scalars)?,
        (Values::Names(names), _) => {
            Arc::new(StringArray::from_iter_values(names.into_iter().map(|name| &plan.names[usize::from(name)])))
        }
        (Values::Numbers(numbers), _) => Arc::new(Int64Array::from(numbers)),
        (Values::Cells(cells), _) => arrow::array::new_null_array(&arrow::datatypes::DataType::Null, cells.len()),
    })
}

/// The rows of a match by set of variables, counted from its first row.
struct Members<'a> {
    found: &'a Found,
    of: BTreeMap<Variables, Vec<u32>>,
}

impl Members<'_> {
    fn of(&mut self, of: Option<Variables>) -> &[u32] {
        let of = of.unwrap_or(Variables::MAX);
        self.of.entry(of).or_insert_with(|| {
            let rows = self.found.variables.iter().zip(0..);
            rows.filter(|(variable, _)| of & 1 << **variable != 0).map(|(_, row)| row).collect()
        })
    }
}

/// How many of `members` have come by the row `row`.
fn come(members: &[u32], row: usize) -> usize {
    members.partition_point(|member| *member as usize <= row)
}

/// The one of `members` that `from` means, as seen from the row `row`.
fn pick(members: &[u32], row: usize, from: From) -> Option<u32> {
    let members = &members[..come(members, row)];
    match from {
        From::First(number) => members.get(number as usize).copied(),
        From::Last(number) => members.len().checked_sub(number as usize + 1).map(|index| members[index]),
    }
}

/// The aggregate over those of `members` that have come by each of `rows`, which ascend.
fn aggregates(
    view: &View<'_>,
    call: usize,
    start: u64,
    members: &[u32],
    rows: &[usize],
    out: &mut Vec<ScalarValue>,
) -> Result<()> {
    let (mut known, mut before, mut value) = (0, None, ScalarValue::Null);
    for row in rows {
        let count = come(members, *row);
        if before.is_none() || count != known {
            let more: Vec<u64> = members[known..count].iter().map(|member| start + u64::from(*member)).collect();
            let state = state(extended(view, call, before.as_ref(), &more)?.as_mut())?;
            value = extended(view, call, Some(&state), &[])?.evaluate()?;
            (known, before) = (count, Some(state));
        }
        out.push(value.clone());
    }
    Ok(())
}
