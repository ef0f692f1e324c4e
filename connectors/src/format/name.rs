//! Reads a [`FormatConfig`] from its name alone (`format: json`) or from a name with options (`format: {csv: {…}}`).
//!
//! Serde's own externally tagged enum knows only the second form for a variant that has options.

use std::fmt;

use schemars::Schema;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::json;

use super::FormatConfig;

/// The formats' names.
const NAMES: &[&str] = &["json", "csv", "text", "bytes"];

impl<'de> Deserialize<'de> for FormatConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FormatVisitor)
    }
}

struct FormatVisitor;

impl<'de> Visitor<'de> for FormatVisitor {
    type Value = FormatConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a format: json, csv, text or bytes, or one of them with options")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<FormatConfig, E> {
        Ok(match name {
            "json" => FormatConfig::Json(Default::default()),
            "csv" => FormatConfig::Csv(Default::default()),
            "text" => FormatConfig::Text(Default::default()),
            "bytes" => FormatConfig::Bytes(Default::default()),
            other => return Err(E::unknown_variant(other, NAMES)),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FormatConfig, A::Error> {
        let Some(name) = map.next_key::<String>()? else {
            return Err(A::Error::custom("expected the name of a format"));
        };
        let format = match name.as_str() {
            "json" => FormatConfig::Json(map.next_value::<Option<_>>()?.unwrap_or_default()),
            "csv" => FormatConfig::Csv(map.next_value::<Option<_>>()?.unwrap_or_default()),
            "text" => FormatConfig::Text(map.next_value::<Option<_>>()?.unwrap_or_default()),
            "bytes" => FormatConfig::Bytes(map.next_value::<Option<_>>()?.unwrap_or_default()),
            other => return Err(A::Error::unknown_variant(other, NAMES)),
        };
        match map.next_key::<String>()? {
            None => Ok(format),
            Some(other) => Err(A::Error::custom(format!("exactly one format is expected, found {name} and {other}"))),
        }
    }
}

/// Adds the bare names to the schema.
pub(super) fn or_name_alone(schema: &mut Schema) {
    if let Some(forms) = schema.get_mut("oneOf").and_then(serde_json::Value::as_array_mut) {
        forms
            .insert(0, json!({ "type": "string", "enum": NAMES, "description": "A format with its default options." }));
    }
}
