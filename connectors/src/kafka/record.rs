//! What goes beside a row's value: topic, key, partition, time, headers, and whether the value is left out.

use arrow::array::types::{Int64Type, TimestampMillisecondType};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Schema, TimeUnit};
use indexmap::IndexMap;

use crate::error::ConnectorError;
use crate::template::Template;

/// A column's bytes, or a template's text.
#[derive(Debug)]
enum Text {
    Column(usize),
    Template(Template),
}

/// Where each part of a record comes from; columns are resolved.
#[derive(Debug)]
pub(super) struct Layout {
    topic: Template,
    key: Option<Text>,
    partition: Option<usize>,
    timestamp: Option<usize>,
    tombstone: Option<usize>,
    headers: Vec<(String, Template)>,
}

/// The options that a [`Layout`] is made of.
pub(super) struct LayoutOptions<'a> {
    pub(super) topic: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) partition: Option<&'a str>,
    pub(super) timestamp: Option<&'a str>,
    pub(super) tombstone: Option<&'a str>,
    pub(super) headers: &'a IndexMap<String, String>,
}

impl Layout {
    pub(super) fn new(options: &LayoutOptions<'_>, columns: &Schema) -> Result<Self, ConnectorError> {
        let topic = Template::parse(options.topic, columns, "topic")?;
        if let Some(constant) = topic.constant().filter(|constant| !is_topic(constant)) {
            let message = format!("`{constant}` is no topic: up to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`");
            return Err(ConnectorError::configuration("topic", message));
        }
        let key = options.key.map(|key| text(key, columns)).transpose()?;
        if options.tombstone.is_some() && key.is_none() {
            return Err(ConnectorError::configuration("tombstone", "a tombstone says which key is gone: set key too"));
        }
        let integer = |kind: &DataType| kind.is_integer() && *kind != DataType::UInt64;
        let time = |kind: &DataType| matches!(kind, DataType::Timestamp(..) | DataType::Int64);
        let find = |name: Option<&str>, option, fits: &dyn Fn(&DataType) -> bool, wanted| {
            name.map(|name| column(name, columns, option, fits, wanted)).transpose()
        };
        let header = |(name, value): (&String, &String)| {
            Ok((name.clone(), Template::parse(value, columns, &format!("headers.{name}"))?))
        };
        Ok(Self {
            topic,
            key,
            partition: find(options.partition, "partition", &integer, "a whole number")?,
            timestamp: find(options.timestamp, "timestamp", &time, "a timestamp, or milliseconds as a bigint")?,
            tombstone: find(options.tombstone, "tombstone", &|kind| *kind == DataType::Boolean, "a boolean")?,
            headers: options.headers.iter().map(header).collect::<Result<_, ConnectorError>>()?,
        })
    }
}

/// True for what Kafka takes as a topic's name.
fn is_topic(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&name.len()) && name.chars().all(valid) && name != "." && name != ".."
}

fn column(
    name: &str,
    columns: &Schema,
    option: &str,
    fits: &dyn Fn(&DataType) -> bool,
    wanted: &str,
) -> Result<usize, ConnectorError> {
    let known = || columns.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
    let index = columns.index_of(name).map_err(|_| {
        ConnectorError::configuration(option, format!("`{name}` names no column; there are: {}", known()))
    })?;
    let kind = columns.field(index).data_type();
    if fits(kind) {
        return Ok(index);
    }
    Err(ConnectorError::configuration(option, format!("the column {name} is {kind}, and {wanted} is needed")))
}

/// A template where there is a brace, a column's name where there is none.
fn text(text: &str, columns: &Schema) -> Result<Text, ConnectorError> {
    if text.contains(['{', '}']) {
        return Ok(Text::Template(Template::parse(text, columns, "key")?));
    }
    let fits = |kind: &DataType| can_cast_types(kind, &DataType::Utf8) && !kind.is_nested();
    Ok(Text::Column(column(text, columns, "key", &fits, "a text, number, time or bytes")?))
}

/// The parts of all rows of a batch.
pub(super) struct Records {
    topic: Texts,
    key: Option<Texts>,
    partition: Option<Int64Array>,
    timestamp: Option<Int64Array>,
    tombstone: Option<BooleanArray>,
    headers: Vec<(String, Texts)>,
}

enum Texts {
    One(String),
    Each(Vec<Result<String, String>>),
    Column(BinaryArray),
}

/// The parts of one row.
pub(super) struct Record<'a> {
    pub(super) topic: &'a str,
    pub(super) key: Option<&'a [u8]>,
    pub(super) partition: Option<i32>,
    pub(super) timestamp: Option<i64>,
    pub(super) tombstone: bool,
    pub(super) headers: Vec<(&'a str, &'a str)>,
}

impl Record<'_> {
    /// True if it can be handed over together with others: those have neither headers nor a time of their own.
    pub(super) fn is_plain(&self) -> bool {
        self.headers.is_empty() && self.timestamp.is_none()
    }
}

fn rendered(template: &Template, rows: &RecordBatch) -> Result<Texts, ConnectorError> {
    Ok(match template.constant() {
        Some(text) => Texts::One(text.to_owned()),
        None => Texts::Each(template.render(rows)?),
    })
}

fn converted(rows: &RecordBatch, index: usize, kind: &DataType) -> Result<ArrayRef, ConnectorError> {
    let array = rows.columns().get(index).ok_or_else(|| ConnectorError::fatal("rows without a column of the sink"))?;
    cast(array, kind).map_err(|error| ConnectorError::fatal(format!("a column cannot be converted: {error}")))
}

fn column_bytes(rows: &RecordBatch, index: usize) -> Result<BinaryArray, ConnectorError> {
    let kind = rows.columns().get(index).map(|array| array.data_type());
    let binary = matches!(
        kind,
        Some(DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_))
    );
    let text = if binary { rows.columns().get(index).cloned() } else { Some(converted(rows, index, &DataType::Utf8)?) };
    let text = text.ok_or_else(|| ConnectorError::fatal("rows without a column of the sink"))?;
    let bytes = cast(&text, &DataType::Binary)
        .map_err(|error| ConnectorError::fatal(format!("the key cannot be converted to bytes: {error}")))?;
    Ok(bytes.as_binary::<i32>().clone())
}

fn milliseconds(rows: &RecordBatch, index: usize) -> Result<Int64Array, ConnectorError> {
    let array = rows.columns().get(index).ok_or_else(|| ConnectorError::fatal("rows without a column of the sink"))?;
    let zone = match array.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => return Ok(converted(rows, index, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
    };
    let time = converted(rows, index, &DataType::Timestamp(TimeUnit::Millisecond, zone))?;
    Ok(time.as_primitive::<TimestampMillisecondType>().reinterpret_cast())
}

impl Records {
    pub(super) fn new(layout: &Layout, rows: &RecordBatch) -> Result<Self, ConnectorError> {
        let number = |index| Ok::<_, ConnectorError>(converted(rows, index, &DataType::Int64)?.as_primitive().clone());
        let boolean = |index| Ok::<_, ConnectorError>(converted(rows, index, &DataType::Boolean)?.as_boolean().clone());
        let key = layout.key.as_ref().map(|key| match key {
            Text::Column(index) => column_bytes(rows, *index).map(Texts::Column),
            Text::Template(template) => rendered(template, rows),
        });
        let headers = layout.headers.iter().map(|(name, template)| Ok((name.clone(), rendered(template, rows)?)));
        Ok(Self {
            topic: rendered(&layout.topic, rows)?,
            key: key.transpose()?,
            partition: layout.partition.map(number).transpose()?,
            timestamp: layout.timestamp.map(|index| milliseconds(rows, index)).transpose()?,
            tombstone: layout.tombstone.map(boolean).transpose()?,
            headers: headers.collect::<Result<_, ConnectorError>>()?,
        })
    }

    /// The parts of row `row`, or why it cannot be a message.
    pub(super) fn get(&self, row: usize) -> Result<Record<'_>, String> {
        let topic = match &self.topic {
            Texts::One(topic) => topic.as_str(),
            Texts::Each(topics) => {
                let topic = topics.get(row).ok_or("a row without a topic")?.as_deref()?;
                if !is_topic(topic) {
                    return Err(format!("`{topic}` is no valid topic name"));
                }
                topic
            }
            Texts::Column(_) => return Err("a topic cannot be bytes".to_owned()),
        };
        let key = match &self.key {
            None => None,
            Some(Texts::One(key)) => Some(key.as_bytes()),
            Some(Texts::Each(keys)) => Some(keys.get(row).ok_or("a row without a key")?.as_deref()?.as_bytes()),
            Some(Texts::Column(keys)) => keys.is_valid(row).then(|| keys.value(row)),
        };
        let partition = self.partition.as_ref().filter(|all| all.is_valid(row)).map(|all| all.value(row));
        let partition = partition.map(|number| match i32::try_from(number) {
            Ok(partition) if partition >= 0 => Ok(partition),
            _ => Err(format!("{number} is no partition")),
        });
        let partition = partition.transpose()?;
        let timestamp = self.timestamp.as_ref().filter(|all| all.is_valid(row)).map(|all| all.value(row));
        if let Some(before) = timestamp.filter(|timestamp| *timestamp <= 0) {
            return Err(format!("the time {before} (in milliseconds since 1970) cannot be a message's"));
        }
        let tombstone = self.tombstone.as_ref().is_some_and(|all| all.is_valid(row) && all.value(row));
        if tombstone && key.is_none() {
            return Err("a tombstone without a key says nothing".to_owned());
        }
        let headers = self.headers.iter().filter_map(|(name, texts)| match texts {
            Texts::One(text) => Some((name.as_str(), text.as_str())),
            // A column that is null leaves the header out.
            Texts::Each(texts) => texts.get(row)?.as_deref().ok().map(|text| (name.as_str(), text)),
            Texts::Column(_) => None,
        });
        Ok(Record { topic, key, partition, timestamp, tombstone, headers: headers.collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::Field;

    use super::*;

    fn rows() -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::new(StringArray::from(vec![Some("a"), None, Some("c/d")])) as ArrayRef, true),
            ("n", Arc::new(Int32Array::from(vec![Some(7), None, Some(-1)])), true),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_500_999), None, Some(-1)])), true),
            ("gone", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])), true),
        ])
        .unwrap()
    }

    fn options(headers: &IndexMap<String, String>) -> LayoutOptions<'_> {
        LayoutOptions { topic: "t", key: Some("id"), partition: None, timestamp: None, tombstone: None, headers }
    }

    #[test]
    fn every_part_is_taken_from_its_column() {
        let headers = [("app".to_owned(), "x".to_owned()), ("id".to_owned(), "<{id}>".to_owned())].into();
        let options = LayoutOptions {
            topic: "t-{n}",
            partition: Some("n"),
            timestamp: Some("at"),
            tombstone: Some("gone"),
            ..options(&headers)
        };
        let (layout, rows) = (Layout::new(&options, rows().schema_ref()).unwrap(), rows());
        let records = Records::new(&layout, &rows).unwrap();
        let first = records.get(0).unwrap();
        assert_eq!((first.topic, first.key, first.partition), ("t-7", Some(b"a".as_slice()), Some(7)));
        assert_eq!((first.timestamp, first.tombstone), (Some(1500), true));
        assert_eq!(first.headers, [("app", "x"), ("id", "<a>")]);
        assert!(records.get(1).err().unwrap().contains("n is null"), "no topic without n");
        assert_eq!(records.get(2).err().unwrap(), "-1 is no partition");
    }

    #[test]
    fn null_leaves_key_partition_time_and_header_out() {
        let headers = [("id".to_owned(), "{id}".to_owned())].into();
        let options = LayoutOptions { partition: Some("n"), timestamp: Some("at"), ..options(&headers) };
        let (layout, rows) = (Layout::new(&options, rows().schema_ref()).unwrap(), rows());
        let records = Records::new(&layout, &rows).unwrap();
        let record = records.get(1).unwrap();
        assert_eq!((record.key, record.partition, record.timestamp), (None, None, None));
        assert!(record.headers.is_empty());
    }

    #[test]
    fn a_wrong_column_is_named() {
        let none = IndexMap::new();
        let schema = Schema::new(vec![Field::new("id", DataType::Utf8, true)]);
        let error = |options: LayoutOptions<'_>| Layout::new(&options, &schema).unwrap_err().to_string();
        assert_eq!(
            error(LayoutOptions { key: Some("idd"), ..options(&none) }),
            "key: `idd` names no column; there are: id"
        );
        assert_eq!(
            error(LayoutOptions { partition: Some("id"), ..options(&none) }),
            "partition: the column id is Utf8, and a whole number is needed"
        );
        assert!(error(LayoutOptions { topic: "a b", ..options(&none) }).starts_with("topic: `a b` is no topic"));
    }
}
