//! The MQTT source: subscribes, writes to the ingest log, and acknowledges what is durable there.
//!
//! One loop serves a connection. What was read goes to the log as one append; while that is on its way to the disk, what
//! comes gathers in the broker's and the kernel's buffers and is the next append. So a message that comes alone goes on
//! at once, and many that come together share a read, an append and a write of their acknowledgements.
//!
//! When the log is full, nothing is acknowledged, and a broker of MQTT 5 then sends no more than `receive_maximum`
//! messages, which wait here: the connection stays alive, and the broker keeps the rest. Only messages of QoS 0, a
//! broker of MQTT 3.1.1 that sends more than that at once, and more than 64 MiB stop the reading itself; the broker
//! keeps, or drops, what it cannot send, as it is set up to.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::broker::{Broker, Session};
use super::config::{MqttSourceConfig, QoS, ReconnectConfig};
use super::inbox::{Batch, Inbox};
use super::topic;
use super::trouble::Trouble;
use super::wire::{self, Codec, Connected, Packet};
use crate::error::ConnectorError;
use crate::ingest::{IngestError, IngestWriter};
use crate::{PushSource, SourceContext};

/// The room for a read.
const READ_BYTES: usize = 64 << 10;
/// Room for a packet larger than this is given back after it.
const INPUT_BYTES_KEPT: usize = 4 * READ_BYTES;
/// While an append is on its way to the disk, what comes is left to gather, but no longer than this.
const READ_PAUSE_MAX: Duration = Duration::from_millis(5);
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

/// What is known of a connection while it is served.
struct Link {
    codec: Codec,
    /// What was read and is no whole packet yet.
    input: BytesMut,
    /// What is to be written.
    output: BytesMut,
    inbox: Inbox,
    keep_alive: Duration,
    /// A ping was not answered yet.
    waits_for_pong: bool,
    /// Since the last ping there was a time without reading.
    was_full: bool,
    stopping: bool,
    said_goodbye: bool,
}

impl Link {
    /// Makes room for a read.
    fn make_room(&mut self) {
        if self.input.is_empty() && self.input.capacity() > INPUT_BYTES_KEPT {
            self.input = BytesMut::new();
        }
        if self.input.capacity() - self.input.len() < READ_BYTES / 2 {
            self.input.reserve(READ_BYTES);
        }
    }
}

/// Why serving a connection ended.
enum Outcome {
    Stopped,
    Trouble(Trouble),
}

impl MqttSource {
    pub(super) fn new(
        config: &MqttSourceConfig,
        context: &SourceContext,
        broker: Broker,
        filters: Vec<(String, QoS)>,
        session_expiry: u32,
    ) -> Self {
        let session =
            Session { clean: config.clean_start, expiry: session_expiry, receive_maximum: config.receive_maximum };
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
        let connected = tokio::select! {
            biased;
            connected = wire::connect(&self.broker, self.session) => connected,
            () = stop.cancelled() => return Outcome::Stopped,
        };
        match connected {
            Ok(connected) => match self.feed(connected, log, stop, backoff).await {
                Ok(()) => Outcome::Stopped,
                Err(trouble) => Outcome::Trouble(trouble),
            },
            Err(trouble) => Outcome::Trouble(trouble),
        }
    }

    /// Feeds the log from a connection until it breaks, or until the stop.
    async fn feed(
        &mut self,
        connected: Connected,
        log: &IngestWriter,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<(), Trouble> {
        let Connected { stream, codec, input, answer } = connected;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut link = self.link(codec, input, answer.keep_alive);
        self.connected(answer.session_present, &mut link, backoff)?;
        self.take(&mut link)?;
        let mut storing: Option<BoxFuture<'_, Result<Vec<u16>, IngestError>>> = None;
        let mut pause = pin!(tokio::time::sleep(Duration::ZERO));
        let mut ping = pin!(tokio::time::sleep(link.keep_alive));
        let (mut stopped, mut stop_at) = (pin!(stop.cancelled()), None);
        loop {
            if storing.is_none()
                && let Some(batch) = link.inbox.pop()
            {
                storing = Some(Box::pin(store(log, batch)));
                pause.as_mut().reset(Instant::now() + READ_PAUSE_MAX);
            }
            let pausing = storing.is_some() && !pause.is_elapsed();
            let has_room = link.inbox.has_room();
            link.was_full |= !has_room;
            link.make_room();
            tokio::select! {
                biased;
                stored = wait_for(&mut storing) => {
                    let packet_ids = stored.map_err(|error| log_failed(&error))?;
                    link.codec.write_acknowledgements(&packet_ids, &self.broker, &mut link.output)?;
                    if link.stopping && link.inbox.is_empty() {
                        self.say_goodbye(&mut link)?;
                    }
                }
                written = writer.write_buf(&mut link.output), if !link.output.is_empty() => match written {
                    Ok(1..) => {}
                    _ if link.stopping => return Ok(()),
                    Ok(0) => return Err(self.broker.closed()),
                    Err(error) => return Err(self.broker.broken(error)),
                },
                () = sleep_until(stop_at) => return Ok(()),
                () = &mut ping => {
                    ping.as_mut().reset(Instant::now() + link.keep_alive);
                    self.ping(&mut link)?;
                }
                () = &mut stopped, if stop_at.is_none() => {
                    // A full log must not hold up a stop; what is not acknowledged comes again.
                    if !has_room {
                        return Ok(());
                    }
                    link.stopping = true;
                    stop_at = Some(Instant::now() + DRAIN_MAX);
                    if storing.is_none() {
                        self.say_goodbye(&mut link)?;
                    }
                }
                read = reader.read_buf(&mut link.input), if has_room && !pausing => {
                    let taken = match read {
                        Ok(0) => Err(self.broker.closed()),
                        Ok(_) => self.take(&mut link),
                        Err(error) => Err(self.broker.broken(error)),
                    };
                    match taken {
                        // The broker has taken the good-bye, and closed the connection.
                        Err(_) if link.stopping => return Ok(()),
                        taken => taken?,
                    }
                }
                () = &mut pause, if pausing => {}
            }
        }
    }

    fn link(&self, codec: Codec, input: BytesMut, keep_alive: Option<u16>) -> Link {
        let keep_alive = keep_alive.filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()));
        Link {
            codec,
            input,
            output: BytesMut::new(),
            inbox: Inbox::new(self.session.receive_maximum.into(), self.append_bytes_max),
            keep_alive: keep_alive.unwrap_or(self.broker.keep_alive),
            waits_for_pong: false,
            was_full: false,
            stopping: false,
            said_goodbye: false,
        }
    }

    /// Takes all whole packets that were read.
    fn take(&mut self, link: &mut Link) -> Result<(), Trouble> {
        let received_at = chrono::Utc::now().timestamp_micros();
        while let Some(packet) = link.codec.read(&mut link.input, &self.broker)? {
            match packet {
                // While stopping it is left to the broker, which sends it again to the next connection.
                Packet::Message(message) if link.stopping && message.qos > 0 => {}
                Packet::Message(message) => {
                    let topic = message.topic();
                    let wanted = self.wanted(&topic);
                    link.inbox.push(&message, &topic, wanted, received_at);
                }
                Packet::SubAck(granted) => self.subscribed(granted)?,
                Packet::PingResp => link.waits_for_pong = false,
                Packet::ConnAck(_) => return Err(self.broker.wrong_packet()),
            }
        }
        Ok(())
    }

    /// Ends the connection from this side, once.
    fn say_goodbye(&self, link: &mut Link) -> Result<(), Trouble> {
        if link.said_goodbye {
            return Ok(());
        }
        link.said_goodbye = true;
        link.codec.write_disconnect(&self.broker, &mut link.output)
    }

    /// Sends a ping, or gives a broker up that has not answered the last one.
    fn ping(&self, link: &mut Link) -> Result<(), Trouble> {
        // An answer may have come and not been read.
        if link.waits_for_pong && !link.was_full {
            return Err(self.broker.silent());
        }
        link.was_full = false;
        link.waits_for_pong = true;
        link.codec.write_ping(&self.broker, &mut link.output)
    }

    fn connected(&mut self, session_present: bool, link: &mut Link, backoff: &mut Backoff) -> Result<(), Trouble> {
        backoff.connected();
        tracing::info!(source = self.name, broker = self.broker.name(), session_present, "connected to the broker");
        self.subscribed &= session_present;
        if !self.subscribed {
            link.codec.write_subscribe(&self.filters, &self.broker, &mut link.output)?;
        }
        Ok(())
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
    fn wanted(&mut self, topic: &str) -> bool {
        let wanted = self.filters.iter().any(|(filter, _)| topic::matches(topic, filter));
        if !wanted && !self.warned_of_stranger {
            self.warned_of_stranger = true;
            tracing::warn!(
                source = self.name,
                topic,
                client_id = self.broker.client_id,
                "the broker's session still has a subscription that this source no longer names; its messages are left \
                 out. One start with clean_start: true, or another client_id, ends it"
            );
        }
        wanted
    }
}

/// Ends at `until`; never where there is no such time.
async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// Appends a batch and waits until it is durable. What is returned is to be acknowledged.
async fn store(log: &IngestWriter, batch: Batch) -> Result<Vec<u16>, IngestError> {
    log.append_batch_when_room(batch.messages).await?.await?;
    Ok(batch.packet_ids)
}

/// Ends with the future in `slot`, which is then empty; never where there is none.
async fn wait_for<T>(slot: &mut Option<BoxFuture<'_, T>>) -> T {
    match slot {
        Some(future) => {
            let value = future.await;
            *slot = None;
            value
        }
        None => std::future::pending().await,
    }
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
