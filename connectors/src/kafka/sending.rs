//! From encoded rows to librdkafka: runs of messages that can be handed over together, and what it refuses of them.

use rdkafka::error::RDKafkaErrorCode;

use super::delivery::Deliveries;
use super::native::{BatchProducer, Extras, Outgoing};
use super::record::{Record, Records};
use crate::error::ConnectorError;
use crate::format::Encoded;

/// How much more may be handed over now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Budget {
    /// Takes a message from it, if it is not used up.
    fn allows(&mut self, record: &Record<'_>, payload: &[u8]) -> bool {
        if self.messages == 0 || self.bytes == 0 {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(payload.len() + record.key.map_or(0, <[u8]>::len) + OVERHEAD_BYTES);
        true
    }
}

/// What a message has in a request beside its key and payload, about.
const OVERHEAD_BYTES: usize = 12;
/// At most so many messages are handed over together.
const RUN_MAX: usize = 256;

/// Rows and what they became.
pub(super) struct Rows<'a> {
    pub(super) records: &'a Records,
    pub(super) encoded: &'a Encoded,
}

impl<'a> Rows<'a> {
    pub(super) fn payload(&self, row: usize) -> Result<&'a [u8], ConnectorError> {
        let ends = &self.encoded.ends;
        let start = row.checked_sub(1).map_or(Some(0), |before| ends.get(before).copied());
        let bytes = start.zip(ends.get(row)).and_then(|(start, end)| self.encoded.buffer.get(start..*end));
        bytes.ok_or_else(|| ConnectorError::fatal("a row without bytes"))
    }
}

/// How far the rows were handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// All of them.
    End,
    /// The budget does not allow this row.
    Budget(usize),
    /// librdkafka has no room for this row.
    Full(usize),
}

/// Hands over the rows from `row` on. What fails is noted by the producer's context.
pub(super) fn hand_over(
    producer: &mut BatchProducer<Deliveries>,
    rows: &Rows<'_>,
    row: usize,
    budget: &mut Budget,
) -> Result<Reached, ConnectorError> {
    let mut run = Run::new();
    let count = rows.encoded.ends.len();
    for row in row..count {
        let payload = rows.payload(row)?;
        let record = rows.records.get(row);
        let allowed = record.as_ref().map_or(true, |record| budget.allows(record, payload));
        let fits = allowed && record.as_ref().is_ok_and(|record| record.is_plain() && run.takes(record));
        if !fits && let Some(full) = run.send(producer, rows)? {
            return Ok(Reached::Full(full));
        }
        if !allowed {
            return Ok(Reached::Budget(row));
        }
        match record {
            Ok(record) if record.is_plain() => run.push(row, &record, payload),
            Ok(record) => {
                if !send_one(producer, &record, payload) {
                    return Ok(Reached::Full(row));
                }
            }
            Err(reason) => {
                let deliveries = producer.context();
                deliveries.reject(reason, payload);
                deliveries.end(1);
            }
        }
    }
    Ok(run.send(producer, rows)?.map_or(Reached::End, Reached::Full))
}

/// Neighbours that go to the same topic, and to the same partition or wherever the partitioner sends them.
struct Run<'a> {
    to: Option<(&'a str, Option<i32>)>,
    rows: Vec<usize>,
    messages: Outgoing<'a>,
}

impl<'a> Run<'a> {
    fn new() -> Self {
        Self { to: None, rows: Vec::with_capacity(RUN_MAX), messages: Outgoing::with_capacity(RUN_MAX) }
    }

    fn takes(&self, record: &Record<'_>) -> bool {
        self.rows.len() < RUN_MAX && self.to.is_none_or(|to| to == (record.topic, record.partition))
    }

    fn push(&mut self, row: usize, record: &Record<'a>, payload: &'a [u8]) {
        self.to = Some((record.topic, record.partition));
        self.rows.push(row);
        self.messages.push((!record.tombstone).then_some(payload), record.key);
    }

    /// Hands the run over and begins another one; returns the first row for which there was no room.
    fn send(
        &mut self,
        producer: &mut BatchProducer<Deliveries>,
        rows: &Rows<'_>,
    ) -> Result<Option<usize>, ConnectorError> {
        let Some((topic, partition)) = self.to.take() else { return Ok(None) };
        let count = self.messages.len();
        let deliveries = producer.context().clone();
        let mut failed = 0;
        let taken = producer.send(topic, partition, &mut self.messages);
        let mut full = None;
        match taken {
            Ok(taken) if taken == count => {}
            Ok(_) => {
                for (index, code) in self.messages.refused() {
                    let Some(row) = self.rows.get(index).copied() else { continue };
                    if code == RDKafkaErrorCode::QueueFull {
                        // All after it were refused for this, too.
                        full = Some(row);
                        break;
                    }
                    deliveries.message_failed(topic, partition.unwrap_or(-1), code, rows.payload(row)?);
                    failed += 1;
                }
            }
            Err(code) => {
                for row in &self.rows {
                    deliveries.message_failed(topic, partition.unwrap_or(-1), code, rows.payload(*row)?);
                    failed += 1;
                }
            }
        }
        if failed > 0 {
            deliveries.end(failed);
        }
        self.rows.clear();
        self.messages.clear();
        Ok(full)
    }
}

/// Hands one message over; false where there is no room now.
fn send_one(producer: &mut BatchProducer<Deliveries>, record: &Record<'_>, payload: &[u8]) -> bool {
    let extras = Extras { timestamp: record.timestamp, headers: &record.headers };
    let body = ((!record.tombstone).then_some(payload), record.key);
    let Err(code) = producer.send_one(record.topic, record.partition, body, extras) else { return true };
    if code == RDKafkaErrorCode::QueueFull {
        return false;
    }
    let deliveries = producer.context();
    deliveries.message_failed(record.topic, record.partition.unwrap_or(-1), code, payload);
    deliveries.end(1);
    true
}
