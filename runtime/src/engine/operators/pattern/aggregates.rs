//! Aggregates over the rows of a match that grows row by row: each result is made from the state before and one row.

use std::collections::{HashMap, HashSet};

use arrow::array::ArrayRef;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Accumulator;

use crate::engine::operators::pattern::rows::Cell;
use crate::engine::operators::pattern::search::View;

/// The state of an accumulator.
type State = Vec<ArrayRef>;

/// The states of the aggregates of a search.
#[derive(Default)]
pub(super) struct Aggregates {
    /// By aggregate and list of rows.
    lists: HashMap<(usize, u32), State>,
    /// By aggregate over all rows: how many rows of the match, and their state.
    all: HashMap<usize, (u64, State)>,
}

/// A list of rows: the last one and the list before it, by number. The number 0 is the empty list.
pub(super) struct Lists<'a> {
    pub(super) nodes: &'a [(u32, u32)],
    /// The row from which theirs are counted.
    pub(super) start: u64,
}

impl Aggregates {
    /// The aggregate `call` over the rows of `list` and, where there is one, the row `tried`.
    pub(super) fn over_list(
        &mut self,
        view: &View<'_>,
        call: usize,
        lists: &Lists<'_>,
        list: u32,
        tried: Option<u64>,
    ) -> Result<ScalarValue> {
        let (mut rows, mut at) = (Vec::new(), list);
        while at != 0 && !self.lists.contains_key(&(call, at)) {
            let (before, row) = lists.nodes[at as usize];
            rows.push(lists.start + u64::from(row));
            at = before;
        }
        if !rows.is_empty() {
            rows.reverse();
            let mut accumulator = extended(view, call, self.lists.get(&(call, at)), &rows)?;
            self.lists.insert((call, list), state(accumulator.as_mut())?);
        }
        extended(view, call, self.lists.get(&(call, list)), tried.as_slice())?.evaluate()
    }

    /// The aggregate `call` over the rows from `start` to `row`.
    pub(super) fn over_all(&mut self, view: &View<'_>, call: usize, start: u64, row: u64) -> Result<ScalarValue> {
        let known = self.all.remove(&call);
        let (from, before) = match known.filter(|(from, _)| *from <= row + 1) {
            Some((from, state)) => (from, Some(state)),
            None => (start, None),
        };
        let rows: Vec<u64> = (from..=row).collect();
        let mut accumulator = extended(view, call, before.as_ref(), &rows)?;
        let state = state(accumulator.as_mut())?;
        let value = extended(view, call, Some(&state), &[])?.evaluate()?;
        self.all.insert(call, (row + 1, state));
        Ok(value)
    }

    /// Forgets what belongs to lists that no way has any more, where that is much.
    pub(super) fn keep(&mut self, lists: impl Iterator<Item = u32>, most: usize) {
        if self.lists.len() > 64 + 4 * most {
            let used: HashSet<u32> = lists.collect();
            self.lists.retain(|(_, list), _| used.contains(list));
        }
    }
}

/// The aggregate `call` after the rows of `before` and these.
pub(super) fn extended(
    view: &View<'_>,
    call: usize,
    before: Option<&State>,
    rows: &[u64],
) -> Result<Box<dyn Accumulator>> {
    let call = &view.plan.calls[call];
    let mut accumulator = call.aggregate.create_accumulator()?;
    if let Some(before) = before {
        accumulator.merge_batch(before)?;
    }
    if !rows.is_empty() {
        let cells: Vec<Option<Cell>> = rows.iter().map(|row| view.cell(*row)).collect();
        let arguments = call.arguments.iter();
        let arguments = arguments.map(|a| a.values(cells.len(), |column| view.column(column, &cells)));
        accumulator.update_batch(&arguments.collect::<Result<Vec<_>>>()?)?;
    }
    Ok(accumulator)
}

/// The state of `accumulator`, which may be of no use after that.
pub(super) fn state(accumulator: &mut dyn Accumulator) -> Result<State> {
    accumulator.state()?.iter().map(ScalarValue::to_array).collect()
}
