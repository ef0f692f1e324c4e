//! From messages of librdkafka to [`MessageBatch`]es: one copy of the payload into the batch's buffer, nothing else per
//! message. Replace this file (and the loop of `consumer.rs`) to take whole fetches instead.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, Int32Array, Int64Builder, ListBuilder, NullBufferBuilder, StringArray,
    StringBuilder, StructBuilder, TimestampMillisecondBuilder,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use rdkafka::message::Timestamp;

use super::native::Message;
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

    fn append(&mut self, message: &Message) {
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
            Self::Headers(builder) => append_headers(builder, message),
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

fn append_headers(builder: &mut ListBuilder<StructBuilder>, message: &Message) {
    message.headers(|name, value| {
        // Any producer may send a name that is not UTF-8.
        let (name, value) = std::str::from_utf8(name).map_or((UNREADABLE_NAME, None), |name| (name, value));
        let entry = builder.values();
        if let Some(names) = entry.field_builder::<StringBuilder>(0) {
            names.append_value(name);
        }
        if let Some(values) = entry.field_builder::<BinaryBuilder>(1) {
            values.append_option(value);
        }
        entry.append(true);
    });
    builder.append(true);
}

/// At most so many messages, and so many bytes of payload, per batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchMax {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// Messages of one partition that are being collected.
pub(super) struct Collector {
    pub(super) name: Arc<str>,
    topic: Arc<str>,
    partition: i32,
    /// Where each payload ends in `values`, after a first zero.
    offsets: Vec<i32>,
    values: Vec<u8>,
    nulls: NullBufferBuilder,
    columns: Vec<Column>,
    max: BatchMax,
    first_position: u64,
    next_position: u64,
}

impl Collector {
    pub(super) fn new(name: Arc<str>, topic: Arc<str>, partition: i32, metadata: &[String], max: BatchMax) -> Self {
        let columns = metadata.iter().filter_map(|name| Column::new(name)).collect();
        Self {
            name,
            topic,
            partition,
            offsets: vec![0],
            values: Vec::new(),
            nulls: NullBufferBuilder::new(0),
            columns,
            max,
            first_position: 0,
            next_position: 0,
        }
    }

    /// Appends the first of `messages`, as many as fit, and returns how many that was. `more` says that others are likely
    /// to follow, for which room is made at once.
    pub(super) fn append(&mut self, messages: &[Message], more: bool) -> usize {
        let (fitting, bytes) = self.fitting(messages);
        let messages = messages.get(..fitting).unwrap_or_default();
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return 0 };
        if self.rows() == 0 {
            self.first_position = position(first);
        }
        self.next_position = position(last) + 1;
        self.reserve(fitting, bytes, more);
        for message in messages {
            match message.payload() {
                Some(payload) => {
                    self.values.extend_from_slice(payload);
                    self.nulls.append_non_null();
                }
                None => self.nulls.append_null(),
            }
            // What fits is below the limit of a batch, and a single message below that of librdkafka: both fit in 31 bits.
            self.offsets.push(i32::try_from(self.values.len()).unwrap_or(i32::MAX));
        }
        for column in &mut self.columns {
            messages.iter().for_each(|message| column.append(message));
        }
        fitting
    }

    /// How many of the first of `messages` fit, and how many bytes they have.
    fn fitting(&self, messages: &[Message]) -> (usize, usize) {
        let (rows, before) = (self.rows(), self.values.len());
        let mut bytes = 0;
        let mut fitting = 0;
        for message in messages.iter().take(self.max.rows.saturating_sub(rows)) {
            // A message that is larger than a batch goes alone.
            if rows + fitting > 0 && before + bytes + message.len() > self.max.bytes {
                break;
            }
            bytes += message.len();
            fitting += 1;
        }
        (fitting, bytes)
    }

    fn reserve(&mut self, rows: usize, bytes: usize, more: bool) {
        if self.values.capacity() - self.values.len() >= bytes && self.offsets.capacity() - self.offsets.len() >= rows {
            return;
        }
        // As much as a full batch will need, if the others are as large.
        let wanted = if more { bytes / rows.max(1) * (self.max.rows - self.rows()) } else { 0 };
        self.values.reserve(wanted.min(self.max.bytes.saturating_sub(self.values.len())).max(bytes));
        self.offsets.reserve(if more { self.max.rows - self.rows() } else { rows });
    }

    pub(super) fn is(&self, topic: &str, partition: i32) -> bool {
        self.partition == partition && &*self.topic == topic
    }

    pub(super) fn first_position(&self) -> u64 {
        self.first_position
    }

    pub(super) fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(super) fn bytes(&self) -> usize {
        self.values.len()
    }

    pub(super) fn finish(mut self) -> MessageBatch {
        let (topic, partition, rows) = (&self.topic, self.partition, self.rows());
        let metadata = self.columns.into_iter().map(|column| column.finish(topic, partition, rows)).collect();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(self.offsets));
        MessageBatch {
            partition: self.name,
            payloads: BinaryArray::new(offsets, Buffer::from_vec(self.values), self.nulls.finish()),
            metadata,
            next_position: self.next_position,
        }
    }
}

fn position(message: &Message) -> u64 {
    u64::try_from(message.offset()).unwrap_or(0)
}
