//! Batches of librdkafka, which rdkafka does not offer: messages are taken and given many at a time.
//!
//! rdkafka stays what clients, groups, offsets and errors go through; here is only what runs per message. This is the
//! largest part of the connectors' unsafe code; the rest is one call each in `mqtt/wire/gate.rs` and
//! `format/json/string.rs`. `./dev memcheck` runs it under valgrind, against librdkafka's mock cluster.
//!
//! **Invariant:** nothing here outlives the client of librdkafka that it came from: each type owns that client, or is
//! owned or borrowed by what does, and gives everything back before the client goes.
#![expect(unsafe_code, reason = "calls librdkafka; each call argues for itself in a SAFETY comment")]

mod consumer;
mod event;
mod message;
mod outgoing;
mod producer;
mod queue;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::{RDKafkaMessage, RDKafkaRespErr};

pub(super) use self::consumer::{BatchConsumer, Served};
pub(super) use self::message::Message;
pub(super) use self::outgoing::{Extras, Outgoing};
pub(super) use self::producer::{BatchProducer, LastWords, Reports};
pub(super) use self::queue::Inbox;

/// The error of a message, if it has one.
///
/// # Safety
///
/// `message` points to a message that librdkafka has initialised.
unsafe fn message_error(message: *const RDKafkaMessage) -> Option<RDKafkaErrorCode> {
    // SAFETY: the field is there (see above). It is read as a number: librdkafka passes on the codes of brokers, which
    // may be newer than our list of them.
    let code = unsafe { (&raw const (*message).err).cast::<i32>().read() };
    (code != 0).then(|| RDKafkaRespErr::try_from(code).map_or(RDKafkaErrorCode::Unknown, RDKafkaErrorCode::from))
}

/// The bytes at `start`, which are missing where it is null.
///
/// # Safety
///
/// From `start` on, `length` bytes are initialised and unchanged for `'a`.
unsafe fn bytes<'a>(start: *const std::ffi::c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: not null, and the rest is the caller's promise.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
}

/// The text at `start`; empty where it is null, and with replacement characters where it is not UTF-8.
///
/// # Safety
///
/// `start` is null, or a text that ends with zero and is unchanged for `'a`.
unsafe fn text<'a>(start: *const std::ffi::c_char) -> std::borrow::Cow<'a, str> {
    if start.is_null() {
        return "".into();
    }
    // SAFETY: the caller's promise.
    unsafe { std::ffi::CStr::from_ptr(start) }.to_string_lossy()
}
