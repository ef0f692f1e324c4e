//! The functions of an OVER window, as planned.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use crate::engine::operators::over::sequence::{Bound, Frame};

/// A function with its frame.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// How it was written.
    pub(crate) name: String,
    /// The type of its column.
    pub(crate) data_type: DataType,
    pub(crate) kind: CallKind,
}

/// What is computed.
#[derive(Debug, Clone)]
pub(crate) enum CallKind {
    RowNumber,
    Rank,
    DenseRank,
    /// The value of one row of the frame.
    Pick(PickCall),
    /// A sum, count, mean or extreme of numbers.
    Number(NumberCall),
    /// Any other aggregate.
    General(GeneralCall),
}

/// The value of one row of the frame: LAG, LEAD, FIRST_VALUE, LAST_VALUE, NTH_VALUE.
#[derive(Debug, Clone)]
pub(crate) struct PickCall {
    /// The store with the values.
    pub(crate) store: usize,
    pub(crate) frame: Frame,
    /// Counted from the frame's end; otherwise from its start.
    pub(crate) from_end: bool,
    /// Which row, from 1.
    pub(crate) nth: u64,
    /// Rows without a value do not count.
    pub(crate) ignore_nulls: bool,
    /// The value where there is no such row; `None`: null.
    pub(crate) default: Option<ScalarValue>,
}

/// What is computed of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Count,
    Sum,
    Mean,
    Least,
    Greatest,
}

/// An aggregate of numbers.
#[derive(Debug, Clone)]
pub(crate) struct NumberCall {
    pub(crate) op: Op,
    /// The store with the numbers; `None`: all rows count.
    pub(crate) store: Option<usize>,
    /// The numbers are doubles; otherwise integers.
    pub(crate) floats: bool,
    pub(crate) frame: Frame,
}

/// An aggregate by DataFusion's accumulators.
#[derive(Debug, Clone)]
pub(crate) struct GeneralCall {
    pub(crate) aggregate: Arc<AggregateFunctionExpr>,
    /// The store with the arguments that are no constants, and behind them the filter.
    pub(crate) store: Option<usize>,
    pub(crate) arguments: Vec<Argument>,
    /// The store's last column says which rows count.
    pub(crate) filter: bool,
    pub(crate) frame: Frame,
}

/// An argument of an aggregate.
#[derive(Debug, Clone)]
pub(crate) enum Argument {
    /// The store's column with this number.
    Column(usize),
    Constant(ScalarValue),
}

impl Call {
    /// Its frame, where it has one.
    pub(crate) fn frame(&self) -> Option<Frame> {
        match &self.kind {
            CallKind::RowNumber | CallKind::Rank | CallKind::DenseRank => None,
            CallKind::Pick(pick) => Some(pick.frame),
            CallKind::Number(number) => Some(number.frame),
            CallKind::General(general) => Some(general.frame),
        }
    }

    /// For how many following rows a row waits.
    pub(crate) fn following_rows(&self) -> u64 {
        match self.frame() {
            Some(Frame { rows: true, end: Bound::Offset(offset), .. }) => offset.max(0).unsigned_abs(),
            _ => 0,
        }
    }

    /// How far the watermark must be past a row, in units of the event time.
    pub(crate) fn following_range(&self) -> Option<i64> {
        match self.frame() {
            Some(Frame { rows: false, end: Bound::Offset(offset), .. }) if offset > 0 => Some(offset),
            _ => None,
        }
    }
}
