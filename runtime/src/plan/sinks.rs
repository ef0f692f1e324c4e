//! Sinks and the dead letter of a plan.

use std::path::Path;

use arrow::datatypes::{DataType, SchemaRef};
use indexmap::IndexMap;
use millstream_connectors::config::SinkConfig;
use millstream_connectors::{ConnectorError, Sink, SinkContext};

use super::sources::key_of;
use super::{Builder, unknown_name};
use crate::engine::dead_letter;
use crate::plan::graph::{Graph, NodeId};
use crate::spec::model::SinkSpec;
use crate::spec::problem::{Part, Problem, Severity};

/// Which output of a node is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// Its rows.
    Main,
    /// Its late rows.
    Late,
}

/// A sink.
pub(crate) struct SinkPlan {
    /// Its name.
    pub(crate) name: String,
    pub(crate) config: SinkConfig,
    pub(crate) context: SinkContext,
    /// Whose rows it takes.
    pub(crate) from: Vec<(NodeId, Port)>,
}

impl SinkPlan {
    /// The connector, not yet connected.
    pub(crate) fn build(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        self.config.build(&self.context)
    }
}

/// The dead letter.
pub(crate) struct DeadLetterPlan {
    pub(crate) config: SinkConfig,
    pub(crate) context: SinkContext,
}

impl DeadLetterPlan {
    /// The connector, not yet connected.
    pub(crate) fn build(&self) -> Result<Box<dyn Sink>, ConnectorError> {
        self.config.build(&self.context)
    }

    /// Where letters are found, in words: a file's path, else the connector.
    pub(crate) fn place(&self) -> String {
        match &self.config {
            SinkConfig::File(file) => self.context.base_dir.join(&file.path).display().to_string(),
            other => key_of(other),
        }
    }
}

impl Builder<'_> {
    /// Plans all sinks; those that fail are left out and reported.
    pub(super) fn sinks(
        &self,
        graph: &Graph,
        outputs: &IndexMap<String, NodeId>,
        problems: &mut Vec<Problem>,
    ) -> Vec<SinkPlan> {
        let mut sinks = Vec::new();
        for (name, spec) in &self.spec.sinks {
            sinks.extend(self.sink(name, spec, graph, outputs, problems));
        }
        sinks
    }

    fn sink(
        &self,
        name: &str,
        spec: &SinkSpec,
        graph: &Graph,
        outputs: &IndexMap<String, NodeId>,
        problems: &mut Vec<Problem>,
    ) -> Option<SinkPlan> {
        let mut from = Vec::new();
        let mut failed = false;
        for read in spec.from.iter().flat_map(|from| from.names()) {
            match outputs.get(read) {
                Some(node) => from.push((*node, Port::Main)),
                None => {
                    failed = true;
                    if self.unknown.names || self.unknown.relations.contains(read) {
                        continue;
                    }
                    let declared = self.spec.steps.contains_key(read) || self.spec.sources.contains_key(read);
                    if !declared {
                        let names: Vec<String> =
                            self.spec.steps.keys().chain(self.spec.sources.keys()).cloned().collect();
                        problems.push(unknown_name(&["sinks", name, "from"], "step or source", read, &names));
                    } else if self.spec.sources.get(read).is_some_and(|source| source.table.is_some()) {
                        let message = format!("`{read}` is a table; a sink takes the rows of a step or a stream");
                        problems.push(Problem::new(["sinks", name, "from"], message));
                    }
                }
            }
        }
        for (id, node) in graph.nodes.iter().enumerate() {
            let step = node.step.as_ref().and_then(|step| self.spec.steps.get(step));
            let has_late = node.operator().is_some_and(|plan| !plan.late().is_empty());
            if has_late && step.is_some_and(|step| step.late.to == name) {
                from.push((id, Port::Late));
            }
        }
        if failed || from.is_empty() {
            return None;
        }
        let updates = from.iter().any(|(node, port)| *port == Port::Main && graph.updating.contains(node));
        if updates && spec.connector.lacks_key() {
            let message = "rows of what comes in replace one another, and nothing here says which ones";
            let hint = "give the sink a key, or take final rows only: a step with WHERE is_final";
            let mut problem = Problem::new(["sinks", name], message).hint(hint).at(Part::Key);
            problem.severity = Severity::Warning;
            problems.push(problem);
        }
        let columns = self.columns(name, &from, graph, problems)?;
        let plan = SinkPlan {
            name: name.to_owned(),
            config: spec.connector.clone(),
            context: self.sink_context(name, self.base_dir, columns, spec.format.clone()),
            from,
        };
        if let Err(error) = plan.build() {
            if self.untyped(&plan, graph, problems) {
                return None;
            }
            self.complain(&["sinks", name], &key_of(&spec.connector), &error, problems);
            return None;
        }
        Some(plan)
    }

    /// Reports the columns of steps that are JSON values, which no format writes. True where there are any.
    fn untyped(&self, plan: &SinkPlan, graph: &Graph, problems: &mut Vec<Problem>) -> bool {
        let before = problems.len();
        for (id, _) in plan.from.iter().filter(|(_, port)| *port == Port::Main) {
            let node = &graph.nodes[*id];
            let Some(step) = &node.step else { continue };
            for field in node.schema.fields().iter().filter(|field| matches!(field.data_type(), DataType::Union(..))) {
                let name = field.name();
                // Without an alias it is the planner that names it.
                let shown = if name.contains('(') { "this column".to_owned() } else { format!("`{name}`") };
                let message = format!("{shown} is a JSON value of no fixed type");
                let hint = "use ->> for text, json_get_float, json_get_int or json_get_bool for others, or a cast: \
                            (body->'temp')::double";
                let problem = Problem::new(["steps", step, "sql"], message).hint(hint);
                let problem = match self.column_place(step, name) {
                    Some((line, column)) => problem.at(Part::Text { line, column }),
                    None => problem,
                };
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
        problems.len() > before
    }

    /// The columns of all that a sink takes, which must be the same.
    fn columns(
        &self,
        name: &str,
        from: &[(NodeId, Port)],
        graph: &Graph,
        problems: &mut Vec<Problem>,
    ) -> Option<SchemaRef> {
        let schemas = from.iter().flat_map(|(node, port)| match port {
            Port::Late => graph.nodes[*node].operator().map(|plan| plan.late()).unwrap_or_default(),
            Port::Main => vec![graph.nodes[*node].schema.clone()],
        });
        let schemas: Vec<SchemaRef> = schemas.collect();
        let first = schemas.first()?.clone();
        let shape = |schema: &SchemaRef| -> Vec<_> {
            schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
        };
        for schema in &schemas[1..] {
            if shape(schema) != shape(&first) {
                let message =
                    format!("what comes in has different columns: ({}) and ({})", names(&first), names(schema));
                let hint = "give each its own sink, or the same columns";
                problems.push(Problem::new(["sinks", name, "from"], message).hint(hint));
                return None;
            }
        }
        Some(first)
    }

    fn sink_context(
        &self,
        name: &str,
        base_dir: &Path,
        columns: SchemaRef,
        format: Option<millstream_connectors::format::FormatConfig>,
    ) -> SinkContext {
        SinkContext {
            pipeline: self.name.to_owned(),
            name: name.to_owned(),
            base_dir: base_dir.to_owned(),
            columns,
            format,
            routes: self.environment.routes.clone(),
        }
    }

    /// The dead letter: the one asked for, or a file in the data folder.
    pub(super) fn dead_letter(&self, problems: &mut Vec<Problem>) -> Option<DeadLetterPlan> {
        let (config, format, base_dir) = match &self.spec.dead_letter {
            Some(spec) => (spec.connector.clone(), spec.format.clone(), self.base_dir.to_owned()),
            None => {
                let file = serde_json::json!({ "file": { "path": "dead-letter.jsonl" } });
                let config = match serde_json::from_value(file) {
                    Ok(config) => config,
                    Err(error) => {
                        problems.push(Problem::new(["dead_letter"], format!("the default does not work: {error}")));
                        return None;
                    }
                };
                (config, None, self.environment.data_dir.join(self.name))
            }
        };
        let context = self.sink_context("dead_letter", &base_dir, dead_letter::schema(), format);
        let plan = DeadLetterPlan { config, context };
        match plan.build() {
            Ok(_) => Some(plan),
            Err(error) => {
                self.complain(&["dead_letter"], &key_of(&plan.config), &error, problems);
                None
            }
        }
    }
}

fn names(schema: &SchemaRef) -> String {
    schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
}
