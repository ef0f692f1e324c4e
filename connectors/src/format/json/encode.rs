//! Rows to JSON. Each column is written as a whole, `,"name":value` row by row, by a loop that knows its type; then the
//! rows are put together from those pieces.

use std::mem;

use ::bytes::Bytes;
use arrow::array::{Array, ArrowPrimitiveType, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, SchemaRef, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use lexical_core::{FormattedSize, ToLexical};

use super::timestamp::Rfc3339;
use super::values::{self, Options};
use super::{JsonConfig, NullStyle, TimestampStyle, string};
use crate::error::ConnectorError;
use crate::format::{Encoded, Encoder};

/// A piece up to this long is copied in one go.
const PIECE_BYTES: usize = 32;

/// The encoder.
pub(super) struct JsonEncoder {
    options: Options,
    timestamps: TimestampStyle,
    nulls: NullStyle,
    /// `,"name":` of each column.
    names: Vec<Vec<u8>>,
    /// The columns of the last batch: room for those of the next.
    pieces: Vec<Pieces>,
    /// How long the last buffer became: the next one will be alike.
    capacity: usize,
}

/// What a column adds to each row.
#[derive(Default)]
struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl JsonEncoder {
    pub(super) fn new(config: &JsonConfig, columns: SchemaRef) -> Result<Self, ConnectorError> {
        let mut encoder = Self {
            options: Options::new(config),
            timestamps: config.timestamps,
            nulls: config.nulls,
            names: columns.fields().iter().map(name).collect(),
            pieces: Vec::new(),
            capacity: 0,
        };
        // An empty batch tells at load whether every type can be written.
        encoder.buffer(&RecordBatch::new_empty(columns)).map_err(|error| {
            ConnectorError::configuration("format", format!("these rows cannot be written as JSON: {error}"))
        })?;
        Ok(encoder)
    }

    fn buffer(&mut self, rows: &RecordBatch) -> Result<(Vec<u8>, Vec<usize>), ArrowError> {
        let fields = rows.schema_ref().fields();
        if self.names.len() != fields.len() {
            self.names = fields.iter().map(name).collect();
        }
        self.pieces.resize_with(fields.len(), Pieces::default);
        for (i, (field, column)) in fields.iter().zip(rows.columns()).enumerate() {
            let mut pieces = mem::take(&mut self.pieces[i]);
            pieces.clear(rows.num_rows());
            let written = self.column(&self.names[i], field, column.as_ref(), &mut pieces);
            self.pieces[i] = pieces;
            written?;
        }
        let mut buffer = Vec::with_capacity(self.capacity);
        let mut ends = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let start = buffer.len();
            for pieces in &self.pieces {
                pieces.copy(row, &mut buffer);
            }
            // The comma of the first piece becomes the brace.
            match buffer.get_mut(start) {
                Some(comma) => *comma = b'{',
                None => buffer.push(b'{'),
            }
            buffer.push(b'}');
            ends.push(buffer.len());
        }
        Ok((buffer, ends))
    }

    /// Writes a column's pieces.
    fn column(&self, name: &[u8], field: &FieldRef, column: &dyn Array, out: &mut Pieces) -> Result<(), ArrowError> {
        let mut cells = Cells { name, column, omit: self.nulls == NullStyle::Omit, out };
        match column.data_type() {
            DataType::Int8 => cells.integers::<Int8Type>(),
            DataType::Int16 => cells.integers::<Int16Type>(),
            DataType::Int32 => cells.integers::<Int32Type>(),
            DataType::Int64 => cells.integers::<Int64Type>(),
            DataType::UInt8 => cells.integers::<UInt8Type>(),
            DataType::UInt16 => cells.integers::<UInt16Type>(),
            DataType::UInt32 => cells.integers::<UInt32Type>(),
            DataType::UInt64 => cells.integers::<UInt64Type>(),
            DataType::Float32 => cells.floats::<Float32Type>(f32::is_finite),
            DataType::Float64 => cells.floats::<Float64Type>(f64::is_finite),
            DataType::Boolean => {
                let values = column.as_boolean();
                cells.each(|row, out| out.extend_from_slice(if values.value(row) { b"true" } else { b"false" }));
            }
            DataType::Utf8 => {
                let values = column.as_string::<i32>();
                cells.each(|row, out| write_text(values.value(row), out));
            }
            DataType::LargeUtf8 => {
                let values = column.as_string::<i64>();
                cells.each(|row, out| write_text(values.value(row), out));
            }
            DataType::Utf8View => {
                let values = column.as_string_view();
                cells.each(|row, out| write_text(values.value(row), out));
            }
            DataType::Timestamp(unit, _) => return cells.timestamps(field.name(), *unit, self.timestamps),
            _ => {
                let mut encoder = values::encoder(field, column, &self.options)?;
                let nulls: Vec<bool> = (0..column.len()).map(|row| encoder.is_null(row)).collect();
                cells.each_where(|row| !nulls[row], |row, out| encoder.encode(row, out));
            }
        }
        Ok(())
    }
}

/// `,"name":`
fn name(field: &FieldRef) -> Vec<u8> {
    let mut name = vec![b','];
    write_text(field.name(), &mut name);
    name.push(b':');
    name
}

impl Pieces {
    fn clear(&mut self, rows: usize) {
        self.bytes.clear();
        self.ends.clear();
        self.ends.reserve(rows);
    }

    /// Appends the piece of a row.
    #[inline(always)]
    fn copy(&self, row: usize, out: &mut Vec<u8>) {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        let length = self.ends[row] - start;
        let rest = &self.bytes[start..];
        match rest.first_chunk::<PIECE_BYTES>() {
            Some(piece) if length <= PIECE_BYTES => {
                let end = out.len() + length;
                out.extend_from_slice(piece);
                out.truncate(end);
            }
            _ => out.extend_from_slice(&rest[..length]),
        }
    }
}

/// A column on its way into pieces.
struct Cells<'a> {
    name: &'a [u8],
    column: &'a dyn Array,
    omit: bool,
    out: &'a mut Pieces,
}

impl Cells<'_> {
    /// Writes every value that is not null by `write`.
    #[inline(always)]
    fn each(&mut self, write: impl FnMut(usize, &mut Vec<u8>)) {
        match self.column.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => self.each_where(|_| true, write),
            Some(nulls) => self.each_where(|row| nulls.is_valid(row), write),
        }
    }

    #[inline(always)]
    fn each_where(&mut self, valid: impl Fn(usize) -> bool, mut write: impl FnMut(usize, &mut Vec<u8>)) {
        let Pieces { bytes, ends } = &mut *self.out;
        for row in 0..self.column.len() {
            if valid(row) {
                bytes.extend_from_slice(self.name);
                write(row, bytes);
            } else if !self.omit {
                bytes.extend_from_slice(self.name);
                bytes.extend_from_slice(b"null");
            }
            ends.push(bytes.len());
        }
    }

    fn integers<T: ArrowPrimitiveType<Native: ToLexical>>(&mut self) {
        let values = self.column.as_primitive::<T>().values();
        self.each(|row, out| write_number(values[row], out));
    }

    /// NaN and infinity, which JSON does not have, become null.
    fn floats<T: ArrowPrimitiveType<Native: ToLexical>>(&mut self, is_finite: fn(T::Native) -> bool) {
        let values = self.column.as_primitive::<T>().values();
        self.each(|row, out| match values[row] {
            value if is_finite(value) => write_number(value, out),
            _ => out.extend_from_slice(b"null"),
        });
    }

    fn timestamps(&mut self, name: &str, unit: TimeUnit, style: TimestampStyle) -> Result<(), ArrowError> {
        let column = self.column;
        let values = match unit {
            TimeUnit::Second => column.as_primitive::<TimestampSecondType>().values(),
            TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().values(),
            TimeUnit::Microsecond => column.as_primitive::<TimestampMicrosecondType>().values(),
            TimeUnit::Nanosecond => column.as_primitive::<TimestampNanosecondType>().values(),
        };
        match values::epoch_unit(style) {
            Some(target) if target == unit => self.each(|row, out| write_number(values[row], out)),
            Some(target) => self.each(|row, out| match i64::try_from(values::epoch(values[row], unit, target)) {
                Ok(value) => write_number(value, out),
                Err(_) => out.extend_from_slice(values::epoch(values[row], unit, target).to_string().as_bytes()),
            }),
            None => {
                let (mut times, mut beyond) = (Rfc3339::new(unit), None);
                self.each(|row, out| {
                    if !times.write(values[row], out) {
                        beyond.get_or_insert(values[row]);
                    }
                });
                if let Some(value) = beyond {
                    return Err(values::beyond(value, unit, name));
                }
            }
        }
        Ok(())
    }
}

/// Appends a number.
#[inline(always)]
fn write_number<N: FormattedSize + ToLexical>(value: N, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + N::FORMATTED_SIZE, 0);
    let written = lexical_core::write(value, &mut out[start..]).len();
    out.truncate(start + written);
}

/// Appends text in quotes.
#[inline(always)]
fn write_text(text: &str, out: &mut Vec<u8>) {
    if !string::is_plain(text.as_bytes()) {
        return write_escaped(text, out);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Appends text that needs escapes, in quotes.
#[cold]
fn write_escaped(text: &str, out: &mut Vec<u8>) {
    // Writing text to a Vec cannot fail.
    serde_json::to_writer(out, text).ok();
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
