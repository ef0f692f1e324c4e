//! Rows to JSON: arrow-json's encoders, with our own for timestamps and byte strings.

use std::fmt::Debug;
use std::io::Write as _;
use std::sync::Arc;

use ::bytes::Bytes;
use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{
    DataType, Field, FieldRef, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{NullableEncoder, make_encoder};
use arrow::json::{Encoder as ValueEncoder, EncoderFactory, EncoderOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, SecondsFormat, Utc};

use super::{JsonConfig, NullStyle, TimestampStyle};
use crate::error::ConnectorError;
use crate::format::{Encoded, Encoder};

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

/// An encoder of JSON values for each column of `rows`.
pub(in crate::format) fn encoders<'a>(
    rows: &'a RecordBatch,
    options: &'a Options,
) -> Result<Vec<NullableEncoder<'a>>, ArrowError> {
    let columns = rows.schema_ref().fields().iter().zip(rows.columns());
    columns.map(|(field, column)| make_encoder(field, column.as_ref(), &options.0)).collect()
}

/// The encoder.
pub(super) struct JsonEncoder {
    options: Options,
    /// How long the last buffer became: the next one will be alike.
    capacity: usize,
}

impl JsonEncoder {
    pub(super) fn new(config: &JsonConfig, columns: SchemaRef) -> Result<Self, ConnectorError> {
        let encoder = Self { options: Options::new(config), capacity: 0 };
        // An empty batch tells at load whether every type can be written.
        encoder.buffer(&RecordBatch::new_empty(columns)).map_err(|error| {
            ConnectorError::configuration("format", format!("these rows cannot be written as JSON: {error}"))
        })?;
        Ok(encoder)
    }

    fn buffer(&self, rows: &RecordBatch) -> Result<(Vec<u8>, Vec<usize>), ArrowError> {
        let whole = StructArray::from(rows.clone());
        let field: FieldRef = Arc::new(Field::new("", whole.data_type().clone(), false));
        let mut encoder = make_encoder(&field, &whole, &self.options.0)?;
        let mut buffer = Vec::with_capacity(self.capacity);
        let mut ends = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            encoder.encode(row, &mut buffer);
            ends.push(buffer.len());
        }
        Ok((buffer, ends))
    }
}

impl Encoder for JsonEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded, ConnectorError> {
        let (buffer, ends) = self
            .buffer(rows)
            .map_err(|error| ConnectorError::fatal(format!("rows cannot be written as JSON: {error}")))?;
        self.capacity = buffer.len() + buffer.len() / 8;
        Ok(Encoded { buffer: Bytes::from(buffer), ends })
    }

    fn media_type(&self) -> &'static str {
        "application/json"
    }
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
            Some(row) => Err(ArrowError::JsonError(format!(
                "the timestamp {} ({unit:?}) in the column `{name}` is beyond what can be written",
                values[row]
            ))),
        }
    }
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

impl Timestamps<'_> {
    fn time(&self, row: usize) -> Option<DateTime<Utc>> {
        let value = self.values[row];
        match self.unit {
            TimeUnit::Second => DateTime::from_timestamp(value, 0),
            TimeUnit::Millisecond => DateTime::from_timestamp_millis(value),
            TimeUnit::Microsecond => DateTime::from_timestamp_micros(value),
            TimeUnit::Nanosecond => Some(DateTime::from_timestamp_nanos(value)),
        }
    }

    fn epoch(&self, row: usize, target: TimeUnit) -> i128 {
        // 64 bits by a thousand million stay below 128 bits.
        (i128::from(self.values[row]) * per_second(target)).div_euclid(per_second(self.unit))
    }

    fn can_be_written(&self, row: usize) -> bool {
        self.style != TimestampStyle::Rfc3339 || self.time(row).is_some()
    }
}

impl ValueEncoder for Timestamps<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let target = match self.style {
            TimestampStyle::Rfc3339 => {
                let text = self.time(row).map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
                out.push(b'"');
                out.extend_from_slice(text.unwrap_or_default().as_bytes());
                out.push(b'"');
                return;
            }
            TimestampStyle::EpochS => TimeUnit::Second,
            TimestampStyle::EpochMs => TimeUnit::Millisecond,
            TimestampStyle::EpochUs => TimeUnit::Microsecond,
            TimestampStyle::EpochNs => TimeUnit::Nanosecond,
        };
        // Writing to a Vec cannot fail.
        write!(out, "{}", self.epoch(row, target)).ok();
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
