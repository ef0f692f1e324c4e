//! Lowers joins of two streams.

use datafusion::common::{JoinType, NullEquality, Result};
use datafusion::logical_expr::Join;

use crate::plan::graph::NodeId;
use crate::sql::lower::Lowering;
use crate::sql::refuse::Refusal;

impl Lowering<'_> {
    /// Adds the nodes of a join both of whose sides are streams, and returns the operator's.
    pub(crate) fn stream_join(&mut self, join: Join) -> Result<NodeId> {
        if let Some(node) = self.window_join(&join)? {
            return Ok(node);
        }
        if let Some(operation) = set_operation(&join) {
            return Err(Refusal::SetOperation(operation).into());
        }
        Err(Refusal::StreamJoin.into())
    }
}

/// The set operation that `join` is made of.
fn set_operation(join: &Join) -> Option<&'static str> {
    let of_all =
        join.null_equality == NullEquality::NullEqualsNull && join.on.len() == join.left.schema().fields().len();
    match join.join_type {
        JoinType::LeftSemi if of_all => Some("INTERSECT"),
        JoinType::LeftAnti if of_all => Some("EXCEPT"),
        _ => None,
    }
}
