//! Messages for one append, written as the log keeps them while they come.

use std::time::Instant;

use bytes::Bytes;

use super::codec::{GROUP_HEADER_BYTES, GroupEncoder};
use super::message::{FieldRef, IngestMessage};
use super::segment::FRAME_HEADER_BYTES;

/// Messages for one append that are already in the log's format: the bytes of a message are copied once, from where
/// they were read, and nothing is allocated for it.
///
/// Such an append is a commit of its own, so it pays for sources that gather many messages themselves. The time since
/// it was begun counts as waiting for the commit interval.
#[derive(Debug)]
pub struct IngestBatch {
    frame: Vec<u8>,
    encoder: GroupEncoder,
    since: Instant,
}

impl IngestBatch {
    /// An empty batch with room for about so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut frame = Vec::with_capacity(bytes.max(FRAME_HEADER_BYTES + GROUP_HEADER_BYTES));
        frame.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        let encoder = GroupEncoder::start(&mut frame);
        Self { frame, encoder, since: Instant::now() }
    }

    /// Adds a message: its payload (`None` is a tombstone) and all metadata fields that the connector has for it (see
    /// [`super::IngestMessage::metadata`]). A field that is null is left out.
    pub fn push(&mut self, payload: Option<&[u8]>, fields: &[(&'static str, FieldRef<'_>)]) {
        self.encoder.payload(payload, fields.len(), &mut self.frame);
        for (name, value) in fields {
            self.encoder.field(name, *value, &mut self.frame);
        }
    }

    /// How many messages it has.
    pub fn messages(&self) -> u32 {
        self.encoder.count()
    }

    /// The bytes it takes in the log.
    pub fn bytes(&self) -> u64 {
        self.frame.len() as u64
    }
}

/// What is appended.
pub(super) enum Content {
    Messages(Vec<IngestMessage>),
    Batch(IngestBatch),
}

impl Content {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Messages(messages) => messages.is_empty(),
            Self::Batch(batch) => batch.messages() == 0,
        }
    }

    /// An upper bound of the bytes it takes in the log.
    pub(super) fn bytes_max(&self) -> u64 {
        match self {
            Self::Messages(messages) => messages.iter().map(IngestMessage::bytes_max).sum(),
            Self::Batch(batch) => batch.bytes(),
        }
    }

    /// Since when it waits for its commit.
    pub(super) fn since(&self) -> Instant {
        match self {
            Self::Messages(_) => Instant::now(),
            Self::Batch(batch) => batch.since,
        }
    }

    /// Whether others may be in a frame with it: the names in a batch are counted from its own start.
    pub(super) fn can_be_joined(&self) -> bool {
        matches!(self, Self::Messages(_))
    }
}

/// A frame (not yet sealed) with all messages of `contents`, the first of which gets the number `first`; and how many
/// they are. More than one only where [`Content::can_be_joined`].
pub(super) fn encode(contents: Vec<Content>, capacity: usize, first: u64) -> (Vec<u8>, u32) {
    let mut joined: Option<IngestBatch> = None;
    for content in contents {
        match content {
            Content::Batch(batch) => joined = Some(batch),
            Content::Messages(messages) => {
                let IngestBatch { frame, encoder, .. } =
                    joined.get_or_insert_with(|| IngestBatch::with_capacity(capacity));
                messages.iter().for_each(|message| encoder.message(message, frame));
            }
        }
    }
    let IngestBatch { mut frame, encoder, .. } = joined.unwrap_or_else(|| IngestBatch::with_capacity(capacity));
    let count = encoder.finish(first, FRAME_HEADER_BYTES, &mut frame);
    (frame, count)
}

/// The body of a frame.
pub(super) fn body(frame: Vec<u8>) -> Bytes {
    Bytes::from(frame).slice(FRAME_HEADER_BYTES..)
}
