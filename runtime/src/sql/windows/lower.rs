//! Window functions as nodes of the graph.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::logical_expr::LogicalPlan;

use crate::engine::operator::OperatorPlan;
use crate::engine::operators::session_assign::SessionAssignPlan;
use crate::engine::operators::window_assign::WindowAssignPlan;
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::sql::lower::Lowering;
use crate::sql::marks;
use crate::sql::refuse::Refusal;
use crate::sql::relation::{as_stream, stream_of};
use crate::sql::windows::bins::AssignNode;
use crate::sql::windows::planner::passes;
use crate::sql::windows::{Window, WindowKind};

/// The most windows that a row is copied into.
pub(crate) const COPIES_MAX: i64 = 1_000;

impl Lowering<'_> {
    /// Adds the node that gives the rows of `input` their windows; its output has the columns of `schema`.
    pub(crate) fn window(&mut self, input: NodeId, window: &Window, schema: SchemaRef) -> Result<NodeId> {
        let passes = passes(&self.graph.nodes[input].schema);
        self.assign(input, window, passes, schema)
    }

    /// Adds the nodes of a window that was found in GROUP BY.
    pub(crate) fn bins(&mut self, node: &AssignNode) -> Result<NodeId> {
        let schema = Arc::new(node_schema(node));
        let input = match plain_stream(&node.input) {
            Some(input) => input,
            None => self.region(node.input.as_ref().clone(), Some("input"))?,
        };
        let passes = (0..self.graph.nodes[input].schema.fields().len()).collect();
        self.assign(input, &node.window, passes, schema)
    }

    fn assign(&mut self, node: NodeId, window: &Window, passes: Vec<usize>, schema: SchemaRef) -> Result<NodeId> {
        let input = self.graph.nodes[node].schema.clone();
        let lag = marks::lag(input.field(window.time_column)).unwrap_or(0);
        let (mut keys, mut fingerprint) = (None, None);
        let operator: Box<dyn OperatorPlan> = match &window.kind {
            WindowKind::Session { gap_ns, keys: columns } => {
                keys = Some(vec![columns.clone()]);
                fingerprint = Some(session_fingerprint(window, &input));
                Box::new(SessionAssignPlan {
                    time_column: window.time_column,
                    gap_ns: *gap_ns,
                    keys: columns.clone(),
                    input,
                    passes,
                    schema: schema.clone(),
                })
            }
            kind => {
                if let Some(copies) = copies(kind).filter(|copies| !window.panes && *copies > COPIES_MAX) {
                    return Err(Refusal::ManyWindows(copies).into());
                }
                Box::new(WindowAssignPlan { window: window.clone(), input, passes, schema: schema.clone() })
            }
        };
        let node = Node {
            name: self.name(window.kind.name()),
            step: Some(self.step.to_owned()),
            inputs: vec![node],
            keys,
            lags: vec![lag],
            schema,
            kind: NodeKind::Operator(operator),
            fingerprint,
        };
        Ok(self.graph.add(node))
    }
}

/// The node whose output `plan` is as it is.
fn plain_stream(plan: &LogicalPlan) -> Option<NodeId> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => plain_stream(&alias.input),
        LogicalPlan::TableScan(scan) if scan.projection.is_none() => {
            let (_, provider) = as_stream(plan)?;
            stream_of(&provider).filter(|stream| stream.window.is_none()).map(|stream| stream.node)
        }
        _ => None,
    }
}

fn node_schema(node: &AssignNode) -> Schema {
    use datafusion::logical_expr::UserDefinedLogicalNodeCore;
    let fields = node.schema().fields().iter().map(|field| field.as_ref().clone());
    Schema::new(fields.collect::<Vec<_>>())
}

/// How many windows a row is copied into at most.
fn copies(kind: &WindowKind) -> Option<i64> {
    match kind {
        WindowKind::Hop { slide_ns, size_ns, .. } => Some((size_ns - 1) / slide_ns + 1),
        WindowKind::Cumulate { step_ns, max_ns, .. } => Some(max_ns / step_ns),
        WindowKind::Tumble { .. } | WindowKind::Session { .. } => None,
    }
}

/// What the state of a session depends on: the gap, the keys, and the columns of the rows that are kept.
fn session_fingerprint(window: &Window, input: &SchemaRef) -> String {
    let mut text = format!("sessions 1\n{}\n{}", window.kind.identity(), window.time_column);
    for field in input.fields() {
        text.push_str(&format!("\n{} {}", field.name(), field.data_type()));
    }
    blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
}
