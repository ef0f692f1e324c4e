//! The thread that reads: it polls librdkafka, collects messages into batches and hands over a few of them.
//!
//! Polling is what keeps a consumer in its group, so it goes on while nobody takes batches: the partitions are then
//! paused, and membership is kept however long a sink stands still. One hop per batch, none per message.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaTopic;
use rdkafka::{Offset, error::KafkaResult};
use tokio::sync::Notify;

use super::assignment::{Context, name, parse_name};
use super::batch::Collector;
use super::connection::Reaction;
use crate::batch::MessageBatch;
use crate::error::ConnectorError;
use crate::position::Positions;
use crate::source::SourceEvent;

/// So many batches wait to be taken before reading pauses.
const BATCHES_WAITING_MAX: usize = 2;
/// An idle thread looks for commits and for the end so often.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// The last commit is tried again for so long, with such pauses; less than the source waits for its end.
const LAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(15);
const LAST_COMMIT_PAUSE: Duration = Duration::from_millis(100);
/// While paused, so many events are served at a time.
const PAUSED_EVENTS_MAX: usize = 100;

/// What the reading thread and the source share.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something was taken, is to be committed, or the end has come: for the thread.
    room: Condvar,
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
        self.room.notify_one();
    }

    /// Lets the thread look again.
    pub(super) fn wake_thread(&self) {
        self.room.notify_one();
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

/// The reading thread.
pub(super) struct Reader {
    consumer: BaseConsumer<Context>,
    shared: Arc<Shared>,
    metadata: Vec<String>,
    rows_max: usize,
    bytes_max: usize,
    /// Nobody has taken anything for so long: pause, and poll so often.
    pause_after: Duration,
    collecting: Collecting,
}

/// Tells the source that the thread is gone, also where it panicked.
pub(super) struct LastWords(pub(super) Arc<Shared>);

impl Drop for LastWords {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.event.notify_one();
    }
}

/// The batches being collected.
#[derive(Default)]
struct Collecting {
    collectors: Vec<Collector>,
    /// The topic handle, partition and collector of the last message: the next one is most likely of the same. The
    /// handle is only compared, and forgotten when the assignment changes.
    last: Option<(*mut RDKafkaTopic, i32, usize)>,
}

impl Reader {
    /// `batch_max`: at most so many messages, and so many bytes, per batch.
    pub(super) fn new(
        consumer: BaseConsumer<Context>,
        shared: Arc<Shared>,
        metadata: Vec<String>,
        batch_max: (usize, usize),
        pause_after: Duration,
    ) -> Self {
        let (rows_max, bytes_max) = batch_max;
        Self { consumer, shared, metadata, rows_max, bytes_max, pause_after, collecting: Collecting::default() }
    }

    /// Reads until told to stop; gives the consumer up at the end.
    pub(super) fn run(mut self) {
        while self.wait_for_room() {
            self.read();
            self.commit();
        }
        self.commit_at_end();
        // Dropping the consumer leaves the group, which may take a moment.
    }

    /// Returns when there is room for batches; false at the end.
    fn wait_for_room(&mut self) -> bool {
        let mut paused = false;
        let mut patience = Instant::now() + self.pause_after;
        let go_on = loop {
            let shared = self.shared.clone();
            let state = shared.lock();
            if state.stop {
                break false;
            }
            if state.batches.len() < BATCHES_WAITING_MAX {
                break true;
            }
            let wait = patience.saturating_duration_since(Instant::now()).min(IDLE_POLL);
            let waited = shared.room.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            drop(waited);
            self.commit();
            if Instant::now() >= patience {
                self.stay_in_group();
                paused = true;
                patience = Instant::now() + self.pause_after;
            }
        };
        if paused {
            self.with_assignment("resumed", |consumer, partitions| consumer.resume(partitions));
        }
        go_on
    }

    /// Pauses all partitions and serves what is not a message.
    fn stay_in_group(&mut self) {
        self.with_assignment("paused", |consumer, partitions| consumer.pause(partitions));
        for _ in 0..PAUSED_EVENTS_MAX {
            if !self.poll_one(Duration::ZERO) {
                break;
            }
        }
    }

    fn with_assignment(
        &self,
        what: &str,
        change: impl Fn(&BaseConsumer<Context>, &TopicPartitionList) -> KafkaResult<()>,
    ) {
        if let Err(error) = self.consumer.assignment().and_then(|partitions| change(&self.consumer, &partitions)) {
            tracing::debug!(%error, "partitions could not be {what}");
        }
    }

    /// Collects what is there, waiting only for the first message, and hands it over.
    fn read(&mut self) {
        if self.collecting.collectors.is_empty() && !self.poll_one(IDLE_POLL) {
            return;
        }
        while self.has_space() && self.poll_one(Duration::ZERO) {}
        let mut collectors = std::mem::take(&mut self.collecting.collectors);
        self.collecting.last = None;
        let mut state = self.shared.lock();
        for collector in &collectors {
            state.first.entry(collector.name.clone()).or_insert(collector.first_position());
        }
        // A partition may have been taken away after its messages were collected.
        collectors.retain(|collector| collector.rows() > 0 && state.assigned.contains(&collector.name));
        state.batches.extend(collectors.into_iter().map(Collector::finish));
        drop(state);
        self.shared.event.notify_one();
    }

    /// True while no batch is full, and all together are not more than two full ones.
    fn has_space(&self) -> bool {
        let (mut rows, mut bytes) = (0, 0);
        for collector in &self.collecting.collectors {
            if collector.rows() >= self.rows_max || collector.bytes() >= self.bytes_max {
                return false;
            }
            rows += collector.rows();
            bytes += collector.bytes();
        }
        rows < 2 * self.rows_max && bytes < 2 * self.bytes_max
    }

    /// Takes one message or event; false where there is none, or no more should be taken.
    fn poll_one(&mut self, wait: Duration) -> bool {
        let polled = self.consumer.poll(wait);
        if self.shared.rebalanced.swap(false, Ordering::Relaxed) {
            self.collecting.last = None;
            let state = self.shared.lock();
            self.collecting.collectors.retain(|collector| state.assigned.contains(&collector.name));
        }
        match polled {
            Some(Ok(message)) => {
                self.collecting.append(&message, &self.metadata, self.bytes_max);
                true
            }
            Some(Err(error)) => {
                self.report(&error);
                true
            }
            None => false,
        }
    }

    /// An error that belongs to no partition was reported with its reason by the context already.
    fn report(&self, error: &KafkaError) {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let health = &self.consumer.context().health;
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
            _ => self.consumer.commit(&offsets, CommitMode::Async),
        });
        if let Err(error) = committed {
            tracing::warn!(%error, "offsets were not committed; the next commit covers these");
        }
    }

    /// The last commit must have arrived before the group is left, or the next member would repeat its rows. A broker
    /// that has just come back does not take it at once.
    fn commit_at_end(&self) {
        let deadline = Instant::now() + LAST_COMMIT_TIMEOUT;
        while let Err(error) = self.last_offsets().and_then(|offsets| match offsets.count() {
            0 => Ok(()),
            _ => self.consumer.commit(&offsets, CommitMode::Sync),
        }) {
            if Instant::now() > deadline {
                tracing::warn!(%error, "the last offsets were not committed; their rows may be read again");
                return;
            }
            // Membership goes on meanwhile. Messages are nobody's any more: no position covers them.
            drop(self.consumer.poll(LAST_COMMIT_PAUSE));
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

impl Collecting {
    fn append(&mut self, message: &BorrowedMessage<'_>, metadata: &[String], bytes_max: usize) {
        let (handle, partition) = (message.topic_ptr(), message.partition());
        let index = match self.last {
            Some((last_handle, last_partition, index)) if last_handle == handle && last_partition == partition => index,
            _ => self.find(message, metadata),
        };
        let index = match self.collectors.get(index) {
            // It would not fit: this one is full, and another one begun.
            Some(full) if full.rows() > 0 && full.bytes() + message.payload_len() > bytes_max => {
                self.begin(message, metadata)
            }
            _ => index,
        };
        self.last = Some((handle, partition, index));
        if let Some(collector) = self.collectors.get_mut(index) {
            collector.append(message);
        }
    }

    /// The newest collector of the message's partition.
    fn find(&mut self, message: &BorrowedMessage<'_>, metadata: &[String]) -> usize {
        let (topic, partition) = (message.topic(), message.partition());
        let found = self.collectors.iter().rposition(|collector| collector.is(topic, partition));
        found.unwrap_or_else(|| self.begin(message, metadata))
    }

    fn begin(&mut self, message: &BorrowedMessage<'_>, metadata: &[String]) -> usize {
        let (topic, partition) = (message.topic(), message.partition());
        let name = name(topic, partition).into();
        self.collectors.push(Collector::new(name, topic.into(), partition, metadata));
        self.collectors.len() - 1
    }
}
