//! The options of the MQTT source and sink, and the checks that need no connection.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use percent_encoding::percent_decode_str;
use rumqttc::tokio_native_tls::native_tls::{Certificate, Identity, TlsConnector};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

use super::connection::Broker;
use super::sink::MqttSink;
use super::source::MqttSource;
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
            fn broker(&self, client_id: String, base_dir: &Path) -> Result<Broker, ConnectorError> {
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
        /// 2: it takes each message once per connection. 0: messages are sent and may be lost.
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

/// A broker's address. A password in it is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct BrokerUrl(String);

impl BrokerUrl {
    /// The address, with `***` for a password.
    fn shown(&self) -> String {
        match reqwest::Url::parse(&self.0) {
            Ok(mut url) if url.password().is_some() => match url.set_password(Some("***")) {
                Ok(()) => url.to_string(),
                Err(()) => "***".into(),
            },
            Ok(_) => self.0.clone(),
            // What cannot be read may have a password anywhere.
            Err(_) => "***".into(),
        }
    }
}

impl From<&str> for BrokerUrl {
    fn from(url: &str) -> Self {
        Self(url.into())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
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

/// TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file of the authorities to trust, and no others. The system's where this is missing.
    pub ca: Option<String>,
    /// A PEM file with this client's certificate (and those between it and its authority).
    pub cert: Option<String>,
    /// A PEM file with the certificate's private key, in PKCS #8 (`BEGIN PRIVATE KEY`).
    pub key: Option<String>,
    /// Trust any certificate of any name. Anyone on the way can then read and change everything: for tests only.
    pub insecure_skip_verify: bool,
}

impl TlsConfig {
    fn connector(&self, base_dir: &Path) -> Result<TlsConnector, ConnectorError> {
        let read = |option: &str, path: &str| {
            let path = base_dir.join(path);
            std::fs::read(&path).map_err(|error| {
                ConnectorError::configuration(option, format!("{} cannot be read: {error}", path.display()))
            })
        };
        let mut builder = TlsConnector::builder();
        if let Some(ca) = &self.ca {
            let pem = read("tls.ca", ca)?;
            let wrong = |what: String| ConnectorError::configuration("tls.ca", format!("{ca}: {what}"));
            let authorities =
                Certificate::stack_from_pem(&pem).map_err(|error| wrong(format!("no PEM certificates: {error}")))?;
            if authorities.is_empty() {
                return Err(wrong("there is no certificate in it".into()));
            }
            builder.disable_built_in_roots(true);
            for authority in authorities {
                builder.add_root_certificate(authority);
            }
        }
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let identity = Identity::from_pkcs8(&read("tls.cert", cert)?, &read("tls.key", key)?);
                builder.identity(identity.map_err(|error| {
                    let hint =
                        "the key must be PKCS #8 without a password: openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW";
                    ConnectorError::configuration(
                        "tls.key",
                        format!("{cert} and {key} cannot be used: {error}; {hint}"),
                    )
                })?);
            }
            (None, None) => {}
            (Some(_), None) => return Err(ConnectorError::configuration("tls.key", "cert needs its key")),
            (None, Some(_)) => return Err(ConnectorError::configuration("tls.cert", "key needs its certificate")),
        }
        if self.insecure_skip_verify {
            builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
        }
        builder.build().map_err(|error| ConnectorError::configuration("tls", error.to_string()))
    }
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

type Address = (String, u16, bool, Option<(String, String)>);

/// Host, port, whether TLS, and the login.
fn address(url: &BrokerUrl, user: Option<&str>, password: Option<&Secret>) -> Result<Address, ConnectorError> {
    let wrong = |what: &str| {
        ConnectorError::configuration("url", format!("{what}; write mqtt://HOST:PORT or mqtts://HOST:PORT"))
    };
    let parsed = reqwest::Url::parse(&url.0).map_err(|error| wrong(&error.to_string()))?;
    let (tls, default_port) = match parsed.scheme() {
        "mqtt" => (false, 1883),
        "mqtts" => (true, 8883),
        scheme => return Err(wrong(&format!("`{scheme}://` is not known here"))),
    };
    let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("the host is missing"))?;
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("nothing may follow the port"));
    }
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().map_err(|_| wrong("its user or password is not UTF-8"))?;
        Ok::<_, ConnectorError>(text.into_owned())
    };
    let url_user = Some(parsed.username()).filter(|user| !user.is_empty()).map(decode).transpose()?;
    let url_password = parsed.password().map(decode).transpose()?;
    if url_user.is_some() && user.is_some() {
        return Err(ConnectorError::configuration("username", "the url names a user as well; write one of them"));
    }
    if url_password.is_some() && password.is_some() {
        return Err(ConnectorError::configuration("password", "the url has a password as well; write one of them"));
    }
    let user = url_user.or_else(|| user.map(str::to_owned));
    let password = url_password.or_else(|| password.map(|secret| secret.expose().to_owned()));
    let login = match (user, password) {
        (Some(user), password) => Some((user, password.unwrap_or_default())),
        (None, Some(_)) => {
            return Err(ConnectorError::configuration("password", "a password needs a username"));
        }
        (None, None) => None,
    };
    Ok((host.to_owned(), parsed.port().unwrap_or(default_port), tls, login))
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
