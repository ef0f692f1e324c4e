//! Apache Kafka, through librdkafka: what source and sink have in common.
//!
//! Options of ours have names and units that users can read; what librdkafka has beyond them goes through the
//! `librdkafka` map, except what this connector must decide itself. Transactions are not here.

mod assignment;
mod batch;
mod connection;
mod consumer;
mod delivery;
mod native;
mod record;
mod sender;
mod sending;
mod sink;
mod source;
mod source_options;

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::batch::METADATA;
pub use self::sink::{Acks, Compression, KafkaSinkConfig, Partitioner};
pub use self::source_options::{AssignmentStrategy, IsolationLevel, KafkaSourceConfig, StartOffset};
use crate::secret::Secret;

/// One text, or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TextOrList {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl TextOrList {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// TLS to the brokers. Their certificates and names are always checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaTls {
    /// A PEM file with the certificates of the authorities to trust, relative to the YAML file. The system's where this
    /// is missing.
    pub ca: Option<String>,
    /// A PEM file with the client's certificate, relative to the YAML file. Needs `key`.
    pub cert: Option<String>,
    /// A PEM file with the client's private key, relative to the YAML file. Needs `cert`.
    pub key: Option<String>,
    /// The password of the private key, where it has one.
    pub key_password: Option<Secret>,
}

/// How to log in to the brokers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// The mechanism: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: SaslMechanism,
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: Secret,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// User and password as they are; only sensible with `tls`.
    #[serde(rename = "PLAIN")]
    Plain,
    /// Challenge and response with SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Challenge and response with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// Not supported: it is known only so that the refusal can say so.
    #[serde(rename = "OAUTHBEARER")]
    #[schemars(skip)]
    OauthBearer,
}

impl SaslMechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OauthBearer => "OAUTHBEARER",
        }
    }
}

/// The value of an option of librdkafka. Texts are shown as `***`, because some of these options are secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum LibrdkafkaValue {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(Secret),
}

impl LibrdkafkaValue {
    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Bool(value) => value.to_string().into(),
            Self::Number(value) => value.to_string().into(),
            Self::Text(value) => value.expose().into(),
        }
    }
}

fn default_metadata_max_age() -> crate::units::Duration {
    crate::units::Duration::from_secs(30)
}

fn default_socket_timeout() -> crate::units::Duration {
    crate::units::Duration::from_secs(60)
}
