//! The source: what its options become, and the [`Source`] that takes batches from the reading thread.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration as StdDuration;

use async_trait::async_trait;
use chrono::DateTime;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaType;
use tokio::sync::oneshot;

use super::assignment::{Context, Start};
use super::batch::{BATCH_BYTES_LIMIT, BatchMax};
use super::connection::{Connection, Health, Identity, check, configuration_error, milliseconds};
use super::consumer::{LastWords, Reader, Shared};
use super::native::BatchConsumer;
use super::source_options::{AssignmentStrategy, IsolationLevel, KafkaSourceConfig, StartOffset};
use crate::error::ConnectorError;
use crate::position::Positions;
use crate::source::{Source, SourceContext, SourceEvent};
use crate::units::ByteSize;

/// Leaving the group and the last commit may take so long before the source no longer waits for them.
const CLOSE_TIMEOUT: StdDuration = StdDuration::from_secs(18);
/// How often lag is measured.
const STATISTICS_INTERVAL_MS: &str = "1000";
/// What may be changed through the `librdkafka` map.
const DEFAULTS: &[(&str, &str)] = &[
    // The default, a second, stalls a consumer that is faster than its brokers.
    ("fetch.queue.backoff.ms", "5"),
    // Messages fetched ahead per partition: enough for several batches, and no more than pays.
    ("queued.min.messages", "20000"),
    // KiB fetched ahead, all partitions together.
    ("queued.max.messages.kbytes", "65536"),
];

impl KafkaSourceConfig {
    /// Checks the options and builds the source.
    pub fn build(&self, context: &SourceContext) -> Result<Box<dyn Source>, ConnectorError> {
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
        self.set_group(&mut client, &identity)?;
        self.set_fetch(&mut client)?;
        check(&client, RDKafkaType::RD_KAFKA_CONSUMER)?;
        Ok(Box::new(KafkaSource {
            client,
            identity,
            topics: self.checked_topics()?,
            start: self.start()?,
            read_committed: self.isolation_level == IsolationLevel::ReadCommitted,
            metadata: context.metadata.clone(),
            max: BatchMax {
                rows: context.batch_rows_max.max(1),
                bytes: context.batch_bytes_max.clamp(1, BATCH_BYTES_LIMIT),
            },
            reader: None,
        }))
    }
}

impl KafkaSourceConfig {
    fn set_group(&self, client: &mut ClientConfig, identity: &Identity) -> Result<(), ConnectorError> {
        let group = self.group_id.clone().unwrap_or_else(|| identity.default_id());
        if group.is_empty() {
            return Err(ConnectorError::configuration(
                "group_id",
                "a consumer group has a name; leave it out for the default",
            ));
        }
        client.set("group.id", group);
        if let Some(id) = &self.group_instance_id {
            client.set("group.instance.id", id);
        }
        if let Some(rack) = &self.rack_id {
            client.set("client.rack", rack);
        }
        let session = milliseconds(self.session_timeout, "session_timeout", 1_000, 3_600_000)?;
        let heartbeat = milliseconds(self.heartbeat, "heartbeat", 100, 3_600_000)?;
        let max_poll = milliseconds(self.max_poll, "max_poll", 1_000, 86_400_000)?;
        if heartbeat * 3 > session {
            return Err(ConnectorError::configuration(
                "heartbeat",
                format!("{} is more than a third of session_timeout ({})", self.heartbeat, self.session_timeout),
            ));
        }
        if max_poll < session {
            return Err(ConnectorError::configuration(
                "max_poll",
                format!("{} is less than session_timeout ({})", self.max_poll, self.session_timeout),
            ));
        }
        client.set("session.timeout.ms", session.to_string());
        client.set("heartbeat.interval.ms", heartbeat.to_string());
        client.set("max.poll.interval.ms", max_poll.to_string());
        let strategy = match self.assignment {
            AssignmentStrategy::CooperativeSticky => "cooperative-sticky",
            AssignmentStrategy::Range => "range",
            AssignmentStrategy::RoundRobin => "roundrobin",
        };
        client.set("partition.assignment.strategy", strategy);
        // Commits come from the checkpoints, and only from there.
        client.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        // Where librdkafka has to decide, it must not skip anything; `latest` and times are decided in `assignment`.
        client.set("auto.offset.reset", "earliest");
        client.set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
        Ok(())
    }

    fn set_fetch(&self, client: &mut ClientConfig) -> Result<(), ConnectorError> {
        let fetch_max = bytes(self.fetch_max, "fetch_max", 1_000, 1_000_000_000)?;
        client.set("fetch.max.bytes", fetch_max.to_string());
        // librdkafka wants room for the rest of the answer.
        client.set("receive.message.max.bytes", (fetch_max + 4_096).max(100_000_000).to_string());
        let partition = bytes(self.partition_fetch_max, "partition_fetch_max", 1, 1_000_000_000)?;
        client.set("max.partition.fetch.bytes", partition.to_string());
        client.set("fetch.min.bytes", bytes(self.fetch_min, "fetch_min", 1, 100_000_000)?.to_string());
        client.set("fetch.wait.max.ms", milliseconds(self.fetch_wait, "fetch_wait", 0, 30_000)?.to_string());
        let isolation = match self.isolation_level {
            IsolationLevel::ReadCommitted => "read_committed",
            IsolationLevel::ReadUncommitted => "read_uncommitted",
        };
        client.set("isolation.level", isolation);
        Ok(())
    }

    fn start(&self) -> Result<Start, ConnectorError> {
        Ok(match &self.start_offset {
            StartOffset::Earliest => Start::Earliest,
            StartOffset::Latest => Start::Latest,
            StartOffset::Timestamp(text) => {
                let time = DateTime::parse_from_rfc3339(text).map_err(|error| {
                    let message = format!("`{text}` is not a time ({error}); write it as 2026-01-31T00:00:00Z");
                    ConnectorError::configuration("start_offset.timestamp", message)
                })?;
                Start::Time(time.timestamp_millis())
            }
        })
    }

    fn checked_topics(&self) -> Result<Vec<String>, ConnectorError> {
        let topics = self.topics.texts();
        for topic in topics {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if !topic.starts_with('^') && (topic.is_empty() || topic.len() > 249 || !topic.chars().all(is_name)) {
                let message = format!(
                    "`{topic}` is no topic: up to 249 of a-z, A-Z, 0-9, `.`, `_` and `-`, or a regular expression that \
                     starts with ^"
                );
                return Err(ConnectorError::configuration("topics", message));
            }
        }
        if topics.is_empty() {
            return Err(ConnectorError::configuration("topics", "there is no topic to read"));
        }
        Ok(topics.to_vec())
    }
}

fn bytes(size: ByteSize, option: &str, min: u64, max: u64) -> Result<u64, ConnectorError> {
    if (min..=max).contains(&size.0) {
        return Ok(size.0);
    }
    let (min, max) = (ByteSize(min), ByteSize(max));
    Err(ConnectorError::configuration(option, format!("{size} is not between {min} and {max}")))
}

/// The source, before and after [`Source::open`].
struct KafkaSource {
    client: ClientConfig,
    identity: Identity,
    topics: Vec<String>,
    start: Start,
    read_committed: bool,
    metadata: Vec<String>,
    max: BatchMax,
    reader: Option<Running>,
}

/// A reading thread.
struct Running {
    shared: Arc<Shared>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl KafkaSource {
    fn running(&self) -> Result<&Running, ConnectorError> {
        self.reader.as_ref().ok_or_else(|| ConnectorError::fatal("the Kafka source was used before it was opened"))
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn open(&mut self, from: &Positions) -> Result<(), ConnectorError> {
        let shared = Arc::new(Shared::default());
        shared.lock().from = from.clone();
        let health = Health::new(self.identity.clone());
        let context = Context::new(shared.clone(), health, self.start, self.read_committed);
        let consumer: BaseConsumer<Context> = self.client.create_with_context(context).map_err(configuration_error)?;
        let consumer = BatchConsumer::new(consumer, shared.inbox.clone()).map_err(configuration_error)?;
        let topics: Vec<_> = self.topics.iter().map(String::as_str).collect();
        consumer
            .base()
            .subscribe(&topics)
            .map_err(|error| ConnectorError::configuration("topics", error.to_string()))?;
        let (end, ended) = oneshot::channel();
        let (metadata, max, for_thread) = (self.metadata.clone(), self.max, shared.clone());
        let thread = std::thread::Builder::new()
            .name("kafka-source".to_owned())
            .spawn(move || {
                let last_words = LastWords(for_thread.clone());
                Reader::new(consumer, for_thread, metadata, max).run();
                drop(last_words);
                // Nobody may be waiting for this any more.
                end.send(()).ok();
            })
            .map_err(|error| ConnectorError::retry(format!("no thread for the Kafka source: {error}")))?;
        self.reader = Some(Running { shared, ended, thread });
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent, ConnectorError> {
        let running = self.running()?;
        let shared = running.shared.clone();
        loop {
            // Nothing is awaited between taking and returning: a cancelled call takes nothing.
            let (event, ended) = {
                let mut state = shared.lock();
                (state.take(), state.ended)
            };
            if let Some(event) = event {
                shared.taken();
                return event;
            }
            if ended {
                return Err(ConnectorError::retry("the thread that reads from Kafka has died; see the log"));
            }
            shared.event.notified().await;
        }
    }

    async fn commit(&mut self, upto: &Positions) -> Result<(), ConnectorError> {
        let shared = &self.running()?.shared;
        shared.lock().set_commit(upto);
        shared.wake();
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        let Some(Running { shared, ended, thread }) = self.reader.take() else { return Ok(()) };
        shared.stop();
        if tokio::time::timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            let Identity { pipeline, name, brokers } = &self.identity;
            tracing::warn!(
                pipeline,
                source = name,
                brokers,
                "Kafka does not take the last commit; the rows since the one before may be read again"
            );
            return Ok(());
        }
        thread.join().map_err(|_| ConnectorError::retry("the thread that reads from Kafka has died; see the log"))
    }

    fn lag(&self) -> Vec<(Arc<str>, u64)> {
        self.reader.as_ref().map_or_else(Vec::new, |running| running.shared.lock().lag())
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        // The thread leaves the group by itself; nobody waits for it.
        if let Some(running) = self.reader.take() {
            running.shared.stop();
        }
    }
}
