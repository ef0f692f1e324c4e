//! Column types: the names that DataFusion's SQL parser reads, as Arrow types.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, TimezoneInfo};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// The Arrow type of the SQL type `text` (`double`, `text[]`, `timestamp`, `decimal(10, 2)`, `struct<a int, b text>`).
/// The error is a sentence for the user.
pub(crate) fn parse(text: &str) -> Result<DataType, String> {
    if text.len() > TYPE_LENGTH_MAX {
        return Err(format!("a type is at most {TYPE_LENGTH_MAX} characters long"));
    }
    let generic = datafusion::sql::sqlparser::dialect::GenericDialect {};
    let parsed = Parser::new(&generic)
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_data_type().map(|sql_type| (sql_type, parser.peek_token())))
        .or_else(|_| {
            Parser::new(&PostgreSqlDialect {})
                .try_with_sql(text)
                .and_then(|mut parser| parser.parse_data_type().map(|sql_type| (sql_type, parser.peek_token())))
        });
    match parsed {
        Ok((sql_type, rest)) if rest.token == datafusion::sql::sqlparser::tokenizer::Token::EOF => convert(&sql_type),
        Ok((_, rest)) => Err(format!("`{text}` is not a SQL type: `{rest}` is too much")),
        Err(_) => Err(format!("`{text}` is not a SQL type; common ones are {COMMON}")),
    }
}

/// The longest type text.
const TYPE_LENGTH_MAX: usize = 4096;

/// For hints.
pub(crate) const COMMON: &str = "bigint, int, double, boolean, text, timestamp, date, decimal(10, 2), bytea, text[]";

fn convert(sql_type: &SqlType) -> Result<DataType, String> {
    Ok(match sql_type {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(_) => DataType::Int8,
        SqlType::SmallInt(_) | SqlType::Int2(_) => DataType::Int16,
        SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) => DataType::Int32,
        SqlType::BigInt(_) | SqlType::Int8(_) => DataType::Int64,
        SqlType::TinyIntUnsigned(_) => DataType::UInt8,
        SqlType::SmallIntUnsigned(_) | SqlType::Int2Unsigned(_) => DataType::UInt16,
        SqlType::IntUnsigned(_) | SqlType::IntegerUnsigned(_) | SqlType::Int4Unsigned(_) => DataType::UInt32,
        SqlType::BigIntUnsigned(_) | SqlType::Int8Unsigned(_) => DataType::UInt64,
        SqlType::Float(_) | SqlType::Real | SqlType::Float4 => DataType::Float32,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 | SqlType::Float64 => DataType::Float64,
        SqlType::Char(_) | SqlType::Varchar(_) | SqlType::Text | SqlType::String(_) => DataType::Utf8,
        SqlType::Bytea | SqlType::Blob(_) | SqlType::Binary(_) | SqlType::Varbinary(_) => DataType::Binary,
        SqlType::Date => DataType::Date32,
        SqlType::Time(_, _) => DataType::Time64(TimeUnit::Nanosecond),
        SqlType::Timestamp(precision, zone) => timestamp(*precision, zone)?,
        SqlType::Datetime(precision) => timestamp(*precision, &TimezoneInfo::None)?,
        SqlType::Decimal(info) | SqlType::Numeric(info) | SqlType::Dec(info) => decimal(info)?,
        SqlType::Array(ArrayElemTypeDef::SquareBracket(inner, _) | ArrayElemTypeDef::AngleBracket(inner)) => {
            DataType::List(Arc::new(Field::new_list_field(convert(inner)?, true)))
        }
        SqlType::Struct(fields, _) => {
            let fields = fields.iter().enumerate().map(|(index, field)| {
                let name = field.field_name.as_ref().map_or_else(|| format!("c{index}"), |ident| ident.value.clone());
                Ok(Field::new(name, convert(&field.field_type)?, true))
            });
            DataType::Struct(fields.collect::<Result<Vec<_>, String>>()?.into())
        }
        SqlType::Custom(name, _) => {
            return Err(format!("`{name}` is not a SQL type; common ones are {COMMON}"));
        }
        other => return Err(format!("the SQL type `{other}` is not supported; common ones are {COMMON}")),
    })
}

fn timestamp(precision: Option<u64>, zone: &TimezoneInfo) -> Result<DataType, String> {
    let unit = match precision {
        Some(0) => TimeUnit::Second,
        Some(3) => TimeUnit::Millisecond,
        Some(6) => TimeUnit::Microsecond,
        None | Some(9) => TimeUnit::Nanosecond,
        Some(other) => return Err(format!("timestamp({other}): the precision is 0, 3, 6 or 9")),
    };
    let zone = matches!(zone, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz).then(|| Arc::from("+00:00"));
    Ok(DataType::Timestamp(unit, zone))
}

fn decimal(info: &ExactNumberInfo) -> Result<DataType, String> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (38, 10),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(precision @ 1..=38), Ok(scale)) if i16::from(scale) <= i16::from(precision) && scale >= 0 => {
            Ok(DataType::Decimal128(precision, scale))
        }
        _ => Err(format!("decimal({precision}, {scale}): the precision is 1 to 38 and the scale 0 to the precision")),
    }
}

/// The SQL name of an Arrow type: what [`parse`] reads, where it has a name there.
pub(crate) fn name(data_type: &DataType) -> String {
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
        DataType::Float16 | DataType::Float32 => "real".into(),
        DataType::Float64 => "double".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "bytea".into()
        }
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Time32(_) | DataType::Time64(_) => "time".into(),
        DataType::Interval(_) | DataType::Duration(_) => "interval".into(),
        DataType::Timestamp(unit, zone) => {
            let precision = match unit {
                TimeUnit::Second => "(0)",
                TimeUnit::Millisecond => "(3)",
                TimeUnit::Microsecond => "(6)",
                TimeUnit::Nanosecond => "",
            };
            format!("{}{precision}", if zone.is_some() { "timestamptz" } else { "timestamp" })
        }
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision}, {scale})"),
        DataType::List(inner)
        | DataType::LargeList(inner)
        | DataType::ListView(inner)
        | DataType::LargeListView(inner)
        | DataType::FixedSizeList(inner, _) => format!("{}[]", name(inner.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{} {}", field.name(), name(field.data_type())));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        DataType::Dictionary(_, value) => name(value),
        DataType::Null => "null".into(),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_the_names_by_which_they_are_read() {
        for text in [
            "boolean",
            "tinyint",
            "smallint",
            "int",
            "bigint",
            "bigint unsigned",
            "real",
            "double",
            "text",
            "bytea",
            "date",
            "time",
            "timestamp",
            "timestamp(3)",
            "timestamptz",
            "timestamptz(6)",
            "decimal(10, 2)",
            "text[][]",
            "struct<a int, b text[]>",
        ] {
            let found = parse(text).map(|data_type| name(&data_type));
            assert_eq!(found.as_deref(), Ok(text));
        }
    }

    #[test]
    fn the_sql_types_that_people_write_are_read() {
        let list = |inner| DataType::List(Arc::new(Field::new_list_field(inner, true)));
        for (text, expected) in [
            ("double", DataType::Float64),
            ("DOUBLE PRECISION", DataType::Float64),
            ("int", DataType::Int32),
            ("bigint", DataType::Int64),
            ("text", DataType::Utf8),
            ("varchar(20)", DataType::Utf8),
            ("boolean", DataType::Boolean),
            ("timestamp", DataType::Timestamp(TimeUnit::Nanosecond, None)),
            ("timestamp(3)", DataType::Timestamp(TimeUnit::Millisecond, None)),
            ("timestamptz", DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()))),
            ("decimal(10, 2)", DataType::Decimal128(10, 2)),
            ("text[]", list(DataType::Utf8)),
            ("double[][]", list(list(DataType::Float64))),
            (
                "struct<a int, b text[]>",
                DataType::Struct(
                    vec![Field::new("a", DataType::Int32, true), Field::new("b", list(DataType::Utf8), true)].into(),
                ),
            ),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_type_is_said_to_be_none() {
        for text in ["", "dubble", "int int", "decimal(99, 2)", "timestamp(4)"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
