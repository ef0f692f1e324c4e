//! What a column is made of, as the user writes it, with its type and what can be wrong with it.

use std::num::NonZeroU64;

use arrow::datatypes::{DataType, TimeUnit};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::options::probability;
use crate::error::ConnectorError;

/// The most keys of a `key` column.
pub const KEYS_MAX: u64 = 100_000_000;
/// Doubles are exact integers up to here.
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// What a column is made of: exactly one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Generator {
    /// 0, 1, 2, …
    Sequence(Sequence),
    /// Numbers that are equally likely.
    Uniform(Uniform),
    /// Numbers around a mean.
    Normal(Normal),
    /// A number that wanders between two bounds, for each key on its own.
    Walk(Walk),
    /// One of several values.
    Choice(Choice),
    /// Always the same value.
    Constant(Scalar),
    /// The event time.
    Timestamp(Timestamp),
    /// One of many keys: device-001, device-002, …
    Key(Key),
    /// True or false.
    Bool(Flag),
    /// A random UUID, as text.
    Uuid(Uuid),
    /// A SQL expression over the other columns (those that are not SQL, and those of SQL that stand before).
    Sql(String),
}

macro_rules! options {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$meta])* pub $field: $type,)*
            /// The share of rows in which the column is NULL, from 0 to 1. Default: 0.
            #[serde(default)]
            #[schemars(range(min = 0.0, max = 1.0))]
            pub nulls: f64,
        }
    };
}

options! {
    /// Numbers in order: `start`, `start + step`, …
    Sequence {
        /// The first. Default: 0.
        #[serde(default)]
        start: i64,
        /// What is added from row to row. Default: 1.
        #[serde(default = "unit")]
        step: i64,
    }
}

options! {
    /// Numbers from `min` to `max` that are equally likely.
    Uniform {
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
        /// Whole numbers only (bigint instead of double). Default: false.
        #[serde(default)]
        integer: bool,
    }
}

options! {
    /// Numbers of a normal distribution.
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        stddev: f64,
        /// Nothing is smaller: such a number is drawn again.
        #[serde(default)]
        min: Option<f64>,
        /// Nothing is larger: such a number is drawn again.
        #[serde(default)]
        max: Option<f64>,
        /// Rounded to whole numbers (bigint instead of double). Default: false.
        #[serde(default)]
        integer: bool,
    }
}

options! {
    /// A number that wanders between `min` and `max` and never moves by more than `step` from one row to the next.
    Walk {
        /// The first value, for every key.
        start: f64,
        /// The most that it moves from one row of its key to the next. (With `order: random` it moves on with the rows of
        /// all keys, so a key that was not drawn for a while may have moved further.)
        step: f64,
        /// The smallest.
        min: f64,
        /// The largest.
        max: f64,
        /// Each value of this `key` column has a walk of its own. Not needed where there is at most one `key` column.
        #[serde(default)]
        by: Option<String>,
        /// Rounded to whole numbers (bigint instead of double). Default: false.
        #[serde(default)]
        integer: bool,
    }
}

options! {
    /// One of several values.
    Choice {
        /// The values: all texts, all numbers or all booleans.
        values: Vec<Scalar>,
        /// How often each comes, relative to the others (`[8, 1, 1]`). Equally often where this is missing.
        #[serde(default)]
        weights: Option<Vec<f64>>,
    }
}

options! {
    /// The event time; see `start`, `interval` and `disorder` of the source.
    Timestamp {}
}

options! {
    /// One of many keys.
    Key {
        /// What stands before the number: `device-` makes `device-001`. Default: `key-`.
        #[serde(default = "key_prefix")]
        prefix: String,
        /// How many keys there are (1 to 100000000). They are numbered from 1, all with as many digits as the last.
        #[schemars(range(min = 1, max = 100_000_000))]
        count: NonZeroU64,
        /// In which order keys come. Default: `in_turn`.
        #[serde(default)]
        order: KeyOrder,
    }
}

options! {
    /// True or false.
    Flag {
        /// The share of true, from 0 to 1. Default: 0.5.
        #[serde(default = "half")]
        #[schemars(range(min = 0.0, max = 1.0))]
        probability: f64,
    }
}

options! {
    /// A random UUID (version 4).
    Uuid {}
}

/// In which order keys come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyOrder {
    /// One after the other, again and again.
    #[default]
    InTurn,
    /// Any key may be next.
    Random,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

fn unit() -> i64 {
    1
}

fn half() -> f64 {
    0.5
}

fn key_prefix() -> String {
    "key-".into()
}

impl Scalar {
    pub(super) fn data_type(&self) -> DataType {
        match self {
            Self::Bool(_) => DataType::Boolean,
            Self::Integer(_) => DataType::Int64,
            Self::Number(_) => DataType::Float64,
            Self::Text(_) => DataType::Utf8View,
        }
    }
}

impl Generator {
    /// Its name in YAML.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Sequence(_) => "sequence",
            Self::Uniform(_) => "uniform",
            Self::Normal(_) => "normal",
            Self::Walk(_) => "walk",
            Self::Choice(_) => "choice",
            Self::Constant(_) => "constant",
            Self::Timestamp(_) => "timestamp",
            Self::Key(_) => "key",
            Self::Bool(_) => "bool",
            Self::Uuid(_) => "uuid",
            Self::Sql(_) => "sql",
        }
    }

    /// The type of what it makes; `None` for SQL.
    pub(super) fn data_type(&self) -> Option<DataType> {
        let number = |integer: bool| if integer { DataType::Int64 } else { DataType::Float64 };
        Some(match self {
            Self::Sequence(_) => DataType::Int64,
            Self::Uniform(options) => number(options.integer),
            Self::Normal(options) => number(options.integer),
            Self::Walk(options) => number(options.integer),
            // Whole and other numbers together are doubles; other mixtures have been refused.
            Self::Choice(options) if options.values.iter().any(|value| matches!(value, Scalar::Number(_))) => {
                DataType::Float64
            }
            Self::Choice(options) => options.values.first()?.data_type(),
            Self::Constant(value) => value.data_type(),
            Self::Timestamp(_) => DataType::Timestamp(TimeUnit::Nanosecond, None),
            Self::Key(_) | Self::Uuid(_) => DataType::Utf8View,
            Self::Bool(_) => DataType::Boolean,
            Self::Sql(_) => return None,
        })
    }

    /// The share of NULL.
    pub(super) fn nulls(&self) -> f64 {
        match self {
            Self::Sequence(options) => options.nulls,
            Self::Uniform(options) => options.nulls,
            Self::Normal(options) => options.nulls,
            Self::Walk(options) => options.nulls,
            Self::Choice(options) => options.nulls,
            Self::Timestamp(options) => options.nulls,
            Self::Key(options) => options.nulls,
            Self::Bool(options) => options.nulls,
            Self::Uuid(options) => options.nulls,
            Self::Constant(_) | Self::Sql(_) => 0.0,
        }
    }

    /// True where NULL may come.
    pub(super) fn nullable(&self) -> bool {
        self.nulls() > 0.0 || matches!(self, Self::Sql(_))
    }

    /// Refuses options that cannot work; `columns` are all columns.
    pub(super) fn check(&self, name: &str, columns: &IndexMap<String, Self>) -> Result<(), ConnectorError> {
        let at = |option: &str| format!("columns.{name}.{}.{option}", self.name());
        let refuse = |option: &str, message: String| Err(ConnectorError::configuration(at(option), message));
        probability(&at("nulls"), self.nulls())?;
        match self {
            Self::Uniform(options) => bounds(&at("min"), options.min, options.max, options.integer),
            Self::Normal(options) => {
                if !options.mean.is_finite() {
                    return refuse("mean", "the mean must be a finite number".into());
                }
                if !(options.stddev >= 0.0 && options.stddev.is_finite()) {
                    return refuse(
                        "stddev",
                        format!("{} is not a standard deviation: write 0 or more", options.stddev),
                    );
                }
                let (min, max) = (options.min.unwrap_or(-INTEGER_MAX), options.max.unwrap_or(INTEGER_MAX));
                bounds(&at("min"), min, max, options.integer)
            }
            Self::Walk(options) => {
                bounds(&at("min"), options.min, options.max, options.integer)?;
                if !(options.min..=options.max).contains(&options.start) {
                    let (start, min, max) = (options.start, options.min, options.max);
                    return refuse("start", format!("the start {start} is not between min {min} and max {max}"));
                }
                if !(options.step > 0.0 && options.step.is_finite()) {
                    return refuse("step", format!("{} is not a step: write a number above 0", options.step));
                }
                key_column(name, options, columns).map(drop)
            }
            Self::Choice(options) => check_choice(options).or_else(|(option, message)| refuse(option, message)),
            Self::Constant(Scalar::Number(number)) if !number.is_finite() => Err(ConnectorError::configuration(
                format!("columns.{name}.constant"),
                "the constant must be a finite number",
            )),
            Self::Key(options) if options.count.get() > KEYS_MAX => {
                refuse("count", format!("{} keys are more than the {KEYS_MAX} that there can be", options.count))
            }
            Self::Bool(options) => probability(&at("probability"), options.probability),
            Self::Sequence(_)
            | Self::Constant(_)
            | Self::Timestamp(_)
            | Self::Key(_)
            | Self::Uuid(_)
            | Self::Sql(_) => Ok(()),
        }
    }
}

fn bounds(option: &str, min: f64, max: f64, integer: bool) -> Result<(), ConnectorError> {
    let refuse = |message: String| Err(ConnectorError::configuration(option, message));
    if !(min.is_finite() && max.is_finite()) {
        return refuse("min and max must be finite numbers".into());
    }
    if min > max {
        return refuse(format!("min {min} is above max {max}"));
    }
    if integer && (min.abs() > INTEGER_MAX || max.abs() > INTEGER_MAX) {
        return refuse(format!("whole numbers can only be bounded by ±{INTEGER_MAX}"));
    }
    if integer && min.ceil() > max.floor() {
        return refuse(format!("there is no whole number between min {min} and max {max}"));
    }
    Ok(())
}

/// The error: the option and a sentence.
fn check_choice(options: &Choice) -> Result<(), (&'static str, String)> {
    let Some(first) = options.values.first() else { return Err(("values", "there is no value to choose from".into())) };
    let number = |value: &Scalar| matches!(value, Scalar::Integer(_) | Scalar::Number(_));
    let alike = |value: &Scalar| value.data_type() == first.data_type() || (number(value) && number(first));
    if let Some(other) = options.values.iter().find(|value| !alike(value)) {
        return Err((
            "values",
            format!("{other:?} and {first:?} are of different types: write all texts, all numbers or all booleans"),
        ));
    }
    if options.values.iter().any(|value| matches!(value, Scalar::Number(number) if !number.is_finite())) {
        return Err(("values", "numbers must be finite".into()));
    }
    let Some(weights) = &options.weights else { return Ok(()) };
    if weights.len() != options.values.len() {
        let message = format!("{} weights for {} values: write one for each", weights.len(), options.values.len());
        return Err(("weights", message));
    }
    let sum: f64 = weights.iter().sum();
    if weights.iter().any(|weight| *weight < 0.0) || !(sum > 0.0 && sum.is_finite()) {
        return Err(("weights", "weights must be 0 or more, and one of them more than 0".into()));
    }
    Ok(())
}

/// The `key` column whose keys have walks of their own, with its options.
pub(super) fn key_column<'a>(
    name: &str,
    walk: &Walk,
    columns: &'a IndexMap<String, Generator>,
) -> Result<Option<(&'a str, &'a Key)>, ConnectorError> {
    let option = format!("columns.{name}.walk.by");
    let mut keys = columns.iter().filter_map(|(name, generator)| match generator {
        Generator::Key(key) => Some((name.as_str(), key)),
        _ => None,
    });
    match &walk.by {
        Some(by) => match keys.find(|(name, _)| name == by) {
            Some(found) => Ok(Some(found)),
            None => Err(ConnectorError::configuration(option, format!("there is no `key` column `{by}`"))),
        },
        None => match (keys.next(), keys.next()) {
            (Some((first, _)), Some((second, _))) => Err(ConnectorError::configuration(
                option,
                format!("there are several `key` columns (`{first}`, `{second}`): say whose keys walk on their own"),
            )),
            (only, _) => Ok(only),
        },
    }
}
