//! Tables for the documentation, made from the types: options by way of the JSON Schema, metadata fields, metrics.

use millstream::metrics::Metrics;
use millstream::spec::YamlLimits;
use millstream::spec::limits::PROBLEMS_MAX;
use millstream::spec::schema::{contract_schema, pipeline_schema};
use millstream_connectors::source::MetadataField;
use millstream_connectors::units::ByteSize;
use millstream_connectors::{file, http, kafka, mqtt};
use serde_json::Value;

/// Formats are described once, not in every connector; and what is nested deeper than this is a mistake.
const NOT_OPENED: &[&str] = &["FormatConfig"];
const DEPTH_MAX: usize = 8;

/// What stands between the marks of `what`.
pub(super) fn generate(what: &str) -> String {
    let (kind, name) = what.split_once(' ').unwrap_or((what, ""));
    let schema = pipeline_schema();
    match kind {
        "source" => options(&schema, connector(&schema, "/$defs/SourceSpec/else/properties", name)),
        "sink" => options(&schema, connector(&schema, "/$defs/SinkSpec/properties", name)),
        "table" => options(&schema, connector(&schema, "/$defs/SourceSpec/then/properties", name)),
        "options" if name == "Pipeline" => options(&schema, &without_parts(&schema)),
        "options" if name == "Contract" => options(&contract_schema(), &contract_schema()),
        "options" => options(&schema, connector(&schema, "/$defs", name)),
        "metadata" => metadata(name),
        "metrics" => metrics(),
        "yaml-limits" => yaml_limits(),
        _ => panic!("the documentation asks for `{what}`, which nothing makes"),
    }
}

fn connector<'a>(schema: &'a Value, place: &str, name: &str) -> &'a Value {
    schema.pointer(place).and_then(|all| all.get(name)).unwrap_or_else(|| panic!("there is no `{name}` at {place}"))
}

/// The top of a pipeline only; its parts have tables of their own.
fn without_parts(schema: &Value) -> Value {
    let mut top = schema.clone();
    for property in top["properties"].as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        let described = serde_json::json!({
            "description": property["description"], "default": property["default"], "type": property["type"],
            "$shown": shown_type(schema, property),
        });
        *property = described;
    }
    top
}

fn options(schema: &Value, of: &Value) -> String {
    let mut rows = Rows { schema, text: String::new() };
    rows.properties("", resolve(schema, of), 0);
    if rows.text.is_empty() {
        return "It has no options.\n".into();
    }
    format!("| option | type | default | |\n| --- | --- | --- | --- |\n{}", rows.text)
}

/// Follows references, and leaves out the `null` beside what may be missing.
fn resolve<'a>(schema: &'a Value, mut of: &'a Value) -> &'a Value {
    for _ in 0..DEPTH_MAX {
        if let Some(reference) = of["$ref"].as_str() {
            of = schema.pointer(&reference[1..]).expect("references lead somewhere");
        } else if let Some(branches) = of["anyOf"].as_array()
            && let [one, null] = &branches[..]
            && null["type"] == "null"
        {
            of = one;
        } else {
            return of;
        }
    }
    panic!("references go in circles: {of}");
}

fn is_opened(of: &Value) -> bool {
    let text = of.to_string();
    !NOT_OPENED.iter().any(|name| text.contains(&format!("$defs/{name}\"")))
}

struct Rows<'a> {
    schema: &'a Value,
    text: String,
}

impl Rows<'_> {
    /// A row for each property of `of`, and for what is in it.
    fn properties(&mut self, prefix: &str, of: &Value, depth: usize) {
        assert!(depth < DEPTH_MAX, "{prefix} is nested too deep");
        for (name, property) in of["properties"].as_object().into_iter().flatten() {
            let required = of["required"].as_array().is_some_and(|names| names.contains(&name.as_str().into()));
            let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            // The keys of connectors in a source or sink have tables of their own.
            // And what cannot stand beside the others is not an option.
            if *property == Value::Bool(true)
                || !property["not"].is_null()
                || (prefix.is_empty() && is_connector(of, property))
            {
                continue;
            }
            self.row(&name, property, if required { "**required**" } else { "" });
            if is_opened(property) {
                self.parts(&name, resolve(self.schema, property), depth + 1);
            }
        }
        for variant in ["oneOf", "anyOf"].iter().filter_map(|key| of[*key].as_array()).flatten() {
            let inner = resolve(self.schema, variant);
            if let Some((name, property)) = tagged(inner) {
                let name = format!("{prefix}.{name}");
                let mut described = property.clone();
                described["description"] = variant["description"].clone();
                self.row(&name, &described, "one of");
                if is_opened(property) {
                    self.parts(&name, resolve(self.schema, property), depth + 1);
                }
            } else if inner["properties"].is_object() {
                self.properties(prefix, inner, depth + 1);
            } else if inner["type"] == "array" {
                self.parts(prefix, inner, depth + 1);
            }
        }
    }

    /// What is in the value of an option.
    fn parts(&mut self, prefix: &str, of: &Value, depth: usize) {
        if of["items"].is_object() {
            self.parts(&format!("{prefix}[]"), resolve(self.schema, &of["items"]), depth + 1);
        } else if of["additionalProperties"].is_object() {
            let values = resolve(self.schema, &of["additionalProperties"]);
            self.parts(&format!("{prefix}.NAME"), values, depth + 1);
        } else {
            self.properties(prefix, of, depth);
        }
    }

    /// One row; `instead` stands where the default would.
    fn row(&mut self, name: &str, property: &Value, instead: &str) {
        let resolved = resolve(self.schema, property);
        let default = match &property["default"] {
            _ if !instead.is_empty() => instead.to_owned(),
            // Those of a map are in the rows below it.
            Value::Object(_) | Value::Null => String::new(),
            Value::Array(items) if items.is_empty() => String::new(),
            Value::String(text) if text.is_empty() => "empty".to_owned(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{}`", number(other)),
        };
        let mut description =
            property["description"].as_str().or(resolved["description"].as_str()).unwrap_or_default().to_owned();
        let variants = resolved["oneOf"].as_array().into_iter().flatten();
        for (name, text) in variants.filter_map(|one| Some((one["const"].as_str()?, one["description"].as_str()?))) {
            description.push_str(&format!(" `{name}`: {text}"));
        }
        let shown = property["$shown"].as_str().map_or_else(|| shown_type(self.schema, property), str::to_owned);
        let cells = [format!("`{name}`"), shown, default, description];
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
        self.text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
}

/// True where `of` takes exactly one connector, and `property` is one.
fn is_connector(of: &Value, property: &Value) -> bool {
    let references = property["$ref"].as_str().is_some_and(|name| name.ends_with("Config"));
    references && (of["oneOf"].is_array() || of["if"].is_object())
}

/// The one property of a variant that is named by its key (`{sequence: …}`).
fn tagged(variant: &Value) -> Option<(&str, &Value)> {
    let mut properties = variant["properties"].as_object()?.iter().filter(|(_, property)| property["not"].is_null());
    let (name, property) = properties.next()?;
    let only = properties.next().is_none() && variant["required"].as_array()?.len() == 1;
    only.then_some((name.as_str(), property))
}

/// A number as people write it.
fn number(value: &Value) -> String {
    let text = value.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// The type of an option, for people.
fn shown_type(schema: &Value, of: &Value) -> String {
    let of = resolve(schema, of);
    if of["properties"].is_object() {
        return "map".to_owned();
    }
    if let Some(name @ ("duration" | "size" | "secret")) = of["format"].as_str() {
        return name.to_owned();
    }
    if let Some(value) = of["const"].as_str() {
        return format!("`{value}`");
    }
    let variants = of["oneOf"].as_array().or(of["anyOf"].as_array());
    if let Some(variants) = variants {
        let mut shown: Vec<String> = Vec::new();
        for variant in variants {
            let one = shown_type(schema, variant);
            if !shown.contains(&one) {
                shown.push(one);
            }
        }
        return shown.join(" or ");
    }
    // `string` beside a number is for `${…}`.
    let names: Vec<&str> = match &of["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        Value::String(name) => vec![name],
        _ => Vec::new(),
    };
    match names.iter().find(|name| **name != "null").copied() {
        Some("array") => format!("list of {}", shown_type(schema, &of["items"])),
        Some("object") => "map".to_owned(),
        Some(name @ ("integer" | "number")) => match (&of["minimum"], &of["maximum"]) {
            (Value::Null, Value::Null) => name.to_owned(),
            (Value::Null, max) => format!("{name}, at most {}", number(max)),
            (min, Value::Null) => format!("{name}, at least {}", number(min)),
            (min, max) => format!("{name}, {} to {}", number(min), number(max)),
        },
        Some("string") if of["enum"].is_array() => {
            let names = of["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
        }
        Some("string") => "text".to_owned(),
        Some(name) => name.to_owned(),
        None => "any".to_owned(),
    }
}

fn metadata(name: &str) -> String {
    let fields: &[MetadataField] = match name {
        "mqtt" => &mqtt::METADATA,
        "kafka" => &kafka::METADATA,
        "http" => &http::METADATA,
        "file" => &file::METADATA,
        _ => panic!("there is no source `{name}` with metadata"),
    };
    let mut text = String::from("| field | type | |\n| --- | --- | --- |\n");
    for field in fields {
        let arrow = field.data_type.to_string();
        let shown = match arrow.split('(').next().unwrap_or_default() {
            "Utf8" => "text",
            "Int32" => "int",
            "Int64" => "bigint",
            "Boolean" => "boolean",
            "Binary" => "bytea",
            "Timestamp" => "timestamp",
            "List" => "list of key and value",
            "Map" => "map",
            _ => arrow.as_str(),
        };
        text.push_str(&format!("| `{}` | {} | {} |\n", field.name, shown, field.description));
    }
    text
}

fn metrics() -> String {
    let metrics = Metrics::new().unwrap();
    let mut text = String::from("| metric | labels | |\n| --- | --- | --- |\n");
    for metric in metrics.described() {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!("| `{}` | {} | {} |\n", metric.name, labels.join(", "), metric.help));
    }
    text
}

fn yaml_limits() -> String {
    let YamlLimits { file_bytes_max, nodes_max, expanded_bytes_max, depth_max, included_bytes_max, filled_bytes_max } =
        YamlLimits::default();
    let size = |bytes: usize| ByteSize(bytes as u64).to_string();
    let rows = [
        ("bytes of one file", size(file_bytes_max)),
        ("values in one file, with aliases written out", nodes_max.to_string()),
        ("bytes of text and keys, with aliases written out", size(expanded_bytes_max)),
        ("levels of lists and maps", depth_max.to_string()),
        ("bytes of a file named by `${file:…}`", size(included_bytes_max)),
        ("bytes of one text after its `${…}` were filled in", size(filled_bytes_max)),
        ("mistakes that one check reports; further ones are counted", PROBLEMS_MAX.to_string()),
    ];
    let rows: String = rows.iter().map(|(what, most)| format!("| {what} | {most} |\n")).collect();
    format!("| what | at most |\n| --- | --- |\n{rows}")
}
