//! The values of time columns as they are stored, without a copy.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow::error::ArrowError;

/// The values of `array` in its own unit. What stands in place of a null means nothing.
pub(crate) fn values(array: &dyn Array) -> Result<&ScalarBuffer<i64>, ArrowError> {
    Ok(match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => array.as_primitive::<TimestampSecondType>().values(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => array.as_primitive::<TimestampMillisecondType>().values(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => array.as_primitive::<TimestampMicrosecondType>().values(),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => array.as_primitive::<TimestampNanosecondType>().values(),
        DataType::Int64 => array.as_primitive::<Int64Type>().values(),
        other => return Err(ArrowError::SchemaError(format!("{other} is no timestamp"))),
    })
}

/// A column of `data_type`, which is that of a timestamp, that holds `values`.
pub(crate) fn column(values: impl Into<ScalarBuffer<i64>>, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    // A cast between a number and a timestamp changes the type only.
    cast(&(Arc::new(Int64Array::new(values.into(), None)) as ArrayRef), data_type)
}

/// The smallest and the largest of `values`.
pub(crate) fn extent(values: &[i64]) -> Option<(i64, i64)> {
    let first = *values.first()?;
    Some(values.iter().fold((first, first), |(low, high), value| (low.min(*value), high.max(*value))))
}

/// A length of time for people: `90s`, `1h`.
pub(crate) fn duration(ns: i64) -> String {
    let length = std::time::Duration::from_nanos(ns.unsigned_abs());
    format!("{}{}", if ns < 0 { "-" } else { "" }, millstream_connectors::units::Duration(length))
}
