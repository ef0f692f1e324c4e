//! The sink: options, and the [`Sink`] that hands rows to librdkafka and waits for their acknowledgements.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use indexmap::IndexMap;
use rdkafka::ClientConfig;
use rdkafka::types::RDKafkaType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::connection::{Connection, Health, check, configuration_error, milliseconds};
use super::delivery::Deliveries;
use super::native::BatchProducer;
use super::record::{Layout, LayoutOptions, Records};
use super::sender::{Pace, Sender};
use super::{KafkaSasl, KafkaTls, LibrdkafkaValue, TextOrList, default_metadata_max_age, default_socket_timeout};
use crate::error::ConnectorError;
use crate::format::Encoder;
use crate::sink::{Flushed, Rejected, Sink, SinkContext};
use crate::units::{ByteSize, Duration};

/// What may be changed through the `librdkafka` map.
const DEFAULTS: &[(&str, &str)] = &[
    // Above what is handed over at a time.
    ("queue.buffering.max.messages", "10000000"),
];
/// librdkafka takes so many KiB (by default), or one larger message.
const QUEUE_KBYTES: u64 = 262_144;
const QUEUE_KBYTES_KEY: &str = "queue.buffering.max.kbytes";
/// librdkafka is told when to send. Its own waiting is for certainty.
const LINGER_MS: u64 = 500;

/// Options of the sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkConfig {
    /// Addresses (`host:port`) to find the cluster by: a text, with commas between several, or a list.
    pub brokers: TextOrList,
    /// The topic. It may have columns in it: `alarms-{region}`.
    pub topic: String,
    /// The message's key: a column's name, or a text with columns in it (`{region}/{vehicle}`). Null in the column
    /// makes a message without a key; null in a text with columns sends the row to the dead letter.
    #[serde(default)]
    pub key: Option<String>,
    /// A column with the number of the partition. Where it is null, or this option is missing, the partitioner chooses.
    #[serde(default)]
    pub partition: Option<String>,
    /// How a partition is chosen. The default chooses as Java's clients do: by key, or at random without one.
    #[serde(default)]
    pub partitioner: Partitioner,
    /// Headers: name to text, which may have columns in it (`"{vehicle}"`). A header whose column is null is left out.
    #[serde(default)]
    pub headers: IndexMap<String, String>,
    /// A column with the message's time: a timestamp, or milliseconds since 1970. Now where it is null or missing.
    #[serde(default)]
    pub timestamp: Option<String>,
    /// A boolean column: where it is true the message has no value, which deletes its key from a compacted topic.
    /// Needs `key`.
    #[serde(default)]
    pub tombstone: Option<String>,
    /// Whose acknowledgement counts.
    #[serde(default)]
    pub acks: Acks,
    /// Repeated attempts to send make no duplicates and change no order. Needs `acks: all`. True by default.
    #[serde(default = "yes")]
    pub idempotence: bool,
    /// How batches are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// A batch waits so long for more messages.
    #[serde(default = "default_linger")]
    pub linger: Duration,
    /// A batch is sent at this size without waiting.
    #[serde(default = "default_batch_size")]
    pub batch_size: ByteSize,
    /// A larger message goes to the dead letter. The broker and the topic have limits of their own (about 1 MB by
    /// default).
    #[serde(default = "default_max_message_bytes")]
    pub max_message_bytes: ByteSize,
    /// Brokers may be away for so long before the pipeline is restarted from its last checkpoint.
    #[serde(default = "default_delivery_timeout")]
    pub delivery_timeout: Duration,
    /// The name by which the brokers log this client. `millstream-PIPELINE-SINK` by default.
    #[serde(default)]
    pub client_id: Option<String>,
    /// TLS to the brokers; `tls: {}` trusts the system's authorities.
    #[serde(default)]
    pub tls: Option<KafkaTls>,
    /// How to log in.
    #[serde(default)]
    pub sasl: Option<KafkaSasl>,
    /// What is known about topics and partitions is refreshed so often.
    #[serde(default = "default_metadata_max_age")]
    pub metadata_max_age: Duration,
    /// A request that a broker does not answer for so long has failed (and is tried again).
    #[serde(default = "default_socket_timeout")]
    pub socket_timeout: Duration,
    /// Anything else that librdkafka knows, by its own names (`compression.level: 3`).
    #[serde(default)]
    pub librdkafka: BTreeMap<String, LibrdkafkaValue>,
}

/// How a message without a partition gets one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    /// Murmur2 of the key, at random without a key: as Java's clients do.
    #[default]
    Murmur2Random,
    /// Murmur2 of the key; messages without a key share a partition.
    Murmur2,
    /// CRC32 of the key, at random without a key: the default of librdkafka.
    ConsistentRandom,
    /// CRC32 of the key; messages without a key share a partition.
    Consistent,
    /// FNV-1a of the key, at random without a key: as Sarama (Go) does.
    Fnv1aRandom,
    /// FNV-1a of the key; messages without a key share a partition.
    Fnv1a,
    /// At random.
    Random,
}

/// Whose acknowledgement counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Acks {
    /// All replicas in sync.
    #[default]
    All,
    /// The partition's leader only: what it has not passed on is lost with it.
    Leader,
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Gzip: small and slow.
    Gzip,
    /// Snappy: quick.
    Snappy,
    /// LZ4: quick.
    Lz4,
    /// Zstandard: small and quick enough.
    Zstd,
}

fn yes() -> bool {
    true
}

fn default_linger() -> Duration {
    Duration::from_millis(0)
}

fn default_batch_size() -> ByteSize {
    ByteSize(1_000_000)
}

fn default_max_message_bytes() -> ByteSize {
    ByteSize(1_000_000)
}

fn default_delivery_timeout() -> Duration {
    Duration::from_secs(120)
}

impl KafkaSinkConfig {
    /// Checks the options and builds the sink.
    pub fn build(&self, context: &SinkContext) -> Result<Box<dyn Sink>, ConnectorError> {
        let connection = Connection {
            brokers: &self.brokers,
            client_id: self.client_id.as_deref(),
            tls: self.tls.as_ref(),
            sasl: self.sasl.as_ref(),
            metadata_max_age: self.metadata_max_age,
            socket_timeout: self.socket_timeout,
            librdkafka: &self.librdkafka,
            defaults: DEFAULTS,
        };
        let identity = connection.identity(&context.pipeline, &context.name);
        let mut client = connection.client_config(&identity, &context.base_dir)?;
        self.set_producer(&mut client)?;
        check(&client, RDKafkaType::RD_KAFKA_PRODUCER)?;
        let layout = LayoutOptions {
            topic: &self.topic,
            key: self.key.as_deref(),
            partition: self.partition.as_deref(),
            timestamp: self.timestamp.as_deref(),
            tombstone: self.tombstone.as_deref(),
            headers: &self.headers,
        };
        let layout = Layout::new(&layout, &context.columns)?;
        let encoder = context.format.clone().unwrap_or_default().encoder(context.columns.clone())?;
        let request_bytes = usize::try_from(self.batch_size.0.min(self.max_message_bytes.0)).unwrap_or(usize::MAX);
        let pace = Pace { request_bytes, linger: self.linger.0 };
        Ok(Box::new(KafkaSink { client, health: Health::new(identity), layout, encoder, pace, sender: None }))
    }

    fn set_producer(&self, client: &mut ClientConfig) -> Result<(), ConnectorError> {
        if self.idempotence && self.acks != Acks::All {
            return Err(ConnectorError::configuration("acks", "`leader` needs `idempotence: false`"));
        }
        client.set("acks", if self.acks == Acks::All { "all" } else { "1" });
        client.set("enable.idempotence", self.idempotence.to_string());
        let compression = match self.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        };
        client.set("compression.type", compression);
        let partitioner = match self.partitioner {
            Partitioner::Murmur2Random => "murmur2_random",
            Partitioner::Murmur2 => "murmur2",
            Partitioner::ConsistentRandom => "consistent_random",
            Partitioner::Consistent => "consistent",
            Partitioner::Fnv1aRandom => "fnv1a_random",
            Partitioner::Fnv1a => "fnv1a",
            Partitioner::Random => "random",
        };
        client.set("partitioner", partitioner);
        let linger = milliseconds(self.linger, "linger", 0, 60_000)?;
        let timeout = milliseconds(self.delivery_timeout, "delivery_timeout", 1_000, 86_400_000)?;
        if timeout <= linger {
            return Err(ConnectorError::configuration("delivery_timeout", "it is not longer than linger"));
        }
        client.set("linger.ms", LINGER_MS.min(timeout / 2).to_string());
        client.set("message.timeout.ms", timeout.to_string());
        let bounds = [
            ("batch_size", "batch.size", self.batch_size, 1, 2_147_483_647),
            ("max_message_bytes", "message.max.bytes", self.max_message_bytes, 1_000, 1_000_000_000),
        ];
        for (option, key, size, min, max) in bounds {
            if !(min..=max).contains(&size.0) {
                let (min, max) = (ByteSize(min), ByteSize(max));
                return Err(ConnectorError::configuration(option, format!("{size} is not between {min} and {max}")));
            }
            client.set(key, size.0.to_string());
        }
        if !self.librdkafka.contains_key(QUEUE_KBYTES_KEY) {
            client.set(QUEUE_KBYTES_KEY, QUEUE_KBYTES.max(self.max_message_bytes.0.div_ceil(1024)).to_string());
        }
        Ok(())
    }
}

/// The sink, before and after [`Sink::open`].
struct KafkaSink {
    client: ClientConfig,
    health: Health,
    layout: Layout,
    encoder: Box<dyn Encoder>,
    pace: Pace,
    sender: Option<Sender>,
}

fn not_open() -> ConnectorError {
    ConnectorError::fatal("the Kafka sink was used before it was opened")
}

#[async_trait]
impl Sink for KafkaSink {
    async fn open(&mut self, _restored: Option<&[u8]>) -> Result<(), ConnectorError> {
        let deliveries = Deliveries::new(Health::new(self.health.identity.clone()));
        let producer = BatchProducer::new(&self.client, deliveries).map_err(configuration_error)?;
        self.sender = Some(Sender::new(producer, self.pace)?);
        Ok(())
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Rejected>, ConnectorError> {
        let records = Records::new(&self.layout, rows)?;
        let encoded = self.encoder.encode(rows)?;
        if encoded.ends.len() != rows.num_rows() {
            let text = format!("{} rows became {} messages", rows.num_rows(), encoded.ends.len());
            return Err(ConnectorError::fatal(text));
        }
        let sender = self.sender.as_ref().ok_or_else(not_open)?;
        sender.deliveries.room().await?;
        sender.push(records, encoded);
        Ok(sender.deliveries.take_rejected())
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        let deliveries = &self.sender.as_ref().ok_or_else(not_open)?.deliveries;
        // Ends within delivery_timeout, because librdkafka gives every message an answer by then.
        deliveries.all_done().await?;
        Ok(Flushed { rejected: deliveries.take_rejected(), state: None })
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        let Some(thread) = self.sender.take().and_then(|mut sender| sender.stop()) else { return Ok(()) };
        // It gives messages up that are still under way (there are none after a flush).
        match tokio::task::spawn_blocking(move || thread.join()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(ConnectorError::retry("the Kafka producer could not be closed")),
        }
    }
}
