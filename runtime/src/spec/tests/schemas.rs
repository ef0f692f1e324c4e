//! The generated JSON Schemas are those in `schemas/`, and say what the loader does.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::super::schema::{contract_schema, pipeline_schema};

fn same_as_file(name: &str, schema: &Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas").join(name);
    let wanted = format!("{}\n", serde_json::to_string_pretty(schema).unwrap());
    if std::env::var_os("MILLSTREAM_UPDATE_SCHEMAS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &wanted).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == wanted,
        "schemas/{name} is stale: the types of the YAML files have changed. Write it anew by\n\n    \
         MILLSTREAM_UPDATE_SCHEMAS=1 cargo test -p millstream --lib spec::tests::schemas\n"
    );
}

#[test]
fn the_json_schemas_in_the_repository_are_up_to_date() {
    same_as_file("pipeline.schema.json", &pipeline_schema());
    same_as_file("contract.schema.json", &contract_schema());
}

#[test]
fn every_reference_leads_somewhere_and_nothing_unknown_is_allowed() {
    fn walk(root: &Value, schema: &Value) {
        if let Some(to) = schema["$ref"].as_str() {
            assert!(root.pointer(&to[1..]).is_some(), "{to}");
        }
        match schema {
            Value::Object(map) => {
                map.iter().filter(|(key, _)| *key != "default").for_each(|(_, value)| walk(root, value))
            }
            Value::Array(items) => items.iter().for_each(|item| walk(root, item)),
            _ => {}
        }
    }
    let schema = pipeline_schema();
    walk(&schema, &schema);
    for name in ["SourceSpec", "SinkSpec", "DeadLetterSpec", "StepSpec", "SourceSpecPart", "Profile"] {
        assert_eq!(schema["$defs"][name]["additionalProperties"], false, "{name}");
    }
    assert_eq!(schema["additionalProperties"], false);
    for name in ["SourceConfig", "SinkConfig", "TableConfig"] {
        assert!(schema["$defs"][name].is_null(), "{name}");
    }
}

#[test]
fn connectors_are_keys_with_descriptions() {
    let schema = pipeline_schema();
    for (place, keys) in [
        ("/$defs/SinkSpec/properties", millstream_connectors::config::SINKS),
        ("/$defs/DeadLetterSpec/properties", millstream_connectors::config::SINKS),
        ("/$defs/SourceSpec/else/properties", millstream_connectors::config::SOURCES),
        ("/$defs/SourceSpec/then/properties", millstream_connectors::config::TABLES),
    ] {
        for key in keys {
            let described = schema.pointer(place).unwrap()[key]["description"].as_str();
            assert!(described.is_some_and(|text| !text.is_empty()), "{place}/{key}");
        }
    }
}
