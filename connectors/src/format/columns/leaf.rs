//! Columns of scalars: one small builder per storage, one parser per type.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BinaryViewArray, BooleanArray, BooleanBufferBuilder, LargeBinaryArray,
    LargeStringArray, PrimitiveArray, StringArray, StringViewArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type, i256,
};
use arrow::error::ArrowError;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::time::{TimestampReader, date, time_of_day};
use super::{ReadOptions, Scalar, Validity, Wrong, number};

/// The most bytes that the texts of one column may have in one batch (Arrow's offsets are 32 bits).
const TEXT_BYTES_MAX: usize = i32::MAX as usize;

/// Base64 with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A column of scalars under construction.
pub(in crate::format) trait Leaf: Send {
    fn push(&mut self, value: Scalar<'_>) -> Result<(), Wrong>;
    fn push_null(&mut self);
    fn len(&self) -> usize;
    fn truncate(&mut self, len: usize);
    fn finish(&mut self) -> Result<ArrayRef, ArrowError>;
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
        DataType::Float32 => {
            primitive::<Float32Type>(data_type, move |value| number::float(number::text(value, coerce)?))
        }
        DataType::Float64 => {
            primitive::<Float64Type>(data_type, move |value| number::float(number::text(value, coerce)?))
        }
        DataType::Decimal32(p, s) => decimals::<Decimal32Type>(data_type, (*p, *s), coerce, |text| text.parse().ok()),
        DataType::Decimal64(p, s) => decimals::<Decimal64Type>(data_type, (*p, *s), coerce, |text| text.parse().ok()),
        DataType::Decimal128(p, s) => decimals::<Decimal128Type>(data_type, (*p, *s), coerce, |text| text.parse().ok()),
        DataType::Decimal256(p, s) => decimals::<Decimal256Type>(data_type, (*p, *s), coerce, i256::from_string),
        DataType::Date32 => primitive::<Date32Type>(data_type, date),
        DataType::Time32(TimeUnit::Second) => {
            primitive::<Time32SecondType>(data_type, |value| time32(value, TimeUnit::Second))
        }
        DataType::Time32(TimeUnit::Millisecond) => {
            primitive::<Time32MillisecondType>(data_type, |value| time32(value, TimeUnit::Millisecond))
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            primitive::<Time64MicrosecondType>(data_type, |value| time_of_day(value, TimeUnit::Microsecond))
        }
        DataType::Time64(TimeUnit::Nanosecond) => {
            primitive::<Time64NanosecondType>(data_type, |value| time_of_day(value, TimeUnit::Nanosecond))
        }
        DataType::Timestamp(unit, _) => {
            let reader = TimestampReader { target: *unit, unit: options.unit, path: path.to_owned(), coerce };
            match unit {
                TimeUnit::Second => timestamps::<TimestampSecondType>(data_type, reader),
                TimeUnit::Millisecond => timestamps::<TimestampMillisecondType>(data_type, reader),
                TimeUnit::Microsecond => timestamps::<TimestampMicrosecondType>(data_type, reader),
                TimeUnit::Nanosecond => timestamps::<TimestampNanosecondType>(data_type, reader),
            }
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Box::new(Texts::new(data_type, coerce)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Box::new(Texts::new(data_type, coerce)),
        _ => return None,
    })
}

fn primitive<T: ArrowPrimitiveType>(
    data_type: &DataType,
    parse: impl FnMut(Scalar<'_>) -> Result<T::Native, Wrong> + Send + 'static,
) -> Box<dyn Leaf> {
    Box::new(Primitives::<T, _> { values: Vec::new(), validity: Validity::new(), parse, data_type: data_type.clone() })
}

fn integers<T: ArrowPrimitiveType<Native: FromStr>>(data_type: &DataType, coerce: bool) -> Box<dyn Leaf> {
    primitive::<T>(data_type, move |value| number::integer(number::text(value, coerce)?))
}

fn decimals<T: ArrowPrimitiveType>(
    data_type: &DataType,
    (precision, scale): (u8, i8),
    coerce: bool,
    parse: fn(&str) -> Option<T::Native>,
) -> Box<dyn Leaf> {
    primitive::<T>(data_type, move |value| {
        parse(&number::decimal(number::text(value, coerce)?, precision, scale)?).ok_or(Wrong::Range)
    })
}

fn timestamps<T: ArrowPrimitiveType<Native = i64>>(data_type: &DataType, mut reader: TimestampReader) -> Box<dyn Leaf> {
    primitive::<T>(data_type, move |value| reader.read(value))
}

fn time32(value: Scalar<'_>, unit: TimeUnit) -> Result<i32, Wrong> {
    i32::try_from(time_of_day(value, unit)?).map_err(|_| Wrong::Range)
}

struct Primitives<T: ArrowPrimitiveType, P> {
    values: Vec<T::Native>,
    validity: Validity,
    parse: P,
    data_type: DataType,
}

impl<T, P> Leaf for Primitives<T, P>
where
    T: ArrowPrimitiveType,
    P: FnMut(Scalar<'_>) -> Result<T::Native, Wrong> + Send,
{
    fn push(&mut self, value: Scalar<'_>) -> Result<(), Wrong> {
        self.values.push((self.parse)(value)?);
        self.validity.0.append(true);
        Ok(())
    }

    fn push_null(&mut self) {
        self.values.push(T::Native::default());
        self.validity.0.append(false);
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.validity.0.truncate(len);
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
        self.validity.0.append(true);
        Ok(())
    }

    fn push_null(&mut self) {
        self.values.append(false);
        self.validity.0.append(false);
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len);
        self.validity.0.truncate(len);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(BooleanArray::new(self.values.finish(), self.validity.finish())))
    }
}

/// Texts and byte strings, one after the other.
struct Texts {
    data: Vec<u8>,
    offsets: Vec<i32>,
    validity: Validity,
    data_type: DataType,
    coerce: bool,
}

impl Texts {
    fn new(data_type: &DataType, coerce: bool) -> Self {
        Self { data: Vec::new(), offsets: vec![0], validity: Validity::new(), data_type: data_type.clone(), coerce }
    }

    fn is_binary(&self) -> bool {
        matches!(self.data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
    }

    /// The data so far, which never exceeds [`TEXT_BYTES_MAX`].
    fn end(&self) -> i32 {
        i32::try_from(self.data.len()).unwrap_or(i32::MAX)
    }
}

impl Leaf for Texts {
    fn push(&mut self, value: Scalar<'_>) -> Result<(), Wrong> {
        let decoded;
        let bytes = match value {
            Scalar::Text(text) if self.is_binary() => {
                decoded = BASE64.decode(text.trim()).map_err(|error| Wrong::Because(error.to_string()))?;
                &decoded
            }
            Scalar::Text(text) => text.as_bytes(),
            Scalar::Number(text) if self.coerce && !self.is_binary() => text.as_bytes(),
            Scalar::Bool(value) if self.coerce && !self.is_binary() => {
                if value {
                    b"true".as_slice()
                } else {
                    b"false"
                }
            }
            _ => return Err(Wrong::Type),
        };
        if self.data.len() + bytes.len() > TEXT_BYTES_MAX {
            return Err(Wrong::Because("the texts of one batch are more than 2 GiB".into()));
        }
        self.data.extend_from_slice(bytes);
        self.offsets.push(self.end());
        self.validity.0.append(true);
        Ok(())
    }

    fn push_null(&mut self) {
        self.offsets.push(self.end());
        self.validity.0.append(false);
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len + 1);
        self.validity.0.truncate(len);
        let end = self.offsets.last().copied().unwrap_or(0);
        self.data.truncate(usize::try_from(end).unwrap_or(0));
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let values = Buffer::from_vec(std::mem::take(&mut self.data));
        let nulls = self.validity.finish();
        let wide = |offsets: &[i32]| OffsetBuffer::new(offsets.iter().map(|&end| i64::from(end)).collect());
        let narrow = |offsets: Vec<i32>| OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(match &self.data_type {
            DataType::LargeUtf8 => Arc::new(LargeStringArray::try_new(wide(&offsets), values, nulls)?),
            DataType::LargeBinary => Arc::new(LargeBinaryArray::try_new(wide(&offsets), values, nulls)?),
            DataType::Binary => Arc::new(BinaryArray::try_new(narrow(offsets), values, nulls)?),
            DataType::BinaryView => {
                Arc::new(BinaryViewArray::from(&BinaryArray::try_new(narrow(offsets), values, nulls)?))
            }
            DataType::Utf8View => {
                Arc::new(StringViewArray::from(&StringArray::try_new(narrow(offsets), values, nulls)?))
            }
            _ => Arc::new(StringArray::try_new(narrow(offsets), values, nulls)?),
        })
    }
}
