//! One connection to a broker, with both versions of the protocol behind one surface.
//!
//! A connection is used until it breaks and is then thrown away: the client library would go on by itself, but it
//! carries packet ids, events and a colliding message of the old connection over to the new one, and forgets messages
//! that were not acknowledged when the broker forgot the session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::tokio_native_tls::native_tls::TlsConnector;
use rumqttc::v5::mqttbytes::v5 as p5;
use rumqttc::{Outgoing, TlsConfiguration, Transport, v5};

use super::config::{LastWillConfig, QoS, Version};
use super::trouble::Trouble;

/// There are no more packet ids than this, so no more acknowledgements can wait to be sent: sending one never waits.
const REQUESTS_MAX: usize = 65_536;

/// What it takes to connect.
#[derive(Clone)]
pub(super) struct Broker {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) client_id: String,
    pub(super) login: Option<(String, String)>,
    pub(super) tls: Option<TlsConnector>,
    pub(super) version: Version,
    pub(super) keep_alive: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) packet_bytes_max: u32,
    pub(super) last_will: Option<LastWillConfig>,
}

/// What the connection is for.
#[derive(Clone, Copy)]
pub(super) struct Session {
    pub(super) clean: bool,
    /// Seconds (MQTT 5).
    pub(super) expiry: u32,
    pub(super) receive_maximum: u16,
    /// At most so many published messages without acknowledgement.
    pub(super) inflight: u16,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) dup: bool,
    /// 0 with QoS 0.
    pub(super) packet_id: u16,
    pub(super) properties: Option<p5::PublishProperties>,
}

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum Event {
    Connected {
        session_present: bool,
        receive_maximum: u16,
        packet_bytes_max: Option<u32>,
    },
    Message(Message),
    /// For each topic filter the QoS granted, or why it was refused.
    Subscribed(Vec<Result<u8, String>>),
    /// A message was written to the connection, under this packet id (0 with QoS 0).
    Sent(u16),
    /// A message was taken by the broker, or refused.
    Delivered(u16, Result<(), Refusal>),
    /// An acknowledgement was written to the connection.
    Acknowledged,
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
    /// Its address, for messages.
    pub(super) fn name(&self) -> String {
        format!("{}://{}:{}", if self.tls.is_some() { "mqtts" } else { "mqtt" }, self.host, self.port)
    }

    /// Prepares a connection.
    pub(super) fn connect(self: &Arc<Self>, session: Session) -> Connection {
        let (sender, events) = match self.version {
            Version::V5 => {
                let (client, events) = v5::AsyncClient::new(self.options_v5(session), REQUESTS_MAX);
                (Sender::V5(client), EventLoop::V5(Box::new(events)))
            }
            Version::V311 => {
                let (client, mut events) = rumqttc::AsyncClient::new(self.options_v4(session), REQUESTS_MAX);
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

    fn options_v5(&self, session: Session) -> v5::MqttOptions {
        let mut options = v5::MqttOptions::new(&self.client_id, &self.host, self.port);
        let mut properties = p5::ConnectProperties::new();
        properties.session_expiry_interval = Some(session.expiry);
        properties.receive_maximum = Some(session.receive_maximum);
        properties.max_packet_size = Some(self.packet_bytes_max);
        options
            .set_transport(self.transport())
            .set_keep_alive(self.keep_alive)
            .set_clean_start(session.clean)
            .set_connection_timeout(self.connect_timeout.as_secs().saturating_add(2))
            .set_manual_acks(true)
            .set_outgoing_inflight_upper_limit(session.inflight)
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

    fn options_v4(&self, session: Session) -> rumqttc::MqttOptions {
        let mut options = rumqttc::MqttOptions::new(&self.client_id, &self.host, self.port);
        options
            .set_transport(self.transport())
            .set_keep_alive(self.keep_alive)
            .set_clean_session(session.clean)
            .set_manual_acks(true)
            .set_inflight(session.inflight)
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
        // What was read before the connection broke still counts, acknowledgements above all. A message that asks for
        // one does not: the broker sends it again.
        self.leftover.retain(|event| !matches!(event, Event::Message(message) if message.qos > 0));
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
    pub(super) fn subscribe(&self, filters: &[(String, QoS)]) {
        match self {
            Self::V4(client) => {
                let filters =
                    filters.iter().map(|(path, qos)| rumqttc::SubscribeFilter::new(path.clone(), qos_v4(*qos)));
                client.try_subscribe_many(filters).ok();
            }
            Self::V5(client) => {
                let filter = |(path, qos): &(String, QoS)| {
                    let mut filter = p5::Filter::new(path.clone(), qos_v5(*qos));
                    // A stored message comes with a new subscription, and not again with every start of the pipeline.
                    filter.retain_forward_rule = p5::RetainForwardRule::OnNewSubscribe;
                    filter
                };
                client.try_subscribe_many(filters.iter().map(filter)).ok();
            }
        }
    }

    /// Acknowledges a message of QoS 1.
    pub(super) fn acknowledge(&self, packet_id: u16) {
        match self {
            Self::V4(client) => {
                let mut publish = rumqttc::Publish::new("", rumqttc::QoS::AtLeastOnce, Vec::new());
                publish.pkid = packet_id;
                client.try_ack(&publish).ok();
            }
            Self::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client.try_ack(&p5::Publish { qos, pkid: packet_id, ..Default::default() }).ok();
            }
        }
    }

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

fn qos_v4(qos: QoS) -> rumqttc::QoS {
    match qos.level() {
        0 => rumqttc::QoS::AtMostOnce,
        1 => rumqttc::QoS::AtLeastOnce,
        _ => rumqttc::QoS::ExactlyOnce,
    }
}

fn qos_v5(qos: QoS) -> v5::mqttbytes::QoS {
    match qos.level() {
        0 => v5::mqttbytes::QoS::AtMostOnce,
        1 => v5::mqttbytes::QoS::AtLeastOnce,
        _ => v5::mqttbytes::QoS::ExactlyOnce,
    }
}

fn outgoing(outgoing: &Outgoing) -> Event {
    match outgoing {
        Outgoing::Publish(packet_id) => Event::Sent(*packet_id),
        Outgoing::PubAck(_) | Outgoing::PubRec(_) => Event::Acknowledged,
        _ => Event::Other,
    }
}

fn event_v4(event: rumqttc::Event) -> Event {
    use rumqttc::{Packet, SubscribeReasonCode};
    let packet = match event {
        rumqttc::Event::Incoming(packet) => packet,
        rumqttc::Event::Outgoing(packet) => return outgoing(&packet),
    };
    match packet {
        Packet::ConnAck(ack) => {
            Event::Connected { session_present: ack.session_present, receive_maximum: u16::MAX, packet_bytes_max: None }
        }
        Packet::Publish(publish) => Event::Message(Message {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
            properties: None,
        }),
        Packet::SubAck(ack) => Event::Subscribed(
            ack.return_codes
                .iter()
                .map(|code| match code {
                    SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    SubscribeReasonCode::Failure => Err("the broker gives no reason (often: not allowed)".into()),
                })
                .collect(),
        ),
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
                session_present: ack.session_present,
                receive_maximum: properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX),
                packet_bytes_max: properties.and_then(|properties| properties.max_packet_size),
            }
        }
        v5::Incoming::Publish(publish) => Event::Message(Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
            properties: publish.properties,
        }),
        v5::Incoming::SubAck(ack) => {
            let said = ack.properties.and_then(|properties| properties.reason_string);
            let granted = |code: &p5::SubscribeReasonCode| match code {
                p5::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                code => Err(reason(format!("{code:?}"), said.as_deref())),
            };
            Event::Subscribed(ack.return_codes.iter().map(granted).collect())
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

pub(super) fn reason(code: String, said: Option<&str>) -> String {
    match said {
        Some(said) => format!("{code}: {said}"),
        None => code,
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
