//! Messages to be sent, as librdkafka takes them.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

use rdkafka::bindings as sys;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::{RDKafkaHeaders, RDKafkaMessage, RDKafkaRespErr};

use super::message_error;

/// RD_KAFKA_PARTITION_UA, which the bindings lack.
pub(super) const PARTITIONER_CHOOSES: i32 = -1;

/// Messages for one topic, to be handed over together. What they point to is copied when they are.
pub(in crate::kafka) struct Outgoing<'a> {
    messages: Vec<RDKafkaMessage>,
    data: PhantomData<&'a [u8]>,
}

impl<'a> Outgoing<'a> {
    pub(in crate::kafka) fn with_capacity(messages: usize) -> Self {
        Self { messages: Vec::with_capacity(messages), data: PhantomData }
    }

    /// Adds a message; without a payload it is a tombstone.
    pub(in crate::kafka) fn push(&mut self, payload: Option<&'a [u8]>, key: Option<&'a [u8]>) {
        let ((payload, len), (key, key_len)) = (parts(payload), parts(key));
        self.messages.push(RDKafkaMessage {
            err: RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
            rkt: null_mut(),
            partition: PARTITIONER_CHOOSES,
            payload,
            len,
            key,
            key_len,
            offset: 0,
            _private: null_mut(),
        });
    }

    pub(in crate::kafka) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(in crate::kafka) fn clear(&mut self) {
        self.messages.clear();
    }

    /// Those that librdkafka did not take, by their place, and why. For messages that were handed over.
    pub(in crate::kafka) fn refused(&self) -> impl Iterator<Item = (usize, RDKafkaErrorCode)> {
        self.messages.iter().enumerate().filter_map(|(index, message)| {
            // SAFETY: the message is initialised, by us.
            unsafe { message_error(message) }.map(|code| (index, code))
        })
    }

    /// Hands all of them to librdkafka and returns how many it took.
    ///
    /// # Safety
    ///
    /// `topic` is alive, and a producer's.
    pub(super) unsafe fn hand_over(&mut self, topic: NonNull<sys::rd_kafka_topic_t>, partition: i32) -> usize {
        let count = i32::try_from(self.messages.len()).unwrap_or(i32::MAX);
        // SAFETY: the topic is alive. Of each message librdkafka reads what `push` filled, copies the bytes (F_COPY), which
        // are borrowed for as long as `self` lives, and writes `err`.
        let taken = unsafe {
            let messages = self.messages.as_mut_ptr();
            sys::rd_kafka_produce_batch(topic.as_ptr(), partition, sys::RD_KAFKA_MSG_F_COPY, messages, count)
        };
        usize::try_from(taken).unwrap_or(0)
    }
}

/// Pointer and length; null where there is nothing.
pub(super) fn parts(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

/// What only a message that is sent by itself can have.
#[derive(Debug, Clone, Copy)]
pub(in crate::kafka) struct Extras<'a> {
    /// Milliseconds since 1970; now where it is missing.
    pub(in crate::kafka) timestamp: Option<i64>,
    /// Names and values.
    pub(in crate::kafka) headers: &'a [(&'a str, &'a str)],
}

/// Headers of librdkafka.
pub(super) struct NativeHeaders(NonNull<RDKafkaHeaders>);

impl NativeHeaders {
    /// None where there are none.
    pub(super) fn new(headers: &[(&str, &str)]) -> Option<Self> {
        if headers.is_empty() {
            return None;
        }
        // SAFETY: this only allocates.
        let all = Self(NonNull::new(unsafe { sys::rd_kafka_headers_new(headers.len()) })?);
        for (name, value) in headers {
            let (value, length) = (value.as_ptr().cast(), value.len().cast_signed());
            // SAFETY: the headers are ours; name and value are copied, and as long as said.
            let added = unsafe {
                let name = (name.as_ptr().cast(), name.len().cast_signed());
                sys::rd_kafka_header_add(all.0.as_ptr(), name.0, name.1, value, length)
            };
            debug_assert_eq!(
                added,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
                "only headers that are lent out refuse"
            );
        }
        Some(all)
    }

    pub(super) fn as_ptr(&self) -> *mut RDKafkaHeaders {
        self.0.as_ptr()
    }

    /// Whoever has the pointer owns them now.
    pub(super) fn give_away(self) {
        let _theirs = std::mem::ManuallyDrop::new(self);
    }
}

impl Drop for NativeHeaders {
    fn drop(&mut self) {
        // SAFETY: they are ours, and used no more.
        unsafe { sys::rd_kafka_headers_destroy(self.0.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_header_there_are_no_headers() {
        assert!(NativeHeaders::new(&[]).is_none());
        assert!(NativeHeaders::new(&[("app", "")]).is_some());
    }
}
