//! Messages that were read and are not in the ingest log yet, in batches of what one append takes.

use std::collections::VecDeque;

use super::metadata;
use super::wire::Message;
use crate::ingest::IngestBatch;

/// At most so many bytes wait for the ingest log.
const WAITING_BYTES_MAX: u64 = 64 << 20;
/// The first batch has room for so much; each further one for as much as the one before had.
const BATCH_BYTES: usize = 4 << 10;

/// Messages for one append, and what to acknowledge once they are durable.
pub(super) struct Batch {
    pub(super) messages: IngestBatch,
    pub(super) packet_ids: Vec<u16>,
    /// How many came, those that were left out among them.
    came: usize,
}

/// See the module's documentation.
pub(super) struct Inbox {
    /// None is empty; the last one is being filled.
    batches: VecDeque<Batch>,
    batch_bytes_max: u64,
    messages: usize,
    messages_max: usize,
    bytes: u64,
    last_bytes: usize,
}

impl Inbox {
    /// A batch is closed when it has `batch_bytes_max`, a last message not counted.
    pub(super) fn new(messages_max: usize, batch_bytes_max: u64) -> Self {
        Self { batches: VecDeque::new(), batch_bytes_max, messages: 0, messages_max, bytes: 0, last_bytes: BATCH_BYTES }
    }

    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.messages < self.messages_max && self.bytes < WAITING_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Takes a message. One that is not `wanted` is acknowledged when its turn comes, and left out.
    pub(super) fn push(&mut self, message: &Message, topic: &str, wanted: bool, received_at: i64) {
        if self.batches.back().is_none_or(|batch| batch.messages.bytes() >= self.batch_bytes_max) {
            let messages = IngestBatch::with_capacity(self.last_bytes);
            self.bytes += messages.bytes();
            self.batches.push_back(Batch { messages, packet_ids: Vec::new(), came: 0 });
        }
        let Some(batch) = self.batches.back_mut() else { return };
        batch.came += 1;
        self.messages += 1;
        if message.packet_id != 0 {
            batch.packet_ids.push(message.packet_id);
        }
        if wanted {
            let before = batch.messages.bytes();
            metadata::push(&mut batch.messages, message, topic, received_at);
            self.bytes += batch.messages.bytes() - before;
        }
    }

    /// The oldest batch.
    pub(super) fn pop(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.messages -= batch.came;
        self.bytes -= batch.messages.bytes();
        self.last_bytes = batch.messages.bytes() as usize;
        Some(batch)
    }
}
