//! What can still be judged of a file with mistakes: the spec without its wrong parts, and what is missing in it.
//!
//! `check` must say everything in one go, so the planner also looks at a file that the schema refuses. What follows only
//! from a mistake that was reported already must not be reported again: that is what [`Gaps`] is for.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use millstream_connectors::config::{SINKS, SOURCES, SourceConfig, TABLES, TableConfig};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::deserialise;
use super::model::{ConnectorSpec, DeadLetterSpec, FunctionSpec, PipelineSpec, SinkSpec, SourceSpec, StepSpec};
use super::node::{Kind, Node};
use super::problem::{Path, Problem, Severity, nearest};

/// A spec with gaps where the file has mistakes. It can be judged, not run.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What is right. A source whose connector is wrong has [`ConnectorSpec::Unusable`]; steps and sinks that are
    /// broken beyond use are not in it.
    pub spec: PipelineSpec,
    /// What is missing.
    pub gaps: Gaps,
}

/// What a [`Draft`] does not know because of mistakes that have been reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Sources or steps could not be read at all: a name that is not known may be one of them.
    pub names: bool,
    /// Sources whose columns are not known.
    pub columns: BTreeSet<String>,
    /// Sources whose event time is not known.
    pub event_time: BTreeSet<String>,
    /// Steps that are not in the spec.
    pub steps: BTreeSet<String>,
    /// Sinks that are not in the spec.
    pub sinks: BTreeSet<String>,
    /// Modules whose functions are not known, by their place in `functions`.
    pub functions: BTreeSet<usize>,
    /// The dead letter is not in the spec.
    pub dead_letter: bool,
    /// Sources and sinks (`["sinks", name]`) and the dead letter, from whose options something was left out: only
    /// complaints about what stands there are worth telling.
    pub incomplete: BTreeSet<Path>,
}

impl Draft {
    /// A spec that has no gaps.
    pub fn whole(spec: PipelineSpec) -> Self {
        Self { spec, gaps: Gaps::default() }
    }
}

/// The draft of the file with the tree `root`. What serde refuses in parts that had no mistake yet is added to
/// `problems`.
pub(super) fn draft(root: &Node, name: String, problems: &mut Vec<Problem>) -> Draft {
    let mut tree = root.clone();
    let mut gaps = Gaps::default();
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error && problem.file.is_none());
    for problem in errors {
        gaps.note(root, &problem.path);
        // What a source, step or sink lacks does not make the rest of it wrong.
        let whole = ["sources", "steps", "sinks"].contains(&problem.path.first().map_or("", String::as_str));
        if problem.path.len() > if whole { 2 } else { 0 } || whole && problem.path.len() == 1 {
            cut(&mut tree, &problem.path);
        }
    }
    gaps.names |= ["sources", "steps"].iter().any(|key| root.get(key).is_some_and(|node| node.as_map().is_none()));
    gaps.names |= root.get("sources").is_none();
    let json = tree.to_json();
    let touched: BTreeSet<Path> = problems.iter().map(|problem| part_of(&problem.path)).collect();
    let refused = deserialise::parts(&json).into_iter().filter(|problem| !touched.contains(&part_of(&problem.path)));
    let refused: Vec<Problem> = refused.collect();
    for problem in &refused {
        gaps.note(root, &problem.path);
    }
    problems.extend(refused);
    let mut spec = assemble(&json, &mut gaps);
    spec.name.get_or_insert(name);
    Draft { spec, gaps }
}

/// The source, step, sink, … that `path` leads into.
fn part_of(path: &[String]) -> Path {
    path.iter().take(2).cloned().collect()
}

impl Gaps {
    /// Remembers what a mistake at `path` makes unknown.
    fn note(&mut self, root: &Node, path: &[String]) {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        match parts[..] {
            ["sources", name, "columns" | "schema" | "metadata", ..] => {
                self.columns.insert(name.to_owned());
            }
            ["sources", name, "event_time", ..] => {
                self.event_time.insert(name.to_owned());
            }
            ["steps", name, "sql", ..] => {
                self.steps.insert(name.to_owned());
            }
            ["sinks", name, "from", ..] => {
                self.sinks.insert(name.to_owned());
            }
            ["functions", index, ..] => {
                self.functions.extend(index.parse::<usize>());
            }
            ["functions"] => {
                self.functions.insert(usize::MAX);
            }
            ["dead_letter", ..] => {
                self.incomplete.insert(vec!["dead_letter".to_owned()]);
            }
            // `soruces:` hides names, `functons:` hides functions.
            [key] if root.get(key).is_some() => match nearest(key, ["sources", "steps", "functions"]) {
                Some("functions") => {
                    self.functions.insert(usize::MAX);
                }
                near => self.names |= near.is_some(),
            },
            _ => {}
        }
        if let ["sources" | "sinks", _, _, ..] = parts[..] {
            self.incomplete.insert(part_of(path));
        }
    }
}

/// Takes the node at `path` out of the tree, where it is there.
fn cut(node: &mut Node, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    match (&mut node.kind, rest) {
        (Kind::Map(map), []) => {
            map.shift_remove(first);
        }
        (Kind::Map(map), _) => {
            if let Some(entry) = map.get_mut(first) {
                cut(&mut entry.value, rest);
            }
        }
        // A list without one of its items has others at its place: it is left out whole, or what is in the item is.
        (Kind::List(items), _) => {
            if let Some(item) = first.parse().ok().and_then(|index: usize| items.get_mut(index)) {
                match rest {
                    [] => item.kind = Kind::Null,
                    _ => cut(item, rest),
                }
            }
        }
        _ => {}
    }
}

fn assemble(json: &Value, gaps: &mut Gaps) -> PipelineSpec {
    let functions = json["functions"].as_array().into_iter().flatten().enumerate();
    let functions = functions.map(|(index, function)| match read(function) {
        Some(function) => function,
        None => {
            gaps.functions.insert(index);
            // Holds the place, so that the others keep theirs.
            FunctionSpec::nothing()
        }
    });
    let functions = functions.collect();
    let sources = entries(json, "sources").map(|(name, value)| (name.clone(), source(name, value, gaps)));
    let sources = sources.collect();
    let mut steps = IndexMap::new();
    for (name, value) in entries(json, "steps") {
        match step(value) {
            Some(step) if !gaps.steps.contains(name) => {
                steps.insert(name.clone(), step);
            }
            _ => {
                gaps.steps.insert(name.clone());
            }
        }
    }
    let mut sinks = IndexMap::new();
    for (name, value) in entries(json, "sinks") {
        match sink(value) {
            Some(sink) if !gaps.sinks.contains(name) => {
                sinks.insert(name.clone(), sink);
            }
            _ => {
                gaps.sinks.insert(name.clone());
            }
        }
    }
    let dead_letter = sink(&json["dead_letter"]);
    gaps.dead_letter |= dead_letter.is_none() && gaps.incomplete.contains(["dead_letter".to_owned()].as_slice());
    PipelineSpec {
        name: field(json, "name"),
        description: field(json, "description"),
        labels: field(json, "labels"),
        sources,
        functions,
        steps,
        sinks,
        delivery: field(json, "delivery"),
        dead_letter: dead_letter.map(|sink| DeadLetterSpec { connector: sink.connector, format: sink.format }),
        checkpoint: field(json, "checkpoint"),
        limits: field(json, "limits"),
        restart: field(json, "restart"),
        profiles: IndexMap::new(),
    }
}

fn source(name: &str, value: &Value, gaps: &mut Gaps) -> SourceSpec {
    let is_table = !value["table"].is_null();
    let connector = if is_table {
        connector::<TableConfig>(value, TABLES).map(ConnectorSpec::Table)
    } else {
        connector::<SourceConfig>(value, SOURCES).map(ConnectorSpec::Source)
    };
    let columns = read(&value["columns"]).filter(|_| !gaps.columns.contains(name));
    // A contract that could not be read, columns that could not, and what only the connector knows.
    let contract_missing = !value["schema"].is_null() && value["columns"].is_null();
    let metadata: IndexMap<String, String> = field(value, "metadata");
    if contract_missing
        || columns.is_none() && !value["columns"].is_null()
        || connector.is_none() && (columns.is_none() || !metadata.is_empty())
    {
        gaps.columns.insert(name.to_owned());
    }
    let event_time = read(&value["event_time"]);
    if event_time.is_none() && !value["event_time"].is_null() {
        gaps.event_time.insert(name.to_owned());
    }
    SourceSpec {
        connector: connector.unwrap_or(ConnectorSpec::Unusable),
        format: read(&value["format"]),
        schema: field(value, "schema"),
        columns,
        metadata,
        event_time,
        table: is_table.then(|| field(value, "table")),
        linger: read(&value["linger"]).unwrap_or_else(SourceSpec::default_linger),
        description: field(value, "description"),
    }
}

fn step(value: &Value) -> Option<StepSpec> {
    Some(StepSpec {
        sql: read(&value["sql"])?,
        late: field(value, "late"),
        on_error: field(value, "on_error"),
        emit: field(value, "emit"),
        state: field(value, "state"),
        revision: field(value, "revision"),
        description: field(value, "description"),
    })
}

fn sink(value: &Value) -> Option<SinkSpec> {
    Some(SinkSpec {
        from: read(&value["from"]),
        connector: connector(value, SINKS)?,
        format: read(&value["format"]),
        description: field(value, "description"),
    })
}

fn entries<'a>(json: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    json[key].as_object().into_iter().flatten()
}

/// The one connector among `keys`.
fn connector<T: DeserializeOwned>(value: &Value, keys: &[&str]) -> Option<T> {
    let key = keys.iter().find(|key| value.get(**key).is_some())?;
    read(&json!({ *key: value[*key] }))
}

/// The value, where there is one and nothing is wrong with it.
fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    if value.is_null() { None } else { serde_json::from_value(value.clone()).ok() }
}

/// The value at `key`, or its default; of a map with wrong values those that are right.
fn field<T: DeserializeOwned + Default>(value: &Value, key: &str) -> T {
    read(&value[key]).unwrap_or_default()
}
