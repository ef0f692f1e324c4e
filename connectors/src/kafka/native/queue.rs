//! A queue of librdkafka, and the one that all partitions of a consumer share.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::types::{RDKafka, RDKafkaQueue};

use super::event::Event;
use super::message::Message;

/// A queue of librdkafka. It is given back when this is dropped.
pub(super) struct Queue {
    native: NonNull<RDKafkaQueue>,
    client: *mut RDKafka,
}

// SAFETY: a queue has its own lock inside and belongs to no thread; `client` is only passed to functions of librdkafka
// that any thread may call.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// A new queue of `client`, to which nothing comes yet.
    ///
    /// # Safety
    ///
    /// `client` is alive, and stays so for longer than what is returned.
    pub(super) unsafe fn new(client: *mut RDKafka) -> Option<Self> {
        // SAFETY: the client is alive.
        let native = NonNull::new(unsafe { sys::rd_kafka_queue_new(client) })?;
        Some(Self { native, client })
    }

    /// The queue of a consumer's events: rebalances, errors, logs, statistics.
    ///
    /// # Safety
    ///
    /// As for [`Queue::new`].
    pub(super) unsafe fn of_consumer(client: *mut RDKafka) -> Option<Self> {
        // SAFETY: the client is alive; null (which becomes none) says that it is no consumer in a group.
        let native = NonNull::new(unsafe { sys::rd_kafka_queue_get_consumer(client) })?;
        Some(Self { native, client })
    }

    /// The queue of a producer's events: delivery reports, errors, logs.
    ///
    /// # Safety
    ///
    /// As for [`Queue::new`].
    pub(super) unsafe fn main(client: *mut RDKafka) -> Option<Self> {
        // SAFETY: the client is alive.
        let native = NonNull::new(unsafe { sys::rd_kafka_queue_get_main(client) })?;
        Some(Self { native, client })
    }

    /// Lets whoever waits for this queue return; where nobody does, the next wait returns at once.
    pub(super) fn wake(&self) {
        // SAFETY: the queue is ours until it is dropped.
        unsafe { sys::rd_kafka_queue_yield(self.native.as_ptr()) }
    }

    /// True if nothing is waiting in it.
    pub(super) fn is_empty(&self) -> bool {
        // SAFETY: as above.
        unsafe { sys::rd_kafka_queue_length(self.native.as_ptr()) == 0 }
    }

    /// The next event; none where the time has run out, or somebody called [`Queue::wake`].
    pub(super) fn poll(&self, wait: Duration) -> Option<Event<'_>> {
        // SAFETY: as above. What it returns is ours, and Event gives it back.
        let event = NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.native.as_ptr(), milliseconds(wait)) })?;
        // SAFETY: it was given to us just now, and borrows this queue, so that the client stays alive.
        Some(unsafe { Event::new(event) })
    }

    /// Adds messages to `messages` up to its capacity, and returns how many: what is there or, where nothing is, what
    /// comes within `wait` (then the call returns only with `messages` full, or because of [`Queue::wake`]).
    ///
    /// # Safety
    ///
    /// The messages are dropped before the client goes.
    pub(super) unsafe fn take(&self, messages: &mut Vec<Message>, wait: Duration) -> usize {
        let room = messages.spare_capacity_mut();
        // SAFETY: the queue is ours. Message is a pointer that is not null, and librdkafka writes at most `room.len()` of
        // them; it reads none.
        let taken = unsafe {
            let (start, length) = (room.as_mut_ptr().cast(), room.len());
            sys::rd_kafka_consume_batch_queue(self.native.as_ptr(), milliseconds(wait), start, length)
        };
        let taken = usize::try_from(taken).unwrap_or(0);
        // SAFETY: so many were written, into the capacity behind the length.
        unsafe { messages.set_len(messages.len() + taken) };
        taken
    }

    /// Lets the messages of a partition come to this queue from now on.
    fn lead(&self, topic: &str, partition: i32) -> bool {
        let Ok(topic) = CString::new(topic) else { return false };
        // SAFETY: the client outlives this queue, and the name is copied.
        let source = unsafe { sys::rd_kafka_queue_get_partition(self.client, topic.as_ptr(), partition) };
        if source.is_null() {
            return false;
        }
        // SAFETY: both queues are alive and of the same client. The partition's queue keeps this one alive inside of
        // librdkafka by itself, so either may be given back first; the former is, here.
        unsafe {
            sys::rd_kafka_queue_forward(source, self.native.as_ptr());
            sys::rd_kafka_queue_destroy(source);
        }
        true
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: it is ours, and used no more. What is still in it is given back with it.
        unsafe { sys::rd_kafka_queue_destroy(self.native.as_ptr()) }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

/// As librdkafka wants it.
fn milliseconds(wait: Duration) -> i32 {
    i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
}

/// The queue that the messages of all partitions come to, for those who wake its reader or lead partitions to it. It is
/// empty while there is no consumer.
#[derive(Debug, Default)]
pub(in crate::kafka) struct Inbox {
    queue: Mutex<Option<Arc<Queue>>>,
}

impl Inbox {
    /// Lets the reader look around: it stops waiting for messages, or does not begin.
    pub(in crate::kafka) fn wake(&self) {
        // Under the lock: whoever takes the queue out of here owns the last of it.
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            queue.wake();
        }
    }

    /// Lets the messages of a partition come here. To be called before the partition is assigned (each time, because its
    /// end takes this back), so that none comes by the way of events; false where that is not possible.
    pub(in crate::kafka) fn lead(&self, topic: &str, partition: i32) -> bool {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.as_ref().is_some_and(|queue| queue.lead(topic, partition))
    }

    pub(super) fn set(&self, queue: Option<Arc<Queue>>) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = queue;
    }
}
