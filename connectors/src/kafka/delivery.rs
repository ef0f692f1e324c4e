//! What became of the messages that were handed to librdkafka: how many are under way, and which failed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tokio::sync::Notify;

use super::connection::{Health, Reaction, code};
use crate::error::ConnectorError;
use crate::sink::Rejected;

/// At most so many messages are under way; a sink that has more waits.
pub(super) const MESSAGES_UNDER_WAY_MAX: usize = 100_000;
/// At most so many bytes are under way (one larger message goes alone).
pub(super) const BYTES_UNDER_WAY_MAX: usize = 64 << 20;

/// The producer's context.
pub(super) struct Deliveries {
    pub(super) health: Health,
    messages: AtomicUsize,
    bytes: AtomicUsize,
    failed: Mutex<Failed>,
    /// Less is under way than before by a good deal, all is done, or something failed.
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
            failed: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// A message of so many bytes is about to be handed over.
    pub(super) fn begin(&self, bytes: usize) {
        self.messages.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// A message of so many bytes is no longer under way.
    pub(super) fn end(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let messages = self.messages.fetch_sub(1, Ordering::AcqRel) - 1;
        // One wake-up per half of the room, not per message.
        let crossed = before > BYTES_UNDER_WAY_MAX / 2 && before - bytes <= BYTES_UNDER_WAY_MAX / 2;
        if messages == 0 || messages == MESSAGES_UNDER_WAY_MAX / 2 || crossed {
            self.changed.notify_waiters();
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.messages.load(Ordering::Acquire) >= MESSAGES_UNDER_WAY_MAX
            || self.bytes.load(Ordering::Acquire) >= BYTES_UNDER_WAY_MAX
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
        if !self.is_full() {
            return self.check();
        }
        let half = |all: &Self| {
            all.messages.load(Ordering::Acquire) <= MESSAGES_UNDER_WAY_MAX / 2
                && all.bytes.load(Ordering::Acquire) <= BYTES_UNDER_WAY_MAX / 2
        };
        self.wait_until(half).await
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

    /// A message failed: the row is rejected where only this message is at fault, or the sink fails.
    pub(super) fn message_failed(&self, topic: &str, partition: i32, code: RDKafkaErrorCode, payload: &[u8]) {
        match rejection(topic, partition, code) {
            Some(reason) => {
                let rejected = Rejected { reason, payload: Bytes::copy_from_slice(payload) };
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).rejected.push(rejected);
            }
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
        Code::InvalidTopic => format!("`{topic}` is no valid topic name"),
        _ => return None,
    })
}

impl ProducerContext for Deliveries {
    /// The number of bytes that were counted for the message.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, bytes: usize) {
        match result {
            Ok(_) => self.health.up(),
            Err((error, message)) => {
                let code = code(error).unwrap_or(RDKafkaErrorCode::Unknown);
                let payload = message.payload().unwrap_or_default();
                self.message_failed(message.topic(), message.partition(), code, payload);
            }
        }
        // After the failure is known: whoever waits for the last message must see it.
        self.end(bytes);
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
