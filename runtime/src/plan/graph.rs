//! The graph of a pipeline: what will run, with names resolved and SQL planned, before any task exists.

use std::collections::BTreeSet;

use arrow::datatypes::SchemaRef;

use crate::engine::operator::OperatorPlan;
use crate::sql::region::Region;

/// A node's index in [`Graph::nodes`]; inputs come before their readers.
pub(crate) type NodeId = usize;

/// Sources and operators, in topological order.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// By stream source: whether it comes to an end by itself.
    pub(crate) bounded: Vec<bool>,
    /// The last nodes of steps whose rows replace one another.
    pub(crate) updating: BTreeSet<NodeId>,
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
    /// For keyed state: by input, the columns by which rows are spread over shards. No columns: one shard.
    pub(crate) keys: Option<Vec<Vec<usize>>>,
    /// By input: how far the times that the node goes by may be behind the input's watermark, in nanoseconds
    /// ([`crate::sql::marks::event_time`]). The node and all that follow it see a watermark that is so much earlier.
    /// Empty: nowhere behind.
    pub(crate) lags: Vec<i64>,
    /// The columns of its output.
    pub(crate) schema: SchemaRef,
    /// What it does.
    pub(crate) kind: NodeKind,
    /// For stateful operators: what the state depends on. State is only taken over where this is the same.
    pub(crate) fingerprint: Option<String>,
}

/// What a node does.
#[derive(Debug)]
pub(crate) enum NodeKind {
    /// The stream source with this index in the plan.
    Source(usize),
    /// Stateless SQL.
    Region(Box<Region>),
    /// Anything that needs time or keeps state.
    Operator(Box<dyn OperatorPlan>),
}

impl Node {
    /// The plan of its operator, where it is neither a source nor stateless.
    pub(crate) fn operator(&self) -> Option<&dyn OperatorPlan> {
        match &self.kind {
            NodeKind::Operator(plan) => Some(plan.as_ref()),
            NodeKind::Source(_) | NodeKind::Region(_) => None,
        }
    }

    /// How far behind its times may be on the input `input`.
    pub(crate) fn lag(&self, input: usize) -> i64 {
        self.lags.get(input).copied().unwrap_or(0)
    }

    /// The columns of its input `input` by which rows are spread over shards; `None` where that does not matter.
    pub(crate) fn keys_of(&self, input: usize) -> Option<&[usize]> {
        self.keys.as_ref().map(|keys| keys.get(input).map_or(&[][..], Vec::as_slice))
    }
}

impl Graph {
    /// Adds a node and returns its id.
    pub(crate) fn add(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// True where an operator reads of the stream source with the index `source`: it may wait for time to pass.
    pub(crate) fn waits_for_time(&self, source: usize) -> bool {
        let mut reads = vec![false; self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            reads[id] = matches!(node.kind, NodeKind::Source(number) if number == source)
                || node.inputs.iter().any(|input| reads[*input]);
        }
        self.nodes.iter().zip(reads).any(|(node, reads)| reads && node.operator().is_some())
    }

    /// The indices of the stream sources that `node` reads, each once, in the order in which its inputs lead to them.
    pub(crate) fn sources_of(&self, node: NodeId) -> Vec<usize> {
        let (mut sources, mut seen, mut waiting) = (Vec::new(), vec![false; self.nodes.len()], vec![node]);
        while let Some(id) = waiting.pop() {
            if std::mem::replace(&mut seen[id], true) {
                continue;
            }
            let node = &self.nodes[id];
            match node.kind {
                NodeKind::Source(source) => sources.push(source),
                NodeKind::Region(_) | NodeKind::Operator(_) => waiting.extend(node.inputs.iter().rev()),
            }
        }
        sources
    }

    /// True where everything that `node` reads comes to an end by itself.
    pub(crate) fn ends(&self, node: NodeId) -> bool {
        let node = &self.nodes[node];
        match node.kind {
            NodeKind::Source(source) => self.bounded.get(source).copied().unwrap_or(false),
            NodeKind::Region(_) | NodeKind::Operator(_) => node.inputs.iter().all(|input| self.ends(*input)),
        }
    }
}
