//! Lowers OVER windows.

use datafusion::common::Result;
use datafusion::logical_expr::Window;

use crate::plan::graph::NodeId;
use crate::sql::lower::Lowering;
use crate::sql::refuse::Refusal;

impl Lowering<'_> {
    /// Adds the nodes of `window`, and returns the operator's.
    pub(crate) fn over(&mut self, window: Window) -> Result<NodeId> {
        if let Some(node) = self.over_per_window(&window)? {
            return Ok(node);
        }
        Err(Refusal::Over.into())
    }
}
