//! Lowers what is only bounded within a window: DISTINCT, ORDER BY, LIMIT.

use datafusion::common::Result;
use datafusion::logical_expr::{Distinct, Limit, Sort};

use crate::plan::graph::NodeId;
use crate::sql::lower::Lowering;
use crate::sql::refuse::Refusal;

impl Lowering<'_> {
    /// Adds the nodes of DISTINCT, and returns the operator's.
    pub(crate) fn distinct(&mut self, distinct: Distinct) -> Result<NodeId> {
        drop(distinct);
        Err(Refusal::Distinct.into())
    }

    /// Adds the nodes of ORDER BY, and returns the operator's.
    pub(crate) fn sort(&mut self, sort: Sort) -> Result<NodeId> {
        drop(sort);
        Err(Refusal::OrderBy.into())
    }

    /// Adds the nodes of LIMIT, and returns the operator's.
    pub(crate) fn limit(&mut self, limit: Limit) -> Result<NodeId> {
        drop(limit);
        Err(Refusal::Limit.into())
    }
}
