//! Rate, start and the irregularities of a generator, as the user writes them. When a row is due is `schedule`'s business.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::ConnectorError;
use crate::units::Duration;

/// The highest rate that can be written, in rows per second (`unlimited` is faster).
const RATE_MAX: f64 = 1e9;
/// The lowest: one row in about 11 days.
const RATE_MIN: f64 = 1e-6;
/// The most that a burst can multiply the rate.
const FACTOR_MAX: f64 = 1e6;

/// How many rows are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// So many rows in so many seconds (1, 60 or 3600).
    Rows {
        /// The number of rows.
        rows: f64,
        /// In so many seconds.
        seconds: u32,
    },
    /// As fast as the pipeline takes them.
    Unlimited,
}

impl Default for Rate {
    fn default() -> Self {
        Self::Rows { rows: 10.0, seconds: 1 }
    }
}

impl Rate {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a rate: write rows per time (`500/s`, `10/min`, `2/h`) or `unlimited`");
        let text = text.trim();
        if text == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let (rows, unit) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match unit.trim() {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            _ => return Err(wrong()),
        };
        Self::checked(rows.trim().parse().map_err(|_| wrong())?, seconds)
    }

    fn checked(rows: f64, seconds: u32) -> Result<Self, String> {
        if (RATE_MIN..=RATE_MAX).contains(&(rows / f64::from(seconds))) {
            Ok(Self::Rows { rows, seconds })
        } else {
            Err(format!(
                "a rate of {rows} rows in {seconds} s is not between {RATE_MIN} and {RATE_MAX} rows per second (`unlimited` is \
                 faster)"
            ))
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::Rows { rows, seconds: 60 } => write!(f, "{rows}/min"),
            Self::Rows { rows, seconds: 3600 } => write!(f, "{rows}/h"),
            Self::Rows { rows, .. } => write!(f, "{rows}/s"),
        }
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Rate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("rows per second (`500`, `500/s`, `10/min`) or `unlimited`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Rate, E> {
                Rate::parse(text).map_err(E::custom)
            }

            fn visit_f64<E: serde::de::Error>(self, rows: f64) -> Result<Rate, E> {
                Rate::checked(rows, 1).map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, rows: u64) -> Result<Rate, E> {
                self.visit_f64(rows as f64)
            }

            fn visit_i64<E: serde::de::Error>(self, rows: i64) -> Result<Rate, E> {
                self.visit_f64(rows as f64)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "rate".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Rows per second, rows per time (`500/s`, `10/min`, `2/h`), or `unlimited`.",
            "anyOf": [
                { "type": "number", "minimum": RATE_MIN, "maximum": RATE_MAX },
                { "type": "string", "pattern": r"^\s*(unlimited|[0-9.]+(e[0-9]+)?\s*(/\s*(s|m|min|h))?)\s*$" },
            ],
        })
    }
}

/// The event time of the first row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The clock's, when the source opens.
    #[default]
    Now,
    /// This one.
    At(DateTime<Utc>),
}

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Now => serializer.serialize_str("now"),
            Self::At(time) => serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        }
    }
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        if text.trim() == "now" {
            return Ok(Self::Now);
        }
        DateTime::parse_from_rfc3339(text.trim()).map(|time| Self::At(time.to_utc())).map_err(|_| {
            serde::de::Error::custom(format!(
                "`{text}` is not a start: write `now` or a time such as 2026-01-01T00:00:00Z"
            ))
        })
    }
}

impl JsonSchema for Start {
    fn schema_name() -> Cow<'static, str> {
        "start".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`now`, or an RFC 3339 time (2026-01-01T00:00:00Z).",
            "anyOf": [{ "type": "string", "const": "now" }, { "type": "string", "format": "date-time" }],
        })
    }
}

/// Event times out of order: some rows happened earlier than their place says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Disorder {
    /// A row is at most so much earlier (a watermark of as much loses none).
    pub max: Duration,
    /// The share of such rows, from 0 to 1. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub probability: f64,
}

/// Rows that come twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Duplicates {
    /// The share of rows that are sent twice, from 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub probability: f64,
}

/// Times without rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gaps {
    /// There is one gap in each stretch of so much time, at its end.
    pub every: Duration,
    /// How long it lasts; shorter than `every`.
    pub length: Duration,
}

/// Times with more rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bursts {
    /// There is one burst in each stretch of so much time, at its end.
    pub every: Duration,
    /// How long it lasts; shorter than `every`.
    pub length: Duration,
    /// So many times more rows (1 to 1000000).
    #[schemars(range(min = 1.0, max = 1_000_000.0))]
    pub factor: f64,
}

fn one() -> f64 {
    1.0
}

/// Refuses what is no probability.
pub(super) fn probability(option: &str, value: f64) -> Result<(), ConnectorError> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(ConnectorError::configuration(option, format!("{value} is not a probability: write a number from 0 to 1")))
}

/// Refuses what does not fit into its stretch of time.
fn within(what: &str, every: Duration, length: Duration) -> Result<(), ConnectorError> {
    if length < every {
        return Ok(());
    }
    let message = format!("{length} in every {every} leave no time between: `length` must be shorter than `every`");
    Err(ConnectorError::configuration(format!("{what}.length"), message))
}

impl Disorder {
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        probability("disorder.probability", self.probability)
    }
}

impl Duplicates {
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        probability("duplicates.probability", self.probability)
    }
}

impl Gaps {
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        within("gaps", self.every, self.length)
    }
}

impl Bursts {
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        if !(1.0..=FACTOR_MAX).contains(&self.factor) {
            let message = format!("{} is not a factor: write a number from 1 to {FACTOR_MAX}", self.factor);
            return Err(ConnectorError::configuration("bursts.factor", message));
        }
        within("bursts", self.every, self.length)
    }
}
