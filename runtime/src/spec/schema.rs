//! The JSON Schemas of the YAML files, made from the types: the validator works by them, and editors too.

use std::sync::LazyLock;

use millstream_connectors::config::{SinkConfig, SourceConfig, TableConfig};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::model::{ContractSpec, PipelineSpec};

/// The JSON Schema of a pipeline, for editors.
pub fn pipeline_schema() -> Value {
    for_editors(pipeline().clone())
}

/// The JSON Schema of a contract, for editors.
pub fn contract_schema() -> Value {
    for_editors(contract().clone())
}

/// The schema of a pipeline that the validator works by.
pub(super) fn pipeline() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(make_pipeline);
    &SCHEMA
}

/// The schema of a contract that the validator works by.
pub(super) fn contract() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let generator = SchemaSettings::draft2020_12().into_generator();
        let mut schema = generator.into_root_schema_for::<ContractSpec>().to_value();
        schema["title"] = "Contract".into();
        schema
    });
    &SCHEMA
}

fn make_pipeline() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    // Named in `$defs` only; their parts move into the definitions of what holds a connector.
    generator.subschema_for::<SourceConfig>();
    generator.subschema_for::<SinkConfig>();
    generator.subschema_for::<TableConfig>();
    let mut schema = generator.into_root_schema_for::<PipelineSpec>().to_value();
    schema["title"] = "Pipeline".into();
    let mut take = |name: &str| connectors(schema["$defs"].as_object_mut().and_then(|defs| defs.remove(name)));
    let (sources, sinks, tables) = (take("SourceConfig"), take("SinkConfig"), take("TableConfig"));
    if let Some(defs) = schema["$defs"].as_object_mut() {
        for name in ["SinkSpec", "DeadLetterSpec"] {
            if let Some(def) = defs.get_mut(name).and_then(Value::as_object_mut) {
                merge(def, one_of(&sinks, &[]));
                def.insert("additionalProperties".into(), false.into());
            }
        }
        if let Some(def) = defs.get_mut("SourceSpec").and_then(Value::as_object_mut) {
            // The names stand in `properties` too, because `additionalProperties` sees no further.
            let names = sources.iter().chain(&tables).map(|(name, _)| (name.clone(), Value::Bool(true)));
            merge(def, [("properties".to_owned(), Value::Object(names.collect()))].into_iter().collect());
            def.insert("additionalProperties".into(), false.into());
            def.insert("if".into(), json!({ "required": ["table"] }));
            def.insert("then".into(), Value::Object(one_of(&tables, &sources)));
            def.insert("else".into(), Value::Object(one_of(&sources, &tables)));
        }
    }
    add_profiles(&mut schema);
    schema
}

/// The (name, schema) pairs of an externally tagged enum's schema.
fn connectors(schema: Option<Value>) -> Vec<(String, Value)> {
    let Some(Value::Array(variants)) = schema.map(|mut schema| schema["oneOf"].take()) else { return Vec::new() };
    let mut found = Vec::new();
    for variant in variants {
        let Some(properties) = variant["properties"].as_object() else { continue };
        for (name, schema) in properties {
            let mut schema = schema.clone();
            if let (Some(schema), Some(description)) = (schema.as_object_mut(), variant.get("description")) {
                schema.insert("description".into(), description.clone());
            }
            found.push((name.clone(), schema));
        }
    }
    found
}

/// The part of a schema that allows exactly one of `connectors` as a key, and none of `others`.
fn one_of(connectors: &[(String, Value)], others: &[(String, Value)]) -> Map<String, Value> {
    let mut properties: Map<String, Value> = connectors.iter().cloned().collect();
    for (name, _) in others {
        properties.entry(name.clone()).or_insert(Value::Bool(false));
    }
    let branches: Vec<Value> = connectors.iter().map(|(name, _)| json!({ "required": [name] })).collect();
    Map::from_iter([("properties".to_owned(), properties.into()), ("oneOf".to_owned(), branches.into())])
}

/// Adds `more` to `schema`; maps are joined.
fn merge(schema: &mut Map<String, Value>, more: Map<String, Value>) {
    for (key, value) in more {
        match (schema.get_mut(&key), value) {
            (Some(Value::Object(there)), Value::Object(value)) => merge(there, value),
            (_, value) => drop(schema.insert(key, value)),
        }
    }
}

/// The definitions of which a profile may give a part.
const PARTIAL: &[&str] = &[
    "SourceSpec",
    "SinkSpec",
    "DeadLetterSpec",
    "StepSpec",
    "LateSpec",
    "StateSpec",
    "EventTimeSpec",
    "ProcessingTimeSpec",
    "ColumnTimeSpec",
    "TableSpec",
    "CheckpointSpec",
    "LimitsSpec",
    "RestartSpec",
    "FunctionSpec",
    "ExportSpec",
];

/// Makes `profiles` hold parts of a pipeline: nothing is required, and `null` removes a key.
fn add_profiles(schema: &mut Value) {
    let Some(root) = schema.as_object() else { return };
    let mut definitions = Map::new();
    for (name, def) in PARTIAL.iter().filter_map(|name| Some((*name, root.get("$defs")?.get(*name)?))) {
        definitions.insert(format!("{name}Part"), partial(def.clone()));
    }
    let mut profile = root.clone();
    profile.retain(|key, _| !matches!(key.as_str(), "$defs" | "$schema" | "title"));
    if let Some(properties) = profile.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|key, _| !matches!(key.as_str(), "profiles" | "name"));
    }
    profile.insert("description".into(), "What a profile lays over the pipeline.".into());
    definitions.insert("Profile".into(), partial(profile.into()));
    if let Some(defs) = schema["$defs"].as_object_mut() {
        defs.extend(definitions);
    }
    schema["properties"]["profiles"]["additionalProperties"] = json!({ "$ref": "#/$defs/Profile" });
}

/// A definition of which nothing is required and whose every key may be null.
fn partial(mut schema: Value) -> Value {
    let Some(map) = schema.as_object_mut() else { return schema };
    for keyword in ["required", "oneOf", "if"] {
        map.remove(keyword);
    }
    // A profile need not repeat `table`, so what `file` is cannot be told from the profile alone.
    let tables = map.remove("then").map(|mut then| then["properties"].take());
    let streams = map.remove("else").map(|mut then| then["properties"].take());
    if let (Some(Value::Object(properties)), Some(Value::Object(tables)), Some(Value::Object(streams))) =
        (map.get_mut("properties"), tables, streams)
    {
        for (name, stream) in streams {
            let both = match tables.get(&name) {
                Some(table) if table.is_object() && stream.is_object() => json!({ "anyOf": [stream, table] }),
                Some(table) if table.is_object() => table.clone(),
                _ => stream,
            };
            properties.insert(name, both);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(nullable);
    }
    to_parts(&mut schema);
    schema
}

/// Of what `schema` refers to, a profile gives parts.
fn to_parts(schema: &mut Value) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str)
        && PARTIAL.iter().any(|name| reference == format!("#/$defs/{name}"))
    {
        schema["$ref"] = format!("{reference}Part").into();
    }
    for branch in schema.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(reference) = branch.get("$ref").and_then(Value::as_str)
            && PARTIAL.iter().any(|name| reference == format!("#/$defs/{name}"))
        {
            branch["$ref"] = format!("{reference}Part").into();
        }
    }
}

/// Lets `schema` also be null, and everything in the maps that it describes.
fn nullable(schema: &mut Value) {
    to_parts(schema);
    if let Some(values) = schema.get_mut("additionalProperties").filter(|values| values.is_object()) {
        nullable(values);
    }
    let has_null = |schema: &Value| {
        schema["type"] == "null" || schema["type"].as_array().is_some_and(|types| types.contains(&"null".into()))
    };
    let is_nullable =
        has_null(schema) || schema["anyOf"].as_array().is_some_and(|branches| branches.iter().any(has_null));
    if !is_nullable {
        let mut inner = schema.take();
        let described = inner.as_object_mut().filter(|map| !map.contains_key("not"));
        let description = described.and_then(|map| map.remove("description"));
        *schema = json!({ "anyOf": [inner, { "type": "null" }] });
        if let Some(description) = description {
            schema["description"] = description;
        }
    }
}

/// What editors need and the validator does not: descriptions as paragraphs, `${…}` for numbers, `format: json`.
fn for_editors(mut schema: Value) -> Value {
    if let Some(Value::Array(formats)) = schema.pointer_mut("/$defs/FormatConfig/oneOf")
        && !formats.iter().any(|format| format["type"] == "string")
    {
        let names: Vec<Value> = formats.iter().filter_map(|format| format["required"].get(0)).cloned().collect();
        formats.push(json!({ "description": "The format with its defaults.", "type": "string", "enum": names }));
    }
    polish(&mut schema);
    schema
}

/// What `${…}` looks like.
const PLACEHOLDER: &str = r"\$\{.+\}";

fn polish(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(polish),
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
            }
            let types: Vec<Value> = match map.get("type") {
                Some(Value::Array(types)) => types.clone(),
                Some(one) => vec![one.clone()],
                None => Vec::new(),
            };
            let numeric = |one: &Value| ["integer", "number", "boolean"].iter().any(|name| one == name);
            if types.iter().any(numeric) && !types.contains(&"string".into()) && !map.contains_key("const") {
                map.insert("type".into(), types.into_iter().chain(["string".into()]).collect());
                map.insert("pattern".into(), format!("^{PLACEHOLDER}$").into());
            } else if let Some(Value::String(pattern)) = map.get_mut("pattern") {
                *pattern = format!("({pattern})|{PLACEHOLDER}");
            }
            for (key, value) in map.iter_mut() {
                // Defaults are values, not schemas.
                if key != "default" {
                    polish(value);
                }
            }
        }
        _ => {}
    }
}
