//! Columns under construction: what decoders write into, message by message.
//!
//! Beyond Arrow's own builders these can be cut back ([`Column::truncate`]), which is how a message that turns out to be
//! wrong halfway leaves no trace. What is here knows scalars and nulls, not JSON or CSV.
//!
//! A value has two ways into a leaf. [`Column::push`] takes it as it is written and decides everything; the short cuts
//! [`Column::push_number`] and [`Column::push_text`] take what is plain, and leave the rest to `push`.

mod leaf;
mod number;
mod scalar;
mod text;
mod time;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListArray, LargeListArray, ListArray, NullBufferBuilder, RecordBatch, RecordBatchOptions,
    StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

use crate::error::ConnectorError;
pub(super) use leaf::Leaf;
pub(super) use number::Number;
use scalar::type_name;
pub(super) use scalar::{Scalar, Wrong};
pub(super) use text::Prefix;

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
    /// How many complete values there are.
    len: usize,
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
pub(super) struct Validity(NullBufferBuilder);

impl Validity {
    fn new() -> Self {
        Self(NullBufferBuilder::new(0))
    }

    fn finish(&mut self) -> Option<NullBuffer> {
        // A null may have been cut off again.
        self.0.finish().filter(|nulls| nulls.null_count() > 0)
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
            len: 0,
            kind,
        })
    }

    /// How many complete values there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Forgets all after the first `len` values, and a value that is half written.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
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
        match result {
            Ok(()) => self.len += 1,
            Err(wrong) => self.wrong(value, wrong, problem),
        }
    }

    /// Appends a number by its worth. Where that does not do, it says false and appends nothing; `push` then takes or
    /// refuses the number as it is written.
    #[inline]
    pub(super) fn push_number(&mut self, number: Number) -> bool {
        let Kind::Leaf(leaf) = &mut self.kind else { return false };
        let taken = leaf.push_number(number);
        self.len += usize::from(taken);
        taken
    }

    /// Appends text that has been checked to be UTF-8, or says false as [`Self::push_number`] does.
    #[inline]
    pub(super) fn push_text(&mut self, text: Prefix<'_>) -> bool {
        let Kind::Leaf(leaf) = &mut self.kind else { return false };
        let taken = leaf.push_text(text);
        self.len += usize::from(taken);
        taken
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
        self.len += 1;
        match &mut self.kind {
            Kind::Leaf(leaf) => leaf.push_null(),
            Kind::List(list) => {
                if let DataType::FixedSizeList(_, n) = &list.data_type {
                    for _ in 0..*n {
                        list.child.push_masked();
                    }
                }
                list.offsets.push(list.child.len());
                list.validity.0.append_null();
            }
            Kind::Struct(fields) => {
                for column in &mut fields.columns.list {
                    column.push_masked();
                }
                fields.validity.0.append_null();
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
        list.validity.0.append_non_null();
        self.len += 1;
    }

    /// Closes a struct whose fields have been appended; those that did not come become null.
    pub(super) fn end_struct(&mut self, problem: &mut Problem) {
        let Kind::Struct(fields) = &mut self.kind else { return };
        fields.columns.end_row(self.len, problem);
        fields.validity.0.append_non_null();
        self.len += 1;
    }

    /// Makes room for `more` values, so that few of them have to.
    fn reserve(&mut self, more: usize) {
        match &mut self.kind {
            Kind::Leaf(leaf) => leaf.reserve(more),
            Kind::List(list) => list.offsets.reserve(more),
            Kind::Struct(fields) => fields.columns.reserve(more),
        }
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let len = std::mem::take(&mut self.len);
        match &mut self.kind {
            Kind::Leaf(leaf) => leaf.finish(),
            Kind::List(list) => list.finish(len),
            Kind::Struct(fields) => {
                let arrays = fields.columns.list.iter_mut().map(Column::finish).collect::<Result<Vec<_>, _>>()?;
                let nulls = fields.validity.finish();
                Ok(Arc::new(StructArray::try_new_with_length(fields.fields.clone(), arrays, nulls, len)?))
            }
        }
    }
}

impl ListColumn {
    fn finish(&mut self, len: usize) -> Result<ArrayRef, ArrowError> {
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

    /// Makes room for `more` rows.
    pub(super) fn reserve(&mut self, more: usize) {
        for column in &mut self.list {
            column.reserve(more);
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
