//! What a pipeline will do, for people: `millstream explain`.
//!
//! A [`Plan`] is told as data ([`Explanation`], which is also the JSON form); [`text`] and [`mermaid`] show it. What an
//! operator does and keeps it says itself, by [`crate::engine::operator::OperatorPlan::describe`]; how operators are
//! chained and spread is asked of [`crate::engine::assembly`], so that nothing is told that is not so.

mod columns;
mod mermaid;
mod model;
#[cfg(test)]
mod tests;
mod text;

use crate::engine::assembly;
use crate::engine::clock::TimeKind;
use crate::engine::processing_time::PERIOD;
use crate::engine::times;
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::plan::{Plan, Port, SourcePlan, key_of};
use crate::spec::model::ConnectorSpec;
use crate::spec::problem::nearest;
use crate::sql::types;
use columns::Columns;
pub(crate) use mermaid::mermaid;
pub(crate) use model::Explanation;
use model::{Edge, EventTime, Operator, Sink, Source, Stage, Table};
pub(crate) use text::text;

/// Tells what `plan` will do; of it, where `step` is named, only what that step needs and the sinks that take its rows.
///
/// # Errors
/// A sentence for the user, where there is no such step.
pub(crate) fn explain(plan: &Plan, step: Option<&str>) -> Result<Explanation, String> {
    let teller = Teller { plan, columns: Columns::new(&plan.graph) };
    let shown = match step {
        Some(step) => teller.needed_by(teller.output_of(step)?),
        None => vec![true; plan.graph.nodes.len()],
    };
    let (stage_of, stages) = assembly::stages(plan);
    let mut numbers = vec![None; stages.len()];
    let mut told = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        let nodes: Vec<NodeId> = stage.nodes.iter().copied().filter(|id| shown[*id]).collect();
        if nodes.is_empty() {
            continue;
        }
        numbers[index] = Some(told.len() + 1);
        told.push(Stage {
            stage: told.len() + 1,
            tasks: stage.shards,
            edges: teller.edges(&nodes, index, &stage_of, &numbers),
            operators: nodes.iter().map(|id| teller.operator(*id)).collect(),
        });
    }
    let tables = teller.tables(&told, step.is_some());
    Ok(Explanation {
        pipeline: plan.name.clone(),
        step: step.map(str::to_owned),
        parallelism: plan.spec.limits.shards(),
        stages: told,
        tables,
        sinks: teller.sinks(&shown, step.is_some()),
        dead_letter: key_of(&plan.dead_letter.config),
    })
}

struct Teller<'a> {
    plan: &'a Plan,
    columns: Columns<'a>,
}

impl Teller<'_> {
    /// The node whose rows are those of the step.
    fn output_of(&self, step: &str) -> Result<NodeId, String> {
        let last = self.plan.graph.nodes.iter().rposition(|node| node.step.as_deref() == Some(step));
        last.ok_or_else(|| {
            let steps: Vec<&str> = self.plan.spec.steps.keys().map(String::as_str).collect();
            match nearest(step, steps.iter().copied()) {
                Some(near) => format!("there is no step `{step}`; did you mean `{near}`?"),
                None => format!("there is no step `{step}`; there are: {}", steps.join(", ")),
            }
        })
    }

    /// By node: whether `output` needs it.
    fn needed_by(&self, output: NodeId) -> Vec<bool> {
        let mut needed = vec![false; self.plan.graph.nodes.len()];
        let mut next = vec![output];
        while let Some(id) = next.pop() {
            if !std::mem::replace(&mut needed[id], true) {
                next.extend(&self.plan.graph.nodes[id].inputs);
            }
        }
        needed
    }

    /// What comes into the stage `index`, whose nodes are `nodes`, from other stages.
    fn edges(&self, nodes: &[NodeId], index: usize, stage_of: &[usize], numbers: &[Option<usize>]) -> Vec<Edge> {
        let mut edges = Vec::new();
        for id in nodes {
            let node = &self.plan.graph.nodes[*id];
            for (number, input) in node.inputs.iter().enumerate().filter(|(_, input)| stage_of[**input] != index) {
                let keys = node.keys_of(number).map(|keys| keys.iter().map(|key| self.columns.text(*input, *key)));
                edges.push(Edge {
                    from_stage: numbers[stage_of[*input]].unwrap_or_default(),
                    from: self.plan.graph.nodes[*input].name.clone(),
                    to: node.name.clone(),
                    keys: keys.map(Iterator::collect).unwrap_or_default(),
                });
            }
        }
        edges
    }

    fn operator(&self, id: NodeId) -> Operator {
        let node = &self.plan.graph.nodes[id];
        let output = self.columns.is_output(id);
        let behind = node.lags.iter().copied().max().filter(|lag| *lag > 0);
        let mut told = Operator {
            name: node.name.clone(),
            step: node.step.clone(),
            inputs: node.inputs.iter().map(|input| self.plan.graph.nodes[*input].name.clone()).collect(),
            watermark_behind: behind.map(times::duration),
            late: self.late(node),
            output,
            columns: self.columns.of(id),
            ..Operator::default()
        };
        match &node.kind {
            NodeKind::Source(source) => {
                told.kind = "source";
                told.source = self.plan.sources.get(*source).map(source_of);
            }
            NodeKind::Region(_) => {
                told.kind = "sql";
                let shown = self.columns.region(id);
                told.does = shown.does;
                if !output {
                    told.does.push(format!("computes {}", shown.columns.join(", ")));
                }
                told.tables = shown.tables;
            }
            NodeKind::Operator(plan) => {
                told.kind = "operator";
                let description = plan.describe();
                let plain = |text: String| self.columns.spelled(id, &text);
                told.does = vec![plain(description.does)];
                told.keeps = description.keeps.map(plain);
                told.freed = description.freed.map(plain);
            }
        }
        told
    }

    /// Where the late rows of `node` go, where there may be some.
    fn late(&self, node: &Node) -> Option<String> {
        node.operator().filter(|plan| !plan.late().is_empty())?;
        let to = node.step.as_ref().and_then(|step| self.plan.routes.get(step)).map(|routes| routes.late.to.as_str());
        Some(match to {
            None | Some("dead_letter") => "the dead letter".to_owned(),
            Some("drop") => "nowhere (they are counted)".to_owned(),
            Some(sink) => format!("the sink {sink}"),
        })
    }

    /// The tables that anything in `stages` reads; where `only_these` is not set, all.
    fn tables(&self, stages: &[Stage], only_these: bool) -> Vec<Table> {
        let read = |name: &String| stages.iter().flat_map(|stage| &stage.operators).any(|op| op.tables.contains(name));
        let tables = self.plan.tables.iter().filter(|table| !only_these || read(&table.name));
        let told = tables.map(|table| {
            let connector = self.plan.spec.sources.get(&table.name).map(|source| match &source.connector {
                ConnectorSpec::Table(config) => key_of(config),
                ConnectorSpec::Source(config) => key_of(config),
                ConnectorSpec::Unusable => String::new(),
            });
            Table {
                name: table.name.clone(),
                connector: connector.unwrap_or_default(),
                key: table.key.clone(),
                columns: columns::told(table.table.schema().fields(), None),
            }
        });
        told.collect()
    }

    /// The sinks: all of them, or those that take rows of the nodes `shown` that are their step's own.
    fn sinks(&self, shown: &[bool], of_step: bool) -> Vec<Sink> {
        let last = shown.iter().rposition(|shown| *shown);
        let nodes = &self.plan.graph.nodes;
        let told = self.plan.sinks.iter().filter_map(|sink| {
            let mut from: Vec<String> = Vec::new();
            for (id, port) in &sink.from {
                if of_step && (*port == Port::Main && Some(*id) != last || !shown[*id]) {
                    continue;
                }
                let name = nodes[*id].step.as_ref().unwrap_or(&nodes[*id].name);
                let name = match port {
                    Port::Main => name.clone(),
                    Port::Late => format!("late rows of {name}"),
                };
                if !from.contains(&name) {
                    from.push(name);
                }
            }
            (!from.is_empty()).then(|| Sink { name: sink.name.clone(), connector: key_of(&sink.config), from })
        });
        told.collect()
    }
}

/// What there is to say of a source beside its columns.
fn source_of(plan: &SourcePlan) -> Source {
    let names = |fields: &arrow::datatypes::Fields| fields.iter().map(|field| field.name().clone()).collect();
    let decoded: Vec<String> = names(plan.decode.columns.fields());
    let declared = plan.decode.declared.fields().len();
    let event_time = plan.event_time.as_ref().map(|event_time| {
        let column = plan.schema.field(event_time.column).name().clone();
        let shown = |length| millstream_connectors::units::Duration(length).to_string();
        match &event_time.kind {
            TimeKind::OfRows(disorder) => EventTime {
                column,
                processing: false,
                watermark: shown(disorder.delay),
                idle_after: Some(shown(disorder.idle_after)),
            },
            TimeKind::Processing => EventTime { column, processing: true, watermark: shown(PERIOD), idle_after: None },
        }
    });
    Source {
        connector: plan.connector.clone(),
        bounded: plan.bounded,
        ingest_log: plan.ingest.is_some(),
        declared_columns: declared,
        skipped: plan
            .decode
            .declared
            .fields()
            .iter()
            .filter(|field| !decoded.contains(field.name()))
            .map(|field| format!("{} {}", field.name(), types::name(field.data_type())))
            .collect(),
        decoded,
        metadata: plan.metadata.iter().map(|(column, _)| column.clone()).collect(),
        event_time,
    }
}
