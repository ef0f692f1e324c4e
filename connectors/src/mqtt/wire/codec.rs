//! Packets of both versions of the protocol as bytes, and back, by the client library's codecs.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes as mqttbytes5;
use rumqttc::v5::mqttbytes::v5 as p5;
use rumqttc::{ConnectionError, StateError, v5};

use super::super::broker::{Broker, Session, qos_v4, qos_v5, reason};
use super::super::config::{QoS, Version};
use super::super::trouble::Trouble;

/// The one packet id that this client gives out: that of its one subscription.
const SUBSCRIBE_ID: u16 = 1;

/// A message that came.
#[derive(Debug)]
pub(in super::super) struct Message {
    topic: Topic,
    pub(in super::super) payload: Bytes,
    pub(in super::super) qos: u8,
    pub(in super::super) retain: bool,
    pub(in super::super) dup: bool,
    /// 0 with QoS 0.
    pub(in super::super) packet_id: u16,
    pub(in super::super) properties: Option<p5::PublishProperties>,
}

#[derive(Debug)]
enum Topic {
    Text(String),
    /// What should be UTF-8.
    Bytes(Bytes),
}

impl Message {
    pub(in super::super) fn topic(&self) -> Cow<'_, str> {
        match &self.topic {
            Topic::Text(text) => Cow::Borrowed(text),
            Topic::Bytes(bytes) => String::from_utf8_lossy(bytes),
        }
    }
}

/// A packet that came.
#[derive(Debug)]
pub(in super::super) enum Packet {
    ConnAck(ConnAck),
    Message(Message),
    /// For each topic filter the QoS granted, or why it was refused.
    SubAck(Vec<Result<u8, String>>),
    PingResp,
}

/// The broker's answer to CONNECT, where it lets the client in.
#[derive(Debug)]
pub(in super::super) struct ConnAck {
    pub(in super::super) session_present: bool,
    /// Seconds.
    pub(in super::super) keep_alive: Option<u16>,
}

/// Writes and reads packets of one version of the protocol.
pub(in super::super) struct Codec {
    version: Version,
    packet_bytes_max: u32,
    /// The topics that numbers stand for (MQTT 5).
    aliases: HashMap<u16, Bytes>,
}

impl Codec {
    pub(super) fn new(broker: &Broker) -> Self {
        Self { version: broker.version, packet_bytes_max: broker.packet_bytes_max, aliases: HashMap::new() }
    }

    /// The next whole packet in `input`; `None` where there is none yet, and then there is room for more of it.
    pub(in super::super) fn read(&mut self, input: &mut BytesMut, broker: &Broker) -> Result<Option<Packet>, Trouble> {
        let before = input.len();
        match self.version {
            Version::V5 => match p5::Packet::read(input, Some(self.packet_bytes_max)) {
                Ok(packet) => self.packet_v5(packet).map(Some).map_err(|error| broker.trouble_v5(error)),
                // Where bytes are missing inside of a packet, it was taken out of `input` before.
                Err(mqttbytes5::Error::InsufficientBytes(missing)) if input.len() == before => {
                    input.reserve(missing);
                    Ok(None)
                }
                Err(error) => Err(broker.trouble_v5(v5::StateError::Deserialization(error).into())),
            },
            Version::V311 => match v4::Packet::read(input, self.packet_bytes_max as usize) {
                Ok(packet) => packet_v4(packet).map(Some).map_err(|error| broker.trouble_v4(error)),
                Err(mqttbytes::Error::InsufficientBytes(missing)) if input.len() == before => {
                    input.reserve(missing);
                    Ok(None)
                }
                Err(error) => Err(broker.trouble_v4(StateError::Deserialization(error).into())),
            },
        }
    }

    fn packet_v5(&mut self, packet: p5::Packet) -> Result<Packet, v5::ConnectionError> {
        use v5::{ConnectionError, StateError};
        Ok(match packet {
            p5::Packet::ConnAck(ack) if ack.code == p5::ConnectReturnCode::Success => {
                let keep_alive = ack.properties.and_then(|properties| properties.server_keep_alive);
                Packet::ConnAck(ConnAck { session_present: ack.session_present, keep_alive })
            }
            p5::Packet::ConnAck(ack) => return Err(ConnectionError::ConnectionRefused(ack.code)),
            p5::Packet::Publish(publish) => Packet::Message(self.message_v5(publish)?),
            p5::Packet::SubAck(ack) => {
                let said = ack.properties.and_then(|properties| properties.reason_string);
                let granted = |code: &p5::SubscribeReasonCode| match code {
                    p5::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    code => Err(reason(format!("{code:?}"), said.as_deref())),
                };
                Packet::SubAck(ack.return_codes.iter().map(granted).collect())
            }
            p5::Packet::PingResp(_) => Packet::PingResp,
            p5::Packet::Disconnect(disconnect) => {
                let reason_string = disconnect.properties.and_then(|properties| properties.reason_string);
                return Err(StateError::ServerDisconnect { reason_code: disconnect.reason_code, reason_string }.into());
            }
            _ => return Err(StateError::WrongPacket.into()),
        })
    }

    fn message_v5(&mut self, publish: p5::Publish) -> Result<Message, v5::StateError> {
        let mut topic = publish.topic;
        if let Some(alias) = publish.properties.as_ref().and_then(|properties| properties.topic_alias) {
            if topic.is_empty() {
                // The client asked for no aliases, so there is a broker at fault where one is unknown.
                let known = self.aliases.get(&alias).cloned();
                topic = known.ok_or(v5::StateError::InvalidAlias { alias, max: 0 })?;
            } else {
                // A copy: the topic is a slice of what was read, which would be kept as a whole.
                self.aliases.insert(alias, Bytes::copy_from_slice(&topic));
            }
        }
        Ok(Message {
            topic: Topic::Bytes(topic),
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
            properties: publish.properties,
        })
    }

    pub(super) fn write_connect(&self, broker: &Broker, session: Session, out: &mut BytesMut) -> Result<(), Trouble> {
        match self.version {
            Version::V5 => self.write(out, &connect_v5(broker, session), broker),
            Version::V311 => connect_v4(broker, session)
                .write(out)
                .map(drop)
                .map_err(|error| broker.trouble_v4(StateError::Deserialization(error).into())),
        }
    }

    fn write(&self, out: &mut BytesMut, packet: &p5::Packet, broker: &Broker) -> Result<(), Trouble> {
        let error = match packet.write(out, None) {
            Ok(_) => return Ok(()),
            Err(error) => v5::StateError::Deserialization(error),
        };
        Err(broker.trouble_v5(error.into()))
    }

    pub(in super::super) fn write_subscribe(
        &self,
        filters: &[(String, QoS)],
        broker: &Broker,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        match self.version {
            Version::V5 => {
                let filter = |(path, qos): &(String, QoS)| {
                    let mut filter = p5::Filter::new(path.clone(), qos_v5(*qos));
                    // A stored message comes with a new subscription, and not again with every start of the pipeline.
                    filter.retain_forward_rule = p5::RetainForwardRule::OnNewSubscribe;
                    filter
                };
                let mut subscribe = p5::Subscribe::new_many(filters.iter().map(filter), None);
                subscribe.pkid = SUBSCRIBE_ID;
                self.write(out, &p5::Packet::Subscribe(subscribe), broker)
            }
            Version::V311 => {
                let filter = |(path, qos): &(String, QoS)| v4::SubscribeFilter::new(path.clone(), qos_v4(*qos));
                let mut subscribe = v4::Subscribe::new_many(filters.iter().map(filter));
                subscribe.pkid = SUBSCRIBE_ID;
                let written = subscribe.write(out).map(drop);
                written.map_err(|error| broker.trouble_v4(StateError::Deserialization(error).into()))
            }
        }
    }

    /// Acknowledges messages of QoS 1.
    pub(in super::super) fn write_acknowledgements(
        &self,
        packet_ids: &[u16],
        broker: &Broker,
        out: &mut BytesMut,
    ) -> Result<(), Trouble> {
        let mut acknowledge = |packet_id| match self.version {
            Version::V5 => {
                let written = p5::PubAck::new(packet_id, None).write(out).map(drop);
                written.map_err(|error| broker.trouble_v5(v5::StateError::Deserialization(error).into()))
            }
            Version::V311 => {
                let written = v4::PubAck::new(packet_id).write(out).map(drop);
                written.map_err(|error| broker.trouble_v4(StateError::Deserialization(error).into()))
            }
        };
        packet_ids.iter().try_for_each(|packet_id| acknowledge(*packet_id))
    }

    pub(in super::super) fn write_ping(&self, broker: &Broker, out: &mut BytesMut) -> Result<(), Trouble> {
        self.write(out, &p5::Packet::PingReq(p5::PingReq), broker)
    }

    pub(in super::super) fn write_disconnect(&self, broker: &Broker, out: &mut BytesMut) -> Result<(), Trouble> {
        let normal = p5::Disconnect::new(p5::DisconnectReasonCode::NormalDisconnection);
        self.write(out, &p5::Packet::Disconnect(normal), broker)
    }
}

fn packet_v4(packet: v4::Packet) -> Result<Packet, ConnectionError> {
    use rumqttc::{ConnectReturnCode, SubscribeReasonCode};
    Ok(match packet {
        v4::Packet::ConnAck(ack) if ack.code == ConnectReturnCode::Success => {
            Packet::ConnAck(ConnAck { session_present: ack.session_present, keep_alive: None })
        }
        v4::Packet::ConnAck(ack) => return Err(ConnectionError::ConnectionRefused(ack.code)),
        v4::Packet::Publish(publish) => Packet::Message(Message {
            topic: Topic::Text(publish.topic),
            payload: publish.payload,
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.pkid,
            properties: None,
        }),
        v4::Packet::SubAck(ack) => Packet::SubAck(
            ack.return_codes
                .iter()
                .map(|code| match code {
                    SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    SubscribeReasonCode::Failure => Err("the broker gives no reason (often: not allowed)".into()),
                })
                .collect(),
        ),
        v4::Packet::PingResp => Packet::PingResp,
        _ => return Err(StateError::WrongPacket.into()),
    })
}

/// Seconds, as far as the wire has room for them.
fn keep_alive(broker: &Broker) -> u16 {
    u16::try_from(broker.keep_alive.as_secs()).unwrap_or(u16::MAX)
}

fn connect_v5(broker: &Broker, session: Session) -> p5::Packet {
    let mut properties = p5::ConnectProperties::new();
    properties.session_expiry_interval = Some(session.expiry);
    properties.receive_maximum = Some(session.receive_maximum);
    properties.max_packet_size = Some(broker.packet_bytes_max);
    let connect = p5::Connect {
        client_id: broker.client_id.clone(),
        keep_alive: keep_alive(broker),
        clean_start: session.clean,
        properties: Some(properties),
    };
    let will = broker
        .last_will
        .as_ref()
        .map(|will| p5::LastWill::new(&will.topic, will.payload.as_str(), qos_v5(will.qos), will.retain, None));
    let login = broker.login.as_ref().map(|(user, password)| p5::Login::new(user, password));
    p5::Packet::Connect(connect, will, login)
}

fn connect_v4(broker: &Broker, session: Session) -> v4::Connect {
    let mut connect = v4::Connect::new(&broker.client_id);
    connect.keep_alive = keep_alive(broker);
    connect.clean_session = session.clean;
    connect.last_will = broker
        .last_will
        .as_ref()
        .map(|will| v4::LastWill::new(&will.topic, will.payload.as_str(), qos_v4(will.qos), will.retain));
    connect.login = broker.login.as_ref().map(|(user, password)| v4::Login::new(user, password));
    connect
}
