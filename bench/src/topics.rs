//! Kafka topics: filled before a run, counted while it goes on, read when it is over.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::failure::{Context, Failure, Result, failed};
use crate::messages::{Expectation, Messages};
use crate::progress::Progress;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// A producer with one setting for throughput and one for latency.
pub(crate) fn producer(brokers: &str, linger: Duration) -> Result<BaseProducer> {
    let producer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", linger.as_millis().to_string())
        .set("queue.buffering.max.messages", "500000")
        .set("socket.nagle.disable", "true")
        .create()?;
    Ok(producer)
}

/// Hands a message over, waiting where the producer's queue is full.
pub(crate) fn send(producer: &BaseProducer, topic: &str, key: &str, payload: &[u8]) -> Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(payload);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(5));
                record = back;
            }
            Err((error, _)) => return Err(Failure::from(error)).context(|| format!("cannot produce to {topic}")),
        }
    }
}

/// Writes `count` messages to `topic` and waits until the broker has them; what must come of them.
pub(crate) fn fill(brokers: &str, topic: &str, count: u64, progress: &Progress) -> Result<Expectation> {
    let producer = producer(brokers, Duration::from_millis(50))?;
    let (mut messages, mut expectation, mut json) = (Messages::new(), Expectation::default(), Vec::with_capacity(256));
    for number in 0..count {
        json.clear();
        let message = messages.write_next(&mut json);
        expectation.add(&message);
        send(&producer, topic, &message.key(), &json)?;
        if number % 1_000 == 0 {
            producer.poll(Duration::ZERO);
            progress.show(|| format!("writing messages to Kafka: {number} of {count}"));
        }
    }
    producer.flush(FLUSH_TIMEOUT).context(|| "the broker does not take the messages".to_owned())?;
    let there = Counter::new(brokers, topic)?.rows()?;
    if there != count {
        return failed(format!("{topic} holds {there} messages and not {count}"));
    }
    Ok(expectation)
}

/// Counts what is in partition 0 of a topic.
pub(crate) struct Counter {
    client: BaseConsumer,
    topic: String,
}

impl Counter {
    pub(crate) fn new(brokers: &str, topic: &str) -> Result<Self> {
        Ok(Self { client: client(brokers)?, topic: topic.to_owned() })
    }

    pub(crate) fn rows(&self) -> Result<u64> {
        let (low, high) = self
            .client
            .fetch_watermarks(&self.topic, 0, CALL_TIMEOUT)
            .context(|| format!("cannot ask for the end of {}", self.topic))?;
        Ok((high - low).unsigned_abs())
    }
}

fn client(brokers: &str) -> Result<BaseConsumer> {
    let client = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "millstream-bench")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "5")
        .set("socket.nagle.disable", "true")
        .create()?;
    Ok(client)
}

/// Reads partition 0 of a topic.
pub(crate) struct Reader {
    client: BaseConsumer,
}

impl Reader {
    /// From the first message, or from what comes from now on.
    pub(crate) fn new(brokers: &str, topic: &str, from_now: bool) -> Result<Self> {
        let client = client(brokers)?;
        let offset = if from_now {
            Offset::Offset(client.fetch_watermarks(topic, 0, CALL_TIMEOUT)?.1)
        } else {
            Offset::Beginning
        };
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, offset)?;
        client.assign(&assignment)?;
        Ok(Self { client })
    }

    /// Hands the next message's value to `take`; false where none came in time.
    pub(crate) fn next(&self, timeout: Duration, mut take: impl FnMut(&[u8])) -> Result<bool> {
        match self.client.poll(timeout) {
            Some(message) => {
                take(message?.payload().unwrap_or_default());
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Hands the values of the next `count` messages to `take`.
    pub(crate) fn read(&self, count: u64, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut last = Instant::now();
        let (mut read, mut outcome) = (0, Ok(()));
        while read < count {
            if self.next(Duration::from_millis(100), |value| outcome = take(value))? {
                std::mem::replace(&mut outcome, Ok(()))?;
                (read, last) = (read + 1, Instant::now());
            } else if last.elapsed() > CALL_TIMEOUT {
                return failed(format!("only {read} of {count} rows could be read back"));
            }
        }
        Ok(())
    }
}
