//! Columns under construction: what decoders write into, message by message.
//!
//! Beyond Arrow's own builders these can be cut back ([`Column::truncate`]), which is how a message that turns out to be
//! wrong halfway leaves no trace. What is here knows scalars and nulls, not JSON or CSV.

mod leaf;
mod number;
mod time;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBufferBuilder, FixedSizeListArray, LargeListArray, ListArray, RecordBatch, RecordBatchOptions,
    StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

use crate::error::ConnectorError;
use leaf::Leaf;

/// How many characters of a wrong value an error shows.
const SHOWN_CHARS_MAX: usize = 40;

/// One value as a message has it, before it is known to fit its column.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    Bool(bool),
    /// A number, as it is written.
    Number(&'a str),
    Text(&'a str),
    /// An object or an array, where no such thing fits.
    Nested(&'static str),
}

/// Why a scalar does not fit its column.
#[derive(Debug)]
pub(super) enum Wrong {
    /// It is of another type.
    Type,
    /// It is too large or too small.
    Range,
    /// It has digits that the column cannot keep.
    Inexact,
    /// It is of the right type and wrong otherwise.
    Because(String),
}

/// How a column reads its values.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReadOptions {
    /// Text is read as a number or boolean where the column is one, and numbers and booleans as text.
    pub(super) coerce: bool,
    /// The unit of epoch integers, if it is known.
    pub(super) unit: Option<TimeUnit>,
}

/// The first thing that was wrong with the row being read.
#[derive(Debug, Default)]
pub(super) struct Problem(Option<String>);

impl Problem {
    pub(super) fn set(&mut self, reason: impl FnOnce() -> String) {
        if self.0.is_none() {
            self.0 = Some(reason());
        }
    }

    pub(super) fn take(&mut self) -> Option<String> {
        self.0.take()
    }
}

/// A column, or a field of a nested one.
pub(super) struct Column {
    name: String,
    /// Its full name, for errors: `position.lat`.
    path: String,
    /// Its SQL type, for errors.
    expected: String,
    nullable: bool,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Leaf(Box<dyn Leaf>),
    List(ListColumn),
    Struct(StructColumn),
}

/// A list under construction; `child` may be ahead of `offsets` while an element is read.
pub(super) struct ListColumn {
    pub(super) child: Box<Column>,
    offsets: Vec<usize>,
    validity: Validity,
    data_type: DataType,
}

/// A struct under construction; `fields` may be ahead of `validity` while a row is read.
pub(super) struct StructColumn {
    pub(super) columns: Columns,
    validity: Validity,
    fields: Fields,
}

/// Columns side by side: those of a struct, or all of them.
pub(super) struct Columns {
    pub(super) list: Vec<Column>,
    index: HashMap<String, usize>,
}

/// Which rows are there.
pub(super) struct Validity(BooleanBufferBuilder);

impl Validity {
    fn new() -> Self {
        Self(BooleanBufferBuilder::new(0))
    }

    fn finish(&mut self) -> Option<NullBuffer> {
        let nulls = NullBuffer::new(self.0.finish());
        (nulls.null_count() > 0).then_some(nulls)
    }
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
    pub(super) fn describe(&self) -> String {
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

impl Column {
    fn new(field: &Field, prefix: &str, options: ReadOptions) -> Result<Self, ConnectorError> {
        let path = if prefix.is_empty() { field.name().clone() } else { format!("{prefix}.{}", field.name()) };
        let child = |item: &FieldRef| {
            let mut child = Column::new(item, &path, options)?;
            child.path = format!("{path}[]");
            Ok::<_, ConnectorError>(Box::new(child))
        };
        let kind = match field.data_type() {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                Kind::List(ListColumn {
                    child: child(item)?,
                    offsets: vec![0],
                    validity: Validity::new(),
                    data_type: field.data_type().clone(),
                })
            }
            DataType::Struct(fields) => Kind::Struct(StructColumn {
                columns: Columns::nested(fields, &path, options)?,
                validity: Validity::new(),
                fields: fields.clone(),
            }),
            data_type => Kind::Leaf(leaf::make(data_type, &path, options).ok_or_else(|| {
                ConnectorError::configuration(
                    "columns",
                    format!("the column `{path}` is of type {data_type}, which this format cannot read; declare it as text and cast it in SQL"),
                )
            })?),
        };
        Ok(Self {
            name: field.name().clone(),
            path,
            expected: type_name(field.data_type()),
            nullable: field.is_nullable(),
            kind,
        })
    }

    /// How many complete values there are.
    pub(super) fn len(&self) -> usize {
        match &self.kind {
            Kind::Leaf(leaf) => leaf.len(),
            Kind::List(list) => list.validity.0.len(),
            Kind::Struct(fields) => fields.validity.0.len(),
        }
    }

    /// Forgets all after the first `len` values, and a value that is half written.
    pub(super) fn truncate(&mut self, len: usize) {
        match &mut self.kind {
            Kind::Leaf(leaf) => leaf.truncate(len),
            Kind::List(list) => {
                list.validity.0.truncate(len);
                list.offsets.truncate(len + 1);
                let end = list.offsets.last().copied().unwrap_or(0);
                list.child.truncate(end);
            }
            Kind::Struct(fields) => {
                fields.validity.0.truncate(len);
                fields.columns.truncate(len);
            }
        }
    }

    /// Says that `value` does not fit, in the user's words.
    pub(super) fn wrong(&self, value: Scalar<'_>, wrong: Wrong, problem: &mut Problem) {
        problem.set(|| {
            let (path, expected, found) = (&self.path, &self.expected, value.describe());
            match wrong {
                Wrong::Type => format!("column `{path}`: expected {expected}, found {found}"),
                Wrong::Range => format!("column `{path}`: {found} is out of range for {expected}"),
                Wrong::Inexact => format!("column `{path}`: {found} has digits that {expected} cannot hold"),
                Wrong::Because(why) => format!("column `{path}`: {found} is no {expected}: {why}"),
            }
        });
    }

    /// Appends a scalar, or says in `problem` why it does not fit (and then appends nothing).
    pub(super) fn push(&mut self, value: Scalar<'_>, problem: &mut Problem) {
        let result = match &mut self.kind {
            Kind::Leaf(leaf) => leaf.push(value),
            Kind::List(_) | Kind::Struct(_) => Err(Wrong::Type),
        };
        if let Err(wrong) = result {
            self.wrong(value, wrong, problem);
        }
    }

    /// Appends a null, or says in `problem` that the column takes none.
    pub(super) fn push_null(&mut self, found: &str, problem: &mut Problem) {
        if !self.nullable {
            problem.set(|| {
                format!("column `{}`: expected {}, found {found}; the column takes no null", self.path, self.expected)
            });
        }
        self.push_masked();
    }

    /// Appends a null whatever the column says: below a parent that is null itself.
    fn push_masked(&mut self) {
        match &mut self.kind {
            Kind::Leaf(leaf) => leaf.push_null(),
            Kind::List(list) => {
                if let DataType::FixedSizeList(_, n) = &list.data_type {
                    for _ in 0..*n {
                        list.child.push_masked();
                    }
                }
                list.offsets.push(list.child.len());
                list.validity.0.append(false);
            }
            Kind::Struct(fields) => {
                for column in &mut fields.columns.list {
                    column.push_masked();
                }
                fields.validity.0.append(false);
            }
        }
    }

    /// Closes a list whose elements have been appended to its child.
    pub(super) fn end_list(&mut self, problem: &mut Problem) {
        let Kind::List(list) = &mut self.kind else { return };
        let start = list.offsets.last().copied().unwrap_or(0);
        let count = list.child.len() - start;
        if let DataType::FixedSizeList(_, n) = &list.data_type
            && usize::try_from(*n) != Ok(count)
        {
            let (path, expected) = (&self.path, &self.expected);
            problem.set(|| format!("column `{path}`: expected {expected}, found an array of {count}"));
            return;
        }
        list.offsets.push(list.child.len());
        list.validity.0.append(true);
    }

    /// Closes a struct whose fields have been appended; those that did not come become null.
    pub(super) fn end_struct(&mut self, problem: &mut Problem) {
        let Kind::Struct(fields) = &mut self.kind else { return };
        fields.columns.end_row(fields.validity.0.len(), problem);
        fields.validity.0.append(true);
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        match &mut self.kind {
            Kind::Leaf(leaf) => leaf.finish(),
            Kind::List(list) => list.finish(),
            Kind::Struct(fields) => {
                let len = fields.validity.0.len();
                let arrays = fields.columns.list.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>()?;
                let nulls = fields.validity.finish();
                Ok(Arc::new(StructArray::try_new_with_length(fields.fields.clone(), arrays, nulls, len)?))
            }
        }
    }
}

impl ListColumn {
    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let len = self.validity.0.len();
        let nulls = self.validity.finish();
        let values = self.child.finish()?;
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let lengths = offsets.windows(2).map(|pair| pair[1] - pair[0]);
        Ok(match &self.data_type {
            DataType::LargeList(item) => {
                Arc::new(LargeListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), values, nulls)?)
            }
            DataType::FixedSizeList(item, n) => {
                Arc::new(FixedSizeListArray::try_new_with_length(item.clone(), *n, values, nulls, len)?)
            }
            DataType::List(item) => {
                Arc::new(ListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), values, nulls)?)
            }
            other => return Err(ArrowError::SchemaError(format!("{other} is no list"))),
        })
    }
}

impl Columns {
    fn nested(fields: &Fields, prefix: &str, options: ReadOptions) -> Result<Self, ConnectorError> {
        let list = fields.iter().map(|field| Column::new(field, prefix, options)).collect::<Result<Vec<_>, _>>()?;
        let index = fields.iter().enumerate().map(|(i, field)| (field.name().clone(), i)).collect();
        Ok(Self { list, index })
    }

    /// The columns of `schema`; `units` are those of epoch integers, where declared.
    pub(super) fn new(
        schema: &SchemaRef,
        coerce: bool,
        units: &BTreeMap<String, TimeUnit>,
    ) -> Result<Self, ConnectorError> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| Column::new(field, "", ReadOptions { coerce, unit: units.get(field.name()).copied() }));
        let index = schema.fields().iter().enumerate().map(|(i, field)| (field.name().clone(), i)).collect();
        Ok(Self { list: columns.collect::<Result<Vec<_>, _>>()?, index })
    }

    /// The column called `name`. Messages mostly have their fields in the order of the columns, so `expected` is tried
    /// before the map is asked.
    pub(super) fn find(&self, name: &str, expected: usize) -> Option<usize> {
        match self.list.get(expected) {
            Some(column) if column.name == name => Some(expected),
            _ => self.index.get(name).copied(),
        }
    }

    /// Forgets all rows after the first `rows`.
    pub(super) fn truncate(&mut self, rows: usize) {
        for column in &mut self.list {
            column.truncate(rows);
        }
    }

    /// Fills the columns that the row at index `row` did not have with nulls.
    pub(super) fn end_row(&mut self, row: usize, problem: &mut Problem) {
        for column in &mut self.list {
            if column.len() <= row {
                column.push_null("nothing", problem);
            }
        }
    }

    /// Hands over the first `rows` rows (all there are) and starts anew.
    pub(super) fn finish(&mut self, schema: &SchemaRef, rows: usize) -> Result<RecordBatch, ArrowError> {
        let arrays = self.list.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema.clone(), arrays, &options)
    }
}
