//! Producers that go on in the background until a test stops them, and then say what was acknowledged.
//!
//! Every message is `{"id": n, "k": "key<n % keys>", "v": n % 1000, "ts": …}`, n from 0 without a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::services::Mosquitto;

/// All that was sent arrives at the broker within so long after the stop.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// A broker that does not acknowledge a chunk in so long gets it again.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(5);

/// The event time of message `n`: a hundred per second of 2026.
pub fn event_time_ms(n: u64) -> u64 {
    1_767_225_600_000 + n * 10
}

/// Message `n`.
pub fn message(n: u64, keys: u64) -> String {
    format!(r#"{{"id":{n},"k":"key{}","v":{},"ts":{}}}"#, n % keys, n % 1000, event_time_ms(n))
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

/// A producer into a Kafka topic, in a thread of its own.
#[derive(Debug)]
pub struct KafkaLoad {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl KafkaLoad {
    /// Produces `per_second` messages a second into `topic`, keyed by `k`.
    pub fn start(brokers: &str, topic: &str, per_second: u64, keys: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("linger.ms", "5")
            // A broker that is killed makes no duplicates of its own.
            .set("enable.idempotence", "true")
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .expect("valid options");
        let (topic, theirs) = (topic.to_owned(), shared.clone());
        let thread = std::thread::spawn(move || produce(&producer, &topic, per_second, keys, &theirs));
        Self { shared, thread: Some(thread) }
    }

    /// How many were sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Stops; the number of messages, all of which the broker has acknowledged.
    pub async fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("stopped once");
        tokio::task::spawn_blocking(move || thread.join()).await.expect("it runs").expect("the producer worked");
        self.sent()
    }
}

impl Drop for KafkaLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

fn produce(producer: &BaseProducer, topic: &str, per_second: u64, keys: u64, shared: &Shared) {
    let (started, mut n) = (Instant::now(), 0);
    while !shared.stop.load(Ordering::SeqCst) {
        let due = (started.elapsed().as_millis() as u64 * per_second) / 1000;
        while n < due {
            let (key, value) = (format!("key{}", n % keys), message(n, keys));
            let mut record = BaseRecord::to(topic).key(&key).payload(&value);
            while let Err((error, back)) = producer.send(record) {
                let full = error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull);
                assert!(full, "cannot produce to {topic}: {error}");
                producer.poll(Duration::from_millis(10));
                record = back;
            }
            n += 1;
            shared.sent.store(n, Ordering::SeqCst);
        }
        producer.poll(Duration::from_millis(5));
    }
    producer.flush(FLUSH_TIMEOUT).expect("the broker acknowledges what is produced");
}

/// Requests to an `http` source, one after another, each with ten messages.
#[derive(Debug)]
pub struct HttpLoad {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl HttpLoad {
    /// Posts to `url`. With `patient` a request that fails is sent again until it succeeds; otherwise what is not
    /// answered with 200 is kept for [`HttpLoad::stop`] and its messages do not count.
    pub fn start(url: &str, keys: u64, patient: bool) -> Self {
        let shared = Arc::new(Shared::default());
        let (url, theirs) = (url.to_owned(), shared.clone());
        let task = tokio::spawn(async move {
            let client = reqwest::Client::new();
            let mut failures = Vec::new();
            while !theirs.stop.load(Ordering::SeqCst) || (patient && !failures.is_empty()) {
                let from = theirs.sent.load(Ordering::SeqCst);
                let body: String = (from..from + 10).map(|n| message(n, keys) + "\n").collect();
                let request = client.post(&url).header("content-type", "application/x-ndjson").body(body);
                match request.timeout(Duration::from_secs(30)).send().await {
                    Ok(answer) if answer.status().as_u16() == 200 => {
                        theirs.sent.store(from + 10, Ordering::SeqCst);
                        if patient {
                            failures.clear();
                        }
                    }
                    Ok(answer) => {
                        failures.push(format!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()));
                    }
                    Err(error) => failures.push(format!("{error:?}")),
                }
                let pause = if failures.is_empty() { 2 } else { 50 };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            failures
        });
        Self { shared, task }
    }

    /// How many messages were acknowledged so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Stops; the number of messages that were acknowledged, and the requests that were not.
    pub async fn stop(self) -> (u64, Vec<String>) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let failures = self.task.await.expect("the client worked");
        (self.shared.sent.load(Ordering::SeqCst), failures)
    }
}

/// A publisher with QoS 1, in chunks of a hundred.
#[derive(Debug)]
pub struct MqttLoad {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<Vec<(Instant, u64)>>,
}

impl MqttLoad {
    /// Publishes to `topic` of the broker at `host:port`.
    pub fn start(address: &str, topic: &str, keys: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let (topic, theirs) = (topic.to_owned(), shared.clone());
        let broker = Mosquitto::named(address).expect("an address");
        let task = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            while !theirs.stop.load(Ordering::SeqCst) {
                let from = theirs.sent.load(Ordering::SeqCst);
                let chunk = broker.publish(1, (from..from + 100).map(|n| (topic.clone(), message(n, keys))));
                if tokio::time::timeout(CHUNK_TIMEOUT, chunk).await.is_err() {
                    // The broker was killed: what it did not acknowledge is sent again.
                    continue;
                }
                theirs.sent.store(from + 100, Ordering::SeqCst);
                acknowledged.push((Instant::now(), from + 100));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            acknowledged
        });
        Self { shared, task }
    }

    /// How many messages were acknowledged so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Stops; how many messages were acknowledged, and when each chunk was: (time, number of messages until then).
    pub async fn stop(self) -> (u64, Vec<(Instant, u64)>) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let acknowledged = self.task.await.expect("the publisher worked");
        (self.shared.sent.load(Ordering::SeqCst), acknowledged)
    }
}
