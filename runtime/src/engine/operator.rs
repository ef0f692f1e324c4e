//! What an operator is: its plan, made once per load, and the operator itself, one per shard.

use std::collections::BTreeSet;
use std::fmt;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::common::Result as DataFusionResult;
use tokio::time::Instant;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;
use crate::spec::model::OnError;

/// What an operator will do: decided once per load, and made into one operator per shard of each run.
#[async_trait]
pub(crate) trait OperatorPlan: fmt::Debug + Send + Sync {
    /// An operator without state.
    async fn create(&self, site: Site) -> Result<Box<dyn Operator>, RunError>;

    /// Fails where it could not be created: what belongs to the load, not to the start.
    async fn check(&self) -> DataFusionResult<()> {
        Ok(())
    }

    /// The columns of the rows that may leave by the late route: one schema per kind of late row. Empty: none is late.
    fn late(&self) -> Vec<SchemaRef> {
        vec![]
    }

    /// True where its output has windows that it assigned: what follows in the same step is never late for them.
    fn assigns_windows(&self) -> bool {
        false
    }

    /// True where its rows come out in the order of event time: what goes by that time in the same step finds none late.
    fn orders_rows(&self) -> bool {
        false
    }

    /// The columns of its input `input` that it needs, where `of_output` says which ones of its output are needed.
    fn reads(&self, input: usize, of_output: &dyn Fn() -> Wanted) -> Wanted {
        let (_, _) = (input, of_output);
        None
    }

    /// Its input `input` now has the columns of `schema`: those that were `keep` before, and behind them some that
    /// nobody knew of. What that makes of its output; `None` where the output stays as it is. Only called where
    /// [`OperatorPlan::reads`] said so.
    fn narrow(&mut self, input: usize, schema: &SchemaRef, keep: &[usize]) -> DataFusionResult<Option<Narrowed>> {
        let (_, _, _) = (input, schema, keep);
        Ok(None)
    }

    /// What it does and keeps, for people.
    fn describe(&self) -> Description;
}

/// The columns that are wanted of a stream; `None`: all of them.
pub(crate) type Wanted = Option<BTreeSet<usize>>;

/// An output that has become narrower.
#[derive(Debug)]
pub(crate) struct Narrowed {
    /// Its columns.
    pub(crate) schema: SchemaRef,
    /// By column: which one it was before; `usize::MAX` for one that nobody knew of.
    pub(crate) keep: Vec<usize>,
}

/// Where an operator stands.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The step's name, for letters and errors.
    pub(crate) step: String,
    /// The columns of its output.
    pub(crate) schema: SchemaRef,
    pub(crate) on_error: OnError,
}

impl Site {
    /// An error of the operator that ends the run.
    pub(crate) fn failed(&self, error: impl ToString) -> RunError {
        RunError::fatal(format!("step {}", self.step), error)
    }
}

/// What an operator does, in the words of `millstream explain`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Description {
    /// What it does: `tumbling window of 1m over ts`.
    pub(crate) does: String,
    /// What it keeps per key: `one accumulator per aggregate, open window and key`; `None` without state.
    pub(crate) keeps: Option<String>,
    /// What frees it: `the watermark at the window's end`.
    pub(crate) freed: Option<String>,
}

/// A piece of the graph, for one shard. Created without side effects; it never spawns.
#[async_trait]
pub(crate) trait Operator: Send {
    /// Takes rows of its input number `input`.
    async fn batch(&mut self, input: usize, batch: RecordBatch, out: &mut Output) -> Result<(), RunError>;

    /// Event time has come to `watermark` on all inputs. What this makes ready goes to `out`, before the watermark
    /// itself is passed on.
    async fn watermark(&mut self, watermark: i64, out: &mut Output) -> Result<(), RunError> {
        let (_, _) = (watermark, out);
        Ok(())
    }

    /// When [`Operator::tick`] has something to do, by the clock on the wall.
    fn next_tick(&self) -> Option<Instant> {
        None
    }

    /// The clock on the wall has come to `now`, which is not before [`Operator::next_tick`].
    async fn tick(&mut self, now: Instant, out: &mut Output) -> Result<(), RunError> {
        let (_, _) = (now, out);
        Ok(())
    }

    /// The state at a barrier, as rows, in as many batches as suit it: what [`Operator::restore`] needs, one by one.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, RunError> {
        Ok(vec![])
    }

    /// Takes back a batch of state of any shard of a former run; it keeps the rows of the key groups that `keep` accepts.
    fn restore(&mut self, state: &RecordBatch, keep: &dyn Fn(u16) -> bool) -> Result<(), RunError> {
        let (_, _) = (state, keep);
        Ok(())
    }

    /// How much state it holds now.
    fn state_size(&self) -> StateSize {
        StateSize::default()
    }
}

/// How much state an operator holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StateSize {
    /// Rows or groups.
    pub(crate) rows: usize,
    /// Bytes, as far as they can be told without walking through all of it.
    pub(crate) bytes: usize,
}

/// What an operator gives out while it takes one element.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Rows for the next operators.
    pub(crate) batches: Vec<RecordBatch>,
    /// Rows that came after their windows had closed.
    pub(crate) late: Vec<RecordBatch>,
    /// Rows that failed.
    pub(crate) letters: Vec<Letter>,
    /// For an operator with several inputs, while it takes rows: how far event time has come on the edge that they came
    /// by, where that is known. That is never behind the operator's watermark, and what is late by it does not depend
    /// on which input was faster.
    pub(crate) input_watermark: Option<i64>,
}

impl Output {
    /// True where no row was given out.
    pub(crate) fn is_empty(&self) -> bool {
        let none = |batches: &[RecordBatch]| batches.iter().all(|batch| batch.num_rows() == 0);
        none(&self.batches) && none(&self.late) && self.letters.is_empty()
    }
}
