//! Columns of texts and of byte strings.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, LargeBinaryArray, LargeStringArray, StringArray, StringViewArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{Leaf, Scalar, Validity, Wrong};

/// The most bytes that the texts of one column may have in one batch (Arrow's offsets are 32 bits).
const TEXT_BYTES_MAX: usize = i32::MAX as usize;

/// Base64 with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Text that is the first `len` bytes of `bytes`, which go on behind it: short text is then copied in one piece of fixed
/// size.
#[derive(Debug, Clone, Copy)]
pub(in crate::format) struct Prefix<'a> {
    pub(in crate::format) bytes: &'a [u8],
    pub(in crate::format) len: usize,
}

impl Prefix<'_> {
    #[inline]
    fn append_to(self, data: &mut Vec<u8>) {
        match self.bytes.first_chunk::<16>() {
            Some(piece) if self.len <= piece.len() => {
                let end = data.len() + self.len;
                data.extend_from_slice(piece);
                data.truncate(end);
            }
            _ => data.extend_from_slice(self.bytes.get(..self.len).unwrap_or(self.bytes)),
        }
    }
}

/// Texts and byte strings, one after the other.
pub(super) struct Texts {
    data: Vec<u8>,
    offsets: Vec<i32>,
    validity: Validity,
    data_type: DataType,
    is_binary: bool,
    coerce: bool,
}

impl Texts {
    pub(super) fn new(data_type: &DataType, coerce: bool) -> Self {
        let is_binary = matches!(data_type, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
        let (data, offsets, data_type) = (Vec::new(), vec![0], data_type.clone());
        Self { data, offsets, validity: Validity::new(), data_type, is_binary, coerce }
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
            Scalar::Text(text) if self.is_binary => {
                decoded = BASE64.decode(text.trim()).map_err(|error| Wrong::Because(error.to_string()))?;
                &decoded
            }
            Scalar::Text(text) => text.as_bytes(),
            Scalar::Number(text) if self.coerce && !self.is_binary => text.as_bytes(),
            Scalar::Bool(value) if self.coerce && !self.is_binary => {
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
        self.validity.0.append_non_null();
        Ok(())
    }

    fn push_text(&mut self, text: Prefix<'_>) -> bool {
        if self.is_binary || self.data.len() + text.len > TEXT_BYTES_MAX {
            return false;
        }
        text.append_to(&mut self.data);
        self.offsets.push(self.end());
        self.validity.0.append_non_null();
        true
    }

    fn push_null(&mut self) {
        self.offsets.push(self.end());
        self.validity.0.append_null();
    }

    fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len + 1);
        self.validity.0.truncate(len);
        let end = self.offsets.last().copied().unwrap_or(0);
        self.data.truncate(usize::try_from(end).unwrap_or(0));
    }

    fn reserve(&mut self, more: usize) {
        self.offsets.reserve(more);
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
