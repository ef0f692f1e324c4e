//! What the harness's own Kafka client does: produces and reads whole topics, blocking.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord};
use rdkafka::{Offset, TopicPartitionList};

use super::kafka::CALL_TIMEOUT;

/// A message read by [`Kafka::consume_all`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaMessage {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its time, in milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl KafkaMessage {
    /// The value as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.payload.as_deref().unwrap_or(b"null")).expect("the value is JSON")
    }

    /// The key as text.
    pub fn key_text(&self) -> Option<&str> {
        self.key.as_deref().map(|key| std::str::from_utf8(key).expect("the key is text"))
    }
}

/// A message to produce.
#[derive(Debug, Clone, Default)]
pub struct Produce {
    /// The value; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The partition; chosen by key where this is `None`.
    pub partition: Option<i32>,
    /// The time, in milliseconds since 1970; now where this is `None`.
    pub timestamp_ms: Option<i64>,
    /// The headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Produce {
    /// A message with a value and nothing else.
    pub fn value(payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: Some(payload.into()), ..Self::default() }
    }

    pub(super) fn send(&self, producer: &BaseProducer, topic: &str) {
        loop {
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
            record.payload = self.payload.as_deref();
            record.key = self.key.as_deref();
            record.partition = self.partition;
            record.timestamp = self.timestamp_ms;
            record.headers = (!self.headers.is_empty()).then(|| {
                self.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(rdkafka::message::Header { key, value: value.as_ref() })
                })
            });
            match producer.send(record) {
                Ok(()) => return producer.poll(Duration::ZERO),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => panic!("cannot produce to {topic}: {error}"),
            }
        }
    }
}

pub(super) fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "5")
        .set("fetch.wait.max.ms", "20")
        .set("fetch.queue.backoff.ms", "5")
        .set("reconnect.backoff.max.ms", "500")
        .set("enable.auto.commit", "false");
    config
}

pub(super) fn end_offsets(consumer: &BaseConsumer, topic: &str) -> BTreeMap<i32, (i64, i64)> {
    let deadline = Instant::now() + CALL_TIMEOUT;
    loop {
        // A new topic has no leader for a moment.
        let found: Result<BTreeMap<_, _>, KafkaError> =
            consumer.fetch_metadata(Some(topic), Duration::from_secs(5)).and_then(|metadata| {
                let ids = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
                ids.map(|id| Ok((id, consumer.fetch_watermarks(topic, id, Duration::from_secs(5))?))).collect()
            });
        match found {
            Ok(ends) if !ends.is_empty() => return ends,
            Ok(_) if Instant::now() > deadline => panic!("the topic {topic} has no partitions"),
            Err(error) if Instant::now() > deadline => panic!("no offsets of {topic}: {error}"),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

pub(super) fn consume_all(brokers: &str, topic: &str) -> Vec<KafkaMessage> {
    let consumer: BaseConsumer = client(brokers)
        .set("group.id", "millstream-test-consume-all")
        .set("enable.partition.eof", "true")
        .create()
        .expect("valid options");
    let ends = end_offsets(&consumer, topic);
    let mut assignment = TopicPartitionList::new();
    for partition in ends.keys() {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).expect("a valid offset");
    }
    consumer.assign(&assignment).expect("the partitions can be assigned");
    let (mut at_end, mut messages) = (0, Vec::new());
    let deadline = Instant::now() + CALL_TIMEOUT;
    while at_end < ends.len() {
        assert!(Instant::now() < deadline, "{topic} could not be read to its end in {CALL_TIMEOUT:?}");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => messages.push(KafkaMessage {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis(),
                key: message.key().map(<[u8]>::to_vec),
                payload: message.payload().map(<[u8]>::to_vec),
                headers: message.headers().map_or_else(Vec::new, |headers| {
                    headers.iter().map(|one| (one.key.to_owned(), one.value.map(<[u8]>::to_vec))).collect()
                }),
            }),
            Some(Err(KafkaError::PartitionEOF(_))) => at_end += 1,
            Some(Err(_)) | None => {}
        }
    }
    messages
}
