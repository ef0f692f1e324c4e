//! Publishers over MQTT that cost little themselves: packets are made before, and written as they are, so that the
//! machine's cores are left to the daemon and its broker.
//!
//! Mosquitto acknowledges what it has queued, not what the daemon has taken. So publishers are held back by what came
//! out of the daemon: never more than [`AHEAD_MAX`] messages wait in between.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rumqttc::{Connect, ConnectReturnCode, Packet, Publish, QoS};

use crate::failure::{Context, Failure, Result, failed};
use crate::messages::{Expectation, Messages};
use crate::progress::Progress;

/// So many connections publish.
const PUBLISHERS: usize = 4;
/// Consecutive messages that go over the same connection, in one write.
const RUN: u64 = 64;
/// Messages between the publishers and the daemon's output.
const AHEAD_MAX: u64 = 50_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// All acknowledgements are there so long after the last row came out.
const ACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(10);
/// Larger than any packet here.
const PACKET_MAX: usize = 1 << 16;

/// The topic of a device.
pub(crate) fn topic(root: &str, device: &str) -> String {
    format!("{root}/{device}")
}

/// The packet that publishes `payload` with QoS 1.
pub(crate) fn packet(topic: String, number: u64, payload: &[u8], into: &mut BytesMut) -> Result<()> {
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
    // 0 is no packet id.
    publish.pkid = (number % u64::from(u16::MAX)) as u16 + 1;
    publish.write(into)?;
    Ok(())
}

/// A connection that publishes, and counts acknowledgements in a thread of its own.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    acknowledged: Arc<AtomicU64>,
    reader: Option<JoinHandle<()>>,
}

impl Connection {
    pub(crate) fn open(address: &str, client_id: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address).context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (mut connect, mut bytes) = (Connect::new(client_id), BytesMut::new());
        // No pings.
        connect.keep_alive = 0;
        connect.write(&mut bytes)?;
        stream.write_all(&bytes)?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).context(|| format!("{address} does not answer"))?;
        match Packet::read(&mut BytesMut::from(&answer[..]), PACKET_MAX)? {
            Packet::ConnAck(answer) if answer.code == ConnectReturnCode::Success => {}
            other => return failed(format!("{address} does not let us in: {other:?}")),
        }
        stream.set_read_timeout(None)?;
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (theirs, reading) = (acknowledged.clone(), stream.try_clone()?);
        let reader = std::thread::spawn(move || count_acknowledgements(reading, &theirs));
        Ok(Self { stream, acknowledged, reader: Some(reader) })
    }

    pub(crate) fn write(&mut self, packets: &[u8]) -> Result<()> {
        self.stream.write_all(packets).context(|| "the MQTT broker has closed the connection".to_owned())
    }

    /// Waits until so many messages have been acknowledged.
    pub(crate) fn wait_for(&self, messages: u64) -> Result<()> {
        let deadline = Instant::now() + ACKNOWLEDGED_TIMEOUT;
        loop {
            let acknowledged = self.acknowledged.load(Ordering::SeqCst);
            if acknowledged == messages {
                return Ok(());
            }
            if Instant::now() > deadline {
                return failed(format!("the MQTT broker acknowledged {acknowledged} of {messages} messages"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // It may be closed already.
        self.stream.shutdown(Shutdown::Both).ok();
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

/// Every packet that comes is a PUBACK, of four bytes.
fn count_acknowledgements(mut stream: TcpStream, acknowledged: &AtomicU64) {
    let (mut buffer, mut bytes) = ([0; 1 << 14], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                bytes += count as u64;
                acknowledged.store(bytes / 4, Ordering::SeqCst);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What is missing shows in the count.
            Err(_) => return,
        }
    }
}

/// Messages ready to be written, by connection.
#[derive(Debug)]
pub(crate) struct Flow {
    address: String,
    batches: Vec<Arc<Vec<Batch>>>,
}

/// A run of messages of one connection.
#[derive(Debug)]
struct Batch {
    /// The number of its first message.
    first: u64,
    messages: u64,
    packets: BytesMut,
}

impl Flow {
    /// Makes `count` messages, to topics under `root`.
    pub(crate) fn make(address: &str, root: &str, count: u64, progress: &Progress) -> Result<(Self, Expectation)> {
        let (mut messages, mut expectation, mut json) = (Messages::new(), Expectation::default(), Vec::new());
        let mut batches: Vec<Vec<Batch>> = (0..PUBLISHERS).map(|_| Vec::new()).collect();
        for first in (0..count).step_by(RUN as usize) {
            let mut batch = Batch { first, messages: RUN.min(count - first), packets: BytesMut::new() };
            for number in first..first + batch.messages {
                json.clear();
                let message = messages.write_next(&mut json);
                expectation.add(&message);
                packet(topic(root, &message.key()), number, &json, &mut batch.packets)?;
            }
            batches[(first / RUN) as usize % PUBLISHERS].push(batch);
            progress.show(|| format!("making messages for MQTT: {first} of {count}"));
        }
        let batches = batches.into_iter().map(Arc::new).collect();
        Ok((Self { address: address.to_owned(), batches }, expectation))
    }

    /// Begins to publish.
    pub(crate) fn start(&self) -> Result<Publishing> {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for (index, batches) in self.batches.iter().enumerate() {
            let id = format!("bench-{}-{index}", std::process::id());
            let (connection, batches, shared) =
                (Connection::open(&self.address, &id)?, batches.clone(), shared.clone());
            threads.push(std::thread::spawn(move || {
                if let Err(Failure(error)) = publish(connection, &batches, &shared) {
                    shared.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }));
        }
        Ok(Publishing { shared, threads })
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// So many messages have been worked on.
    done: AtomicU64,
    stop: AtomicBool,
    failed: Mutex<Option<String>>,
}

/// Publishers at work; they stop when this is dropped.
#[derive(Debug)]
pub(crate) struct Publishing {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Publishing {
    /// Lets them publish further: so many messages have been worked on.
    pub(crate) fn allow(&self, done: u64) -> Result<()> {
        self.shared.done.store(done, Ordering::SeqCst);
        self.check()
    }

    fn check(&self) -> Result<()> {
        match self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(error) => failed(error),
            None => Ok(()),
        }
    }

    /// Waits for the last acknowledgements.
    pub(crate) fn finish(mut self) -> Result<()> {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                return failed("a publisher panicked");
            }
        }
        self.check()
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

fn publish(mut connection: Connection, batches: &[Batch], shared: &Shared) -> Result<()> {
    let mut sent = 0;
    for batch in batches {
        while batch.first >= shared.done.load(Ordering::SeqCst) + AHEAD_MAX {
            if shared.stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        connection.write(&batch.packets)?;
        sent += batch.messages;
    }
    connection.wait_for(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_in_one_batch_of_one_connection() {
        let (flow, expectation) = Flow::make("nowhere:1", "root", 1_000, &Progress::new()).unwrap();
        let mut numbers: Vec<u64> = flow
            .batches
            .iter()
            .flat_map(|batches| batches.iter())
            .flat_map(|b| b.first..b.first + b.messages)
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..1_000).collect::<Vec<_>>());
        assert_eq!(expectation.messages, 1_000);
        let mut packets = flow.batches[0][0].packets.clone();
        let Packet::Publish(publish) = Packet::read(&mut packets, PACKET_MAX).unwrap() else { panic!() };
        assert!(publish.topic.starts_with("root/dev-") && publish.pkid == 1 && publish.qos == QoS::AtLeastOnce);
    }

    #[test]
    fn packet_ids_are_never_zero() {
        for number in [0, 65_534, 65_535, 65_536] {
            let mut bytes = BytesMut::new();
            packet("t".to_owned(), number, b"x", &mut bytes).unwrap();
            let Packet::Publish(publish) = Packet::read(&mut bytes, PACKET_MAX).unwrap() else { panic!() };
            assert_ne!(publish.pkid, 0);
        }
    }
}
