//! What goes into the ingest log: messages with all their metadata, and what can go wrong with an append.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;

/// A message for the ingest log.
#[derive(Debug, Clone, PartialEq)]
pub struct IngestMessage {
    /// Its bytes; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// All metadata fields that the connector has for it, by name: not only those chosen now, so that a reload that
    /// chooses others finds them in the log.
    pub metadata: Vec<(&'static str, MetadataValue)>,
}

impl IngestMessage {
    /// An upper bound of the bytes it takes in the log.
    pub fn bytes_max(&self) -> u64 {
        let field = |(name, value): &(&'static str, MetadataValue)| name.len() + 2 * VARINT_BYTES_MAX + value.bytes();
        let payload = self.payload.as_ref().map_or(0, Bytes::len);
        (2 * VARINT_BYTES_MAX + payload + self.metadata.iter().map(field).sum::<usize>()) as u64
    }
}

/// A number takes at most so many bytes in the log.
const VARINT_BYTES_MAX: usize = 10;

/// The value of a metadata field.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataValue {
    /// Not there.
    Null,
    /// A text.
    Text(Arc<str>),
    /// A whole number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
    /// Microseconds since 1970 in UTC.
    Timestamp(i64),
    /// Bytes.
    Bytes(Bytes),
    /// Keys and values in their order; a key may come more than once (headers, user properties).
    Pairs(Arc<[(String, String)]>),
}

/// The value of a metadata field, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FieldRef<'a> {
    /// A text.
    Text(&'a str),
    /// A whole number.
    Int(i64),
    /// Yes or no.
    Bool(bool),
    /// Microseconds since 1970 in UTC.
    Timestamp(i64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Keys and values in their order; a key may come more than once (headers, user properties).
    Pairs(&'a [(String, String)]),
}

impl MetadataValue {
    /// `None` where it is null.
    pub(super) fn field(&self) -> Option<FieldRef<'_>> {
        Some(match self {
            Self::Null => return None,
            Self::Text(text) => FieldRef::Text(text),
            Self::Int(n) => FieldRef::Int(*n),
            Self::Bool(yes) => FieldRef::Bool(*yes),
            Self::Timestamp(micros) => FieldRef::Timestamp(*micros),
            Self::Bytes(bytes) => FieldRef::Bytes(bytes),
            Self::Pairs(pairs) => FieldRef::Pairs(pairs),
        })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 1,
            Self::Int(_) | Self::Timestamp(_) => VARINT_BYTES_MAX,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Pairs(pairs) => pairs.iter().map(|(key, value)| key.len() + value.len() + 2 * VARINT_BYTES_MAX).sum(),
        }
    }
}

impl From<&str> for MetadataValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for MetadataValue {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Vec<(String, String)>> for MetadataValue {
    fn from(pairs: Vec<(String, String)>) -> Self {
        Self::Pairs(pairs.into())
    }
}

impl<T: Into<MetadataValue>> From<Option<T>> for MetadataValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// Why an append was not taken, or is not durable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// The log has reached `max_bytes` or its disk is full. Wait for [`super::IngestWriter::room`], or tell the client
    /// to come back.
    #[error("the ingest log is full")]
    Full,
    /// The append can never fit.
    #[error("{bytes} bytes are more than the ingest log takes at once ({max} bytes); raise ingest.max_bytes")]
    TooLarge {
        /// The bytes of the append.
        bytes: u64,
        /// The most that an append may have.
        max: u64,
    },
    /// Writing failed, and the log takes nothing more until the daemon is started again.
    #[error("the ingest log has failed for good: {0}")]
    Failed(Arc<str>),
    /// The log was closed before the messages were written.
    #[error("the ingest log was closed")]
    Closed,
}

/// Resolves when the messages of an append are on disk (or can never be).
#[derive(Debug)]
pub struct Durable(pub(super) DurableState);

#[derive(Debug)]
pub(super) enum DurableState {
    /// Nothing to wait for.
    Ready,
    Waiting(oneshot::Receiver<Result<(), IngestError>>),
}

impl Future for Durable {
    type Output = Result<(), IngestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            DurableState::Ready => Poll::Ready(Ok(())),
            DurableState::Waiting(receiver) => {
                Pin::new(receiver).poll(context).map(|answer| answer.unwrap_or(Err(IngestError::Closed)))
            }
        }
    }
}
