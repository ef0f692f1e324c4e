//! The metadata of MQTT messages.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, TimeUnit};

use super::wire::Message;
use crate::ingest::{FieldRef, IngestBatch};
use crate::source::MetadataField;

/// The metadata fields that a row of this source can carry.
pub static METADATA: LazyLock<Vec<MetadataField>> = LazyLock::new(|| {
    let field = |name, data_type, description| MetadataField { name, data_type, description };
    vec![
        field("topic", DataType::Utf8, "The topic the message was published to."),
        field("qos", DataType::Int32, "The quality of service it was delivered with: 0, 1 or 2."),
        field("retain", DataType::Boolean, "Whether it was stored at the broker and not published just now."),
        field("dup", DataType::Boolean, "Whether the broker had sent it before."),
        field("packet_id", DataType::Int32, "Its packet id, which is used again and again; null with QoS 0."),
        field(
            "received_at",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            "When Millstream received it.",
        ),
        field("user_properties", pairs(), "Its user properties (MQTT 5), as a map from text to text."),
        field("content_type", DataType::Utf8, "The media type its sender gave (MQTT 5)."),
        field("response_topic", DataType::Utf8, "The topic its sender wants an answer on (MQTT 5)."),
        field("correlation_data", DataType::Binary, "What its sender wants back with an answer (MQTT 5)."),
    ]
});

fn pairs() -> DataType {
    let entry = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entry.into()), false)), false)
}

/// The most fields of a message.
const FIELDS_MAX: usize = 10;

/// Adds the message to a batch for the ingest log, with all of these fields. `received_at` counts microseconds.
pub(super) fn push(batch: &mut IngestBatch, message: &Message, topic: &str, received_at: i64) {
    let mut fields = [("topic", FieldRef::Text(topic)); FIELDS_MAX];
    let mut count = 1;
    let mut add = |name, value| {
        if let Some(field) = fields.get_mut(count) {
            *field = (name, value);
            count += 1;
        }
    };
    add("qos", FieldRef::Int(message.qos.into()));
    add("retain", FieldRef::Bool(message.retain));
    add("dup", FieldRef::Bool(message.dup));
    add("received_at", FieldRef::Timestamp(received_at));
    if message.packet_id != 0 {
        add("packet_id", FieldRef::Int(message.packet_id.into()));
    }
    if let Some(properties) = &message.properties {
        if !properties.user_properties.is_empty() {
            add("user_properties", FieldRef::Pairs(&properties.user_properties));
        }
        if let Some(content_type) = &properties.content_type {
            add("content_type", FieldRef::Text(content_type));
        }
        if let Some(response_topic) = &properties.response_topic {
            add("response_topic", FieldRef::Text(response_topic));
        }
        if let Some(data) = &properties.correlation_data {
            add("correlation_data", FieldRef::Bytes(data));
        }
    }
    batch.push(Some(&message.payload), fields.get(..count).unwrap_or_default());
}
