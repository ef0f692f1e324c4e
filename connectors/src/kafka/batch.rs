//! From messages of librdkafka to [`MessageBatch`]es: one copy of the payload into the batch's buffer, nothing else per
//! message. Replace this file (and the loop of `consumer.rs`) to take whole fetches instead.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Builder, ListBuilder, StringArray, StringBuilder, StructBuilder,
    TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers, Message, Timestamp};

use crate::batch::MessageBatch;
use crate::source::MetadataField;

/// Offsets of a batch's payloads are 32 bits wide: no batch may be larger.
pub(super) const BATCH_BYTES_LIMIT: usize = 1 << 30;

fn header_fields() -> Fields {
    vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)].into()
}

/// The metadata fields that a row of this source can carry.
pub static METADATA: LazyLock<Vec<MetadataField>> = LazyLock::new(|| {
    let headers = DataType::List(Arc::new(Field::new("item", DataType::Struct(header_fields()), true)));
    let field = |name, data_type, description| MetadataField { name, data_type, description };
    vec![
        field("key", DataType::Binary, "The message's key; null where it has none."),
        field("topic", DataType::Utf8, "The topic that the message was read from."),
        field("partition", DataType::Int32, "The number of the partition within its topic."),
        field("offset", DataType::Int64, "The message's offset within its partition."),
        field(
            "timestamp",
            DataType::Timestamp(TimeUnit::Millisecond, None),
            "The message's time in UTC, set by its producer or its broker; null where it has none.",
        ),
        field(
            "timestamp_type",
            DataType::Utf8,
            "Who set the time: create_time (the producer) or log_append_time (the broker).",
        ),
        field("headers", headers, "The message's headers in their order, each with its key and value."),
    ]
});

/// A column of metadata that is being filled.
enum Column {
    Key(BinaryBuilder),
    Topic,
    Partition,
    Offset(Int64Builder),
    Timestamp(TimestampMillisecondBuilder),
    TimestampType(StringBuilder),
    Headers(ListBuilder<StructBuilder>),
}

impl Column {
    fn new(name: &str) -> Option<Self> {
        Some(match name {
            "key" => Self::Key(BinaryBuilder::new()),
            "topic" => Self::Topic,
            "partition" => Self::Partition,
            "offset" => Self::Offset(Int64Builder::new()),
            "timestamp" => Self::Timestamp(TimestampMillisecondBuilder::new()),
            "timestamp_type" => Self::TimestampType(StringBuilder::new()),
            "headers" => Self::Headers(ListBuilder::new(StructBuilder::from_fields(header_fields(), 0))),
            _ => return None,
        })
    }

    fn append(&mut self, message: &BorrowedMessage<'_>) {
        match self {
            Self::Key(builder) => builder.append_option(message.key()),
            Self::Topic | Self::Partition => {}
            Self::Offset(builder) => builder.append_value(message.offset()),
            Self::Timestamp(builder) => builder.append_option(message.timestamp().to_millis()),
            Self::TimestampType(builder) => builder.append_option(match message.timestamp() {
                Timestamp::NotAvailable => None,
                Timestamp::CreateTime(_) => Some("create_time"),
                Timestamp::LogAppendTime(_) => Some("log_append_time"),
            }),
            Self::Headers(builder) => append_headers(builder, message.headers()),
        }
    }

    fn finish(self, topic: &str, partition: i32, rows: usize) -> ArrayRef {
        match self {
            Self::Key(mut builder) => Arc::new(builder.finish()),
            Self::Topic => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(topic, rows))),
            Self::Partition => Arc::new(Int32Array::from_value(partition, rows)),
            Self::Offset(mut builder) => Arc::new(builder.finish()),
            Self::Timestamp(mut builder) => Arc::new(builder.finish()),
            Self::TimestampType(mut builder) => Arc::new(builder.finish()),
            Self::Headers(mut builder) => Arc::new(builder.finish()),
        }
    }
}

/// What stands for the name of a header that is not UTF-8.
const UNREADABLE_NAME: &str = "\u{fffd}";

fn append_headers(builder: &mut ListBuilder<StructBuilder>, headers: Option<&BorrowedHeaders>) {
    for index in 0..headers.map_or(0, Headers::count) {
        // rdkafka panics on a header whose name is not UTF-8, which any producer may send.
        let header = catch_unwind(AssertUnwindSafe(|| headers.and_then(|headers| headers.try_get(index))));
        let (key, value) = match &header {
            Ok(Some(header)) => (header.key, header.value),
            Ok(None) | Err(_) => (UNREADABLE_NAME, None),
        };
        let entry = builder.values();
        if let Some(keys) = entry.field_builder::<StringBuilder>(0) {
            keys.append_value(key);
        }
        if let Some(values) = entry.field_builder::<BinaryBuilder>(1) {
            values.append_option(value);
        }
        entry.append(true);
    }
    builder.append(true);
}

/// Messages of one partition that are being collected.
pub(super) struct Collector {
    pub(super) name: Arc<str>,
    topic: Arc<str>,
    partition: i32,
    payloads: BinaryBuilder,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
    first_position: u64,
    next_position: u64,
}

impl Collector {
    pub(super) fn new(name: Arc<str>, topic: Arc<str>, partition: i32, metadata: &[String]) -> Self {
        let columns = metadata.iter().filter_map(|name| Column::new(name)).collect();
        Self {
            name,
            topic,
            partition,
            payloads: BinaryBuilder::new(),
            columns,
            rows: 0,
            bytes: 0,
            first_position: 0,
            next_position: 0,
        }
    }

    pub(super) fn append(&mut self, message: &BorrowedMessage<'_>) {
        self.payloads.append_option(message.payload());
        for column in &mut self.columns {
            column.append(message);
        }
        let offset = u64::try_from(message.offset()).unwrap_or(0);
        if self.rows == 0 {
            self.first_position = offset;
        }
        self.next_position = offset + 1;
        self.rows += 1;
        self.bytes += message.payload_len();
    }

    pub(super) fn is(&self, topic: &str, partition: i32) -> bool {
        self.partition == partition && &*self.topic == topic
    }

    pub(super) fn first_position(&self) -> u64 {
        self.first_position
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn finish(mut self) -> MessageBatch {
        let (topic, partition, rows) = (self.topic, self.partition, self.rows);
        let metadata = self.columns.into_iter().map(|column| column.finish(&topic, partition, rows)).collect();
        MessageBatch {
            partition: self.name,
            payloads: self.payloads.finish(),
            metadata,
            next_position: self.next_position,
        }
    }
}
