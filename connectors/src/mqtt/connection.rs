//! The sink's connection to a broker, with both versions of the protocol behind one surface.
//!
//! A connection is used until it breaks and is then thrown away: the client library would go on by itself, but it
//! carries packet ids, events and a colliding message of the old connection over to the new one, and forgets messages
//! that were not acknowledged when the broker forgot the session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5 as p5;
use rumqttc::{Outgoing, TlsConfiguration, Transport, v5};

use super::broker::{Broker, qos_v4, qos_v5, reason};
use super::config::{QoS, Version};
use super::trouble::Trouble;

/// There are no more packet ids than this, so no more acknowledgements can wait to be sent: sending one never waits.
const REQUESTS_MAX: usize = 65_536;

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum Event {
    Connected {
        receive_maximum: u16,
        packet_bytes_max: Option<u32>,
    },
    /// A message was written to the connection, under this packet id (0 with QoS 0).
    Sent(u16),
    /// A message was taken by the broker, or refused.
    Delivered(u16, Result<(), Refusal>),
    Other,
}

/// Why the broker did not take a message (MQTT 5; a broker of 3.1.1 has no way to say it).
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    /// Whether it would refuse it again.
    pub(super) for_good: bool,
    /// Whether the client library has lost count and needs a new connection.
    pub(super) reconnect: bool,
}

/// Sends on a connection. What is sent after its end goes nowhere.
#[derive(Clone)]
pub(super) enum Sender {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

enum EventLoop {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// A connection, made by the first [`Connection::next`].
pub(super) struct Connection {
    events: EventLoop,
    pub(super) sender: Sender,
    connected: bool,
    broker: Arc<Broker>,
    /// Events that came before `trouble` and were not taken yet.
    leftover: VecDeque<Event>,
    /// What ended the connection.
    trouble: Option<Trouble>,
}

impl Broker {
    /// Prepares a connection with a new session, and at most so many published messages without acknowledgement.
    pub(super) fn connect(self: &Arc<Self>, inflight: u16) -> Connection {
        let (sender, events) = match self.version {
            Version::V5 => {
                let (client, events) = v5::AsyncClient::new(self.options_v5(inflight), REQUESTS_MAX);
                (Sender::V5(client), EventLoop::V5(Box::new(events)))
            }
            Version::V311 => {
                let (client, mut events) = rumqttc::AsyncClient::new(self.options_v4(inflight), REQUESTS_MAX);
                events.set_network_options(self.network_options());
                (Sender::V4(client), EventLoop::V4(Box::new(events)))
            }
        };
        Connection { events, sender, connected: false, broker: self.clone(), leftover: VecDeque::new(), trouble: None }
    }

    fn transport(&self) -> Transport {
        match &self.tls {
            Some(connector) => Transport::tls_with_config(TlsConfiguration::NativeConnector(connector.clone())),
            None => Transport::tcp(),
        }
    }

    fn network_options(&self) -> rumqttc::NetworkOptions {
        let mut options = rumqttc::NetworkOptions::new();
        options.set_tcp_nodelay(true);
        // `Connection::next` has the exact limit; the library's counts whole seconds.
        options.set_connection_timeout(self.connect_timeout.as_secs().saturating_add(2));
        options
    }

    fn options_v5(&self, inflight: u16) -> v5::MqttOptions {
        let mut options = v5::MqttOptions::new(&self.client_id, &self.host, self.port);
        let mut properties = p5::ConnectProperties::new();
        properties.session_expiry_interval = Some(0);
        properties.receive_maximum = Some(u16::MAX);
        properties.max_packet_size = Some(self.packet_bytes_max);
        options
            .set_transport(self.transport())
            .set_keep_alive(self.keep_alive)
            .set_clean_start(true)
            .set_connection_timeout(self.connect_timeout.as_secs().saturating_add(2))
            .set_outgoing_inflight_upper_limit(inflight)
            .set_connect_properties(properties);
        options.set_network_options(self.network_options());
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password);
        }
        if let Some(will) = &self.last_will {
            let will = p5::LastWill::new(&will.topic, will.payload.as_str(), qos_v5(will.qos), will.retain, None);
            options.set_last_will(will);
        }
        options
    }

    fn options_v4(&self, inflight: u16) -> rumqttc::MqttOptions {
        let mut options = rumqttc::MqttOptions::new(&self.client_id, &self.host, self.port);
        options
            .set_transport(self.transport())
            .set_keep_alive(self.keep_alive)
            .set_clean_session(true)
            .set_inflight(inflight)
            .set_max_packet_size(self.packet_bytes_max as usize, self.packet_bytes_max as usize);
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password);
        }
        if let Some(will) = &self.last_will {
            options.set_last_will(rumqttc::LastWill::new(
                &will.topic,
                will.payload.as_str(),
                qos_v4(will.qos),
                will.retain,
            ));
        }
        options
    }
}

impl Connection {
    /// What happens next. Not safe to cancel, except to throw the connection away: a packet that is being written would
    /// be lost.
    pub(super) async fn next(&mut self) -> Result<Event, Trouble> {
        // A poll returns at the latest when a ping is sent; where it does not, writing hangs on a dead connection.
        let limit = match self.connected {
            true => self.keep_alive() * 2 + self.broker.connect_timeout,
            false => self.broker.connect_timeout,
        };
        if let Some(event) = self.leftover.pop_front() {
            return Ok(event);
        }
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        let event = match &mut self.events {
            EventLoop::V4(events) => match tokio::time::timeout(limit, events.poll()).await {
                Ok(Ok(event)) => Ok(event_v4(event)),
                Ok(Err(error)) => {
                    self.leftover.extend(events.state.events.drain(..).map(event_v4));
                    Err(self.broker.trouble_v4(error))
                }
                Err(_) => Err(Trouble::Lost(format!("no answer within {limit:?}"))),
            },
            EventLoop::V5(events) => match tokio::time::timeout(limit, events.poll()).await {
                Ok(Ok(event)) => Ok(event_v5(event)),
                Ok(Err(error)) => {
                    self.leftover.extend(events.state.events.drain(..).map(event_v5));
                    Err(self.broker.trouble_v5(error))
                }
                Err(_) => Err(Trouble::Lost(format!("no answer within {limit:?}"))),
            },
        };
        // What was read before the connection broke still counts, acknowledgements above all.
        let event = match (event, self.leftover.pop_front()) {
            (Err(trouble), Some(first)) => {
                self.trouble = Some(trouble);
                Ok(first)
            }
            (event, _) => event,
        };
        self.connected |= matches!(event, Ok(Event::Connected { .. }));
        event
    }

    /// The one in force: a broker of MQTT 5 may ask for another.
    fn keep_alive(&self) -> Duration {
        match &self.events {
            EventLoop::V4(events) => events.mqtt_options.keep_alive(),
            EventLoop::V5(events) => events.options.keep_alive(),
        }
    }
}

/// Sending only fails where the connection is gone, which `Connection::next` says.
impl Sender {
    pub(super) fn publish(&self, topic: &str, qos: QoS, retain: bool, payload: Bytes) {
        match self {
            Self::V4(client) => drop(client.try_publish(topic, qos_v4(qos), retain, payload)),
            Self::V5(client) => drop(client.try_publish(topic, qos_v5(qos), retain, payload)),
        }
    }

    pub(super) fn disconnect(&self) {
        match self {
            Self::V4(client) => drop(client.try_disconnect()),
            Self::V5(client) => drop(client.try_disconnect()),
        }
    }
}

fn outgoing(outgoing: &Outgoing) -> Event {
    match outgoing {
        Outgoing::Publish(packet_id) => Event::Sent(*packet_id),
        _ => Event::Other,
    }
}

fn event_v4(event: rumqttc::Event) -> Event {
    use rumqttc::Packet;
    let packet = match event {
        rumqttc::Event::Incoming(packet) => packet,
        rumqttc::Event::Outgoing(packet) => return outgoing(&packet),
    };
    match packet {
        Packet::ConnAck(ack) => Event::Connected { receive_maximum: u16::MAX, packet_bytes_max: None },
        Packet::PubAck(ack) => Event::Delivered(ack.pkid, Ok(())),
        Packet::PubComp(ack) => Event::Delivered(ack.pkid, Ok(())),
        _ => Event::Other,
    }
}

fn event_v5(event: v5::Event) -> Event {
    let packet = match event {
        v5::Event::Incoming(packet) => packet,
        v5::Event::Outgoing(packet) => return outgoing(&packet),
    };
    match packet {
        v5::Incoming::ConnAck(ack) => {
            let properties = ack.properties.as_ref();
            Event::Connected {
                receive_maximum: properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX),
                packet_bytes_max: properties.and_then(|properties| properties.max_packet_size),
            }
        }
        v5::Incoming::PubAck(ack) => {
            let said = ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
            Event::Delivered(ack.pkid, verdict(&format!("{:?}", ack.reason), said, false))
        }
        v5::Incoming::PubRec(ack) => {
            let said = ack.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
            match verdict(&format!("{:?}", ack.reason), said, true) {
                // It is delivered when the broker says so a second time, with PUBCOMP.
                Ok(()) => Event::Other,
                Err(refusal) => Event::Delivered(ack.pkid, Err(refusal)),
            }
        }
        v5::Incoming::PubComp(ack) => Event::Delivered(ack.pkid, Ok(())),
        _ => Event::Other,
    }
}

/// The library has no common type for the reasons of PUBACK and PUBREC; their names are the same.
fn verdict(code: &str, said: Option<&str>, reconnect: bool) -> Result<(), Refusal> {
    let for_good = match code {
        "Success" | "NoMatchingSubscribers" => return Ok(()),
        "NotAuthorized" | "TopicNameInvalid" | "PayloadFormatInvalid" => true,
        _ => false,
    };
    Err(Refusal { reason: reason(code.to_owned(), said), for_good, reconnect })
}
