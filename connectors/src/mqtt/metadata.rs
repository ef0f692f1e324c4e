//! The metadata of MQTT messages.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, TimeUnit};

use super::connection::Message;
use crate::ingest::{IngestMessage, MetadataValue};
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

/// The message as the ingest log keeps it, with all of these fields.
pub(super) fn to_ingest(message: Message) -> IngestMessage {
    let mut metadata = vec![
        ("topic", message.topic.into()),
        ("qos", MetadataValue::Int(message.qos.into())),
        ("retain", MetadataValue::Bool(message.retain)),
        ("dup", MetadataValue::Bool(message.dup)),
        ("received_at", MetadataValue::Timestamp(chrono::Utc::now().timestamp_micros())),
    ];
    if message.packet_id != 0 {
        metadata.push(("packet_id", MetadataValue::Int(message.packet_id.into())));
    }
    if let Some(properties) = message.properties {
        if !properties.user_properties.is_empty() {
            metadata.push(("user_properties", properties.user_properties.into()));
        }
        metadata.push(("content_type", properties.content_type.into()));
        metadata.push(("response_topic", properties.response_topic.into()));
        if let Some(data) = properties.correlation_data {
            metadata.push(("correlation_data", MetadataValue::Bytes(data)));
        }
    }
    IngestMessage { payload: Some(message.payload), metadata }
}
