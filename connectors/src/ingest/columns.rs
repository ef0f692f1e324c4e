//! Turns the metadata of ingest log messages into Arrow columns of the types that the connector declared.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, BooleanBuilder, Int64Builder, ListArray, MapArray, StringBuilder,
    StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use arrow::error::ArrowError;

use super::codec::{ValueRef, Visitor};
use crate::source::MetadataField;

/// Keys and values of many messages.
#[derive(Default)]
struct Pairs {
    lengths: Vec<usize>,
    valid: Vec<bool>,
    keys: StringBuilder,
    values: StringBuilder,
}

enum Builder {
    Text(StringBuilder),
    Int(Int64Builder),
    Bool(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Bytes(BinaryBuilder),
    Pairs(Pairs),
}

impl Builder {
    fn new(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text(StringBuilder::new()),
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Timestamp(_, _) => Self::Timestamp(TimestampMicrosecondBuilder::new()),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Self::Bytes(BinaryBuilder::new()),
            DataType::Map(_, _) | DataType::List(_) => Self::Pairs(Pairs::default()),
            integer if integer.is_integer() => Self::Int(Int64Builder::new()),
            _ => return None,
        })
    }

    /// False where the value is of another kind: null is appended then.
    fn append(&mut self, value: &ValueRef<'_>) -> bool {
        match (&mut *self, value) {
            (Self::Text(builder), ValueRef::Text(text)) => builder.append_value(text),
            (Self::Int(builder), ValueRef::Int(n)) => builder.append_value(*n),
            (Self::Bool(builder), ValueRef::Bool(yes)) => builder.append_value(*yes),
            (Self::Timestamp(builder), ValueRef::Timestamp(micros)) => builder.append_value(*micros),
            (Self::Bytes(builder), ValueRef::Bytes(bytes)) => builder.append_value(bytes),
            (Self::Pairs(builder), ValueRef::Pairs(pairs)) => {
                builder.lengths.push(pairs.len());
                builder.valid.push(true);
                for (key, value) in pairs {
                    builder.keys.append_value(key);
                    builder.values.append_value(value);
                }
            }
            _ => {
                self.append_null();
                return false;
            }
        }
        true
    }

    fn append_null(&mut self) {
        match self {
            Self::Text(builder) => builder.append_null(),
            Self::Int(builder) => builder.append_null(),
            Self::Bool(builder) => builder.append_null(),
            Self::Timestamp(builder) => builder.append_null(),
            Self::Bytes(builder) => builder.append_null(),
            Self::Pairs(builder) => {
                builder.lengths.push(0);
                builder.valid.push(false);
            }
        }
    }

    fn finish(self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        let array: ArrayRef = match self {
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Int(mut builder) => Arc::new(builder.finish()),
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Timestamp(mut builder) => match data_type {
                DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                    return Ok(Arc::new(builder.finish().with_timezone_opt(zone.clone())));
                }
                // Through UTC: a cast between zones keeps the instant.
                _ => Arc::new(builder.finish().with_timezone_opt(Some("+00:00"))),
            },
            Self::Bytes(mut builder) => Arc::new(builder.finish()),
            Self::Pairs(pairs) => return pairs.finish(data_type),
        };
        if array.data_type() == data_type { Ok(array) } else { cast(&array, data_type) }
    }
}

impl Pairs {
    fn finish(mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        let entries = |field: &FieldRef, keys: ArrayRef, values: ArrayRef| match field.data_type() {
            DataType::Struct(fields) => StructArray::try_new(fields.clone(), vec![keys, values], None),
            other => Err(ArrowError::SchemaError(format!("pairs cannot be written as {other}"))),
        };
        let (keys, values) = (Arc::new(self.keys.finish()), Arc::new(self.values.finish()));
        let offsets = OffsetBuffer::from_lengths(self.lengths);
        let nulls = Some(NullBuffer::from(self.valid)).filter(|nulls| nulls.null_count() > 0);
        Ok(match data_type {
            DataType::Map(field, sorted) => {
                Arc::new(MapArray::try_new(field.clone(), offsets, entries(field, keys, values)?, nulls, *sorted)?)
            }
            DataType::List(field) => {
                let entries = Arc::new(entries(field, keys, values)?);
                Arc::new(ListArray::try_new(field.clone(), offsets, entries, nulls)?)
            }
            other => return Err(ArrowError::SchemaError(format!("pairs cannot be written as {other}"))),
        })
    }
}

/// The names that a group defines, each with the column it goes to.
#[derive(Default)]
pub(super) struct NameMap(Vec<Option<usize>>);

/// Builds one batch.
pub(super) struct BatchBuilder<'a> {
    fields: &'a [MetadataField],
    builders: Vec<Builder>,
    payloads: BinaryBuilder,
    /// How many rows each column has: a message may leave a field out.
    filled: Vec<usize>,
    pub(super) rows: usize,
    /// Payload bytes and those of the chosen metadata.
    pub(super) bytes: usize,
    pub(super) names: NameMap,
    /// Fields whose value had another kind, for a warning.
    pub(super) mismatched: HashSet<&'static str>,
}

impl<'a> BatchBuilder<'a> {
    /// The error is the name of a field whose type cannot be made.
    pub(super) fn new(fields: &'a [MetadataField]) -> Result<Self, &'static str> {
        let builders: Result<_, _> =
            fields.iter().map(|field| Builder::new(&field.data_type).ok_or(field.name)).collect();
        Ok(Self {
            fields,
            builders: builders?,
            payloads: BinaryBuilder::new(),
            filled: vec![0; fields.len()],
            rows: 0,
            bytes: 0,
            names: NameMap::default(),
            mismatched: HashSet::new(),
        })
    }

    /// The message is complete.
    pub(super) fn end_row(&mut self) {
        for (builder, filled) in self.builders.iter_mut().zip(&mut self.filled) {
            if *filled == self.rows {
                builder.append_null();
                *filled += 1;
            }
        }
        self.rows += 1;
    }

    pub(super) fn finish(mut self) -> Result<(BinaryArray, Vec<ArrayRef>), ArrowError> {
        let metadata: Result<Vec<_>, _> = self
            .builders
            .into_iter()
            .zip(self.fields)
            .map(|(builder, field)| builder.finish(&field.data_type))
            .collect();
        Ok((self.payloads.finish(), metadata?))
    }
}

impl Visitor for BatchBuilder<'_> {
    fn payload(&mut self, payload: Option<&[u8]>) {
        self.bytes += payload.map_or(0, <[u8]>::len);
        self.payloads.append_option(payload);
    }

    fn wants(&self, name: usize) -> bool {
        self.names.0.get(name).is_some_and(Option::is_some)
    }

    fn name(&mut self, name: &str) {
        self.names.0.push(self.fields.iter().position(|field| field.name == name));
    }

    fn field(&mut self, name: usize, value: ValueRef<'_>) {
        let Some(column) = self.names.0.get(name).copied().flatten() else { return };
        let (Some(builder), Some(filled)) = (self.builders.get_mut(column), self.filled.get_mut(column)) else {
            return;
        };
        // A field that comes twice counts once.
        if *filled > self.rows {
            return;
        }
        *filled += 1;
        self.bytes += value.bytes();
        if !builder.append(&value)
            && let Some(field) = self.fields.get(column)
        {
            self.mismatched.insert(field.name);
        }
    }
}

/// Goes past messages and only remembers the names that they define.
pub(super) struct Skipper<'a> {
    pub(super) fields: &'a [MetadataField],
    pub(super) names: NameMap,
}

impl Visitor for Skipper<'_> {
    fn payload(&mut self, _: Option<&[u8]>) {}

    fn wants(&self, _: usize) -> bool {
        false
    }

    fn name(&mut self, name: &str) {
        self.names.0.push(self.fields.iter().position(|field| field.name == name));
    }

    fn field(&mut self, _: usize, _: ValueRef<'_>) {}
}
