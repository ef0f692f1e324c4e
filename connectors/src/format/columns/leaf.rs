//! Columns of scalars: one small builder per storage, one parser per type.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, PrimitiveArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{
    DataType, Date32Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};
use arrow::error::ArrowError;

use super::text::Texts;
use super::time::{TimestampReader, date, time_of_day};
use super::{Number, Prefix, ReadOptions, Scalar, Validity, Wrong, number};

/// A column of scalars under construction.
pub(in crate::format) trait Leaf: Send {
    fn push(&mut self, value: Scalar<'_>) -> Result<(), Wrong>;

    /// Appends a number by its worth, or says false and appends nothing: then `push` decides.
    fn push_number(&mut self, number: Number) -> bool {
        let _ = number;
        false
    }

    /// Appends text that has been checked to be UTF-8, or says false and appends nothing: then `push` decides.
    fn push_text(&mut self, text: Prefix<'_>) -> bool {
        let _ = text;
        false
    }

    fn push_null(&mut self);
    fn truncate(&mut self, len: usize);
    fn reserve(&mut self, more: usize);
    fn finish(&mut self) -> Result<ArrayRef, ArrowError>;
}

/// How one type reads its values.
trait Reader<N>: Send {
    /// Any value, exactly or not at all.
    fn read(&mut self, value: Scalar<'_>) -> Result<N, Wrong>;

    /// A number whose worth is known, unless `read` has to look closer.
    fn number(&mut self, number: Number) -> Option<N> {
        let _ = number;
        None
    }
}

/// A column of `data_type`, or `None` where no message can have such a thing.
pub(super) fn make(data_type: &DataType, path: &str, options: ReadOptions) -> Option<Box<dyn Leaf>> {
    let coerce = options.coerce;
    Some(match data_type {
        DataType::Boolean => {
            Box::new(Booleans { values: BooleanBufferBuilder::new(0), validity: Validity::new(), coerce })
        }
        DataType::Int8 => integers::<Int8Type>(data_type, coerce),
        DataType::Int16 => integers::<Int16Type>(data_type, coerce),
        DataType::Int32 => integers::<Int32Type>(data_type, coerce),
        DataType::Int64 => integers::<Int64Type>(data_type, coerce),
        DataType::UInt8 => integers::<UInt8Type>(data_type, coerce),
        DataType::UInt16 => integers::<UInt16Type>(data_type, coerce),
        DataType::UInt32 => integers::<UInt32Type>(data_type, coerce),
        DataType::UInt64 => integers::<UInt64Type>(data_type, coerce),
        DataType::Float32 => primitive::<Float32Type>(data_type, Floats { coerce }),
        DataType::Float64 => primitive::<Float64Type>(data_type, Floats { coerce }),
        DataType::Decimal32(p, s) => decimals::<Decimal32Type>(data_type, (*p, *s), coerce, |text| text.parse().ok()),
        DataType::Decimal64(p, s) => decimals::<Decimal64Type>(data_type, (*p, *s), coerce, |text| text.parse().ok()),
        DataType::Decimal128(p, s) => decimals::<Decimal128Type>(data_type, (*p, *s), coerce, |text| text.parse().ok()),
        DataType::Decimal256(p, s) => decimals::<Decimal256Type>(data_type, (*p, *s), coerce, i256::from_string),
        DataType::Date32 => primitive::<Date32Type>(data_type, Dates),
        DataType::Time32(TimeUnit::Second) => primitive::<Time32SecondType>(data_type, Times(TimeUnit::Second)),
        DataType::Time32(TimeUnit::Millisecond) => {
            primitive::<Time32MillisecondType>(data_type, Times(TimeUnit::Millisecond))
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            primitive::<Time64MicrosecondType>(data_type, Times(TimeUnit::Microsecond))
        }
        DataType::Time64(TimeUnit::Nanosecond) => {
            primitive::<Time64NanosecondType>(data_type, Times(TimeUnit::Nanosecond))
        }
        DataType::Timestamp(unit, _) => {
            let reader = TimestampReader { target: *unit, unit: options.unit, path: path.to_owned(), coerce };
            match unit {
                TimeUnit::Second => primitive::<TimestampSecondType>(data_type, reader),
                TimeUnit::Millisecond => primitive::<TimestampMillisecondType>(data_type, reader),
                TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(data_type, reader),
                TimeUnit::Nanosecond => primitive::<TimestampNanosecondType>(data_type, reader),
            }
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Box::new(Texts::new(data_type, coerce)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Box::new(Texts::new(data_type, coerce)),
        _ => return None,
    })
}

fn primitive<T: ArrowPrimitiveType>(data_type: &DataType, reader: impl Reader<T::Native> + 'static) -> Box<dyn Leaf> {
    Box::new(Primitives::<T, _> { values: Vec::new(), validity: Validity::new(), reader, data_type: data_type.clone() })
}

fn integers<T: ArrowPrimitiveType<Native: FromStr + TryFrom<i64>>>(
    data_type: &DataType,
    coerce: bool,
) -> Box<dyn Leaf> {
    primitive::<T>(data_type, Integers { coerce })
}

fn decimals<T: ArrowPrimitiveType<Native: From<i32> + TryFrom<i64>>>(
    data_type: &DataType,
    (precision, scale): (u8, i8),
    coerce: bool,
    parse: fn(&str) -> Option<T::Native>,
) -> Box<dyn Leaf> {
    primitive::<T>(data_type, Decimals { precision, scale, coerce, parse })
}

/// Integers of any width.
struct Integers {
    coerce: bool,
}

impl<N: FromStr + TryFrom<i64>> Reader<N> for Integers {
    fn read(&mut self, value: Scalar<'_>) -> Result<N, Wrong> {
        number::integer(number::text(value, self.coerce)?)
    }

    #[inline]
    fn number(&mut self, number: Number) -> Option<N> {
        N::try_from(number.integer()?).ok()
    }
}

/// Floats of both widths.
struct Floats {
    coerce: bool,
}

impl Reader<f64> for Floats {
    fn read(&mut self, value: Scalar<'_>) -> Result<f64, Wrong> {
        number::float(number::text(value, self.coerce)?)
    }

    #[inline]
    fn number(&mut self, number: Number) -> Option<f64> {
        number.double()
    }
}

impl Reader<f32> for Floats {
    fn read(&mut self, value: Scalar<'_>) -> Result<f32, Wrong> {
        number::float(number::text(value, self.coerce)?)
    }

    #[inline]
    fn number(&mut self, number: Number) -> Option<f32> {
        number.float()
    }
}

/// Decimals of any width.
struct Decimals<N> {
    precision: u8,
    scale: i8,
    coerce: bool,
    parse: fn(&str) -> Option<N>,
}

impl<N: TryFrom<i64>> Reader<N> for Decimals<N> {
    fn read(&mut self, value: Scalar<'_>) -> Result<N, Wrong> {
        let digits = number::decimal(number::text(value, self.coerce)?, self.precision, self.scale)?;
        (self.parse)(&digits).ok_or(Wrong::Range)
    }

    #[inline]
    fn number(&mut self, number: Number) -> Option<N> {
        N::try_from(number.decimal(self.precision, self.scale)?).ok()
    }
}

impl Reader<i64> for TimestampReader {
    fn read(&mut self, value: Scalar<'_>) -> Result<i64, Wrong> {
        TimestampReader::read(self, value)
    }

    #[inline]
    fn number(&mut self, number: Number) -> Option<i64> {
        self.whole(number.integer()?)
    }
}

/// Days, which have no short cut.
struct Dates;

impl Reader<i32> for Dates {
    fn read(&mut self, value: Scalar<'_>) -> Result<i32, Wrong> {
        date(value)
    }
}

/// Times of day, which have no short cut either.
struct Times(TimeUnit);

impl Reader<i64> for Times {
    fn read(&mut self, value: Scalar<'_>) -> Result<i64, Wrong> {
        time_of_day(value, self.0)
    }
}

impl Reader<i32> for Times {
    fn read(&mut self, value: Scalar<'_>) -> Result<i32, Wrong> {
        i32::try_from(time_of_day(value, self.0)?).map_err(|_| Wrong::Range)
    }
}

struct Primitives<T: ArrowPrimitiveType, R> {
    values: Vec<T::Native>,
    validity: Validity,
    reader: R,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType, R: Reader<T::Native>> Leaf for Primitives<T, R> {
    fn push(&mut self, value: Scalar<'_>) -> Result<(), Wrong> {
        self.values.push(self.reader.read(value)?);
        self.validity.0.append_non_null();
        Ok(())
    }

    fn push_number(&mut self, number: Number) -> bool {
        let Some(value) = self.reader.number(number) else { return false };
        self.values.push(value);
        self.validity.0.append_non_null();
        true
    }

    fn push_null(&mut self) {
        self.values.push(T::Native::default());
        self.validity.0.append_null();
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.validity.0.truncate(len);
    }

    fn reserve(&mut self, more: usize) {
        self.values.reserve(more);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let values = ScalarBuffer::from(std::mem::take(&mut self.values));
        let array = PrimitiveArray::<T>::try_new(values, self.validity.finish())?;
        Ok(Arc::new(array.with_data_type(self.data_type.clone())))
    }
}

struct Booleans {
    values: BooleanBufferBuilder,
    validity: Validity,
    coerce: bool,
}

impl Leaf for Booleans {
    fn push(&mut self, value: Scalar<'_>) -> Result<(), Wrong> {
        let value = match value {
            Scalar::Bool(value) => value,
            Scalar::Text(text) if self.coerce => number::boolean(text).ok_or(Wrong::Type)?,
            _ => return Err(Wrong::Type),
        };
        self.values.append(value);
        self.validity.0.append_non_null();
        Ok(())
    }

    fn push_null(&mut self) {
        self.values.append(false);
        self.validity.0.append_null();
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.validity.0.truncate(len);
    }

    fn reserve(&mut self, more: usize) {
        self.values.reserve(more);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(BooleanArray::new(self.values.finish(), self.validity.finish())))
    }
}
