//! Which partitions this source has, and where it starts in each.
//!
//! A partition starts at the position that this process has already handed out, else at that of the snapshot, else at
//! the group's committed offset, else where `start_offset` says. librdkafka knows the last two by itself for
//! `earliest`. For `latest` and a time they are looked up here, and what was found is committed at once: a source that
//! fails before its first commit must start from there again, not from a later `latest`, or rows would be lost.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr as RespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::connection::{Health, QUERY_TIMEOUT, Reaction, code};
use super::consumer::{Shared, State};
use crate::error::ConnectorError;

/// Looking up where to start may take so long; then this run of the pipeline ends, and the next one tries again.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(60);
const LOOKUP_PAUSE: Duration = Duration::from_millis(200);

/// Where a partition starts that nobody knows a position of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    Earliest,
    Latest,
    /// The first message at or after this time, in milliseconds since 1970.
    Time(i64),
}

/// What librdkafka calls back.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) health: Health,
    pub(super) start: Start,
    pub(super) read_committed: bool,
    /// How many partitions a topic had when it was first seen: one beyond them is new, and nothing of it is skipped.
    known: Mutex<HashMap<String, i32>>,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>, health: Health, start: Start, read_committed: bool) -> Self {
        Self { shared, health, start, read_committed, known: Mutex::default() }
    }

    /// The number of partitions of `topic` that are not new.
    fn known_partitions(&self, consumer: &BaseConsumer<Self>, topic: &str) -> Result<i32, KafkaError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.get(topic) {
            return Ok(*count);
        }
        let in_snapshot = self.shared.lock().partitions_in_snapshot(topic);
        let count = match in_snapshot {
            Some(count) => count,
            None => {
                let metadata = consumer.fetch_metadata(Some(topic), QUERY_TIMEOUT)?;
                let found = metadata.topics().iter().map(|topic| topic.partitions().len()).max();
                i32::try_from(found.unwrap_or(0)).unwrap_or(i32::MAX)
            }
        };
        known.insert(topic.to_owned(), count);
        Ok(count)
    }

    /// Sets where each partition starts; returns what must be committed at once.
    fn place(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        let mut unknown = TopicPartitionList::new();
        let state = self.shared.lock();
        for mut partition in partitions.elements() {
            match state.position(partition.topic(), partition.partition()) {
                Some(position) => partition.set_offset(Offset::Offset(position))?,
                // librdkafka looks for the committed offset, and for the first message where there is none.
                None => partition.set_offset(Offset::Invalid)?,
            }
            if partition.offset() == Offset::Invalid {
                unknown.add_partition(partition.topic(), partition.partition());
            }
        }
        drop(state);
        let mut pinned = TopicPartitionList::new();
        if matches!(self.start, Start::Earliest) || unknown.count() == 0 {
            return Ok(pinned);
        }
        let committed = consumer.committed_offsets(unknown, QUERY_TIMEOUT)?;
        for found in committed.elements() {
            found.error()?;
            let (topic, partition) = (found.topic(), found.partition());
            if matches!(found.offset(), Offset::Offset(_)) {
                continue;
            }
            let offset = self.first_offset(consumer, topic, partition)?;
            if let Some(mut one) = partitions.find_partition(topic, partition) {
                one.set_offset(Offset::Offset(offset))?;
            }
            pinned.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        }
        Ok(pinned)
    }

    /// Where a partition starts that nobody has read.
    fn first_offset(&self, consumer: &BaseConsumer<Self>, topic: &str, partition: i32) -> KafkaResult<i64> {
        let (low, high) = consumer.fetch_watermarks(topic, partition, QUERY_TIMEOUT)?;
        match self.start {
            Start::Earliest => Ok(low),
            Start::Latest if partition >= self.known_partitions(consumer, topic)? => Ok(low),
            Start::Latest => Ok(high),
            Start::Time(milliseconds) => {
                let mut times = TopicPartitionList::new();
                times.add_partition_offset(topic, partition, Offset::Offset(milliseconds))?;
                let found = consumer.offsets_for_times(times, QUERY_TIMEOUT)?;
                let first = found.elements().first().map(|one| one.error().map(|()| one.offset())).transpose()?;
                Ok(match first {
                    Some(Offset::Offset(offset)) => offset,
                    // Nothing is that new.
                    _ => high,
                })
            }
        }
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), ConnectorError> {
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        let pinned = loop {
            match self.place(consumer, partitions) {
                Ok(pinned) => break pinned,
                Err(error) if Instant::now() > deadline || self.shared.lock().stop => {
                    let brokers = &self.health.identity.brokers;
                    return Err(ConnectorError::retry(format!(
                        "Kafka at {brokers} does not say where to start reading: {error}"
                    )));
                }
                Err(error) => {
                    tracing::debug!(%error, "asking again where to start reading");
                    #[expect(clippy::disallowed_methods, reason = "the thread that polls librdkafka is our own")]
                    std::thread::sleep(LOOKUP_PAUSE);
                }
            }
        };
        for partition in partitions.elements() {
            if !self.shared.inbox.lead(partition.topic(), partition.partition()) {
                let name = name(partition.topic(), partition.partition());
                return Err(ConnectorError::retry(format!("the partition {name} cannot be read")));
            }
        }
        let done = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(partitions),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.assign(partitions),
        };
        done.map_err(|error| ConnectorError::retry(format!("the partitions cannot be assigned: {error}")))?;
        if pinned.count() > 0
            && let Err(error) = consumer.commit(&pinned, CommitMode::Async)
        {
            tracing::warn!(%error, "the starting positions are not committed yet");
        }
        self.shared.lock().assign(partitions);
        Ok(())
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), ConnectorError> {
        // First, so that nothing of these partitions is handed out after somebody else may have them.
        self.shared.lock().revoke(partitions);
        let done = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
            RebalanceProtocol::Eager | RebalanceProtocol::None => consumer.unassign(),
        };
        done.map_err(|error| ConnectorError::retry(format!("the partitions cannot be given up: {error}")))
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RespErr, partitions: &mut TopicPartitionList) {
        let identity = &self.health.identity;
        let names: Vec<_> = partitions.elements().iter().map(|one| name(one.topic(), one.partition())).collect();
        let (pipeline, source) = (&identity.pipeline, &identity.name);
        // Where a group shares out in two steps, one of them often changes nothing.
        let changed = !names.is_empty();
        let done = if err == RespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            if changed {
                tracing::info!(pipeline, source, partitions = ?names, "partitions assigned");
            }
            self.assigned(consumer, partitions)
        } else {
            if changed {
                tracing::info!(pipeline, source, partitions = ?names, "partitions given up");
            }
            self.revoked(consumer, partitions)
        };
        if let Err(error) = done {
            // librdkafka waits for an answer in any case.
            if let Err(error) = consumer.unassign() {
                tracing::debug!(%error, "nothing could be unassigned");
            }
            self.shared.fail(error);
        }
        self.shared.rebalanced.store(true, Ordering::Relaxed);
        self.shared.event.notify_one();
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let identity = &self.health.identity;
        match result {
            Ok(()) => {}
            // Nothing was to be committed.
            Err(error) if code(&error) == Some(RDKafkaErrorCode::NoOffset) => {}
            Err(error) => {
                let (pipeline, source) = (&identity.pipeline, &identity.name);
                tracing::warn!(pipeline, source, %error, ?offsets, "offsets were not committed; the next commit covers these");
            }
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.health.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = code(&error) else { return };
        if let Reaction::GiveUp(text) = self.health.report(code, reason) {
            self.shared.fail(ConnectorError::retry(text));
        }
    }

    fn stats(&self, statistics: Statistics) {
        // Messages are no sign of life: they may have been fetched before.
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.health.up();
        }
        let mut state = self.shared.lock();
        for topic in statistics.topics.values() {
            for partition in topic.partitions.values() {
                let end = if self.read_committed { partition.ls_offset } else { partition.hi_offset };
                if let (Ok(end), Ok(next)) =
                    (u64::try_from(end), u64::try_from(partition.app_offset.max(partition.lo_offset).max(0)))
                {
                    state.set_end(&name(&topic.topic, partition.partition), end, next);
                }
            }
        }
    }
}

/// The name of a partition in positions.
pub(super) fn name(topic: &str, partition: i32) -> String {
    format!("{topic}/{partition}")
}

/// The topic and number in a partition's name.
pub(super) fn parse_name(name: &str) -> Option<(&str, i32)> {
    let (topic, partition) = name.rsplit_once('/')?;
    Some((topic, partition.parse().ok()?))
}

impl State {
    /// Where to go on in a partition, if this process or the snapshot knows it.
    fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        let name = name(topic, partition);
        let position = self.reached.get(name.as_str()).copied().or_else(|| self.from.get(&name))?;
        i64::try_from(position).ok()
    }

    /// One more than the highest partition of `topic` that the snapshot names.
    fn partitions_in_snapshot(&self, topic: &str) -> Option<i32> {
        let numbers = self.from.0.keys().filter_map(|name| parse_name(name));
        numbers.filter(|(name, _)| *name == topic).map(|(_, partition)| partition + 1).max()
    }

    fn assign(&mut self, partitions: &TopicPartitionList) {
        for partition in partitions.elements() {
            let name: Arc<str> = name(partition.topic(), partition.partition()).into();
            self.assigned.insert(name);
        }
        self.announce();
    }

    fn revoke(&mut self, partitions: &TopicPartitionList) {
        for partition in partitions.elements() {
            let name = name(partition.topic(), partition.partition());
            self.assigned.remove(name.as_str());
        }
        let assigned = &self.assigned;
        self.batches.retain(|batch| assigned.contains(&batch.partition));
        self.announce();
    }
}
