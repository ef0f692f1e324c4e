//! The format `json`: its options. Reading is in `decode.rs`, writing in `encode.rs`.

mod decode;
mod encode;
mod keys;
mod malformed;
mod row;
mod scan;
mod string;
mod timestamp;
mod values;

use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::columns::{Column, Problem};
use super::{DecodeOptions, Decoder, Encoder};
use crate::error::ConnectorError;

/// Options of JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JsonConfig {
    /// When reading: what a message holds.
    pub layout: JsonLayout,
    /// When reading: takes a number or boolean that is written as text (`"12.5"`, `"true"`), and takes numbers and
    /// booleans for text columns as they are written. Without it both are errors of their message.
    pub coerce: bool,
    /// When writing: how timestamps look.
    pub timestamps: TimestampStyle,
    /// When writing: what becomes of NULL.
    pub nulls: NullStyle,
}

/// What a message holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JsonLayout {
    /// One object: one row.
    #[default]
    Object,
    /// An array of objects: a row each.
    Array,
    /// Objects separated by line breaks: a row each. A line that cannot be read does not hurt the others.
    Lines,
}

/// How timestamps are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimestampStyle {
    /// Text in UTC: `2026-01-31T12:00:00.250Z`.
    #[default]
    Rfc3339,
    /// Seconds since 1970, as an integer (parts of a second are cut).
    EpochS,
    /// Milliseconds since 1970, as an integer.
    EpochMs,
    /// Microseconds since 1970, as an integer.
    EpochUs,
    /// Nanoseconds since 1970, as an integer.
    EpochNs,
}

/// What becomes of NULL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NullStyle {
    /// It is written: `"humidity": null`.
    #[default]
    Write,
    /// Its field is left out.
    Omit,
}

impl JsonConfig {
    /// True where a message that is read makes exactly one row.
    pub fn one_row_per_message(&self) -> bool {
        self.layout == JsonLayout::Object
    }

    pub(super) fn decoder(&self, options: DecodeOptions) -> Result<Box<dyn Decoder>, ConnectorError> {
        Ok(Box::new(decode::JsonDecoder::new(self, &options)?))
    }

    pub(super) fn encoder(&self, columns: SchemaRef) -> Result<Box<dyn Encoder>, ConnectorError> {
        Ok(Box::new(encode::JsonEncoder::new(self, columns)?))
    }
}

/// Appends the JSON value in `text` to a (nested) column; for formats that hold JSON within.
pub(super) fn push_value(column: &mut Column, text: &str, problem: &mut Problem) {
    decode::push_value(column, text, problem);
}

/// Writes rows as JSON; for formats that hold JSON within.
pub(super) use values::{Options as EncodeOptions, encoders};
