//! From the checked tree to the plain data. What the schema could not say and serde refuses is found here, with its path.

use millstream_connectors::config::{SINKS, SOURCES, SinkConfig, SourceConfig, TABLES, TableConfig};
use millstream_connectors::format::FormatConfig;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serde_path_to_error::Segment;

use super::model::PipelineSpec;
use super::node::Node;
use super::problem::{Path, Problem};

/// The pipeline, or what serde refuses.
pub(super) fn pipeline(root: &Node) -> Result<PipelineSpec, Vec<Problem>> {
    let json = root.to_json();
    // One by one first: so all of them are reported, and the paths lead into them.
    let problems = parts(&json);
    if !problems.is_empty() {
        return Err(problems);
    }
    part(json, &Path::new()).map_err(|problem| vec![*problem])
}

/// What serde refuses in connectors and formats, each by itself.
pub(super) fn parts(json: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, source) in entries(json, "sources") {
        let path = vec!["sources".to_owned(), name.clone()];
        if source["table"].is_null() {
            connector::<SourceConfig>(source, SOURCES, &path, &mut problems);
        } else {
            connector::<TableConfig>(source, TABLES, &path, &mut problems);
        }
        format(source, &path, &mut problems);
    }
    for (name, sink) in entries(json, "sinks") {
        let path = vec!["sinks".to_owned(), name.clone()];
        connector::<SinkConfig>(sink, SINKS, &path, &mut problems);
        format(sink, &path, &mut problems);
    }
    let path = vec!["dead_letter".to_owned()];
    connector::<SinkConfig>(&json["dead_letter"], SINKS, &path, &mut problems);
    format(&json["dead_letter"], &path, &mut problems);
    problems
}

fn entries<'a>(json: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    json[key].as_object().into_iter().flatten()
}

fn connector<T: DeserializeOwned>(value: &Value, keys: &[&str], path: &Path, problems: &mut Vec<Problem>) {
    for key in keys {
        if let Some(options) = value.get(*key)
            && let Err(problem) = part::<T>(json!({ *key: options }), path)
        {
            problems.push(*problem);
        }
    }
}

fn format(value: &Value, path: &Path, problems: &mut Vec<Problem>) {
    let path: Path = path.iter().cloned().chain(["format".to_owned()]).collect();
    if !value["format"].is_null()
        && let Err(problem) = part::<FormatConfig>(value["format"].clone(), &path)
    {
        problems.push(*problem);
    }
}

fn part<T: DeserializeOwned>(json: Value, path: &Path) -> Result<T, Box<Problem>> {
    serde_path_to_error::deserialize(json).map_err(|error| {
        let mut path = path.clone();
        for segment in error.path() {
            match segment {
                Segment::Map { key } => path.push(key.clone()),
                Segment::Enum { variant } => path.push(variant.clone()),
                Segment::Seq { index } => path.push(index.to_string()),
                Segment::Unknown => {}
            }
        }
        Box::new(Problem::new(path, error.into_inner().to_string()))
    })
}
