//! What became of the messages that were handed to librdkafka: how many are under way, and which failed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::Notify;

use super::connection::{Health, Reaction, code};
use super::native::Reports;
use crate::error::ConnectorError;
use crate::sink::Rejected;

/// At most so many messages are under way; a sink that has more waits.
const MESSAGES_UNDER_WAY_MAX: usize = 100_000;
/// At most so many bytes are held until they can be handed over (one larger batch goes alone).
const BYTES_HELD_MAX: usize = 64 << 20;
/// More partitions than these make no difference.
const PARTITIONS_MAX: usize = 1_000;

/// The producer's context.
pub(super) struct Deliveries {
    pub(super) health: Health,
    /// How many messages were written and are neither acknowledged nor failed.
    messages: AtomicUsize,
    /// How many bytes were written and not handed to librdkafka.
    bytes: AtomicUsize,
    /// The partitions that messages arrived in.
    partitions: Mutex<HashSet<(String, i32)>>,
    failed: Mutex<Failed>,
    /// Less is under way than before, or something failed.
    changed: Notify,
}

#[derive(Default)]
struct Failed {
    rejected: Vec<Rejected>,
    error: Option<String>,
    /// How many messages failed besides the first.
    more: usize,
}

impl Deliveries {
    pub(super) fn new(health: Health) -> Self {
        Self {
            health,
            messages: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            partitions: Mutex::default(),
            failed: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// So many messages, of so many bytes, were written.
    pub(super) fn begin(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// So many bytes are librdkafka's now.
    pub(super) fn handed_over(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// So many messages arrived, or failed.
    pub(super) fn end(&self, messages: usize) {
        self.messages.fetch_sub(messages, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// How many partitions messages have arrived in.
    pub(super) fn partitions(&self) -> usize {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until `done`, or until something failed for good.
    async fn wait_until(&self, done: impl Fn(&Self) -> bool) -> Result<(), ConnectorError> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            self.check()?;
            if done(self) {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Waits until there is room for more.
    pub(super) async fn room(&self) -> Result<(), ConnectorError> {
        let has_room = |all: &Self| {
            all.messages.load(Ordering::Acquire) < MESSAGES_UNDER_WAY_MAX
                && all.bytes.load(Ordering::Acquire) < BYTES_HELD_MAX
        };
        self.wait_until(has_room).await
    }

    /// Waits until nothing is under way.
    pub(super) async fn all_done(&self) -> Result<(), ConnectorError> {
        self.wait_until(|all| all.messages.load(Ordering::Acquire) == 0).await
    }

    /// The first failure, if there was one.
    fn check(&self) -> Result<(), ConnectorError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match (&failed.error, failed.more) {
            (None, _) => Ok(()),
            (Some(text), 0) => Err(ConnectorError::retry(text.clone())),
            (Some(text), more) => Err(ConnectorError::retry(format!("{text} ({more} more messages failed)"))),
        }
    }

    /// Messages that the brokers will never take.
    pub(super) fn take_rejected(&self) -> Vec<Rejected> {
        std::mem::take(&mut self.failed.lock().unwrap_or_else(PoisonError::into_inner).rejected)
    }

    pub(super) fn fail(&self, text: String) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.error.is_some() {
            failed.more += 1;
        } else {
            failed.error = Some(text);
        }
        drop(failed);
        self.changed.notify_waiters();
    }

    /// A row that cannot be a message, or that no broker takes.
    pub(super) fn reject(&self, reason: String, payload: &[u8]) {
        let rejected = Rejected { reason, payload: Bytes::copy_from_slice(payload) };
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).rejected.push(rejected);
    }

    /// A message failed: the row is rejected where only this message is at fault, or the sink fails.
    pub(super) fn message_failed(&self, topic: &str, partition: i32, code: RDKafkaErrorCode, payload: &[u8]) {
        match rejection(topic, partition, code) {
            Some(reason) => self.reject(reason, payload),
            None => {
                let brokers = &self.health.identity.brokers;
                let last = self.health.last_reason();
                self.fail(match code {
                    RDKafkaErrorCode::MessageTimedOut => format!(
                        "Kafka at {brokers} did not take messages for the topic {topic} within delivery_timeout{last}"
                    ),
                    RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition => {
                        format!("Kafka at {brokers} has no topic {topic}, and does not create it; create it")
                    }
                    code => format!("Kafka at {brokers} did not take messages for the topic {topic}: {code}{last}"),
                });
            }
        }
    }
}

/// Why a message will never be taken, where that is so.
fn rejection(topic: &str, partition: i32, code: RDKafkaErrorCode) -> Option<String> {
    use RDKafkaErrorCode as Code;
    Some(match code {
        Code::MessageSizeTooLarge => format!(
            "the message is larger than the topic {topic} (max.message.bytes) or this sink (max_message_bytes) allows"
        ),
        Code::UnknownPartition => format!("the topic {topic} has no partition {partition}"),
        Code::InvalidTimestamp => format!("the message's time is outside of what the topic {topic} allows"),
        Code::InvalidRecord => {
            format!("the topic {topic} refuses the message (a compacted topic takes none without a key)")
        }
        Code::QueueFull => {
            "the message is larger than librdkafka's queue (queue.buffering.max.kbytes) allows".to_owned()
        }
        Code::InvalidTopic => format!("`{topic}` is no valid topic name"),
        _ => return None,
    })
}

impl Reports for Deliveries {
    fn failed(&self, topic: &str, partition: i32, code: RDKafkaErrorCode, payload: &[u8]) {
        self.message_failed(topic, partition, code, payload);
    }

    fn arrived(&self, topic: &str, partition: i32) {
        self.health.up();
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        if partitions.len() < PARTITIONS_MAX {
            partitions.insert((topic.to_owned(), partition));
        }
    }

    fn done(&self, messages: usize) {
        // After the failures are known: whoever waits for the last message must see them.
        self.end(messages);
    }

    fn died(&self, thread: &str) {
        self.fail(format!(
            "the thread {thread} of the Kafka sink has panicked; what was not acknowledged is written again"
        ));
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.health.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = code(&error) else { return };
        if let Reaction::GiveUp(text) = self.health.report(code, reason) {
            self.fail(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::connection::Identity;
    use super::super::native::LastWords;
    use super::*;

    fn deliveries() -> Arc<Deliveries> {
        let identity = Identity { pipeline: "p".into(), name: "k".into(), brokers: "b:9092".into() };
        Arc::new(Deliveries::new(Health::new(identity)))
    }

    #[tokio::test]
    async fn a_thread_that_panics_fails_what_is_under_way_at_once() {
        let deliveries = deliveries();
        deliveries.begin(1, 10);
        let context = deliveries.clone();
        let waiting = tokio::spawn(async move { context.all_done().await });
        let last_words = LastWords { context: deliveries.clone(), thread: "kafka-sink" };
        let thread = std::thread::spawn(move || {
            let _last_words = last_words;
            panic!("on purpose");
        });
        assert!(thread.join().is_err());
        let flushed = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("nobody waits for ever");
        let error = flushed.unwrap().unwrap_err();
        assert!(error.message.contains("the thread kafka-sink of the Kafka sink has panicked"), "{error}");
        assert!(deliveries.room().await.is_err(), "and nothing more is taken");
    }

    #[test]
    fn a_thread_that_ends_by_itself_says_nothing() {
        let deliveries = deliveries();
        drop(LastWords { context: deliveries.clone(), thread: "kafka-sink" });
        assert!(deliveries.check().is_ok());
    }
}
