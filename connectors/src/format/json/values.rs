//! Values of every type as JSON, one by one: arrow-json's encoders, with our own for timestamps and byte strings.
//!
//! This is for nested and rare types, and for CSV; `encode.rs` writes the common types in whole columns.

use std::fmt::Debug;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, FieldRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{NullableEncoder, make_encoder};
use arrow::json::{Encoder as ValueEncoder, EncoderFactory, EncoderOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, SecondsFormat, Utc};

use super::{JsonConfig, NullStyle, TimestampStyle};

/// How values are written.
pub(in crate::format) struct Options(EncoderOptions);

impl Options {
    pub(in crate::format) fn new(config: &JsonConfig) -> Self {
        Self(
            EncoderOptions::default()
                .with_explicit_nulls(config.nulls == NullStyle::Write)
                .with_encoder_factory(Arc::new(OurTypes { timestamps: config.timestamps })),
        )
    }
}

/// An encoder of the JSON values of one column.
pub(super) fn encoder<'a>(
    field: &'a FieldRef,
    column: &'a dyn Array,
    options: &'a Options,
) -> Result<NullableEncoder<'a>, ArrowError> {
    make_encoder(field, column, &options.0)
}

/// An encoder of JSON values for each column of `rows`.
pub(in crate::format) fn encoders<'a>(
    rows: &'a RecordBatch,
    options: &'a Options,
) -> Result<Vec<NullableEncoder<'a>>, ArrowError> {
    let columns = rows.schema_ref().fields().iter().zip(rows.columns());
    columns.map(|(field, column)| encoder(field, column.as_ref(), options)).collect()
}

/// The types that arrow-json writes otherwise than we do.
#[derive(Debug)]
struct OurTypes {
    timestamps: TimestampStyle,
}

impl EncoderFactory for OurTypes {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn ValueEncoder + 'a> = match array.data_type() {
            DataType::Timestamp(unit, _) => Box::new(self.timestamps(field.name(), array, *unit)?),
            DataType::Binary => Box::new(Base64(move |row| array.as_binary::<i32>().value(row))),
            DataType::LargeBinary => Box::new(Base64(move |row| array.as_binary::<i64>().value(row))),
            DataType::BinaryView => Box::new(Base64(move |row| array.as_binary_view().value(row))),
            DataType::FixedSizeBinary(_) => Box::new(Base64(move |row| array.as_fixed_size_binary().value(row))),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

impl OurTypes {
    fn timestamps<'a>(&self, name: &str, array: &'a dyn Array, unit: TimeUnit) -> Result<Timestamps<'a>, ArrowError> {
        let values: &'a [i64] = match unit {
            TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
            TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
            TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
            TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
        };
        let timestamps = Timestamps { values, unit, style: self.timestamps };
        // What cannot be written is found before anything is: an encoder of a value cannot fail.
        match (0..values.len()).find(|&row| array.is_valid(row) && !timestamps.can_be_written(row)) {
            None => Ok(timestamps),
            Some(row) => Err(beyond(values[row], unit, name)),
        }
    }
}

/// The error of a timestamp that the calendar does not have.
pub(super) fn beyond(value: i64, unit: TimeUnit, column: &str) -> ArrowError {
    ArrowError::JsonError(format!(
        "the timestamp {value} ({unit:?}) in the column `{column}` is beyond what can be written"
    ))
}

struct Timestamps<'a> {
    values: &'a [i64],
    unit: TimeUnit,
    style: TimestampStyle,
}

fn per_second(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// The time of a timestamp, if the calendar has it.
pub(super) fn time(value: i64, unit: TimeUnit) -> Option<DateTime<Utc>> {
    match unit {
        TimeUnit::Second => DateTime::from_timestamp(value, 0),
        TimeUnit::Millisecond => DateTime::from_timestamp_millis(value),
        TimeUnit::Microsecond => DateTime::from_timestamp_micros(value),
        TimeUnit::Nanosecond => Some(DateTime::from_timestamp_nanos(value)),
    }
}

/// A timestamp in another unit, rounded down.
pub(super) fn epoch(value: i64, unit: TimeUnit, target: TimeUnit) -> i128 {
    // 64 bits by a thousand million stay below 128 bits.
    (i128::from(value) * per_second(target)).div_euclid(per_second(unit))
}

/// The unit of integers, unless timestamps are text.
pub(super) fn epoch_unit(style: TimestampStyle) -> Option<TimeUnit> {
    match style {
        TimestampStyle::Rfc3339 => None,
        TimestampStyle::EpochS => Some(TimeUnit::Second),
        TimestampStyle::EpochMs => Some(TimeUnit::Millisecond),
        TimestampStyle::EpochUs => Some(TimeUnit::Microsecond),
        TimestampStyle::EpochNs => Some(TimeUnit::Nanosecond),
    }
}

impl Timestamps<'_> {
    fn can_be_written(&self, row: usize) -> bool {
        self.style != TimestampStyle::Rfc3339 || time(self.values[row], self.unit).is_some()
    }
}

impl ValueEncoder for Timestamps<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.values[row];
        match epoch_unit(self.style) {
            None => {
                let text = time(value, self.unit).map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
                out.push(b'"');
                out.extend_from_slice(text.unwrap_or_default().as_bytes());
                out.push(b'"');
            }
            // Writing to a Vec cannot fail.
            Some(target) => {
                write!(out, "{}", epoch(value, self.unit, target)).ok();
            }
        }
    }
}

struct Base64<F>(F);

impl<'a, F: Fn(usize) -> &'a [u8]> ValueEncoder for Base64<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(BASE64.encode((self.0)(row)).as_bytes());
        out.push(b'"');
    }
}
