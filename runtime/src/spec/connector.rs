//! The connector of a source: which shape `file:` has depends on whether the source is a table.
//!
//! serde's `flatten` cannot see the neighbouring key `table`, so the connector's key is moved by hand.

use millstream_connectors::config::{SOURCES, SourceConfig, TABLES, TableConfig};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::model::SourceSpec;

/// What a source reads from. In YAML it is the connector's key itself (`mqtt: {…}`); a source with `table:` takes a
/// connector of tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "a pipeline has a handful of sources, and they are not moved about")]
pub enum ConnectorSpec {
    /// A stream.
    Source(SourceConfig),
    /// A table to join with.
    Table(TableConfig),
    /// Something that cannot be used, and was reported: only in a [`super::draft::Draft`], never from YAML.
    #[serde(skip)]
    Unusable,
}

impl ConnectorSpec {
    /// The stream's connector, where it is one.
    pub fn source(&self) -> Option<&SourceConfig> {
        match self {
            Self::Source(config) => Some(config),
            Self::Table(_) | Self::Unusable => None,
        }
    }

    /// The table's connector, where it is one.
    pub fn table(&self) -> Option<&TableConfig> {
        match self {
            Self::Table(config) => Some(config),
            Self::Source(_) | Self::Unusable => None,
        }
    }
}

impl<'de> Deserialize<'de> for SourceSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = Map::deserialize(deserializer)?;
        let is_table = map.get("table").is_some_and(|table| !table.is_null());
        let (kind, keys) = if is_table { ("table", TABLES) } else { ("source", SOURCES) };
        let Some((key, value)) = keys.iter().find_map(|key| map.remove_entry(*key)) else {
            return Err(D::Error::custom(format!("no connector; there are: {}", keys.join(", "))));
        };
        map.insert("connector".into(), Value::from_iter([(kind, Value::from_iter([(key, value)]))]));
        Self::deserialize(Value::Object(map)).map_err(D::Error::custom)
    }
}

impl Serialize for SourceSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value = Self::serialize(self, serde_json::value::Serializer).map_err(S::Error::custom)?;
        if let Value::Object(map) = &mut value
            && let Some(Value::Object(kinds)) = map.remove("connector")
        {
            map.extend(kinds.into_iter().filter_map(|(_, connector)| connector.as_object().cloned()).flatten());
        }
        value.serialize(serializer)
    }
}
