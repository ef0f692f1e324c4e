//! The MQTT sink: publishes rows, and knows of each whether the broker has it.
//!
//! A task of its own (started by `open`, ended by `close` or by dropping the sink) keeps the connection and a window of
//! rows that the broker has not acknowledged. Every connection starts a new session and sends that window from its
//! start: the client library's own list of unacknowledged messages is lost with the session, so it is not relied on.
//! A row may therefore come twice, and never not at all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backoff::Backoff;
use super::broker::Broker;
use super::config::{MqttSinkConfig, QoS, ReconnectConfig};
use super::connection::{Connection, Event, Refusal, Sender};
use super::topic;
use super::trouble::Trouble;
use crate::error::ConnectorError;
use crate::format::Encoder;
use crate::sink::Flushed;
use crate::template::Template;
use crate::{Rejected, Sink, SinkContext};

/// What a packet has beside topic and payload, at most: header, lengths, packet id, no properties.
const PACKET_OVERHEAD_BYTES: usize = 10;
/// The longest that `close` waits for the broker to take the good-bye.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// See the module's documentation.
pub(super) struct MqttSink {
    name: String,
    broker: Arc<Broker>,
    topic: Template,
    encoder: Box<dyn Encoder>,
    qos: QoS,
    retain: bool,
    inflight: u16,
    delivery_timeout: Duration,
    reconnect: ReconnectConfig,
    task: Option<Task>,
}

/// The sink's end of its task.
struct Task {
    rows: mpsc::Sender<Row>,
    progress: watch::Receiver<Progress>,
    rejected: Arc<Mutex<Vec<Rejected>>>,
    /// Rows handed over.
    submitted: u64,
    handle: JoinHandle<()>,
    stop: DropGuard,
}

struct Row {
    topic: String,
    payload: Bytes,
}

#[derive(Default)]
struct Progress {
    /// So many rows, from the first, are delivered or rejected.
    done: u64,
    connected: bool,
    /// Why there is no connection.
    trouble: Option<String>,
    /// The task has ended with this.
    failed: Option<ConnectorError>,
}

impl MqttSink {
    pub(super) fn new(
        config: &MqttSinkConfig,
        context: &SinkContext,
        broker: Broker,
        encoder: Box<dyn Encoder>,
    ) -> Result<Self, ConnectorError> {
        let template = Template::parse(&config.topic, &context.columns, "topic")?;
        if let Some(constant) = template.constant() {
            topic::check_topic(constant).map_err(|why| ConnectorError::configuration("topic", why))?;
        }
        Ok(Self {
            name: format!("{}/{}", context.pipeline, context.name),
            broker: Arc::new(broker),
            topic: template,
            encoder,
            qos: config.qos,
            retain: config.retain,
            inflight: config.inflight(),
            delivery_timeout: config.delivery_timeout.0,
            reconnect: config.reconnect.clone(),
            task: None,
        })
    }

    fn start(&self) -> Task {
        let (rows, from_sink) = mpsc::channel(usize::from(self.inflight));
        let (progress, seen) = watch::channel(Progress::default());
        let rejected = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let driver = Driver {
            name: self.name.clone(),
            broker: self.broker.clone(),
            qos: self.qos,
            retain: self.retain,
            inflight: self.inflight,
            rows: from_sink,
            progress,
            rejected: rejected.clone(),
            stop: stop.clone(),
            window: VecDeque::new(),
            done: 0,
        };
        let handle = tokio::spawn(driver.run(Backoff::new(self.reconnect.clone())));
        Task { rows, progress: seen, rejected, submitted: 0, handle, stop: stop.drop_guard() }
    }

    fn closed() -> ConnectorError {
        ConnectorError::fatal("the MQTT sink is used before it was opened or after it was closed")
    }
}

impl Task {
    fn take_rejected(&self) -> Vec<Rejected> {
        std::mem::take(&mut *self.rejected.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for `wanted`, as long as rows are acknowledged now and then.
    async fn wait_for(
        &mut self,
        broker: &Broker,
        limit: Duration,
        wanted: impl Fn(&Progress, &mpsc::Sender<Row>) -> bool,
    ) -> Result<(), ConnectorError> {
        let mut done = self.progress.borrow().done;
        let mut deadline = tokio::time::Instant::now() + limit;
        loop {
            {
                let progress = self.progress.borrow_and_update();
                if let Some(error) = &progress.failed {
                    return Err(copy(error));
                }
                if wanted(&progress, &self.rows) {
                    return Ok(());
                }
                if progress.done > done {
                    done = progress.done;
                    deadline = tokio::time::Instant::now() + limit;
                }
            }
            let changed = tokio::time::timeout_at(deadline, self.progress.changed());
            match changed.await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ConnectorError::retry("the MQTT sink's task has ended")),
                Err(_) => {
                    let reason = match &self.progress.borrow().trouble {
                        Some(trouble) => format!("not connected ({trouble})"),
                        None => "connected, but the broker is silent".to_owned(),
                    };
                    return Err(ConnectorError::retry(format!(
                        "{} has acknowledged nothing for {limit:?} with {} messages waiting: {reason}",
                        broker.name(),
                        self.submitted - done,
                    )));
                }
            }
        }
    }

    async fn submit(&mut self, row: Row, broker: &Broker, limit: Duration) -> Result<(), ConnectorError> {
        let mut row = row;
        loop {
            match self.rows.try_send(row) {
                Ok(()) => {
                    self.submitted += 1;
                    return Ok(());
                }
                Err(mpsc::error::TrySendError::Full(back)) => row = back,
                Err(mpsc::error::TrySendError::Closed(back)) => row = back,
            }
            // The task takes a row from the channel whenever its window has room, which progress makes.
            self.wait_for(broker, limit, |_, rows| rows.capacity() > 0).await?;
        }
    }
}

fn copy(error: &ConnectorError) -> ConnectorError {
    ConnectorError { kind: error.kind, message: error.message.clone(), option: error.option.clone() }
}

#[async_trait]
impl Sink for MqttSink {
    async fn open(&mut self, _: Option<&[u8]>) -> Result<(), ConnectorError> {
        let mut task = self.start();
        let limit = self.broker.connect_timeout + CLOSE_MAX;
        task.wait_for(&self.broker, limit, |progress, _| progress.connected || progress.trouble.is_some()).await?;
        let trouble = task.progress.borrow().trouble.clone();
        if let Some(trouble) = trouble {
            return Err(ConnectorError::retry(format!("{} cannot be reached: {trouble}", self.broker.name())));
        }
        self.task = Some(task);
        Ok(())
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Rejected>, ConnectorError> {
        let topics = self.topic.render(rows)?;
        let encoded = self.encoder.encode(rows)?;
        let task = self.task.as_mut().ok_or_else(Self::closed)?;
        let mut rejected = Vec::new();
        if topics.len() != encoded.ends.len() {
            return Err(ConnectorError::configuration("format", "this format does not write one message per row"));
        }
        for (topic, payload) in topics.into_iter().zip(encoded.messages()) {
            let topic = topic.and_then(|topic| topic::check_topic(&topic).map(|()| topic));
            let row = topic.and_then(|topic| match too_large(&topic, &payload, self.broker.packet_bytes_max) {
                Some(reason) => Err(format!("{reason} (max_packet_size)")),
                None => Ok(topic),
            });
            match row {
                Ok(topic) => task.submit(Row { topic, payload }, &self.broker, self.delivery_timeout).await?,
                Err(reason) => rejected.push(Rejected { reason, payload }),
            }
        }
        rejected.extend(task.take_rejected());
        Ok(rejected)
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        let task = self.task.as_mut().ok_or_else(Self::closed)?;
        let submitted = task.submitted;
        task.wait_for(&self.broker, self.delivery_timeout, |progress, _| progress.done >= submitted).await?;
        Ok(Flushed { rejected: task.take_rejected(), state: None })
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        let Some(task) = self.task.take() else { return Ok(()) };
        drop(task.stop);
        let mut handle = task.handle;
        if tokio::time::timeout(CLOSE_MAX, &mut handle).await.is_err() {
            handle.abort();
        }
        Ok(())
    }
}

fn too_large(topic: &str, payload: &[u8], max: u32) -> Option<String> {
    let bytes = payload.len() + topic.len() + PACKET_OVERHEAD_BYTES;
    (bytes > max as usize).then(|| format!("a packet of {bytes} bytes is larger than the {max} that are allowed"))
}

/// The sink's task.
struct Driver {
    name: String,
    broker: Arc<Broker>,
    qos: QoS,
    retain: bool,
    inflight: u16,
    rows: mpsc::Receiver<Row>,
    progress: watch::Sender<Progress>,
    rejected: Arc<Mutex<Vec<Rejected>>>,
    stop: CancellationToken,
    /// Rows that are not done, in order, and done ones behind the first that is not.
    window: VecDeque<Entry>,
    /// Rows done before the window.
    done: u64,
}

struct Entry {
    row: Row,
    done: bool,
}

/// What is known about the rows of the window on one connection.
#[derive(Default)]
struct OnWire {
    /// The next row to send, counted from the first of all.
    next: u64,
    /// Rows handed to the client library, which has not said their packet ids yet.
    unnamed: VecDeque<u64>,
    packet_ids: HashMap<u16, u64>,
    /// At most so many rows after the first that is not done; 0 before the connection stands.
    limit: u64,
    packet_bytes_max: u32,
    /// The good-bye was said.
    stopping: bool,
}

impl Driver {
    async fn run(mut self, mut backoff: Backoff) {
        while !self.stop.is_cancelled() {
            let message = match self.serve(&mut backoff).await {
                Ok(()) => return,
                Err(Trouble::Lost(message)) => message,
                Err(Trouble::End(error)) => {
                    self.progress.send_modify(|progress| {
                        progress.connected = false;
                        progress.failed = Some(error);
                    });
                    return;
                }
            };
            let pause = backoff.lost(&self.broker, &self.name, &message);
            self.progress.send_modify(|progress| {
                progress.connected = false;
                progress.trouble = Some(message);
            });
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Serves one connection until it breaks, or until the stop.
    async fn serve(&mut self, backoff: &mut Backoff) -> Result<(), Trouble> {
        let mut connection = self.broker.connect(self.inflight);
        let sender = connection.sender.clone();
        let mut wire = OnWire { next: self.done, ..OnWire::default() };
        loop {
            let Some(event) = self.next_event(&mut connection, &sender, &mut wire).await? else { return Ok(()) };
            match event {
                Event::Connected { receive_maximum, packet_bytes_max } => {
                    backoff.connected();
                    tracing::info!(sink = self.name, broker = self.broker.name(), "connected to the broker");
                    wire.limit = self.inflight.min(receive_maximum).into();
                    wire.packet_bytes_max = packet_bytes_max.unwrap_or(u32::MAX);
                    self.progress.send_modify(|progress| {
                        progress.connected = true;
                        progress.trouble = None;
                    });
                }
                Event::Sent(packet_id) => {
                    if let Some(row) = wire.unnamed.pop_front() {
                        match packet_id {
                            // With QoS 0 nobody says more about it.
                            0 => self.row_done(row),
                            id => drop(wire.packet_ids.insert(id, row)),
                        }
                    }
                }
                Event::Delivered(packet_id, verdict) => {
                    if let Some(row) = wire.packet_ids.remove(&packet_id) {
                        self.delivered(row, verdict)?;
                    }
                }
                Event::Other => {}
            }
            self.send(&sender, &mut wire);
        }
    }

    /// The next event; meanwhile rows are taken and sent. `None` at a stop without a connection.
    async fn next_event(
        &mut self,
        connection: &mut Connection,
        sender: &Sender,
        wire: &mut OnWire,
    ) -> Result<Option<Event>, Trouble> {
        // `next` must not be cancelled: a packet that is being written would be lost.
        let next = connection.next();
        tokio::pin!(next);
        loop {
            let has_room = self.window.len() < usize::from(self.inflight);
            tokio::select! {
                event = &mut next => return match event {
                    // After the good-bye the broker closes the connection: it has read all that was sent before. To
                    // close it here, or to come back under the same name, could cost rows of QoS 0 on their way.
                    Err(_) if wire.stopping => Ok(None),
                    event => event.map(Some),
                },
                row = self.rows.recv(), if has_room && !wire.stopping => match row {
                    Some(row) => {
                        self.window.push_back(Entry { row, done: false });
                        self.send(sender, wire);
                        // The sink may wait for a place in the channel.
                        self.progress.send_modify(|_| {});
                    }
                    // The sink was dropped without closing.
                    None => return Ok(None),
                },
                () = self.stop.cancelled(), if !wire.stopping => {
                    if wire.limit == 0 {
                        return Ok(None);
                    }
                    wire.stopping = true;
                    sender.disconnect();
                }
            }
        }
    }

    /// Sends what the window has and the limit allows. The client library gives out packet ids in a circle of that
    /// length; so that an id is free when its turn comes, the limit counts from the oldest row that is not done.
    fn send(&mut self, sender: &Sender, wire: &mut OnWire) {
        while wire.next < self.done + (self.window.len() as u64).min(wire.limit) {
            let index = (wire.next - self.done) as usize;
            let Some(entry) = self.window.get(index) else { return };
            let row = wire.next;
            wire.next += 1;
            if entry.done {
                continue;
            }
            let Row { topic, payload } = &entry.row;
            match too_large(topic, payload, wire.packet_bytes_max) {
                Some(reason) => self.reject(row, format!("{reason} by the broker")),
                None => {
                    sender.publish(topic, self.qos, self.retain, payload.clone());
                    wire.unnamed.push_back(row);
                }
            }
            wire.next = wire.next.max(self.done);
        }
    }

    fn delivered(&mut self, row: u64, verdict: Result<(), Refusal>) -> Result<(), Trouble> {
        let Err(refusal) = verdict else {
            self.row_done(row);
            return Ok(());
        };
        if !refusal.for_good {
            let message = format!("{} does not take a message: {}", self.broker.name(), refusal.reason);
            return Err(Trouble::End(ConnectorError::retry(message)));
        }
        self.reject(row, format!("the broker refuses it: {}", refusal.reason));
        match refusal.reconnect {
            true => Err(Trouble::Lost("a message of QoS 2 was refused, and the client must begin again".into())),
            false => Ok(()),
        }
    }

    fn reject(&mut self, row: u64, reason: String) {
        let index = row.checked_sub(self.done).map(|index| index as usize);
        if let Some(entry) = index.and_then(|index| self.window.get(index)) {
            let topic = &entry.row.topic;
            let rejected = Rejected { reason: format!("{topic}: {reason}"), payload: entry.row.payload.clone() };
            self.rejected.lock().unwrap_or_else(PoisonError::into_inner).push(rejected);
        }
        self.row_done(row);
    }

    fn row_done(&mut self, row: u64) {
        let index = row.checked_sub(self.done).map(|index| index as usize);
        if let Some(entry) = index.and_then(|index| self.window.get_mut(index)) {
            entry.done = true;
        }
        while self.window.front().is_some_and(|entry| entry.done) {
            self.window.pop_front();
            self.done += 1;
        }
        self.progress.send_modify(|progress| progress.done = self.done);
    }
}
