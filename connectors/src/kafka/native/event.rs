//! An event of a producer's queue.

use std::marker::PhantomData;
use std::ptr::{NonNull, null};

use rdkafka::bindings as sys;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::{RDKafkaEvent, RDKafkaMessage};

use super::producer::Reports;
use super::queue::Queue;
use super::{bytes, message_error, text};

/// An event. It, and the messages that it reports, are given back when this is dropped.
pub(super) struct Event<'a> {
    native: NonNull<RDKafkaEvent>,
    queue: PhantomData<&'a Queue>,
}

impl Event<'_> {
    /// # Safety
    ///
    /// `native` was handed out by librdkafka and not given back, and its client is alive for as long as what is returned.
    pub(super) unsafe fn new(native: NonNull<RDKafkaEvent>) -> Self {
        Self { native, queue: PhantomData }
    }

    /// Tells `context` what happened.
    pub(super) fn serve<C: Reports>(self, context: &C) {
        // SAFETY: the event is ours until it is dropped.
        match unsafe { sys::rd_kafka_event_type(self.native.as_ptr()) } {
            sys::RD_KAFKA_EVENT_DR => self.deliveries(context),
            sys::RD_KAFKA_EVENT_LOG => self.log(context),
            sys::RD_KAFKA_EVENT_ERROR => self.error(context),
            kind => tracing::debug!(kind, "an event that nobody asked librdkafka for"),
        }
    }

    /// The messages of one answer of a broker, or those that were given up together. They have failed all of them, or
    /// none has: of those that arrived nothing is looked at but their number.
    fn deliveries<C: Reports>(self, context: &C) {
        // SAFETY: the event is ours. It is asked for their number first, because taking messages out lessens it.
        let messages = unsafe { sys::rd_kafka_event_message_count(self.native.as_ptr()) };
        while let Some(message) = self.next_message() {
            // SAFETY: the message lives as long as its event, and its topic and bytes as long as it. Fields are read one by
            // one (see `message_error`).
            let (code, topic, partition, payload) = unsafe {
                let topic = text(sys::rd_kafka_topic_name((*message).rkt));
                let payload = bytes((*message).payload, (*message).len).unwrap_or_default();
                (message_error(message), topic, (*message).partition, payload)
            };
            let Some(code) = code else {
                context.arrived(&topic, partition);
                break;
            };
            context.failed(&topic, partition, code, payload);
        }
        // The messages are given back first: whoever waits for less to be under way finds room in librdkafka's queue.
        drop(self);
        context.done(messages);
    }

    fn next_message(&self) -> Option<*const RDKafkaMessage> {
        // SAFETY: the event is ours, and a delivery report.
        let message = unsafe { sys::rd_kafka_event_message_next(self.native.as_ptr()) };
        (!message.is_null()).then_some(message)
    }

    fn log<C: ClientContext>(&self, context: &C) {
        let (mut facility, mut line, mut level) = (null(), null(), 0);
        // SAFETY: the event is ours, and the texts are its own.
        let (known, facility, line) = unsafe {
            let event = self.native.as_ptr();
            let known = sys::rd_kafka_event_log(event, &raw mut facility, &raw mut line, &raw mut level);
            (known, text(facility), text(line))
        };
        if known == 0 {
            context.log(log_level(level), facility.trim(), line.trim());
        }
    }

    fn error<C: ClientContext>(&self, context: &C) {
        // SAFETY: the event is ours. Errors outside of any request have codes of librdkafka's own.
        let (code, reason) = unsafe {
            let event = self.native.as_ptr();
            (sys::rd_kafka_event_error(event), text(sys::rd_kafka_event_error_string(event)))
        };
        context.error(KafkaError::Global(code.into()), reason.trim());
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: it is ours, used no more, and its client is alive.
        unsafe { sys::rd_kafka_event_destroy(self.native.as_ptr()) }
    }
}

/// As syslog counts them.
fn log_level(level: i32) -> RDKafkaLogLevel {
    match level {
        0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}
