//! Projection: what no query uses is not decoded.
//!
//! DataFusion's optimizer says which columns of each stream a region reads. A source all of whose columns are not wanted
//! is narrowed to those that are, and its decoder skips the rest. Two things keep more than the queries read: columns
//! that are declared NOT NULL, because that is a demand on every message, and metadata, because it was chosen. What is
//! skipped is judged by its syntax alone (JSON: RFC 8259; CSV: quotes, and how many fields there are), not by its type.
//! So that a row that cannot go on is still whole in the dead letter, a narrowed row brings its message with it, in a
//! last column ([`message_column`]) that costs nothing where nobody looks at it: its bytes are those that were received.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::Result;
use millstream_connectors::config::SourceConfig;
use millstream_connectors::format::FormatConfig;

use crate::engine::dead_letter::message_column;
use crate::engine::operator::{Narrowed, Wanted};
use crate::plan::graph::{Graph, NodeId, NodeKind};
use crate::plan::{Port, SinkPlan, SourcePlan};

/// Narrows every source to the columns that are wanted of it.
pub(super) fn narrow(graph: &mut Graph, sources: &mut [SourcePlan], sinks: &[SinkPlan]) -> Result<()> {
    for id in 0..graph.nodes.len() {
        let NodeKind::Source(source) = graph.nodes[id].kind else { continue };
        let Some(source) = sources.get_mut(source).filter(|source| can_skip(source)) else { continue };
        let Some(mut wanted) = wanted(graph, id, sinks) else { continue };
        let declared = source.decode.columns.fields();
        wanted.extend((0..declared.len()).filter(|column| !declared[*column].is_nullable()));
        wanted.extend(declared.len()..source.schema.fields().len());
        wanted.extend(source.event_time.as_ref().map(|event_time| event_time.column));
        if wanted.iter().all(|column| *column >= declared.len()) {
            // A message with none of its columns read is still read.
            wanted.insert(0);
        }
        if wanted.len() < source.schema.fields().len() {
            narrow_source(graph, id, source, &wanted.into_iter().collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// True where the source's decoder can leave columns out, and a message makes one row.
fn can_skip(source: &SourcePlan) -> bool {
    let one_row = match &source.format {
        FormatConfig::Json(json) => json.one_row_per_message(),
        FormatConfig::Csv(_) => true,
        FormatConfig::Text(_) | FormatConfig::Bytes(_) => false,
    };
    one_row && !matches!(source.config, SourceConfig::Generate(_))
}

/// What the readers of node `id`, all together, want of its columns.
fn wanted(graph: &Graph, id: NodeId, sinks: &[SinkPlan]) -> Wanted {
    if sinks.iter().any(|sink| sink.from.contains(&(id, Port::Main))) {
        return None;
    }
    let mut all = BTreeSet::new();
    for (reader_id, reader) in graph.nodes.iter().enumerate() {
        for (number, _) in reader.inputs.iter().enumerate().filter(|(_, input)| **input == id) {
            match &reader.kind {
                NodeKind::Region(region) => all.extend(region.reads(number)?),
                NodeKind::Operator(_) if sinks.iter().any(|sink| sink.from.contains(&(reader_id, Port::Late))) => {
                    return None;
                }
                NodeKind::Operator(plan) => all.extend(plan.reads(number, &|| wanted(graph, reader_id, sinks))?),
                NodeKind::Source(_) => return None,
            }
        }
    }
    Some(all)
}

/// Leaves of the source `id` the columns `keep`, in this order, and its readers know them by their new places.
fn narrow_source(graph: &mut Graph, id: NodeId, source: &mut SourcePlan, keep: &[usize]) -> Result<()> {
    let declared = source.decode.columns.fields().len();
    let decoded: Vec<usize> = keep.iter().copied().filter(|column| *column < declared).collect();
    source.decode.columns = Arc::new(source.decode.columns.project(&decoded)?);
    let mut fields: Vec<_> = source.schema.project(keep)?.fields().iter().cloned().collect();
    fields.push(Arc::new(message_column()));
    source.schema = Arc::new(Schema::new(fields));
    source.keeps_message = true;
    if let Some(event_time) = &mut source.event_time {
        event_time.column = place(keep, event_time.column)?;
    }
    narrow_node(graph, id, source.schema.clone(), keep)
}

/// Node `id` now has the columns of `schema`: of those before, `keep`, and after them some that nobody knew of.
fn narrow_node(graph: &mut Graph, id: NodeId, schema: Arc<Schema>, keep: &[usize]) -> Result<()> {
    graph.nodes[id].schema = schema.clone();
    for reader_id in 0..graph.nodes.len() {
        let reader = &mut graph.nodes[reader_id];
        let numbers: Vec<usize> = (0..reader.inputs.len()).filter(|number| reader.inputs[*number] == id).collect();
        if numbers.is_empty() {
            continue;
        }
        match &mut reader.kind {
            NodeKind::Region(region) => {
                for number in numbers {
                    region.narrow(number, &schema, keep)?;
                }
            }
            NodeKind::Operator(plan) => {
                let narrowed = numbers.into_iter().map(|number| plan.narrow(number, &schema, keep));
                let narrowed = narrowed.collect::<Result<Vec<_>>>()?;
                if let Some(Narrowed { schema, keep }) = narrowed.into_iter().flatten().next_back() {
                    narrow_node(graph, reader_id, schema, &keep)?;
                }
            }
            NodeKind::Source(_) => {}
        }
    }
    Ok(())
}

/// Where the column with the number `column` is now.
pub(crate) fn place(keep: &[usize], column: usize) -> Result<usize> {
    keep.iter().position(|kept| *kept == column).ok_or_else(|| crate::sql::relation::internal("a column is gone"))
}
