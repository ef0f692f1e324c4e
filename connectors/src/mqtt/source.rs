//! The MQTT source: subscribes, writes to the ingest log, and acknowledges what is durable there.
//!
//! Three things run side by side on a connection: the network is polled (which also keeps the connection alive), what
//! came is appended to the log without waiting for the disk, and what became durable is acknowledged, in order.
//!
//! When the log is full, nothing is acknowledged, and a broker of MQTT 5 then sends no more than `receive_maximum`
//! messages, which wait here: the connection stays alive, and the broker keeps the rest. Only messages of QoS 0, a
//! broker of MQTT 3.1.1 that sends more than that at once, and more than [`WAITING_KIB_MAX`] of payloads stop the
//! polling itself; if that lasts longer than the keep-alive, the broker closes the connection, a new one is made when
//! there is room, and it sends again what was not acknowledged (with QoS 0 that is nothing).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::config::{MqttSourceConfig, QoS, ReconnectConfig};
use super::connection::{Broker, Connection, Event, Message, Sender, Session};
use super::trouble::Trouble;
use super::{metadata, topic};
use crate::error::ConnectorError;
use crate::ingest::{Durable, IngestError, IngestWriter};
use crate::{PushSource, SourceContext};

/// At most so many KiB of payloads wait for the ingest log.
const WAITING_KIB_MAX: u32 = 64 << 10;
/// At most so many messages go into one append.
const APPEND_MESSAGES_MAX: usize = 256;
/// At most so many bytes go into one append, a last message not counted (and no more than a quarter of the log, so that
/// several appends fit).
const APPEND_BYTES_MAX: u64 = 1 << 20;
/// The longest that a stop waits for messages on their way to be acknowledged. What is not, the broker sends again.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// See the module's documentation.
pub(super) struct MqttSource {
    /// Pipeline and source, for the log.
    name: String,
    broker: Arc<Broker>,
    filters: Arc<[(String, QoS)]>,
    session: Session,
    reconnect: ReconnectConfig,
    /// Whether the broker has confirmed our subscriptions in the session it holds.
    subscribed: bool,
    warned_of_stranger: bool,
    append_bytes_max: u64,
}

/// A message on its way from the network to the log.
struct Waiting {
    message: Message,
    /// False for a topic that is not subscribed to (any more): acknowledged and left out.
    wanted: bool,
    _room: OwnedSemaphorePermit,
}

/// Messages on their way from the log to the acknowledgement.
struct Unacknowledged {
    durable: Durable,
    packet_ids: Vec<u16>,
}

/// Why serving a connection ended.
enum Outcome {
    Stopped,
    Trouble(Trouble),
}

impl From<ConnectorError> for Outcome {
    fn from(error: ConnectorError) -> Self {
        Self::Trouble(Trouble::End(error))
    }
}

impl MqttSource {
    pub(super) fn new(
        config: &MqttSourceConfig,
        context: &SourceContext,
        broker: Broker,
        filters: Vec<(String, QoS)>,
        session_expiry: u32,
    ) -> Self {
        let session = Session {
            clean: config.clean_start,
            expiry: session_expiry,
            receive_maximum: config.receive_maximum,
            inflight: 1,
        };
        Self {
            name: format!("{}/{}", context.pipeline, context.name),
            broker: Arc::new(broker),
            filters: filters.into(),
            session,
            reconnect: config.reconnect.clone(),
            subscribed: false,
            warned_of_stranger: false,
            append_bytes_max: APPEND_BYTES_MAX.min(config.ingest.max_bytes.0 / 4),
        }
    }

    /// Serves one connection until it breaks.
    async fn serve(&mut self, log: &IngestWriter, stop: &CancellationToken, backoff: &mut Backoff) -> Outcome {
        let connection = self.broker.connect(self.session);
        let sender = connection.sender.clone();
        let bytes_max = self.append_bytes_max;
        let capacity = usize::from(self.session.receive_maximum);
        let (to_log, from_network) = mpsc::channel(capacity);
        let (to_acknowledge, durable) = mpsc::channel(capacity);
        // Everything that knows packet ids of this connection lives and ends here.
        tokio::select! {
            outcome = self.receive(connection, to_log, stop, backoff) => outcome,
            outcome = append(from_network, log, bytes_max, to_acknowledge) => outcome,
            outcome = acknowledge(durable, sender) => outcome,
        }
    }

    async fn receive(
        &mut self,
        mut connection: Connection,
        to_log: mpsc::Sender<Waiting>,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Outcome {
        let sender = connection.sender.clone();
        let room = Arc::new(Semaphore::new(WAITING_KIB_MAX as usize));
        let mut unacknowledged = 0usize;
        let (mut connected, mut stop_at) = (false, None);
        loop {
            // `next` must not be cancelled: a packet that is being written would be lost.
            let event = {
                let next = connection.next();
                tokio::pin!(next);
                loop {
                    tokio::select! {
                        biased;
                        event = &mut next => break event,
                        () = stop.cancelled(), if stop_at.is_none() => {
                            if !connected {
                                return Outcome::Stopped;
                            }
                            stop_at = Some(Instant::now() + DRAIN_MAX);
                            if unacknowledged == 0 {
                                sender.disconnect();
                            }
                        }
                        () = sleep_until(stop_at) => return Outcome::Stopped,
                    }
                }
            };
            let event = match event {
                Ok(event) => event,
                // The broker has taken the good-bye, and closed the connection.
                Err(_) if stop_at.is_some() => return Outcome::Stopped,
                Err(trouble) => return Outcome::Trouble(trouble),
            };
            match event {
                Event::Connected { session_present, .. } => {
                    connected = true;
                    self.connected(session_present, &sender, backoff);
                }
                Event::Subscribed(granted) => {
                    if let Err(error) = self.subscribed(granted) {
                        return error.into();
                    }
                }
                Event::Message(message) => {
                    if message.qos > 0 {
                        // While stopping it is left to the broker, which sends it again to the next connection.
                        if stop_at.is_some() {
                            continue;
                        }
                        unacknowledged += 1;
                    }
                    let wanted = self.wanted(&message);
                    let hand_over = async {
                        // Neither is ever closed while this runs.
                        let Ok(permit) = room.clone().acquire_many_owned(kib(&message)).await else { return };
                        to_log.send(Waiting { message, wanted, _room: permit }).await.ok();
                    };
                    tokio::select! {
                        biased;
                        () = hand_over => {}
                        // A full log must not hold up a stop; what is not acknowledged comes again.
                        () = stop.cancelled() => return Outcome::Stopped,
                    }
                }
                Event::Acknowledged => {
                    unacknowledged = unacknowledged.saturating_sub(1);
                    if stop_at.is_some() && unacknowledged == 0 {
                        sender.disconnect();
                    }
                }
                Event::Sent(_) | Event::Delivered(..) | Event::Other => {}
            }
        }
    }

    fn connected(&mut self, session_present: bool, sender: &Sender, backoff: &mut Backoff) {
        backoff.connected();
        tracing::info!(source = self.name, broker = self.broker.name(), session_present, "connected to the broker");
        self.subscribed &= session_present;
        if !self.subscribed {
            sender.subscribe(&self.filters);
        }
    }

    fn subscribed(&mut self, granted: Vec<Result<u8, String>>) -> Result<(), ConnectorError> {
        for ((filter, qos), granted) in self.filters.iter().zip(granted) {
            match granted {
                Err(reason) => {
                    return Err(ConnectorError::retry(format!(
                        "{} refuses the subscription to `{filter}`: {reason}",
                        self.broker.name()
                    )));
                }
                Ok(granted) if granted < qos.level() => tracing::warn!(
                    source = self.name,
                    topic = filter,
                    granted,
                    "the broker grants a lower quality of service than asked for: messages may be lost on the way"
                ),
                Ok(_) => tracing::info!(source = self.name, topic = filter, "subscribed"),
            }
        }
        self.subscribed = true;
        Ok(())
    }

    /// The broker's session may hold subscriptions from before the topics were changed.
    fn wanted(&mut self, message: &Message) -> bool {
        let wanted = self.filters.iter().any(|(filter, _)| topic::matches(&message.topic, filter));
        if !wanted && !self.warned_of_stranger {
            self.warned_of_stranger = true;
            tracing::warn!(
                source = self.name,
                topic = message.topic,
                client_id = self.broker.client_id,
                "the broker's session still has a subscription that this source no longer names; its messages are left \
                 out. One start with clean_start: true, or another client_id, ends it"
            );
        }
        wanted
    }
}

/// The room that a message takes while it waits.
fn kib(message: &Message) -> u32 {
    (message.payload.len() as u32 / 1024 + 1).min(WAITING_KIB_MAX)
}

/// Ends at `until`; never where there is no such time.
async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Appends what came, many messages at once where many wait.
async fn append(
    mut from_network: mpsc::Receiver<Waiting>,
    log: &IngestWriter,
    bytes_max: u64,
    to_acknowledge: mpsc::Sender<Unacknowledged>,
) -> Outcome {
    let mut waiting = Vec::new();
    loop {
        if from_network.recv_many(&mut waiting, APPEND_MESSAGES_MAX).await == 0 {
            return Outcome::Stopped;
        }
        let mut waiting = waiting.drain(..).peekable();
        while waiting.peek().is_some() {
            let (mut messages, mut packet_ids, mut permits, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0u64);
            while bytes < bytes_max
                && let Some(Waiting { message, wanted, _room }) = waiting.next()
            {
                permits.push(_room);
                packet_ids.extend(Some(message.packet_id).filter(|id| *id != 0));
                if wanted {
                    let message = metadata::to_ingest(message);
                    bytes += message.bytes_max();
                    messages.push(message);
                }
            }
            let durable = match log.append_when_room(messages).await {
                Ok(durable) => durable,
                Err(error) => return log_failed(&error).into(),
            };
            to_acknowledge.send(Unacknowledged { durable, packet_ids }).await.ok();
        }
    }
}

/// Acknowledges what has become durable, in order.
async fn acknowledge(mut durable: mpsc::Receiver<Unacknowledged>, sender: Sender) -> Outcome {
    while let Some(waiting) = durable.recv().await {
        if let Err(error) = waiting.durable.await {
            return log_failed(&error).into();
        }
        for packet_id in waiting.packet_ids {
            sender.acknowledge(packet_id);
        }
    }
    Outcome::Stopped
}

fn log_failed(error: &IngestError) -> ConnectorError {
    match error {
        IngestError::TooLarge { .. } => ConnectorError::configuration("ingest.max_bytes", error.to_string()),
        IngestError::Full | IngestError::Closed => ConnectorError::retry(error.to_string()),
        IngestError::Failed(_) => ConnectorError::fatal(error.to_string()),
    }
}

#[async_trait]
impl PushSource for MqttSource {
    async fn run(&mut self, log: IngestWriter, stop: CancellationToken) -> Result<(), ConnectorError> {
        self.subscribed = false;
        let mut backoff = Backoff::new(self.reconnect.clone());
        while !stop.is_cancelled() {
            let pause = match self.serve(&log, &stop, &mut backoff).await {
                Outcome::Stopped => return Ok(()),
                Outcome::Trouble(Trouble::End(error)) => return Err(error),
                Outcome::Trouble(Trouble::Lost(message)) => backoff.lost(&self.broker, &self.name, &message),
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = async {
                    tokio::time::sleep(pause).await;
                    // What would come now could not be taken.
                    log.room().await;
                } => {}
            }
        }
        Ok(())
    }
}
