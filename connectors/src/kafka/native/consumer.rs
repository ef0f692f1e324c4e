//! A consumer that hands out messages by the batch.
//!
//! rdkafka's `BaseConsumer` takes one message at a time, because messages and events come by one queue. Here the messages
//! of all partitions are led to a queue of their own, and its events are left to the `BaseConsumer`.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};

use super::message::Message;
use super::queue::{Inbox, Queue};

/// A consumer in a group, with the messages that were taken and not looked at yet.
///
/// The context leads every partition that it assigns to the [`Inbox`] first.
pub(in crate::kafka) struct BatchConsumer<C: ConsumerContext> {
    // In this order they are given back: the client goes last.
    messages: Vec<Message>,
    queue: Arc<Queue>,
    events: Queue,
    inbox: Arc<Inbox>,
    consumer: BaseConsumer<C>,
}

/// What became of an event.
#[derive(Debug)]
pub(in crate::kafka) enum Served {
    /// The context had it.
    ByContext,
    /// The context had it; it is an error.
    Error(KafkaError),
    /// A message, of a partition that was not led to the inbox. It is lost.
    Stray,
}

impl<C: ConsumerContext> BatchConsumer<C> {
    /// `inbox` is filled here, and emptied when this is dropped.
    pub(in crate::kafka) fn new(mut consumer: BaseConsumer<C>, inbox: Arc<Inbox>) -> KafkaResult<Self> {
        let client = consumer.client().native_ptr();
        // SAFETY: `consumer` owns the client. The queues go before it: those in the struct by the order of its fields,
        // the others because `drop` takes them back from the inbox and the callback.
        let queues = unsafe { (Queue::new(client), Queue::of_consumer(client)) };
        let (Some(queue), Some(events)) = queues else {
            return Err(KafkaError::ClientCreation("the consumer has no queue".to_owned()));
        };
        let queue = Arc::new(queue);
        inbox.set(Some(queue.clone()));
        let to_wake = queue.clone();
        consumer.set_nonempty_callback(move || to_wake.wake());
        Ok(Self { messages: Vec::new(), queue, events, inbox, consumer })
    }

    /// The consumer itself. It must not be polled: [`BatchConsumer::serve`] does that.
    pub(in crate::kafka) fn base(&self) -> &BaseConsumer<C> {
        &self.consumer
    }

    /// Lets the context have the next event that waits; none where there is none.
    ///
    /// All of them must be served before [`BatchConsumer::fetch`] waits: only the first of several wakes it.
    pub(in crate::kafka) fn serve(&mut self) -> Option<Served> {
        if self.events.is_empty() {
            return None;
        }
        Some(match self.consumer.poll(Duration::ZERO) {
            None => Served::ByContext,
            Some(Err(error)) => Served::Error(error),
            Some(Ok(_)) => Served::Stray,
        })
    }

    /// Takes up to `max` messages if none are left, and returns how many there are now. Where nothing is there it waits
    /// for the first one, for an event, for [`Inbox::wake`] or for the time to run out.
    pub(in crate::kafka) fn fetch(&mut self, max: usize, wait: Duration) -> usize {
        if !self.messages.is_empty() {
            return self.messages.len();
        }
        self.messages.reserve_exact(max);
        // SAFETY: messages are dropped with `self` at the latest, and before the consumer.
        unsafe {
            if self.queue.take(&mut self.messages, Duration::ZERO) == 0 && !wait.is_zero() {
                // With room for more it would wait until that is filled, too.
                let mut first = Vec::with_capacity(1);
                self.queue.take(&mut first, wait);
                self.messages.append(&mut first);
                if !self.messages.is_empty() {
                    self.queue.take(&mut self.messages, Duration::ZERO);
                }
            }
        }
        self.messages.len()
    }

    /// The messages that were taken, and not discarded yet.
    pub(in crate::kafka) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Gives the first `count` messages back.
    pub(in crate::kafka) fn discard(&mut self, count: usize) {
        self.messages.drain(..count.min(self.messages.len()));
    }

    /// Gives those messages back that `keep` does not want.
    pub(in crate::kafka) fn retain(&mut self, keep: impl FnMut(&Message) -> bool) {
        self.messages.retain(keep);
    }
}

impl<C: ConsumerContext> Drop for BatchConsumer<C> {
    fn drop(&mut self) {
        // Afterwards nobody but `self` has the queue. Whoever is just waking it has a lock that these calls wait for.
        self.consumer.set_nonempty_callback(|| {});
        self.inbox.set(None);
    }
}
