//! What computes one column of the output, and the functions that only count rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt64Array};
use arrow::datatypes::{Field, SchemaRef};
use datafusion::common::Result;

use crate::engine::operators::over::call::{Call, CallKind};
use crate::engine::operators::over::general::General;
use crate::engine::operators::over::number::Number;
use crate::engine::operators::over::pick::Picked;
use crate::engine::operators::over::sequence::{Facts, Sequence};
use crate::engine::operators::over::store::Store;

/// A row that comes out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// The number of its key.
    pub(super) key: u32,
    /// How many rows of the key came before it.
    pub(super) position: u64,
    pub(super) slot: u32,
}

/// What functions see.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    /// By key.
    pub(super) sequences: &'a [Sequence],
    pub(super) facts: &'a Facts,
    pub(super) stores: &'a [Store],
}

/// Computes a column. The rows of a key are evaluated in their order, each once.
pub(super) trait Function: Send {
    /// The values for `rows`.
    fn evaluate(&mut self, rows: &[Row], view: View<'_>) -> Result<ArrayRef>;

    /// Where the frame has no start: the position up to which it has taken in the rows of `key`.
    fn entered(&self, key: u32) -> Option<u64> {
        let _ = key;
        None
    }

    /// The columns of its state, one row per key.
    fn state_fields(&self) -> Result<Vec<Field>> {
        Ok(vec![])
    }

    /// Its state for the first `keys` keys.
    fn state(&mut self, keys: usize) -> Result<Vec<ArrayRef>> {
        let _ = keys;
        Ok(vec![])
    }

    /// Takes back its state; `keys` says which key each row of `columns` is for.
    fn restore(&mut self, columns: &[ArrayRef], keys: &[usize]) -> Result<()> {
        let (_, _) = (columns, keys);
        Ok(())
    }

    /// How many bytes of memory it takes.
    fn bytes(&self) -> usize {
        0
    }
}

/// The function of `call`.
pub(super) fn create(call: &Call, stores: &[Store], input: &SchemaRef) -> Result<Box<dyn Function>> {
    Ok(match &call.kind {
        CallKind::RowNumber => Box::new(Counter::RowNumber),
        CallKind::Rank => Box::new(Counter::Rank),
        CallKind::DenseRank => Box::new(Counter::DenseRank),
        CallKind::Pick(pick) => Box::new(Picked::new(pick.clone(), &stores[pick.store], input)?),
        CallKind::Number(number) => Number::create(number.clone(), call.data_type.clone()),
        CallKind::General(general) => Box::new(General::new(general.clone(), call.data_type.clone())),
    })
}

/// Functions that know their value by where the row is.
#[derive(Debug, Clone, Copy)]
enum Counter {
    RowNumber,
    Rank,
    DenseRank,
}

impl Function for Counter {
    fn evaluate(&mut self, rows: &[Row], view: View<'_>) -> Result<ArrayRef> {
        let values = rows.iter().map(|row| match self {
            Self::RowNumber => row.position + 1,
            Self::Rank => view.facts.starts[row.slot as usize] + 1,
            Self::DenseRank => view.facts.groups[row.slot as usize],
        });
        Ok(Arc::new(UInt64Array::from_iter_values(values)))
    }
}

/// The rows' numbers, those of a key together, in order.
pub(super) fn by_key(rows: &[Row]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    order.sort_by_key(|row| rows[*row as usize].key);
    order
}
