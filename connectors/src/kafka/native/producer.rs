//! A producer that takes messages by the batch, and reports their fate by the batch.

use std::collections::HashMap;
use std::ffi::CString;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaRespErr, RDKafkaTopic, RDKafkaType};

use super::outgoing::{Extras, NativeHeaders, Outgoing, PARTITIONER_CHOOSES, parts};
use super::queue::Queue;

/// At most so many topics are known at a time, where rows name them.
const TOPICS_MAX: usize = 1_000;
/// The thread that takes reports is woken for each; it looks around by itself so often.
const IDLE_WAIT: Duration = Duration::from_secs(10);
/// What is still under way when the producer is dropped is given up, and reported within so long.
const PURGE_TIMEOUT: Duration = Duration::from_millis(500);
const PURGE_WAIT: Duration = Duration::from_millis(20);

/// What becomes of messages.
pub(in crate::kafka) trait Reports: ClientContext + 'static {
    /// A message that was under way will not arrive. [`Reports::done`] counts it afterwards.
    fn failed(&self, topic: &str, partition: i32, code: RDKafkaErrorCode, payload: &[u8]);

    /// Messages arrived in this partition. [`Reports::done`] counts them afterwards.
    fn arrived(&self, topic: &str, partition: i32);

    /// So many messages are no longer under way.
    fn done(&self, messages: usize);

    /// A thread that sends or reports has panicked: of messages that are under way nothing more will be heard.
    fn died(&self, thread: &str);
}

/// Tells [`Reports`] where the thread that has this panics.
pub(in crate::kafka) struct LastWords<C: Reports> {
    pub(in crate::kafka) context: Arc<C>,
    pub(in crate::kafka) thread: &'static str,
}

impl<C: Reports> Drop for LastWords<C> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.context.died(self.thread);
        }
    }
}

/// A producer, with a thread that takes its reports.
pub(in crate::kafka) struct BatchProducer<C: Reports> {
    // In this order they are given back: the client, in `shared`, goes last.
    topics: HashMap<String, Topic>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared<C>>,
}

/// What the thread needs.
struct Shared<C: Reports> {
    // Given back before the client.
    queue: Queue,
    client: Client<C>,
}

impl<C: Reports> Shared<C> {
    /// Serves what comes within `wait`, and whatever else is there.
    fn serve(&self, wait: Duration) {
        let mut event = self.queue.poll(wait);
        while let Some(one) = event {
            one.serve(&**self.client.context());
            event = self.queue.poll(Duration::ZERO);
        }
    }

    /// How many messages are in librdkafka.
    fn messages(&self) -> i32 {
        // SAFETY: the client is alive.
        unsafe { sys::rd_kafka_outq_len(self.client.native_ptr()) }
    }
}

impl<C: Reports> BatchProducer<C> {
    pub(in crate::kafka) fn new(config: &ClientConfig, context: C) -> KafkaResult<Self> {
        let native = config.create_native_config()?;
        // SAFETY: the configuration is alive, and not used by a client yet.
        unsafe { sys::rd_kafka_conf_set_events(native.ptr(), sys::RD_KAFKA_EVENT_DR | sys::RD_KAFKA_EVENT_ERROR) };
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_PRODUCER, context)?;
        // SAFETY: the client is alive, and goes after the queue.
        let queue = unsafe { Queue::main(client.native_ptr()) }
            .ok_or_else(|| KafkaError::ClientCreation("the producer has no queue".to_owned()))?;
        let shared = Arc::new(Shared { queue, client });
        let stop = Arc::new(AtomicBool::new(false));
        let (for_thread, stopped) = (shared.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("kafka-reports".to_owned())
            .spawn(move || {
                let _last_words = LastWords { context: for_thread.client.context().clone(), thread: "kafka-reports" };
                while !stopped.load(Ordering::Acquire) {
                    for_thread.serve(IDLE_WAIT);
                }
            })
            .map_err(|error| KafkaError::ClientCreation(format!("no thread for the Kafka sink: {error}")))?;
        Ok(Self { topics: HashMap::new(), stop, thread: Some(thread), shared })
    }

    pub(in crate::kafka) fn context(&self) -> &Arc<C> {
        self.shared.client.context()
    }

    /// Hands messages over, which are copied, and returns how many were taken; [`Outgoing::refused`] has the others.
    /// Without a `partition` the partitioner chooses.
    pub(in crate::kafka) fn send(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        messages: &mut Outgoing<'_>,
    ) -> Result<usize, RDKafkaErrorCode> {
        let topic = self.topic(topic)?;
        // SAFETY: the topic is this producer's, and alive.
        Ok(unsafe { messages.hand_over(topic, partition.unwrap_or(PARTITIONER_CHOOSES)) })
    }

    /// Hands over one message with what only such a one can have.
    pub(in crate::kafka) fn send_one(
        &mut self,
        topic: &str,
        partition: Option<i32>,
        (payload, key): (Option<&[u8]>, Option<&[u8]>),
        extras: Extras<'_>,
    ) -> Result<(), RDKafkaErrorCode> {
        use sys::rd_kafka_vtype_t as Tag;
        let topic = self.topic(topic)?;
        let ((payload, length), (key, key_length)) = (parts(payload), parts(key));
        let headers = NativeHeaders::new(extras.headers);
        // SAFETY: client, topic and headers are alive. Each tag is followed by the types that librdkafka documents for
        // it: a pointer, an i32, an i32, pointer and size twice, an i64, a pointer. Payload and key are copied (F_COPY).
        let result = unsafe {
            sys::rd_kafka_producev(
                self.shared.client.native_ptr(),
                Tag::RD_KAFKA_VTYPE_RKT,
                topic.as_ptr(),
                Tag::RD_KAFKA_VTYPE_PARTITION,
                partition.unwrap_or(PARTITIONER_CHOOSES),
                Tag::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                Tag::RD_KAFKA_VTYPE_VALUE,
                payload,
                length,
                Tag::RD_KAFKA_VTYPE_KEY,
                key,
                key_length,
                Tag::RD_KAFKA_VTYPE_TIMESTAMP,
                extras.timestamp.unwrap_or(0),
                Tag::RD_KAFKA_VTYPE_HEADERS,
                headers.as_ref().map_or(null_mut(), NativeHeaders::as_ptr),
                Tag::RD_KAFKA_VTYPE_END,
            )
        };
        if result != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(result.into());
        }
        if let Some(headers) = headers {
            // A message that was taken owns its headers.
            headers.give_away();
        }
        Ok(())
    }

    /// Lets librdkafka send without waiting for more, until nothing is left in it; false where `wait` is over before.
    pub(in crate::kafka) fn flush(&self, wait: Duration) -> bool {
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client is alive. With events this only waits: the other thread takes the reports.
        let result = unsafe { sys::rd_kafka_flush(self.shared.client.native_ptr(), wait) };
        result == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    fn topic(&mut self, name: &str) -> Result<NonNull<RDKafkaTopic>, RDKafkaErrorCode> {
        if let Some(topic) = self.topics.get(name) {
            return Ok(topic.0);
        }
        if self.topics.len() >= TOPICS_MAX {
            self.topics.clear();
        }
        let native_name = CString::new(name).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
        // SAFETY: the client is alive, the name is copied, and null asks for the client's own options.
        let native =
            unsafe { sys::rd_kafka_topic_new(self.shared.client.native_ptr(), native_name.as_ptr(), null_mut()) };
        let topic = Topic(NonNull::new(native).ok_or(RDKafkaErrorCode::InvalidTopic)?);
        Ok(self.topics.entry(name.to_owned()).or_insert(topic).0)
    }
}

impl<C: Reports> Drop for BatchProducer<C> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.shared.queue.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that takes Kafka's delivery reports has died");
        }
        let client = self.shared.client.native_ptr();
        // SAFETY: the client is alive. What it answers is of no use here: nobody could react.
        unsafe { sys::rd_kafka_purge(client, sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT) };
        let deadline = Instant::now() + PURGE_TIMEOUT;
        while self.shared.messages() > 0 && Instant::now() < deadline {
            self.shared.serve(PURGE_WAIT);
        }
    }
}

/// A topic of a producer. It is given back when this is dropped.
struct Topic(NonNull<RDKafkaTopic>);

// SAFETY: topics belong to no thread, and count their users by themselves.
unsafe impl Send for Topic {}
// SAFETY: as above.
unsafe impl Sync for Topic {}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: it is ours, and its producer drops it before the client.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) }
    }
}
