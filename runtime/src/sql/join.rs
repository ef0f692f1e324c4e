//! Lowers joins of two streams.

use datafusion::common::Result;
use datafusion::logical_expr::Join;

use crate::plan::graph::NodeId;
use crate::sql::lower::Lowering;
use crate::sql::refuse::Refusal;

impl Lowering<'_> {
    /// Adds the nodes of a join both of whose sides are streams, and returns the operator's.
    pub(crate) fn stream_join(&mut self, join: Join) -> Result<NodeId> {
        drop(join);
        Err(Refusal::StreamJoin.into())
    }
}
