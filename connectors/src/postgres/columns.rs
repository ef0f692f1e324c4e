//! A declared column and the type that the database has, brought together.

use std::borrow::Cow;
use std::error::Error;

use arrow::array::builder::{BinaryBuilder, BooleanBuilder, PrimitiveBuilder, StringBuilder};
use arrow::array::{ArrayBuilder, ArrayRef, ArrowPrimitiveType};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use tokio_postgres::types::{FromSql, Kind, Type};

use super::values;
use crate::error::ConnectorError;

/// A value as the database sends it; `None` is NULL.
pub(super) struct Raw<'a>(pub(super) Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A column that is being filled.
pub(super) struct Filling {
    name: String,
    nullable: bool,
    cells: Box<dyn Cells>,
}

/// The values of one column.
trait Cells: Send {
    fn push(&mut self, value: &[u8]) -> Result<(), String>;
    fn push_null(&mut self);
    fn finish(&mut self) -> ArrayRef;
}

impl Filling {
    /// A column of the database's type `found` for the declared `column`.
    pub(super) fn new(column: &FieldRef, found: &Type) -> Result<Self, ConnectorError> {
        let Some(cells) = cells(base(found), column.data_type()) else {
            return Err(refused(column, found));
        };
        Ok(Self { name: column.name().clone(), nullable: column.is_nullable(), cells })
    }

    pub(super) fn push(&mut self, value: Option<&[u8]>) -> Result<(), String> {
        match value {
            Some(value) => self.cells.push(value).map_err(|why| format!("column `{}`: {why}", self.name)),
            None if self.nullable => {
                self.cells.push_null();
                Ok(())
            }
            None => Err(format!("column `{}` is null, which its declaration forbids", self.name)),
        }
    }

    pub(super) fn finish(mut self) -> ArrayRef {
        self.cells.finish()
    }
}

/// Refuses a column that no type of the database goes into.
pub(super) fn check(column: &Field) -> Result<(), ConnectorError> {
    let possible =
        [Type::BOOL, Type::INT8, Type::FLOAT4, Type::TEXT, Type::BYTEA, Type::DATE, Type::TIMESTAMP, Type::NUMERIC];
    if possible.iter().any(|found| cells(found, column.data_type()).is_some()) {
        return Ok(());
    }
    let option = format!("columns.{}", column.name());
    let rule = "a table of PostgreSQL has no columns of this type; declare it as text, cast it to text in the query, and \
                take it apart in SQL";
    Err(ConnectorError::configuration(option, rule))
}

/// A domain is what it is made from.
fn base(found: &Type) -> &Type {
    match found.kind() {
        Kind::Domain(of) => base(of),
        _ => found,
    }
}

fn refused(column: &Field, found: &Type) -> ConnectorError {
    let name = column.name();
    let declare = match *base(found) {
        Type::BOOL => "boolean",
        Type::INT2 => "smallint",
        Type::INT4 => "int",
        Type::INT8 => "bigint",
        Type::FLOAT4 => "real",
        Type::FLOAT8 => "double",
        Type::NUMERIC => "decimal(20, 4) or double",
        Type::DATE => "date",
        Type::TIMESTAMP => "timestamp",
        Type::TIMESTAMPTZ => "timestamptz",
        Type::BYTEA => "bytea",
        _ if is_text(base(found)) => "text",
        _ => {
            let rule = format!(
                "it is of PostgreSQL's type {found}, which is not read; declare it as text and write a `query` with \
                 `{name}::text AS {name}`"
            );
            return ConnectorError::configuration(format!("columns.{name}"), rule);
        }
    };
    let rule = format!(
        "it is of PostgreSQL's type {found}, which does not go into a column of this type; declare it as {declare}, or \
         write a `query` that casts it"
    );
    ConnectorError::configuration(format!("columns.{name}"), rule)
}

fn is_text(found: &Type) -> bool {
    let known =
        [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME, Type::UNKNOWN, Type::JSON, Type::JSONB, Type::UUID];
    known.contains(found) || matches!(found.kind(), Kind::Enum(_))
}

/// A column for values of `found` in the declared type, where they go into it.
fn cells(found: &Type, declared: &DataType) -> Option<Box<dyn Cells>> {
    let integer = matches!(*found, Type::INT2 | Type::INT4 | Type::INT8 | Type::NUMERIC);
    let time = matches!(*found, Type::TIMESTAMP | Type::TIMESTAMPTZ);
    Some(match declared {
        DataType::Boolean if *found == Type::BOOL => booleans(),
        DataType::Int8 if integer => integers::<Int8Type>(found, declared),
        DataType::Int16 if integer => integers::<Int16Type>(found, declared),
        DataType::Int32 if integer => integers::<Int32Type>(found, declared),
        DataType::Int64 if integer => integers::<Int64Type>(found, declared),
        DataType::UInt8 if integer => integers::<UInt8Type>(found, declared),
        DataType::UInt16 if integer => integers::<UInt16Type>(found, declared),
        DataType::UInt32 if integer => integers::<UInt32Type>(found, declared),
        DataType::UInt64 if integer => integers::<UInt64Type>(found, declared),
        DataType::Float32 if *found == Type::FLOAT4 => primitive::<Float32Type>(declared, values::float4),
        DataType::Float64 => match *found {
            Type::FLOAT4 => primitive::<Float64Type>(declared, |value| values::float4(value).map(f64::from)),
            Type::FLOAT8 => primitive::<Float64Type>(declared, values::float8),
            Type::NUMERIC => primitive::<Float64Type>(declared, values::numeric_as_double),
            // Those of 64 bits are not all doubles.
            Type::INT2 => primitive::<Float64Type>(declared, |value| values::int2(value).map(f64::from)),
            Type::INT4 => primitive::<Float64Type>(declared, |value| values::int4(value).map(f64::from)),
            _ => return None,
        },
        DataType::Decimal128(precision, scale) if integer => {
            let (whole, precision, scale) = (whole(found), *precision, *scale);
            match whole {
                None => primitive::<Decimal128Type>(declared, move |v| values::numeric_as_decimal(v, precision, scale)),
                Some(whole) => primitive::<Decimal128Type>(declared, move |value| {
                    values::decimal(&whole(value)?.to_string(), precision, scale)
                }),
            }
        }
        DataType::Utf8 if is_text(found) => texts(match *found {
            Type::UUID => values::uuid,
            Type::JSONB => values::jsonb,
            Type::BPCHAR => values::padded_text,
            _ => values::text,
        }),
        DataType::Binary if *found == Type::BYTEA => binaries(),
        DataType::Date32 if *found == Type::DATE => primitive::<Date32Type>(declared, values::date),
        DataType::Timestamp(unit, _) if time => {
            let unit = *unit;
            let read = move |value: &[u8]| values::timestamp(value, unit);
            match unit {
                TimeUnit::Second => primitive::<TimestampSecondType>(declared, read),
                TimeUnit::Millisecond => primitive::<TimestampMillisecondType>(declared, read),
                TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(declared, read),
                TimeUnit::Nanosecond => primitive::<TimestampNanosecondType>(declared, read),
            }
        }
        _ => return None,
    })
}

/// Reads an integer of the database.
type ReadWhole = fn(&[u8]) -> Result<i64, String>;

/// How an integer of the database is read; `None` for `numeric`.
fn whole(found: &Type) -> Option<ReadWhole> {
    Some(match *found {
        Type::INT2 => |value| values::int2(value).map(i64::from),
        Type::INT4 => |value| values::int4(value).map(i64::from),
        Type::INT8 => values::int8,
        _ => return None,
    })
}

fn integers<T: ArrowPrimitiveType<Native: TryFrom<i128>>>(found: &Type, declared: &DataType) -> Box<dyn Cells> {
    let read = whole(found);
    primitive::<T>(declared, move |value| {
        let number = match read {
            Some(read) => i128::from(read(value)?),
            None => values::numeric_as_decimal(value, values::DECIMAL_DIGITS, 0)?,
        };
        number.try_into().map_err(|_| format!("{number} is out of range"))
    })
}

fn primitive<T: ArrowPrimitiveType>(
    declared: &DataType,
    read: impl Fn(&[u8]) -> Result<T::Native, String> + Send + 'static,
) -> Box<dyn Cells> {
    let push = move |builder: &mut PrimitiveBuilder<T>, value: &[u8]| {
        builder.append_value(read(value)?);
        Ok(())
    };
    let builder = PrimitiveBuilder::new().with_data_type(declared.clone());
    Box::new(Built { builder, push, push_null: PrimitiveBuilder::append_null })
}

/// A builder of Arrow's, and how a value and a null are added to it.
struct Built<B, P> {
    builder: B,
    push: P,
    push_null: fn(&mut B),
}

impl<B, P> Cells for Built<B, P>
where
    B: ArrayBuilder,
    P: Fn(&mut B, &[u8]) -> Result<(), String> + Send,
{
    fn push(&mut self, value: &[u8]) -> Result<(), String> {
        (self.push)(&mut self.builder, value)
    }

    fn push_null(&mut self) {
        (self.push_null)(&mut self.builder);
    }

    fn finish(&mut self) -> ArrayRef {
        self.builder.finish()
    }
}

/// How text is read.
type ReadText = fn(&[u8]) -> Result<Cow<'_, str>, String>;

fn booleans() -> Box<dyn Cells> {
    let push = |builder: &mut BooleanBuilder, value: &[u8]| {
        builder.append_value(values::boolean(value)?);
        Ok(())
    };
    Box::new(Built { builder: BooleanBuilder::new(), push, push_null: BooleanBuilder::append_null })
}

fn texts(read: ReadText) -> Box<dyn Cells> {
    let push = move |builder: &mut StringBuilder, value: &[u8]| {
        builder.append_value(read(value)?);
        Ok(())
    };
    Box::new(Built { builder: StringBuilder::new(), push, push_null: StringBuilder::append_null })
}

fn binaries() -> Box<dyn Cells> {
    let push = |builder: &mut BinaryBuilder, value: &[u8]| {
        builder.append_value(value);
        Ok(())
    };
    Box::new(Built { builder: BinaryBuilder::new(), push, push_null: BinaryBuilder::append_null })
}
