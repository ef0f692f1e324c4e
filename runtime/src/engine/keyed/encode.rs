//! Turns key columns into keys of 16 bytes and back.
//!
//! A single column of text, bytes or numbers is encoded directly; everything else by way of Arrow's row format. Both
//! give byte strings whose order is that of the columns. Up to [`INLINE_MAX`] bytes are in the key itself.

use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, BinaryArray, BinaryBuilder, GenericByteArray, LargeBinaryArray,
    LargeStringArray, StringArray, make_array,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{ArrowNativeType, ByteArrayType, DataType, Field};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::hash_utils::RandomState;
use datafusion::common::utils::normalize_float_zero;

use crate::engine::keyed::table::KeyTable;

/// The most bytes that a key holds itself.
pub(super) const INLINE_MAX: usize = 15;
/// The tag of a key that holds its first eight bytes only.
const LONG: u8 = u8::MAX;

/// A key: up to 15 bytes from the most significant on, then their number plus one. Null is zero. A longer key has its
/// first eight bytes, then 56 bits that say where all of them are, then [`LONG`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(pub(super) u128);

impl Key {
    const NULL: Self = Self(0);

    /// A key of eight bytes.
    fn fixed(bits: u64) -> Self {
        Self(u128::from(bits) << 64 | 9)
    }

    /// The key of `bytes`, which are found again by `place` where they are too many.
    #[inline]
    fn new(bytes: &[u8], place: usize) -> Self {
        if bytes.len() > INLINE_MAX {
            return Self::long(load(&bytes[..8]), place);
        }
        Self(load(bytes) | (bytes.len() as u128 + 1))
    }

    fn long(prefix: u128, place: usize) -> Self {
        Self(prefix | (place as u128) << 8 | u128::from(LONG))
    }

    /// This long key, with its bytes in another place.
    pub(super) fn moved(self, place: usize) -> Self {
        Self::long(u128::from(self.prefix()) << 64, place)
    }

    pub(super) fn is_null(self) -> bool {
        self == Self::NULL
    }

    #[inline]
    pub(super) fn is_long(self) -> bool {
        self.0 as u8 == LONG
    }

    /// Where the bytes of a long key are.
    #[inline]
    pub(super) fn place(self) -> usize {
        (self.0 as u64 >> 8) as usize
    }

    /// The first eight bytes.
    #[inline]
    pub(super) fn prefix(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// How many bytes a key holds that is not long.
    pub(super) fn inline_len(self) -> usize {
        usize::from((self.0 as u8).saturating_sub(1))
    }
}

/// At most 15 bytes, from the most significant on. Loads that overlap instead of a copy of a length that the
/// processor cannot foresee.
#[inline]
fn load(bytes: &[u8]) -> u128 {
    let length = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        let (first, last) = (u64::from_be_bytes(*first), u64::from_be_bytes(*last));
        u128::from(first) << 64 | u128::from(last) << (8 * (16 - length))
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let (first, last) = (u32::from_be_bytes(*first), u32::from_be_bytes(*last));
        (u128::from(first) << 32 | u128::from(last) << (8 * (8 - length))) << 64
    } else {
        bytes.iter().enumerate().fold(0, |all, (index, byte)| all | u128::from(*byte) << (120 - 8 * index))
    }
}

/// How the columns are encoded.
#[derive(Debug)]
enum Kind {
    /// One column of text or bytes: as it is.
    Bytes(DataType),
    /// One column of numbers of up to 8 bytes: most significant byte first, so changed that the order is kept.
    Fixed(DataType),
    /// Any columns: Arrow's row format.
    Rows(RowConverter),
}

/// Encodes key columns of certain types.
#[derive(Debug)]
pub(crate) struct KeyEncoder {
    kind: Kind,
    hash: RandomState,
}

/// The keys of a batch's rows.
#[derive(Debug, Default)]
pub(crate) struct EncodedKeys {
    pub(super) keys: Vec<Key>,
    pub(super) hashes: Vec<u32>,
    /// Where the bytes of long keys are, by row.
    long: LongKeys,
}

#[derive(Debug, Default)]
enum LongKeys {
    #[default]
    None,
    Utf8(StringArray),
    LargeUtf8(LargeStringArray),
    Binary(BinaryArray),
    LargeBinary(LargeBinaryArray),
    Rows(Rows),
}

impl EncodedKeys {
    /// How many bytes the keys take that are not long.
    pub(crate) fn memory(&self) -> usize {
        self.keys.capacity() * size_of::<Key>() + self.hashes.capacity() * size_of::<u32>()
    }

    /// The bytes of the long key of `row`.
    #[inline]
    pub(super) fn bytes(&self, row: usize) -> &[u8] {
        match &self.long {
            LongKeys::None => &[],
            LongKeys::Utf8(array) => array.value(row).as_bytes(),
            LongKeys::LargeUtf8(array) => array.value(row).as_bytes(),
            LongKeys::Binary(array) => array.value(row),
            LongKeys::LargeBinary(array) => array.value(row),
            LongKeys::Rows(rows) => rows.row(row).data(),
        }
    }
}

/// The seed of this process: who sends keys must not be able to know which ones collide.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| std::hash::RandomState::new().build_hasher().finish())
}

impl KeyEncoder {
    /// An encoder for columns of the types of `fields`.
    pub(crate) fn new<'a>(fields: impl IntoIterator<Item = &'a Field>) -> Result<Self, ArrowError> {
        let types: Vec<DataType> = fields.into_iter().map(|field| field.data_type().clone()).collect();
        let kind = match &types[..] {
            [one @ (DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary)] => {
                Kind::Bytes(one.clone())
            }
            [one] if fixed(one).is_some() => Kind::Fixed(one.clone()),
            _ => Kind::Rows(RowConverter::new(types.into_iter().map(SortField::new).collect())?),
        };
        Ok(Self { kind, hash: RandomState::with_seed(seed()) })
    }

    /// Puts the keys of all rows of `columns` into `out`.
    pub(crate) fn encode(&self, columns: &[ArrayRef], out: &mut EncodedKeys) -> Result<(), ArrowError> {
        out.keys.clear();
        match &self.kind {
            Kind::Bytes(data_type) => out.long = encode_bytes(data_type, &columns[0], &mut out.keys),
            Kind::Fixed(data_type) => encode_fixed(data_type, &columns[0], &mut out.keys),
            Kind::Rows(converter) => {
                let mut rows = match std::mem::take(&mut out.long) {
                    LongKeys::Rows(rows) => rows,
                    _ => converter.empty_rows(0, 0),
                };
                rows.clear();
                let columns: Vec<ArrayRef> = columns.iter().map(normalize_float_zero).collect();
                converter.append(&mut rows, &columns)?;
                out.keys.extend(rows.iter().enumerate().map(|(row, bytes)| Key::new(bytes.data(), row)));
                out.long = LongKeys::Rows(rows);
            }
        }
        let mut hashes = std::mem::take(&mut out.hashes);
        hashes.clear();
        hashes.extend(out.keys.iter().map(|key| match key.is_long() {
            true => self.hash_of(|hasher| hasher.write(out.bytes(key.place()))),
            false => self.hash_of(|hasher| hasher.write_u128(key.0)),
        }));
        out.hashes = hashes;
        Ok(())
    }

    #[inline]
    fn hash_of(&self, write: impl FnOnce(&mut <RandomState as BuildHasher>::Hasher)) -> u32 {
        let mut hasher = self.hash.build_hasher();
        write(&mut hasher);
        (hasher.finish() >> 32) as u32
    }

    /// The columns of the keys with these `numbers` in `table`.
    pub(crate) fn decode(&self, table: &KeyTable, numbers: &[u32]) -> Result<Vec<ArrayRef>, ArrowError> {
        match &self.kind {
            Kind::Bytes(data_type) => {
                let bytes = bytes_of(table, numbers);
                Ok(vec![match data_type {
                    DataType::Utf8 => std::sync::Arc::new(StringArray::try_from_binary(bytes)?),
                    DataType::LargeUtf8 => cast(&StringArray::try_from_binary(bytes)?, data_type)?,
                    _ => cast(&bytes, data_type)?,
                }])
            }
            Kind::Fixed(data_type) => {
                let keys = || numbers.iter().map(|number| table.key(*number));
                let values = decode_fixed(data_type, keys().map(Key::prefix));
                let data = ArrayData::builder(data_type.clone()).len(numbers.len()).add_buffer(values);
                let nulls = keys().any(Key::is_null).then(|| keys().map(|key| !key.is_null()).collect());
                Ok(vec![make_array(data.nulls(nulls).build()?)])
            }
            Kind::Rows(converter) => {
                let rows = converter.from_binary(bytes_of(table, numbers));
                converter.convert_rows(&rows)
            }
        }
    }
}

fn bytes_of(table: &KeyTable, numbers: &[u32]) -> BinaryArray {
    let mut builder = BinaryBuilder::with_capacity(numbers.len(), 16 * numbers.len());
    for number in numbers {
        let key = table.key(*number);
        if key.is_long() {
            builder.append_value(table.long_bytes(key));
        } else if key.is_null() {
            builder.append_null();
        } else {
            builder.append_value(&key.0.to_be_bytes()[..key.inline_len()]);
        }
    }
    builder.finish()
}

fn encode_bytes(data_type: &DataType, column: &ArrayRef, keys: &mut Vec<Key>) -> LongKeys {
    fn fill<T: ByteArrayType>(array: &GenericByteArray<T>, keys: &mut Vec<Key>) {
        let value = |row| Key::new(AsRef::<[u8]>::as_ref(array.value(row)), row);
        match array.nulls() {
            None => keys.extend((0..array.len()).map(value)),
            Some(nulls) => {
                keys.extend((0..array.len()).map(|row| if nulls.is_null(row) { Key::NULL } else { value(row) }));
            }
        }
    }
    match data_type {
        DataType::Utf8 => {
            fill(column.as_string::<i32>(), keys);
            LongKeys::Utf8(column.as_string().clone())
        }
        DataType::LargeUtf8 => {
            fill(column.as_string::<i64>(), keys);
            LongKeys::LargeUtf8(column.as_string().clone())
        }
        DataType::Binary => {
            fill(column.as_binary::<i32>(), keys);
            LongKeys::Binary(column.as_binary().clone())
        }
        _ => {
            fill(column.as_binary::<i64>(), keys);
            LongKeys::LargeBinary(column.as_binary().clone())
        }
    }
}

/// The representation of the numbers that are encoded directly.
#[derive(Debug, Clone, Copy)]
enum Number {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
}

/// How values of `data_type` are represented, where they are encoded directly.
fn fixed(data_type: &DataType) -> Option<Number> {
    Some(match data_type {
        DataType::Int8 => Number::I8,
        DataType::Int16 => Number::I16,
        DataType::Int32 | DataType::Date32 | DataType::Time32(_) => Number::I32,
        DataType::Int64
        | DataType::Date64
        | DataType::Time64(_)
        | DataType::Timestamp(_, _)
        | DataType::Duration(_) => Number::I64,
        DataType::UInt8 => Number::U8,
        DataType::UInt16 => Number::U16,
        DataType::UInt32 => Number::U32,
        DataType::UInt64 => Number::U64,
        DataType::Float32 => Number::F32,
        DataType::Float64 => Number::F64,
        _ => return None,
    })
}

const SIGN: u64 = 1 << 63;

/// A signed number's bits in an order that is its own.
fn ordered(value: i64) -> u64 {
    value as u64 ^ SIGN
}

/// A float's bits in the total order, and both zeros the same.
fn ordered_f64(value: f64) -> u64 {
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    if bits & SIGN == 0 { bits ^ SIGN } else { !bits }
}

fn from_ordered_f64(bits: u64) -> f64 {
    f64::from_bits(if bits & SIGN == 0 { !bits } else { bits ^ SIGN })
}

const SIGN_F32: u32 = 1 << 31;

fn ordered_f32(value: f32) -> u64 {
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    u64::from(if bits & SIGN_F32 == 0 { bits ^ SIGN_F32 } else { !bits })
}

fn from_ordered_f32(bits: u64) -> f32 {
    let bits = bits as u32;
    f32::from_bits(if bits & SIGN_F32 == 0 { !bits } else { bits ^ SIGN_F32 })
}

fn encode_fixed(data_type: &DataType, column: &ArrayRef, keys: &mut Vec<Key>) {
    fn fill<T: ArrowNativeType>(column: &ArrayRef, keys: &mut Vec<Key>, bits: impl Fn(T) -> u64) {
        let data = column.to_data();
        let values = ScalarBuffer::<T>::new(data.buffers()[0].clone(), data.offset(), data.len());
        let first = keys.len();
        keys.extend(values.iter().map(|value| Key::fixed(bits(*value))));
        if let Some(nulls) = column.nulls() {
            for (key, valid) in keys[first..].iter_mut().zip(nulls) {
                *key = if valid { *key } else { Key::NULL };
            }
        }
    }
    match fixed(data_type) {
        Some(Number::I8) => fill::<i8>(column, keys, |value| ordered(value.into())),
        Some(Number::I16) => fill::<i16>(column, keys, |value| ordered(value.into())),
        Some(Number::I32) => fill::<i32>(column, keys, |value| ordered(value.into())),
        Some(Number::I64) | None => fill::<i64>(column, keys, ordered),
        Some(Number::U8) => fill::<u8>(column, keys, u64::from),
        Some(Number::U16) => fill::<u16>(column, keys, u64::from),
        Some(Number::U32) => fill::<u32>(column, keys, u64::from),
        Some(Number::U64) => fill::<u64>(column, keys, |value| value),
        Some(Number::F32) => fill::<f32>(column, keys, ordered_f32),
        Some(Number::F64) => fill::<f64>(column, keys, ordered_f64),
    }
}

fn decode_fixed(data_type: &DataType, bits: impl Iterator<Item = u64>) -> Buffer {
    fn signed<T: ArrowNativeType>(bits: impl Iterator<Item = u64>, narrow: impl Fn(i64) -> T) -> Buffer {
        Buffer::from_vec(bits.map(|bits| narrow((bits ^ SIGN) as i64)).collect::<Vec<T>>())
    }
    match fixed(data_type) {
        Some(Number::I8) => signed(bits, |value| value as i8),
        Some(Number::I16) => signed(bits, |value| value as i16),
        Some(Number::I32) => signed(bits, |value| value as i32),
        Some(Number::I64) | None => signed(bits, |value| value),
        Some(Number::U8) => Buffer::from_vec(bits.map(|bits| bits as u8).collect::<Vec<_>>()),
        Some(Number::U16) => Buffer::from_vec(bits.map(|bits| bits as u16).collect::<Vec<_>>()),
        Some(Number::U32) => Buffer::from_vec(bits.map(|bits| bits as u32).collect::<Vec<_>>()),
        Some(Number::U64) => Buffer::from_vec(bits.collect::<Vec<_>>()),
        Some(Number::F32) => Buffer::from_vec(bits.map(from_ordered_f32).collect::<Vec<_>>()),
        Some(Number::F64) => Buffer::from_vec(bits.map(from_ordered_f64).collect::<Vec<_>>()),
    }
}
