//! What an operator is.

use arrow::array::RecordBatch;
use async_trait::async_trait;

use crate::engine::dead_letter::Letter;
use crate::engine::error::RunError;

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
}
