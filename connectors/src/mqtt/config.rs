//! The options of the MQTT source and sink, and the checks that need no connection.

use std::borrow::Cow;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::address::{BrokerUrl, address};
use super::broker::Broker;
use super::sink::MqttSink;
use super::source::MqttSource;
use super::tls::TlsConfig;
use super::topic;
use crate::error::ConnectorError;
use crate::format::Encoder;
use crate::ingest::IngestConfig;
use crate::secret::Secret;
use crate::units::{ByteSize, Duration};
use crate::{PushSource, Sink, SinkContext, SourceContext};

/// Keep-alive has 16 bits of seconds on the wire; the client library wants at least five.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(65_535));
/// The largest packet of the protocol.
const PACKET_BYTES_MAX: ByteSize = ByteSize(268_435_455);
/// The smallest `max_packet_size`.
const PACKET_BYTES_MIN: ByteSize = ByteSize(1 << 10);
/// How long the broker keeps the session by default (MQTT 5).
const SESSION_EXPIRY: Duration = Duration::from_secs(7 * 86_400);

/// Defines a connector's options: those that source and sink share, and its own. (serde cannot refuse unknown keys, or
/// say where they are, in options that are flattened into one another.)
macro_rules! mqtt_options {
    ($(#[$meta:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The broker: `mqtt://host:1883`, or `mqtts://host:8883` with TLS. A user and password may stand in it
            /// (`mqtt://user:password@host`); `username` and `password` are the better place.
            pub url: BrokerUrl,
            /// The name by which the broker knows this client and keeps its session. Two clients with one name throw
            /// each other out. By default it is made of the pipeline's and the connector's names and always the same.
            #[serde(default)]
            pub client_id: Option<String>,
            /// The user to log in as.
            #[serde(default)]
            pub username: Option<String>,
            /// The password to log in with.
            #[serde(default)]
            pub password: Option<Secret>,
            /// The version of the protocol: "5" (the default) or "3.1.1".
            #[serde(default)]
            pub version: Version,
            /// A ping is sent after so long without traffic; a broker that does not answer within the same time again
            /// is given up. 5s to 65535s; 60s by default.
            #[serde(default = "default_keep_alive")]
            pub keep_alive: Duration,
            /// A connection that is not made after so long is tried again. 10s by default.
            #[serde(default = "default_connect_timeout")]
            pub connect_timeout: Duration,
            /// The largest packet (payload, topic and a few bytes), 1KiB to 268435455B; 16MiB by default. The source
            /// takes none that is larger: with MQTT 5 the broker leaves such messages out, with 3.1.1 the pipeline
            /// stops and says so. Rows that the sink would send in a larger one go to the dead letter.
            #[serde(default = "default_max_packet_size")]
            pub max_packet_size: ByteSize,
            /// TLS, for `mqtts://`. Without it the certificates that the system trusts are trusted.
            #[serde(default)]
            pub tls: Option<TlsConfig>,
            /// What the broker publishes when this client is gone without saying good-bye.
            #[serde(default)]
            pub last_will: Option<LastWillConfig>,
            /// The pauses between tries to connect.
            #[serde(default)]
            pub reconnect: ReconnectConfig,
            $($own)*
        }

        impl $name {
            /// Checks the shared options.
            pub(super) fn broker(&self, client_id: String, base_dir: &Path) -> Result<Broker, ConnectorError> {
                let client_id = self.client_id.clone().unwrap_or(client_id);
                let (host, port, with_tls, login) = address(&self.url, self.username.as_deref(), self.password.as_ref())?;
                check_shared(&client_id, self.keep_alive, self.connect_timeout, self.max_packet_size, &self.reconnect)?;
                let tls = match (&self.tls, with_tls) {
                    (Some(_), false) => return Err(ConnectorError::configuration(
                        "tls", "the url begins with mqtt://, which is without TLS; write mqtts:// or leave tls out")),
                    (tls, true) => Some(tls.clone().unwrap_or_default().connector(base_dir)?),
                    (None, false) => None,
                };
                if let Some(will) = &self.last_will {
                    topic::check_topic(&will.topic)
                        .map_err(|why| ConnectorError::configuration("last_will.topic", why))?;
                }
                Ok(Broker {
                    host, port, client_id, login, tls,
                    version: self.version,
                    keep_alive: self.keep_alive.0,
                    connect_timeout: self.connect_timeout.0,
                    packet_bytes_max: self.max_packet_size.0 as u32,
                    last_will: self.last_will.clone(),
                })
            }
        }
    };
}

mqtt_options! {
    /// Options of the MQTT source.
    MqttSourceConfig {
        /// What to subscribe to: topics, with the wildcards + (one level) and # (all further levels), or shared
        /// subscriptions (`$share/GROUP/FILTER`). Each is a text, or `{topic: …, qos: …}`.
        #[schemars(length(min = 1))]
        pub topics: Vec<Topic>,
        /// The quality of service of topics that say none: 1 (the default; nothing is lost) or 0. With 2 the broker
        /// would need two more packets for each message and no message would be safer; messages published with 2 come
        /// with 1.
        #[serde(default)]
        pub qos: QoS,
        /// Begin every connection with a new session: what is published while the connection is down is lost.
        #[serde(default)]
        pub clean_start: bool,
        /// How long the broker keeps the session, and the messages for it, while the connection is down. 7d by default.
        /// Only with MQTT 5; with 3.1.1 the broker decides.
        #[serde(default)]
        pub session_expiry: Option<Duration>,
        /// At most so many messages are on their way from the broker to the disk. With MQTT 5 the broker keeps to it.
        #[serde(default = "default_receive_maximum")]
        #[schemars(range(min = 1))]
        pub receive_maximum: u16,
        /// The ingest log, where messages are made durable before they are acknowledged.
        #[serde(default)]
        pub ingest: IngestConfig,
    }
}

mqtt_options! {
    /// Options of the MQTT sink.
    MqttSinkConfig {
        /// The topic, which may have columns in it: `fleet/{vehicle}/alarm`.
        pub topic: String,
        /// 1 (the default): the broker acknowledges each message, and one that it does not acknowledge is sent again.
        /// 2: it takes each message once per connection. 0: messages are sent and may be lost on the way; a row counts as
        /// delivered when it is written to the connection.
        #[serde(default)]
        pub qos: QoS,
        /// The broker keeps the last message of each topic for those who subscribe later.
        #[serde(default)]
        pub retain: bool,
        /// At most so many messages are on their way and not acknowledged. 100 by default, and less where a broker of
        /// MQTT 5 wants less. With MQTT 3.1.1 a broker cannot say what it wants and may end the connection: Mosquitto
        /// takes 20 with QoS 2, which is the default there.
        #[serde(default)]
        #[schemars(range(min = 1))]
        pub inflight: Option<u16>,
        /// Without any acknowledgement for so long the pipeline is started again from its last snapshot. 30s by
        /// default.
        #[serde(default = "default_delivery_timeout")]
        pub delivery_timeout: Duration,
    }
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    /// MQTT 5.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

/// The quality of service: 0, 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct QoS(u8);

impl JsonSchema for QoS {
    fn schema_name() -> Cow<'static, str> {
        "qos".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": 2 })
    }
}

impl QoS {
    /// 0, 1 or 2.
    pub fn level(self) -> u8 {
        self.0
    }
}

impl Default for QoS {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u8> for QoS {
    type Error = String;

    fn try_from(level: u8) -> Result<Self, String> {
        match level {
            0..=2 => Ok(Self(level)),
            _ => Err(format!("there is no QoS {level}; write 0, 1 or 2")),
        }
    }
}

impl From<QoS> for u8 {
    fn from(qos: QoS) -> Self {
        qos.0
    }
}

/// A topic filter, alone or with its own QoS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Topic {
    /// The filter alone.
    Filter(String),
    /// The filter and its QoS.
    Detailed(DetailedTopic),
}

/// A topic filter with its own QoS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetailedTopic {
    /// The filter.
    pub topic: String,
    /// Its quality of service: 0 or 1.
    pub qos: QoS,
}

/// What the broker publishes when this client is gone without saying good-bye.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LastWillConfig {
    /// Where.
    pub topic: String,
    /// What; empty by default.
    #[serde(default)]
    pub payload: String,
    /// Its quality of service; 1 by default.
    #[serde(default)]
    pub qos: QoS,
    /// Whether the broker keeps it for those who subscribe later.
    #[serde(default)]
    pub retain: bool,
}

/// The pauses between tries to connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReconnectConfig {
    /// The pause after the first failure; it doubles with every further one.
    pub initial: Duration,
    /// The longest pause.
    pub max: Duration,
    /// Up to this share of a pause is left out, by chance, so that many clients do not come back at once. 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter: f64,
}

impl Default for ReconnectConfig {
    fn default() -> Self {
        Self { initial: Duration::from_millis(200), max: Duration::from_secs(30), jitter: 0.5 }
    }
}

fn default_keep_alive() -> Duration {
    Duration::from_secs(60)
}

fn default_connect_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_max_packet_size() -> ByteSize {
    ByteSize::mib(16)
}

fn default_receive_maximum() -> u16 {
    1000
}

fn default_delivery_timeout() -> Duration {
    Duration::from_secs(30)
}

fn check_shared(
    client_id: &str,
    keep_alive: Duration,
    connect_timeout: Duration,
    max_packet_size: ByteSize,
    reconnect: &ReconnectConfig,
) -> Result<(), ConnectorError> {
    let refuse = |option: &str, why: String| Err(ConnectorError::configuration(option, why));
    if client_id.is_empty() || client_id.len() > topic::TOPIC_BYTES_MAX || client_id.contains('\0') {
        return refuse("client_id", "it must have 1 to 65,535 bytes and no NUL".into());
    }
    if !(KEEP_ALIVE.0..=KEEP_ALIVE.1).contains(&keep_alive) {
        return refuse("keep_alive", format!("{keep_alive} is not between 5s and 65535s"));
    }
    if keep_alive.0.subsec_nanos() != 0 {
        return refuse("keep_alive", format!("{keep_alive} is not a whole number of seconds"));
    }
    if connect_timeout.0.is_zero() {
        return refuse("connect_timeout", "without time no connection can be made".into());
    }
    if !(PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&max_packet_size) {
        return refuse("max_packet_size", format!("{max_packet_size} is not between 1KiB and 268435455B"));
    }
    if reconnect.initial.0.is_zero() || reconnect.initial > reconnect.max {
        return refuse("reconnect.initial", format!("{} is not between 1us and reconnect.max", reconnect.initial));
    }
    if !(0.0..=1.0).contains(&reconnect.jitter) {
        return refuse("reconnect.jitter", format!("{} is not between 0 and 1", reconnect.jitter));
    }
    Ok(())
}

impl MqttSourceConfig {
    /// Checks the options and builds the source.
    pub fn build(&self, context: &SourceContext) -> Result<Box<dyn PushSource>, ConnectorError> {
        let broker = self.broker(format!("millstream-{}-{}", context.pipeline, context.name), &context.base_dir)?;
        self.ingest.check("ingest")?;
        if self.max_packet_size.0.saturating_mul(2) > self.ingest.max_bytes.0 {
            return Err(ConnectorError::configuration(
                "max_packet_size",
                format!("{} is more than half of ingest.max_bytes ({})", self.max_packet_size, self.ingest.max_bytes),
            ));
        }
        if self.receive_maximum == 0 {
            return Err(ConnectorError::configuration("receive_maximum", "at least one message must be allowed"));
        }
        let session_expiry = match (self.version, self.session_expiry, self.clean_start) {
            (Version::V311, Some(_), _) => {
                let why = "MQTT 3.1.1 cannot say it, the broker decides; use version \"5\" or leave it out";
                return Err(ConnectorError::configuration("session_expiry", why));
            }
            (_, Some(_), true) => {
                let why = "with clean_start no session is kept; write one of them";
                return Err(ConnectorError::configuration("session_expiry", why));
            }
            (_, _, true) => Duration::default(),
            (_, expiry, false) => expiry.unwrap_or(SESSION_EXPIRY),
        };
        let session_expiry = u32::try_from(session_expiry.0.as_secs()).unwrap_or(u32::MAX);
        Ok(Box::new(MqttSource::new(self, context, broker, self.filters()?, session_expiry)))
    }

    fn filters(&self) -> Result<Vec<(String, QoS)>, ConnectorError> {
        let refuse = |index: usize, why: String| Err(ConnectorError::configuration(format!("topics[{index}]"), why));
        if self.topics.is_empty() {
            return Err(ConnectorError::configuration("topics", "without topics nothing would ever come"));
        }
        let mut filters: Vec<(String, QoS)> = Vec::new();
        for (index, topic) in self.topics.iter().enumerate() {
            let (filter, qos, option) = match topic {
                Topic::Filter(filter) => (filter, self.qos, "qos".to_owned()),
                Topic::Detailed(detailed) => (&detailed.topic, detailed.qos, format!("topics[{index}].qos")),
            };
            if let Err(why) = topic::check_filter(filter) {
                return refuse(index, why);
            }
            if qos.level() == 2 {
                let why = "the source does not subscribe with QoS 2: it would cost two more packets for each message and \
                           make none safer. Write 1; messages published with QoS 2 then come with QoS 1";
                return Err(ConnectorError::configuration(option, why));
            }
            if filters.iter().any(|(known, _)| known == filter) {
                return refuse(index, format!("`{filter}` is there twice"));
            }
            filters.push((filter.clone(), qos));
        }
        Ok(filters)
    }
}

impl MqttSinkConfig {
    /// Checks the options and builds the sink.
    pub fn build(&self, context: &SinkContext) -> Result<Box<dyn Sink>, ConnectorError> {
        let format = context.format.clone().unwrap_or_default();
        Ok(Box::new(self.build_with(context, format.encoder(context.columns.clone())?)?))
    }

    /// At most so many rows are on their way.
    pub(super) fn inflight(&self) -> u16 {
        self.inflight.unwrap_or(match (self.version, self.qos.level()) {
            (Version::V311, 2) => 20,
            _ => 100,
        })
    }

    /// As [`MqttSinkConfig::build`], with the encoder given.
    pub(super) fn build_with(
        &self,
        context: &SinkContext,
        encoder: Box<dyn Encoder>,
    ) -> Result<MqttSink, ConnectorError> {
        // A source and a sink may have one name; their clients must not.
        let client_id = format!("millstream-{}-{}-sink", context.pipeline, context.name);
        let broker = self.broker(client_id, &context.base_dir)?;
        if self.inflight == Some(0) {
            return Err(ConnectorError::configuration("inflight", "at least one message must be allowed"));
        }
        if self.delivery_timeout.0.is_zero() {
            return Err(ConnectorError::configuration("delivery_timeout", "without time nothing can be delivered"));
        }
        MqttSink::new(self, context, broker, encoder)
    }
}
