//! The thread that sends: it hands over what was written while the brokers were busy with what came before.
//!
//! An idempotent producer of librdkafka has one request per partition under way at a time. What waits behind it for longer
//! than `linger.ms` makes librdkafka's thread turn round and round until the answer is there, which costs more than
//! everything else together. So nothing waits there: rows are held here, and handed over when librdkafka is empty, as much
//! at a time as one request per partition takes. A row that comes alone is sent at once; the busier the brokers are, the
//! larger are the requests.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use super::delivery::Deliveries;
use super::native::{BatchProducer, LastWords};
use super::record::Records;
use super::sending::{Budget, Reached, Rows, hand_over};
use crate::error::ConnectorError;
use crate::format::Encoded;

/// librdkafka's limit of messages per request and partition (`batch.num.messages`).
const REQUEST_MESSAGES_MAX: usize = 10_000;
/// At most so many bytes are handed over at a time, however many partitions there are (or one larger message).
const BYTES_AT_A_TIME_MAX: usize = 64 << 20;
/// While messages are under way, the thread looks whether it is to end so often.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// How much is handed over at a time, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// A request of one partition has at most about so many bytes.
    pub(super) request_bytes: usize,
    /// Rows wait so long for others, unless they fill a request.
    pub(super) linger: Duration,
}

/// The sending thread, as the sink has it.
pub(super) struct Sender {
    shared: Arc<Shared>,
    pub(super) deliveries: Arc<Deliveries>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was written, or the end has come.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    held: VecDeque<Held>,
    /// In `held`.
    rows: usize,
    /// In `held`.
    bytes: usize,
    stop: bool,
}

/// Rows that were written.
struct Held {
    records: Records,
    encoded: Encoded,
    /// Those before this one have been handed over.
    row: usize,
    since: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    pub(super) fn new(producer: BatchProducer<Deliveries>, pace: Pace) -> Result<Self, ConnectorError> {
        let (shared, deliveries) = (Arc::new(Shared::default()), producer.context().clone());
        let for_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("kafka-sink".to_owned())
            .spawn(move || {
                let _last_words = LastWords { context: producer.context().clone(), thread: "kafka-sink" };
                Sending { producer, shared: for_thread, pace }.run();
            })
            .map_err(|error| ConnectorError::retry(format!("no thread for the Kafka sink: {error}")))?;
        Ok(Self { shared, deliveries, thread: Some(thread) })
    }

    /// Takes rows. They count as under way from here on.
    pub(super) fn push(&self, records: Records, encoded: Encoded) {
        let (rows, bytes) = (encoded.ends.len(), encoded.buffer.len());
        if rows == 0 {
            return;
        }
        self.deliveries.begin(rows, bytes);
        let mut state = self.shared.lock();
        state.rows += rows;
        state.bytes += bytes;
        state.held.push_back(Held { records, encoded, row: 0, since: Instant::now() });
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Ends the thread, which gives up what is under way.
    pub(super) fn stop(&mut self) -> Option<JoinHandle<()>> {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        self.thread.take()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // The thread ends by itself; nobody waits for it.
        self.stop();
    }
}

/// What the thread has.
struct Sending {
    producer: BatchProducer<Deliveries>,
    shared: Arc<Shared>,
    pace: Pace,
}

impl Sending {
    fn run(mut self) {
        let mut begun = None;
        loop {
            let mut budget = self.budget();
            let Some(mut held) = self.next(begun.take(), &budget) else { break };
            let mut first = true;
            loop {
                begun = self.hand_over(held, &mut budget, first);
                if begun.is_some() {
                    break;
                }
                let Some(next) = self.take() else { break };
                held = next;
                first = false;
            }
            if !self.wait_until_sent() {
                break;
            }
        }
        // Dropping the producer gives up what is under way (there is nothing after a flush).
    }

    /// As much as one request per partition takes. Where there are several, keys do not fill them evenly.
    fn budget(&self) -> Budget {
        let partitions = match self.producer.context().partitions() {
            0 | 1 => 1,
            several => several / 2,
        };
        Budget {
            messages: REQUEST_MESSAGES_MAX * partitions,
            bytes: self.pace.request_bytes.saturating_mul(partitions).min(BYTES_AT_A_TIME_MAX),
        }
    }

    /// What is to be handed over next, when it is time; none at the end.
    fn next(&self, begun: Option<Held>, budget: &Budget) -> Option<Held> {
        let mut state = self.shared.lock();
        loop {
            if state.stop {
                return None;
            }
            if begun.is_some() {
                return begun;
            }
            let wait = state.held.front().map(|first| self.pace.linger.saturating_sub(first.since.elapsed()));
            let full = state.rows >= budget.messages || state.bytes >= budget.bytes;
            state = match wait {
                None => self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wait) if wait.is_zero() || full => return take(&mut state),
                Some(wait) => self.shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    /// What is held, without waiting.
    fn take(&self) -> Option<Held> {
        take(&mut self.shared.lock())
    }

    /// Hands over as much of `held` as the budget allows, and returns the rest. `first`: librdkafka is empty.
    fn hand_over(&mut self, mut held: Held, budget: &mut Budget, first: bool) -> Option<Held> {
        let rows = Rows { records: &held.records, encoded: &held.encoded };
        let deliveries = self.producer.context().clone();
        match hand_over(&mut self.producer, &rows, held.row, budget) {
            Ok(Reached::End) => {
                deliveries.handed_over(held.encoded.buffer.len());
                return None;
            }
            Ok(Reached::Budget(row)) => held.row = row,
            Ok(Reached::Full(row)) => {
                let alone = first && row == held.row;
                held.row = row;
                if alone {
                    // There will never be more room than there was.
                    let payload = rows.payload(row).unwrap_or_default();
                    deliveries.message_failed("", -1, RDKafkaErrorCode::QueueFull, payload);
                    deliveries.end(1);
                    held.row = row + 1;
                }
            }
            Err(error) => {
                deliveries.fail(error.to_string());
                return None;
            }
        }
        Some(held)
    }

    /// Lets librdkafka send what it has, and waits until all of it is answered; false where the end has come before.
    fn wait_until_sent(&self) -> bool {
        while !self.producer.flush(STOP_CHECK) {
            if self.shared.lock().stop {
                return false;
            }
        }
        true
    }
}

fn take(state: &mut State) -> Option<Held> {
    let held = state.held.pop_front()?;
    state.rows -= held.encoded.ends.len();
    state.bytes -= held.encoded.buffer.len();
    Some(held)
}
