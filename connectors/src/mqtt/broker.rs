//! What it takes to connect to a broker, and what a connection is for.

use std::time::Duration;

use rumqttc::tokio_native_tls::native_tls::TlsConnector;

use super::config::{LastWillConfig, QoS, Version};

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
}

impl Broker {
    /// Its address, for messages.
    pub(super) fn name(&self) -> String {
        format!("{}://{}:{}", if self.tls.is_some() { "mqtts" } else { "mqtt" }, self.host, self.port)
    }
}

pub(super) fn qos_v4(qos: QoS) -> rumqttc::QoS {
    match qos.level() {
        0 => rumqttc::QoS::AtMostOnce,
        1 => rumqttc::QoS::AtLeastOnce,
        _ => rumqttc::QoS::ExactlyOnce,
    }
}

pub(super) fn qos_v5(qos: QoS) -> rumqttc::v5::mqttbytes::QoS {
    use rumqttc::v5::mqttbytes::QoS as V5;
    match qos.level() {
        0 => V5::AtMostOnce,
        1 => V5::AtLeastOnce,
        _ => V5::ExactlyOnce,
    }
}

/// A reason code and what the broker said about it.
pub(super) fn reason(code: String, said: Option<&str>) -> String {
    match said {
        Some(said) => format!("{code}: {said}"),
        None => code,
    }
}
