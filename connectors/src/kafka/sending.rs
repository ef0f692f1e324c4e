//! From encoded rows to librdkafka: runs of messages that can be handed over together, and what it refuses of them.

use bytes::Bytes;
use rdkafka::error::RDKafkaErrorCode;

use super::delivery::Deliveries;
use super::native::{BatchProducer, Extras, Outgoing};
use super::record::{Record, Records};
use crate::error::ConnectorError;
use crate::format::Encoded;
use crate::sink::Rejected;

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

    /// The row as one that nobody takes.
    pub(super) fn rejected(&self, row: usize, reason: String) -> Result<Rejected, ConnectorError> {
        Ok(Rejected { reason, payload: Bytes::copy_from_slice(self.payload(row)?) })
    }
}

/// Hands over the rows from `row` on, and returns the first for which there is no room now (or their number). What fails
/// at once is noted by the producer's context; rows that cannot be messages come to `rejected`.
pub(super) fn hand_over(
    producer: &mut BatchProducer<Deliveries>,
    rows: &Rows<'_>,
    row: usize,
    rejected: &mut Vec<Rejected>,
) -> Result<usize, ConnectorError> {
    let mut run = Run::new();
    let count = rows.encoded.ends.len();
    for row in row..count {
        let record = rows.records.get(row);
        let fits = record.as_ref().is_ok_and(|record| record.is_plain() && run.takes(record));
        if !fits && let Some(full) = run.send(producer, rows)? {
            return Ok(full);
        }
        match record {
            Ok(record) if record.is_plain() => run.push(row, &record, rows.payload(row)?),
            Ok(record) => {
                if !send_one(producer, &record, rows.payload(row)?) {
                    return Ok(row);
                }
            }
            Err(reason) => rejected.push(rows.rejected(row, reason)?),
        }
    }
    Ok(run.send(producer, rows)?.unwrap_or(count))
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
        deliveries.begin(count);
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
                }
            }
            Err(code) => {
                for row in &self.rows {
                    deliveries.message_failed(topic, partition.unwrap_or(-1), code, rows.payload(*row)?);
                }
            }
        }
        deliveries.end(count - taken.unwrap_or(0));
        self.rows.clear();
        self.messages.clear();
        Ok(full)
    }
}

/// Hands one message over; false where there is no room now.
fn send_one(producer: &mut BatchProducer<Deliveries>, record: &Record<'_>, payload: &[u8]) -> bool {
    let deliveries = producer.context().clone();
    let extras = Extras { timestamp: record.timestamp, headers: &record.headers };
    let body = ((!record.tombstone).then_some(payload), record.key);
    deliveries.begin(1);
    let Err(code) = producer.send_one(record.topic, record.partition, body, extras) else { return true };
    let room = code != RDKafkaErrorCode::QueueFull;
    if room {
        deliveries.message_failed(record.topic, record.partition.unwrap_or(-1), code, payload);
    }
    deliveries.end(1);
    room
}
