//! Synthetic rows: a source for demonstrations, profiles, tests and load.
//!
//! **Invariant:** everything about row number n is a function of the seed and n alone (never of the rows before it), so the
//! same seed gives the same rows whatever the batch sizes, restarts and partitions, and going on at row ten billion
//! costs what going on at row 0 does. Only event times with `start: now` follow the clock.
//!
//! * `column`: what a column is made of; `options`: rate, start, gaps, bursts, … as the user writes them.
//! * `schedule`: when row n is due; `values`: what is in it; `source`: the [`Source`] that sends it on time.

mod column;
mod options;
mod schedule;
mod source;
#[cfg(test)]
mod tests;
mod values;

use std::num::NonZeroU16;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use column::{Choice, Flag, Key, KeyOrder, Normal, Scalar, Sequence, Timestamp, Uniform, Uuid, Walk};
pub use column::{Generator, KEYS_MAX};
pub use options::{Bursts, Disorder, Duplicates, Gaps, Rate, Start};

use crate::error::ConnectorError;
use crate::units::Duration;
use crate::{Source, SourceContext};

/// The most partitions.
pub const PARTITIONS_MAX: u16 = 256;

/// Makes synthetic rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GenerateConfig {
    /// The columns, each with what it is made of: `temperature: {walk: {start: 4, step: 0.2, min: -5, max: 30}}`.
    pub columns: IndexMap<String, Generator>,
    /// How many rows are made: a number per second, or text such as `500/s`, `10/min`, `2/h`, or `unlimited` (as fast as
    /// the pipeline takes them). Default: `10/s`.
    #[serde(default)]
    pub rate: Rate,
    /// The source ends after so many rows. Without it, it never ends.
    #[serde(default)]
    pub count: Option<u64>,
    /// The event time of the first row: an RFC 3339 time (`2026-01-01T00:00:00Z`), or `now`, with which event times
    /// follow the clock, also after a restart. Default: `now`.
    #[serde(default)]
    pub start: Start,
    /// The event time between two rows (`10ms`). Without it, event times pass as fast as `rate` says.
    #[serde(default)]
    pub interval: Option<Duration>,
    /// Some rows happened earlier than their place says: event times out of order.
    #[serde(default)]
    pub disorder: Option<Disorder>,
    /// Some rows are sent twice, the second directly after the first. They do not count for `count` and `rate`.
    #[serde(default)]
    pub duplicates: Option<Duplicates>,
    /// Times without rows.
    #[serde(default)]
    pub gaps: Option<Gaps>,
    /// Times with more rows.
    #[serde(default)]
    pub bursts: Option<Bursts>,
    /// Another seed makes other rows; the same seed makes the same rows. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Rows are dealt to so many partitions in turn (1 to 256). A key stays in one partition where the number of keys is
    /// a multiple of this. Default: 1.
    #[serde(default = "GenerateConfig::default_partitions")]
    #[schemars(range(min = 1, max = 256))]
    pub partitions: NonZeroU16,
}

impl GenerateConfig {
    const fn default_partitions() -> NonZeroU16 {
        NonZeroU16::MIN
    }

    /// Checks the options and builds the source.
    pub fn build(&self, context: &SourceContext) -> Result<Box<dyn Source>, ConnectorError> {
        self.check()?;
        Ok(Box::new(source::GenerateSource::new(self, context)?))
    }

    /// True where a number of rows is set.
    pub fn bounded(&self) -> bool {
        self.count.is_some()
    }

    /// The columns by what they are made of, for a source whose YAML declares none: sequences and `integer: true` are
    /// bigint, other numbers double, keys, uuids and texts text, the rest by its values. A column computed by `sql` has
    /// no type before the SQL is planned, so it is an error.
    pub fn schema(&self) -> Result<SchemaRef, ConnectorError> {
        self.check()?;
        let fields = self.columns.iter().map(|(name, generator)| match generator.data_type() {
            Some(data_type) => Ok(Field::new(name, data_type, generator.nullable())),
            None => Err(ConnectorError::configuration(
                format!("columns.{name}.sql"),
                format!("`{name}` is computed by SQL, so its type must be declared: write the source's `columns`"),
            )),
        });
        Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, _>>()?)))
    }

    fn check(&self) -> Result<(), ConnectorError> {
        if self.columns.is_empty() {
            return Err(ConnectorError::configuration(
                "columns",
                "no columns are written, so there is nothing to make",
            ));
        }
        if self.partitions.get() > PARTITIONS_MAX {
            let message =
                format!("{} partitions are more than the {PARTITIONS_MAX} that there can be", self.partitions);
            return Err(ConnectorError::configuration("partitions", message));
        }
        for (name, generator) in &self.columns {
            generator.check(name, &self.columns)?;
        }
        self.disorder.as_ref().map_or(Ok(()), Disorder::check)?;
        self.duplicates.as_ref().map_or(Ok(()), Duplicates::check)?;
        self.gaps.as_ref().map_or(Ok(()), Gaps::check)?;
        self.bursts.as_ref().map_or(Ok(()), Bursts::check)?;
        if self.interval.is_some_and(|interval| interval.0.is_zero()) {
            return Err(ConnectorError::configuration("interval", "the time between two rows must be more than 0s"));
        }
        let timed = self.columns.values().any(|generator| matches!(generator, Generator::Timestamp(_)));
        if timed && self.interval.is_none() && self.rate == Rate::Unlimited {
            let message = "with `rate: unlimited` event times need an interval (`interval: 10ms`)";
            return Err(ConnectorError::configuration("interval", message));
        }
        if self.disorder.is_some() && !timed {
            return Err(ConnectorError::configuration("disorder", "disorder needs a `timestamp` column"));
        }
        Ok(())
    }
}
