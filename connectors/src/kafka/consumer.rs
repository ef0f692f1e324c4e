//! The thread that reads: it takes messages from librdkafka, collects them into batches and hands over a few of them.
//!
//! While there is nothing to read it sleeps in librdkafka's queue of messages; events (rebalances, errors, statistics),
//! commits and the end wake it. While nobody takes batches it goes on serving events, which keeps the consumer in its
//! group however long a sink stands still; librdkafka stops fetching when its queue is full. One hop per batch, none per
//! message.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, error::KafkaResult};
use tokio::sync::Notify;

use super::assignment::{Context, name, parse_name};
use super::batch::{BatchMax, Collector};
use super::connection::Reaction;
use super::native::{BatchConsumer, Inbox, Message, Served};
use crate::batch::MessageBatch;
use crate::error::ConnectorError;
use crate::position::Positions;
use crate::source::SourceEvent;

/// So many batches wait to be taken before reading pauses.
const BATCHES_WAITING_MAX: usize = 2;
/// At most so many messages are taken from librdkafka at a time: what is collected of them is still in the cache when they
/// are given back.
const MESSAGES_TAKEN_MAX: usize = 1_024;
/// At most so many events are served before messages are looked at again.
const EVENTS_AT_ONCE_MAX: usize = 1_000;
/// What wakes an idle thread wakes it at once; it looks around by itself so often.
const IDLE_WAIT: Duration = Duration::from_secs(10);
/// While nobody takes batches, events are served so often.
const EVENTS_PAUSE: Duration = Duration::from_millis(100);
/// The last commit is tried again for so long, with such pauses; less than the source waits for its end.
const LAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(15);
const LAST_COMMIT_PAUSE: Duration = Duration::from_millis(100);

/// What the reading thread and the source share.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something was taken, is to be committed, or the end has come: for the thread while it has no room.
    room: Condvar,
    /// Where messages come from: for the thread while it has room.
    pub(super) inbox: Arc<Inbox>,
    /// Something happened: for the source.
    pub(super) event: Notify,
    /// The assignment has changed since the thread last looked.
    pub(super) rebalanced: AtomicBool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) batches: VecDeque<MessageBatch>,
    /// The partitions are to be announced before any further batch.
    partitions_changed: bool,
    error: Option<ConnectorError>,
    /// The partitions that are ours.
    pub(super) assigned: BTreeSet<Arc<str>>,
    /// The snapshot's positions.
    pub(super) from: Positions,
    /// What was handed out.
    pub(super) reached: HashMap<Arc<str>, u64>,
    /// The first message that came from each partition.
    first: HashMap<Arc<str>, u64>,
    /// The end of each partition, and where reading began as far as librdkafka knows, as of the last statistics.
    ends: HashMap<String, (u64, u64)>,
    /// What is to be committed next.
    commit: Option<Positions>,
    /// What was last asked to be committed.
    committed: Positions,
    pub(super) stop: bool,
    /// The thread is gone.
    pub(super) ended: bool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the source with `error`.
    pub(super) fn fail(&self, error: ConnectorError) {
        self.lock().error.get_or_insert(error);
        self.event.notify_one();
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.wake();
    }

    /// Something was taken: there may be room for more.
    pub(super) fn taken(&self) {
        self.room.notify_one();
    }

    /// Lets the thread look around, wherever it waits.
    pub(super) fn wake(&self) {
        self.room.notify_one();
        self.inbox.wake();
    }
}

impl State {
    /// The next thing to hand out.
    pub(super) fn take(&mut self) -> Option<Result<SourceEvent, ConnectorError>> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        if std::mem::take(&mut self.partitions_changed) {
            return Some(Ok(SourceEvent::Partitions(self.assigned.iter().cloned().collect())));
        }
        let batch = self.batches.pop_front()?;
        self.reached.insert(batch.partition.clone(), batch.next_position);
        Some(Ok(SourceEvent::Messages(batch)))
    }

    pub(super) fn announce(&mut self) {
        self.partitions_changed = true;
    }

    pub(super) fn set_commit(&mut self, upto: &Positions) {
        self.commit = Some(upto.clone());
    }

    pub(super) fn set_end(&mut self, partition: &str, end: u64, next: u64) {
        self.ends.insert(partition.to_owned(), (end, next));
    }

    /// How many messages of each of our partitions have not been handed out, as of the last statistics.
    pub(super) fn lag(&self) -> Vec<(Arc<str>, u64)> {
        let lag = |partition: &Arc<str>| {
            let (end, next) = *self.ends.get(&**partition)?;
            let position = self.reached.get(partition).or_else(|| self.first.get(partition)).copied().unwrap_or(next);
            Some((partition.clone(), end.saturating_sub(position)))
        };
        self.assigned.iter().filter_map(lag).collect()
    }
}

/// Tells the source that the thread is gone, also where it panicked.
pub(super) struct LastWords(pub(super) Arc<Shared>);

impl Drop for LastWords {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.event.notify_one();
    }
}

/// The reading thread.
pub(super) struct Reader {
    consumer: BatchConsumer<Context>,
    shared: Arc<Shared>,
    metadata: Vec<String>,
    max: BatchMax,
    /// The batches being collected, one per partition.
    collectors: Vec<Collector>,
}

impl Reader {
    pub(super) fn new(
        consumer: BatchConsumer<Context>,
        shared: Arc<Shared>,
        metadata: Vec<String>,
        max: BatchMax,
    ) -> Self {
        Self { consumer, shared, metadata, max, collectors: Vec::new() }
    }

    /// Reads until told to stop; gives the consumer up at the end.
    pub(super) fn run(mut self) {
        loop {
            let all_served = self.serve_events();
            self.commit();
            match self.has_room() {
                None => break,
                Some(false) => {}
                // Only the first of several events wakes the thread: it must not sleep before all are served.
                Some(true) => self.read(if all_served { IDLE_WAIT } else { Duration::ZERO }),
            }
        }
        self.commit_at_end();
        // Dropping the consumer leaves the group, which may take a moment.
    }

    /// Whether there is room for batches, for which it waits a moment; none at the end.
    fn has_room(&self) -> Option<bool> {
        let has_room = |state: &State| state.batches.len() < BATCHES_WAITING_MAX;
        let state = self.shared.lock();
        if state.stop || has_room(&state) {
            return (!state.stop).then_some(true);
        }
        let waited = self.shared.room.wait_timeout(state, EVENTS_PAUSE).unwrap_or_else(PoisonError::into_inner);
        let state = waited.0;
        (!state.stop).then_some(has_room(&state))
    }

    /// Serves what is not a message; false where more of it is waiting.
    fn serve_events(&mut self) -> bool {
        for _ in 0..EVENTS_AT_ONCE_MAX {
            let Some(served) = self.consumer.serve() else { return true };
            if self.shared.rebalanced.swap(false, Ordering::Relaxed) {
                // Whoever has a partition next reads these messages, also where that is us.
                let state = self.shared.lock();
                self.consumer
                    .retain(|message| state.assigned.contains(name(&message.topic(), message.partition()).as_str()));
            }
            match served {
                Served::ByContext => {}
                Served::Error(error) => self.report(&error),
                Served::Stray => {
                    let text = "a message came by the way of events; reading starts again";
                    self.shared.fail(ConnectorError::retry(text));
                }
            }
        }
        false
    }

    /// Collects what is there, waiting only for the first message, and hands it over.
    fn read(&mut self, wait: Duration) {
        let mut found = self.consumer.fetch(MESSAGES_TAKEN_MAX, wait);
        while found > 0 && self.collect() {
            found = self.consumer.fetch(MESSAGES_TAKEN_MAX, Duration::ZERO);
        }
        let mut collectors = std::mem::take(&mut self.collectors);
        if collectors.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for collector in &collectors {
            state.first.entry(collector.name.clone()).or_insert(collector.first_position());
        }
        // librdkafka drops what it still has of a partition that was taken away; this is for certainty.
        collectors.retain(|collector| state.assigned.contains(&collector.name));
        state.batches.extend(collectors.into_iter().map(Collector::finish));
        drop(state);
        self.shared.event.notify_one();
    }

    /// Collects the messages that were taken; false where a batch is full, or all together are as large as two full ones.
    fn collect(&mut self) -> bool {
        let messages = self.consumer.messages();
        let more = messages.len() >= MESSAGES_TAKEN_MAX;
        let mut taken = 0;
        let mut errors = Vec::new();
        let mut has_space = true;
        while let Some((first, others)) = messages.get(taken..).and_then(<[Message]>::split_first) {
            if let Some((code, reason)) = first.error() {
                errors.push((code, reason.into_owned()));
                taken += 1;
                continue;
            }
            let run = 1 + others.iter().take_while(|other| other.is_beside(first) && other.error().is_none()).count();
            let run = messages.get(taken..taken + run).unwrap_or_default();
            let index = collector_of(&mut self.collectors, first, &self.metadata, self.max);
            let Some(collector) = self.collectors.get_mut(index) else { break };
            let appended = collector.append(run, more);
            taken += appended;
            has_space = appended == run.len() && has_space_in(&self.collectors, self.max);
            if !has_space {
                break;
            }
        }
        self.consumer.discard(taken);
        for (code, reason) in errors {
            self.consumer.base().context().error(KafkaError::Global(code), reason.trim());
            self.report(&KafkaError::MessageConsumption(code));
        }
        has_space
    }

    /// An error that belongs to no partition was reported with its reason by the context already.
    fn report(&self, error: &KafkaError) {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let health = &self.consumer.base().context().health;
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let text = if fatal {
            format!("the Kafka client gave up: {error}")
        } else if let RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed = code
            && let Reaction::GiveUp(text) = health.report(code, &error.to_string())
        {
            text
        } else {
            return;
        };
        self.shared.fail(ConnectorError::retry(text));
    }

    fn commit(&self) {
        if self.shared.lock().commit.is_none() {
            return;
        }
        let committed = self.last_offsets().and_then(|offsets| match offsets.count() {
            0 => Ok(()),
            _ => self.consumer.base().commit(&offsets, CommitMode::Async),
        });
        if let Err(error) = committed {
            tracing::warn!(%error, "offsets were not committed; the next commit covers these");
        }
    }

    /// The last commit must have arrived before the group is left, or the next member would repeat its rows. A broker
    /// that has just come back does not take it at once.
    fn commit_at_end(&mut self) {
        let deadline = Instant::now() + LAST_COMMIT_TIMEOUT;
        while let Err(error) = self.last_offsets().and_then(|offsets| match offsets.count() {
            0 => Ok(()),
            _ => self.consumer.base().commit(&offsets, CommitMode::Sync),
        }) {
            if Instant::now() > deadline {
                tracing::warn!(%error, "the last offsets were not committed; their rows may be read again");
                return;
            }
            // Membership goes on meanwhile. Messages are nobody's any more: no position covers them.
            self.serve_events();
            #[expect(clippy::disallowed_methods, reason = "the thread that reads from librdkafka is our own")]
            std::thread::sleep(LAST_COMMIT_PAUSE);
        }
    }

    /// The offsets that were last asked to be committed, of the partitions that are still ours.
    fn last_offsets(&self) -> KafkaResult<TopicPartitionList> {
        let mut state = self.shared.lock();
        if let Some(newer) = state.commit.take() {
            state.committed = newer;
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in state.committed.0.iter().filter(|(name, _)| state.assigned.contains(name.as_str())) {
            if let (Some((topic, number)), Ok(next)) = (parse_name(partition), i64::try_from(*next)) {
                offsets.add_partition_offset(topic, number, Offset::Offset(next))?;
            }
        }
        Ok(offsets)
    }
}

/// The place of the collector of the message's partition, which is begun where there is none.
fn collector_of(collectors: &mut Vec<Collector>, message: &Message, metadata: &[String], max: BatchMax) -> usize {
    let (topic, partition) = (message.topic(), message.partition());
    if let Some(index) = collectors.iter().position(|collector| collector.is(&topic, partition)) {
        return index;
    }
    let name = name(&topic, partition).into();
    collectors.push(Collector::new(name, (&*topic).into(), partition, metadata, max));
    collectors.len() - 1
}

/// True while no batch is full, and all together are not more than two full ones.
fn has_space_in(collectors: &[Collector], max: BatchMax) -> bool {
    let (mut rows, mut bytes) = (0, 0);
    for collector in collectors {
        if collector.rows() >= max.rows || collector.bytes() >= max.bytes {
            return false;
        }
        rows += collector.rows();
        bytes += collector.bytes();
    }
    rows < 2 * max.rows && bytes < 2 * max.bytes
}
