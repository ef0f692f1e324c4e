//! Aggregates over windows that overlap (HOP, CUMULATE): rows are aggregated per pane, a span of time all of whose rows
//! are in the same windows, and the panes' accumulators are merged when a window closes.
//!
//! The work per row does not depend on how many windows it is in. A row that comes when some of its windows have closed
//! is in those that are still open, because the closed ones have been given out.

use std::ops::Bound;

use arrow::array::{ArrayRef, RecordBatch};
use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use crate::engine::error::RunError;
use crate::engine::keyed::{EncodedKeys, KeyTable, Selection};
use crate::engine::operator::{Operator, Output, StateSize};
use crate::engine::operators::aggregate::{Window, WindowAggregate};
use crate::engine::operators::aggregate_state;
use crate::engine::operators::window_bounds::{Span, Windows};
use crate::engine::operators::window_parts::WindowKey;

/// Panes by their keys.
type Range = (Bound<WindowKey>, Bound<WindowKey>);

/// A pane whose accumulators have been asked for their state: some of its windows have closed. It is opened again when
/// more rows come for it.
pub(super) struct SealedPane {
    /// `None` without keys.
    pub(super) table: Option<KeyTable>,
    keys: EncodedKeys,
    pub(super) groups: usize,
    /// By aggregate.
    pub(super) states: Vec<Vec<ArrayRef>>,
    bytes: usize,
}

/// The operator.
pub(crate) struct PaneAggregate {
    /// Its windows are the panes; for it, none ever closes.
    panes: WindowAggregate,
    windows: Windows,
}

impl PaneAggregate {
    /// Merges the windows `windows` from `panes`.
    pub(crate) fn new(panes: WindowAggregate, windows: Windows) -> Self {
        Self { panes, windows }
    }

    fn span(&self, (end, start): WindowKey) -> Span {
        (start.saturating_mul(self.panes.unit_ns), end.saturating_mul(self.panes.unit_ns))
    }

    /// The first pane that has rows.
    fn first(&self) -> Option<WindowKey> {
        let open = self.panes.windows.first_key_value().map(|(key, _)| *key);
        let sealed = self.panes.sealed.first_key_value().map(|(key, _)| *key);
        open.into_iter().chain(sealed).min()
    }

    /// Gives out the windows that end up to `watermark`.
    fn close(&mut self, watermark: i64, out: &mut Output) -> Result<()> {
        // Later panes have no window that ends before all those of an earlier one.
        while let Some(pane) = self.first() {
            match self.windows.next(self.span(pane), self.panes.given_out) {
                None => {
                    self.panes.windows.remove(&pane);
                    self.panes.sealed.remove(&pane);
                }
                Some(window) if window.1 > watermark => break,
                Some(window) => {
                    self.give_out(window, out)?;
                    self.panes.given_out = window.1;
                }
            }
        }
        self.panes.given_out = self.panes.given_out.max(watermark);
        Ok(())
    }

    /// Merges the panes of `window` and gives out its groups.
    fn give_out(&mut self, window: Span, out: &mut Output) -> Result<()> {
        let unit = self.panes.unit_ns;
        let (start, end) = (window.0 / unit, window.1 / unit);
        // A pane ends after the window's start, and not after its end.
        let within = (Bound::Excluded((start, i64::MAX)), Bound::Included((end, i64::MAX)));
        let open: Vec<WindowKey> = self.panes.windows.range(within).map(|(key, _)| *key).collect();
        for pane in open {
            self.seal(pane)?;
        }
        let mut merged = self.panes.empty_window()?;
        let mut numbers = std::mem::take(&mut self.panes.groups);
        for pane in self.panes.sealed.range(within).map(|(_, pane)| pane) {
            pane.merge_into(&mut merged, &mut numbers)?;
        }
        self.panes.groups = numbers;
        if let Some(first) = self.windows.first_pane(window) {
            merged = self.keep_together((first.1 / unit, first.0 / unit), within, merged)?;
        }
        self.panes.close((end, start), merged, out)
    }

    /// Where the panes of a window are in all later ones of the same start: puts what is `merged` of them into the first
    /// pane, so that the next window merges two panes and not all. Returns the same as `merged`.
    fn keep_together(&mut self, first: WindowKey, within: Range, merged: Window) -> Result<Window> {
        let gone: Vec<WindowKey> = self.panes.sealed.range(within).map(|(key, _)| *key).collect();
        for pane in gone {
            self.panes.sealed.remove(&pane);
        }
        self.panes.windows.insert(first, merged);
        self.seal(first)?;
        let mut again = self.panes.empty_window()?;
        let mut numbers = std::mem::take(&mut self.panes.groups);
        if let Some(pane) = self.panes.sealed.get(&first) {
            pane.merge_into(&mut again, &mut numbers)?;
        }
        self.panes.groups = numbers;
        Ok(again)
    }

    fn seal(&mut self, pane: WindowKey) -> Result<()> {
        let Some(window) = self.panes.windows.remove(&pane) else { return Ok(()) };
        let groups = window.group_count();
        let mut keys = EncodedKeys::default();
        if let Some(table) = &window.table {
            let all: Vec<u32> = (0..groups as u32).collect();
            self.panes.encoder.encode(&self.panes.encoder.decode(table, &all)?, &mut keys)?;
        }
        let mut accumulators = window.accumulators;
        let states = accumulators.iter_mut().map(|accumulator| accumulator.state(EmitTo::All));
        let states = states.collect::<Result<Vec<_>>>()?;
        let bytes = states.iter().flatten().map(|column| column.get_array_memory_size()).sum();
        self.panes.sealed.insert(pane, SealedPane { table: window.table, keys, groups, states, bytes });
        Ok(())
    }
}

impl SealedPane {
    /// Adds what the pane holds to `window`.
    fn merge_into(&self, window: &mut Window, numbers: &mut Vec<usize>) -> Result<()> {
        window.groups_of(&self.keys, Selection::Range { start: 0, len: self.groups }, numbers);
        let groups = window.group_count();
        for (accumulator, state) in window.accumulators.iter_mut().zip(&self.states) {
            accumulator.merge_batch(state, numbers, groups)?;
        }
        Ok(())
    }

    /// The pane as it was before it was sealed; `accumulators` are new ones.
    pub(super) fn opened(self, mut accumulators: Vec<Box<dyn GroupsAccumulator>>) -> Result<Window> {
        let numbers: Vec<usize> = (0..self.groups).collect();
        for (accumulator, state) in accumulators.iter_mut().zip(&self.states) {
            accumulator.merge_batch(state, &numbers, self.groups)?;
        }
        Ok(Window { table: self.table, accumulators })
    }

    /// How many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.table.as_ref().map_or(0, KeyTable::bytes) + self.keys.memory()
    }
}

#[async_trait]
impl Operator for PaneAggregate {
    async fn batch(&mut self, input: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError> {
        self.panes.batch(input, batch, out).await
    }

    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        self.close(watermark, out).map_err(|error| self.panes.failed(error.strip_backtrace()))
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        aggregate_state::snapshot(&mut self.panes).map_err(|error| self.panes.failed(error.strip_backtrace()))
    }

    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        self.panes.restore(state, keep)
    }

    fn state_size(&self) -> StateSize {
        self.panes.state_size()
    }
}
