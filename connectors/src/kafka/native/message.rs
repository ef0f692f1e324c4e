//! A message that was read: its parts are slices of what librdkafka holds.

use std::borrow::Cow;
use std::ptr::{NonNull, null, null_mut};

use rdkafka::bindings as sys;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Timestamp;
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr};

use super::{bytes, message_error, text};

/// A message, or an error in place of one. It is given back when this is dropped.
///
/// Only [`super::BatchConsumer`] owns any; it lends them out. Fields are read one by one, never the struct: its `err` may
/// have a value that its type does not know (see [`message_error`]).
#[repr(transparent)]
pub(in crate::kafka) struct Message(NonNull<RDKafkaMessage>);

// SAFETY: a message belongs to no thread. Nothing of it changes after it was handed out, except for its headers, which
// are parsed when they are first asked for: hence it is not Sync.
unsafe impl Send for Message {}

impl Message {
    /// The error that came in place of a message, and what librdkafka says about it.
    pub(in crate::kafka) fn error(&self) -> Option<(RDKafkaErrorCode, Cow<'_, str>)> {
        // SAFETY: the message is ours.
        let code = unsafe { message_error(self.0.as_ptr()) }?;
        // SAFETY: as above; the text is the message's, or a constant.
        let reason = unsafe { text(sys::rd_kafka_message_errstr(self.0.as_ptr())) };
        Some((code, reason))
    }

    /// Null for a tombstone.
    pub(in crate::kafka) fn payload(&self) -> Option<&[u8]> {
        let message = self.0.as_ptr();
        // SAFETY: the message is ours, and librdkafka keeps so many bytes as long as it is.
        unsafe { bytes((*message).payload, (*message).len) }
    }

    /// Of the payload.
    pub(in crate::kafka) fn len(&self) -> usize {
        // SAFETY: the message is ours.
        unsafe { (*self.0.as_ptr()).len }
    }

    pub(in crate::kafka) fn key(&self) -> Option<&[u8]> {
        let message = self.0.as_ptr();
        // SAFETY: as for the payload.
        unsafe { bytes((*message).key, (*message).key_len) }
    }

    pub(in crate::kafka) fn offset(&self) -> i64 {
        // SAFETY: the message is ours.
        unsafe { (*self.0.as_ptr()).offset }
    }

    pub(in crate::kafka) fn partition(&self) -> i32 {
        // SAFETY: the message is ours.
        unsafe { (*self.0.as_ptr()).partition }
    }

    /// True if both are of the same partition: cheaper than to compare names.
    pub(in crate::kafka) fn is_beside(&self, other: &Self) -> bool {
        let (message, other) = (self.0.as_ptr(), other.0.as_ptr());
        // SAFETY: both messages are alive; the topics' handles are only compared.
        unsafe { (*message).partition == (*other).partition && (*message).rkt == (*other).rkt }
    }

    pub(in crate::kafka) fn topic(&self) -> Cow<'_, str> {
        // SAFETY: the message is ours.
        let topic = unsafe { (*self.0.as_ptr()).rkt };
        if topic.is_null() {
            return "".into();
        }
        // SAFETY: the message keeps its topic alive, and a topic its name.
        unsafe { text(sys::rd_kafka_topic_name(topic)) }
    }

    pub(in crate::kafka) fn timestamp(&self) -> Timestamp {
        use sys::rd_kafka_timestamp_type_t as Kind;
        let mut kind = Kind::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is ours; `kind` is one of librdkafka's own values, not a broker's.
        let time = unsafe { sys::rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
        match kind {
            _ if time == -1 => Timestamp::NotAvailable,
            Kind::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => Timestamp::NotAvailable,
            Kind::RD_KAFKA_TIMESTAMP_CREATE_TIME => Timestamp::CreateTime(time),
            Kind::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => Timestamp::LogAppendTime(time),
        }
    }

    /// Calls `each` with the name and value of every header, in their order.
    pub(in crate::kafka) fn headers(&self, mut each: impl FnMut(&[u8], Option<&[u8]>)) {
        let mut headers = null_mut();
        // SAFETY: the message is ours, and no other thread has it (it is not Sync): this may parse its headers.
        let found = unsafe { sys::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) };
        if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut length) = (null(), null(), 0);
            // SAFETY: the headers are the message's, and live as long as it.
            let header =
                unsafe { sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut length) };
            if header != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            // SAFETY: a header's name ends with zero; its value has so many bytes, or is null.
            unsafe { each(std::ffi::CStr::from_ptr(name).to_bytes(), bytes(value, length)) };
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: it is ours, and its owner drops it before the client goes.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}
