//! One value on its way into a column, and what is said where it does not fit.

use arrow::datatypes::DataType;

/// How many characters of a wrong value an error shows.
const SHOWN_CHARS_MAX: usize = 40;

/// One value as a message has it, before it is known to fit its column.
#[derive(Debug, Clone, Copy)]
pub(in crate::format) enum Scalar<'a> {
    Bool(bool),
    /// A number, as it is written.
    Number(&'a str),
    Text(&'a str),
    /// An object or an array, where no such thing fits.
    Nested(&'static str),
}

/// Why a scalar does not fit its column.
#[derive(Debug)]
pub(in crate::format) enum Wrong {
    /// It is of another type.
    Type,
    /// It is too large or too small.
    Range,
    /// It has digits that the column cannot keep.
    Inexact,
    /// It is of the right type and wrong otherwise.
    Because(String),
}

/// A type's name as people write it in SQL.
pub(super) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "tinyint".into(),
        DataType::Int16 => "smallint".into(),
        DataType::Int32 => "int".into(),
        DataType::Int64 => "bigint".into(),
        DataType::UInt8 => "tinyint unsigned".into(),
        DataType::UInt16 => "smallint unsigned".into(),
        DataType::UInt32 => "int unsigned".into(),
        DataType::UInt64 => "bigint unsigned".into(),
        DataType::Float32 => "real".into(),
        DataType::Float64 => "double".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary (base64 text)".into(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => format!("decimal({p}, {s})"),
        DataType::Date32 => "date (YYYY-MM-DD)".into(),
        DataType::Time32(_) | DataType::Time64(_) => "time (HH:MM:SS)".into(),
        DataType::Timestamp(_, _) => "timestamp (RFC 3339 text or an epoch number)".into(),
        DataType::List(field) | DataType::LargeList(field) => format!("array of {}", type_name(field.data_type())),
        DataType::FixedSizeList(field, n) => format!("array of {n} {}", type_name(field.data_type())),
        DataType::Struct(_) => "object".into(),
        other => other.to_string(),
    }
}

impl Scalar<'_> {
    /// What it is, for errors.
    pub(in crate::format) fn describe(&self) -> String {
        match self {
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Number(text) => format!("the number {}", shorten(text)),
            Self::Text(text) => format!("the text {:?}", shorten(text)),
            Self::Nested(what) => (*what).to_owned(),
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
