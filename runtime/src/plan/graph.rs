//! The graph of a pipeline: what will run, with names resolved and SQL planned, before any task exists.

use arrow::datatypes::SchemaRef;

use crate::engine::operators::aggregate::AggregatePlan;
use crate::sql::region::Region;
use crate::sql::tumble::Tumble;

/// A node's index in [`Graph::nodes`]; inputs come before their readers.
pub(crate) type NodeId = usize;

/// Sources and operators, in topological order.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
}

/// A source or an operator.
#[derive(Debug)]
pub(crate) struct Node {
    /// Stable over reloads: the source's name, or `step/operator`. State is found again by it.
    pub(crate) name: String,
    /// The step it belongs to; `None` for a source.
    pub(crate) step: Option<String>,
    /// Where its rows come from.
    pub(crate) inputs: Vec<NodeId>,
    /// For keyed state: the columns of the input by which rows are spread over shards. Empty: no key, one shard.
    pub(crate) keys: Option<Vec<usize>>,
    /// The columns of its output.
    pub(crate) schema: SchemaRef,
    /// What it does.
    pub(crate) kind: NodeKind,
    /// For stateful operators: what the state depends on. State is only taken over where this is the same.
    pub(crate) fingerprint: Option<String>,
}

/// What a node does.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a plan has a handful of nodes, and they are not moved about")]
pub(crate) enum NodeKind {
    /// The stream source with this index in the plan.
    Source(usize),
    /// Stateless SQL.
    Region(Region),
    /// Rows get their window's bounds; late ones leave.
    WindowAssign(Tumble),
    /// Aggregates per window and group.
    Aggregate(AggregatePlan),
}

impl Graph {
    /// Adds a node and returns its id.
    pub(crate) fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }
}
