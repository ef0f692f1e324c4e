//! Cuts a batch into the rows of each window.
//!
//! Rows come mostly in long runs of one window: a run is a slice, and nothing is copied. Only where the rows of windows
//! are mixed are they picked out.

use std::ops::Range;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::error::ArrowError;

use crate::engine::keyed::Selection;

/// A window's end and start, in the unit of the time column. Ordered by end: what closes first comes first.
pub(crate) type WindowKey = (i64, i64);

/// Runs of a window are handled one by one where they have as many rows on average.
const RUN_ROWS_MIN: usize = 256;
/// So many rows are compared at a time while a run goes on.
const STRIDE: usize = 64;

/// Rows of a batch that belong to one window, in their order.
#[derive(Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) window: WindowKey,
    rows: Rows,
}

#[derive(Debug, PartialEq)]
enum Rows {
    All,
    Range(Range<usize>),
    Picked(UInt32Array),
}

impl Part {
    /// Which rows they are, of a batch of `rows` rows.
    pub(crate) fn selection(&self, rows: usize) -> Selection<'_> {
        match &self.rows {
            Rows::All => Selection::Range { start: 0, len: rows },
            Rows::Range(range) => Selection::Range { start: range.start, len: range.len() },
            Rows::Picked(rows) => Selection::Rows(rows.values()),
        }
    }

    /// These rows of a column.
    pub(crate) fn of(&self, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        match &self.rows {
            Rows::All => Ok(column.clone()),
            Rows::Range(range) => Ok(column.slice(range.start, range.len())),
            Rows::Picked(rows) => take(column, rows, None),
        }
    }

    /// These rows of a batch.
    pub(crate) fn of_batch(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let columns = batch.columns().iter().map(|column| self.of(column)).collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(batch.schema(), columns)
    }
}

/// The parts of a batch whose rows have these window bounds, sorted by window. A window may have several parts.
pub(crate) fn parts(ends: &[i64], starts: &[i64]) -> Vec<Part> {
    let mut runs = runs(ends, starts);
    match &runs[..] {
        [] => return vec![],
        [(window, _)] => return vec![Part { window: *window, rows: Rows::All }],
        _ => {}
    }
    let long = ends.len() / runs.len() >= RUN_ROWS_MIN;
    // Stable: the runs of a window stay in order.
    runs.sort_by_key(|(window, _)| *window);
    let mut parts = Vec::new();
    for group in runs.chunk_by(|a, b| a.0 == b.0) {
        let window = group[0].0;
        if long || group.len() == 1 {
            parts.extend(group.iter().map(|(_, range)| Part { window, rows: Rows::Range(range.clone()) }));
        } else {
            let rows = group.iter().flat_map(|(_, range)| range.start as u32..range.end as u32);
            parts.push(Part { window, rows: Rows::Picked(UInt32Array::from_iter_values(rows)) });
        }
    }
    parts
}

/// Where rows of the same window follow each other.
fn runs(ends: &[i64], starts: &[i64]) -> Vec<(WindowKey, Range<usize>)> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < ends.len() {
        let end = run_end(ends, starts, start);
        runs.push(((ends[start], starts[start]), start..end));
        start = end;
    }
    runs
}

fn run_end(ends: &[i64], starts: &[i64], first: usize) -> usize {
    let (end, start) = (ends[first], starts[first]);
    let mut row = first + 1;
    // Without a branch per row, which the compiler makes wide.
    while row + STRIDE <= ends.len() {
        let pairs = ends[row..row + STRIDE].iter().zip(&starts[row..row + STRIDE]);
        if pairs.fold(0, |differs, (e, s)| differs | (e ^ end) | (s ^ start)) != 0 {
            break;
        }
        row += STRIDE;
    }
    while row < ends.len() && ends[row] == end && starts[row] == start {
        row += 1;
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows by window, as `end:row,row,…`, for windows of 10.
    fn shown(times: &[i64]) -> Vec<String> {
        let starts: Vec<i64> = times.iter().map(|time| time.div_euclid(10) * 10).collect();
        let ends: Vec<i64> = starts.iter().map(|start| start + 10).collect();
        let parts = parts(&ends, &starts);
        let shown = parts.iter().map(|part| {
            let rows: Vec<String> = match part.selection(times.len()) {
                Selection::Range { start, len } => (start..start + len).map(|row| row.to_string()).collect(),
                Selection::Rows(rows) => rows.iter().map(u32::to_string).collect(),
            };
            format!("{}:{}", part.window.0, rows.join(","))
        });
        shown.collect()
    }

    #[test]
    fn rows_of_each_window_stay_in_order_and_windows_come_by_their_end() {
        assert_eq!(shown(&[]), Vec::<String>::new());
        assert_eq!(shown(&[5, 1, 9]), ["10:0,1,2"]);
        assert_eq!(shown(&[15, 1, 9, 12]), ["10:1,2", "20:0,3"]);
        assert_eq!(shown(&[1, 11, 2, 12, 3]), ["10:0,2,4", "20:1,3"]);
    }

    #[test]
    fn long_runs_are_not_copied() {
        let times: Vec<i64> = (0..3000).map(|row| row / 1000 % 2 * 10).collect();
        let ends: Vec<i64> = times.iter().map(|time| time + 10).collect();
        let windows: Vec<_> = parts(&ends, &times).into_iter().map(|part| (part.window.0, part.rows)).collect();
        let expected = [(10, Rows::Range(0..1000)), (10, Rows::Range(2000..3000)), (20, Rows::Range(1000..2000))];
        assert_eq!(windows, expected);
    }
}
