//! From our options to a client of librdkafka, and from its errors to ours.
//!
//! Nothing here connects: [`check`] lets librdkafka look at a configuration without any broker in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration as StdDuration;

use rdkafka::ClientConfig;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;

use super::{KafkaSasl, KafkaTls, LibrdkafkaValue, SaslMechanism, TextOrList};
use crate::error::ConnectorError;
use crate::units::Duration;

/// Options of librdkafka that this connector decides, and the option of ours to use instead (empty: there is none,
/// because another value would lose rows or break the connector).
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "brokers"),
    ("metadata.broker.list", "brokers"),
    ("client.id", "client_id"),
    ("client.rack", "rack_id"),
    ("security.protocol", "tls, sasl"),
    ("ssl.ca.location", "tls.ca"),
    ("ssl.certificate.location", "tls.cert"),
    ("ssl.key.location", "tls.key"),
    ("ssl.key.password", "tls.key_password"),
    ("sasl.mechanism", "sasl.mechanism"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("sasl.username", "sasl.username"),
    ("sasl.password", "sasl.password"),
    ("topic.metadata.refresh.interval.ms", "metadata_max_age"),
    ("metadata.max.age.ms", "metadata_max_age"),
    ("socket.timeout.ms", "socket_timeout"),
    ("statistics.interval.ms", ""),
    ("enabled_events", ""),
    ("log.queue", ""),
    ("plugin.library.paths", ""),
    // Source.
    ("group.id", "group_id"),
    ("group.instance.id", "group_instance_id"),
    ("group.protocol", ""),
    ("group.remote.assignor", ""),
    ("partition.assignment.strategy", "assignment"),
    ("session.timeout.ms", "session_timeout"),
    ("heartbeat.interval.ms", "heartbeat"),
    ("max.poll.interval.ms", "max_poll"),
    ("fetch.min.bytes", "fetch_min"),
    ("fetch.max.bytes", "fetch_max"),
    ("fetch.message.max.bytes", "partition_fetch_max"),
    ("max.partition.fetch.bytes", "partition_fetch_max"),
    ("fetch.wait.max.ms", "fetch_wait"),
    ("isolation.level", "isolation_level"),
    ("auto.offset.reset", "start_offset"),
    ("enable.auto.commit", ""),
    ("auto.commit.enable", ""),
    ("auto.commit.interval.ms", ""),
    ("enable.auto.offset.store", ""),
    ("offset.store.method", ""),
    ("enable.partition.eof", ""),
    // Sink.
    ("acks", "acks"),
    ("request.required.acks", "acks"),
    ("enable.idempotence", "idempotence"),
    ("compression.type", "compression"),
    ("compression.codec", "compression"),
    ("linger.ms", "linger"),
    ("queue.buffering.max.ms", "linger"),
    ("batch.size", "batch_size"),
    ("message.max.bytes", "max_message_bytes"),
    ("message.timeout.ms", "delivery_timeout"),
    ("delivery.timeout.ms", "delivery_timeout"),
    ("partitioner", "partitioner"),
    ("delivery.report.only.error", ""),
    ("transactional.id", ""),
];

/// A topic's metadata is forgotten after so many refreshes failed.
const METADATA_REFRESHES: u32 = 3;
/// A broker that comes back is found within so long: librdkafka's own bound (10 s) is long for a quick restart.
const RECONNECT_MAX: &str = "2000";

/// The options that source and sink have in common.
pub(super) struct Connection<'a> {
    pub(super) brokers: &'a TextOrList,
    pub(super) client_id: Option<&'a str>,
    pub(super) tls: Option<&'a KafkaTls>,
    pub(super) sasl: Option<&'a KafkaSasl>,
    pub(super) metadata_max_age: Duration,
    pub(super) socket_timeout: Duration,
    pub(super) librdkafka: &'a BTreeMap<String, LibrdkafkaValue>,
    /// Our choice where librdkafka's own default is another, and the user may change it.
    pub(super) defaults: &'static [(&'static str, &'static str)],
}

/// Who speaks in logs and errors.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) pipeline: String,
    /// The source's or sink's name.
    pub(super) name: String,
    pub(super) brokers: String,
}

impl Identity {
    /// A name on the brokers that two pipelines, or two sources of one, do not share.
    pub(super) fn default_id(&self) -> String {
        format!("millstream-{}-{}", self.pipeline, self.name)
    }
}

impl Connection<'_> {
    pub(super) fn identity(&self, pipeline: &str, name: &str) -> Identity {
        let brokers = self.brokers.texts().join(",");
        Identity { pipeline: pipeline.to_owned(), name: name.to_owned(), brokers }
    }

    /// The client's configuration as far as it is common.
    pub(super) fn client_config(&self, identity: &Identity, base_dir: &Path) -> Result<ClientConfig, ConnectorError> {
        let mut config = ClientConfig::new();
        config.set("reconnect.backoff.max.ms", RECONNECT_MAX);
        for (key, value) in self.defaults {
            config.set(*key, *value);
        }
        for (key, value) in self.librdkafka {
            if let Some((_, ours)) = OWNED.iter().find(|(owned, _)| owned == key) {
                let instead = match *ours {
                    "" => "Millstream must decide it itself; leave it out".to_owned(),
                    ours => format!("use the option {ours} instead"),
                };
                return Err(ConnectorError::configuration(format!("librdkafka.{key}"), instead));
            }
            config.set(key, value.text());
        }
        // librdkafka's own log lines are for its `debug` option; what matters to users is logged here.
        let verbose = self.librdkafka.contains_key("debug");
        config.set_log_level(if verbose { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Warning });
        config.set("bootstrap.servers", self.brokers()?);
        config.set("client.id", self.client_id.map_or_else(|| identity.default_id(), str::to_owned));
        let age = milliseconds(self.metadata_max_age, "metadata_max_age", 100, 3_600_000)?;
        config.set("topic.metadata.refresh.interval.ms", age.to_string());
        config.set("metadata.max.age.ms", (age * u64::from(METADATA_REFRESHES)).to_string());
        let timeout = milliseconds(self.socket_timeout, "socket_timeout", 1_000, 300_000)?;
        config.set("socket.timeout.ms", timeout.to_string());
        self.set_security(&mut config, base_dir)?;
        Ok(config)
    }

    fn brokers(&self) -> Result<String, ConnectorError> {
        let wrong = |text: &str| {
            ConnectorError::configuration(
                "brokers",
                format!("`{text}` is no address; write host:port (localhost:9092)"),
            )
        };
        let mut brokers = Vec::new();
        for broker in self.brokers.texts().iter().flat_map(|text| text.split(',')).map(str::trim) {
            let port = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains("//"));
            if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
                return Err(wrong(broker));
            }
            brokers.push(broker);
        }
        if brokers.is_empty() { Err(wrong("")) } else { Ok(brokers.join(",")) }
    }

    fn set_security(&self, config: &mut ClientConfig, base_dir: &Path) -> Result<(), ConnectorError> {
        let protocol = match (self.tls, self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = self.tls {
            if tls.cert.is_some() != tls.key.is_some() {
                let missing = if tls.cert.is_some() { "tls.key" } else { "tls.cert" };
                return Err(ConnectorError::configuration(missing, "tls.cert and tls.key need each other"));
            }
            let files = [
                ("tls.ca", "ssl.ca.location", &tls.ca),
                ("tls.cert", "ssl.certificate.location", &tls.cert),
                ("tls.key", "ssl.key.location", &tls.key),
            ];
            for (option, key, file) in files {
                if let Some(file) = file {
                    let path = base_dir.join(file);
                    File::open(&path).map_err(|error| {
                        ConnectorError::configuration(option, format!("cannot read {}: {error}", path.display()))
                    })?;
                    config.set(key, path.to_string_lossy());
                }
            }
            if let Some(password) = &tls.key_password {
                config.set("ssl.key.password", password.expose());
            }
        }
        if let Some(sasl) = self.sasl {
            if sasl.mechanism == SaslMechanism::OauthBearer {
                return Err(ConnectorError::configuration(
                    "sasl.mechanism",
                    "OAUTHBEARER is not supported; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
                ));
            }
            config.set("sasl.mechanism", sasl.mechanism.name());
            config.set("sasl.username", &sasl.username);
            config.set("sasl.password", sasl.password.expose());
        }
        Ok(())
    }
}

/// `duration` in whole milliseconds, refused outside of the bounds.
pub(super) fn milliseconds(duration: Duration, option: &str, min: u64, max: u64) -> Result<u64, ConnectorError> {
    let found = u64::try_from(duration.0.as_millis()).unwrap_or(u64::MAX);
    if (min..=max).contains(&found) {
        return Ok(found);
    }
    let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
    Err(ConnectorError::configuration(option, format!("{duration} is not between {min} and {max}")))
}

/// Lets librdkafka check the whole configuration: the names and values of its options, how they go together, the
/// certificates. The client that this needs knows no broker and is gone again when this returns.
pub(super) fn check(config: &ClientConfig, kind: RDKafkaType) -> Result<(), ConnectorError> {
    let mut config = config.clone();
    // Without a group there is no membership to take leave of, which would take a second.
    config.remove("bootstrap.servers").remove("group.id");
    let native = config.create_native_config().map_err(configuration_error)?;
    Client::new(&config, native, kind, DefaultClientContext).map_err(configuration_error)?;
    Ok(())
}

/// What librdkafka refuses in a configuration.
pub(super) fn configuration_error(error: KafkaError) -> ConnectorError {
    match error {
        // The value is not repeated: it may be a secret.
        KafkaError::ClientConfig(_, description, key, _) => match OWNED.iter().find(|(owned, _)| **owned == key) {
            Some((_, ours)) => ConnectorError::configuration(*ours, description),
            None => ConnectorError::configuration(format!("librdkafka.{key}"), description),
        },
        KafkaError::ClientCreation(description) => {
            ConnectorError::configuration("", format!("librdkafka refuses the options: {description}"))
        }
        other => ConnectorError::configuration("", other.to_string()),
    }
}

/// What an error that librdkafka reports outside of any call means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// librdkafka goes on by itself.
    Wait,
    /// Waiting does not help.
    GiveUp(String),
}

/// Logs the connection's troubles: once when they begin, once when they are over.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) identity: Identity,
    down: AtomicBool,
    last: Mutex<String>,
}

impl Health {
    pub(super) fn new(identity: Identity) -> Self {
        Self { identity, down: AtomicBool::new(false), last: Mutex::new(String::new()) }
    }

    /// A sign of life; cheap enough for every batch.
    pub(super) fn up(&self) {
        if self.down.load(Ordering::Relaxed) && self.down.swap(false, Ordering::Relaxed) {
            let Identity { pipeline, name, brokers } = &self.identity;
            tracing::info!(pipeline, connector = name, brokers, "Kafka is reachable again");
        }
    }

    /// The last reason reported, for errors that only say that time ran out.
    pub(super) fn last_reason(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_empty() { String::new() } else { format!(" (last trouble: {last})") }
    }

    pub(super) fn report(&self, code: RDKafkaErrorCode, reason: &str) -> Reaction {
        use RDKafkaErrorCode as Code;
        let Identity { pipeline, name, brokers } = &self.identity;
        match code {
            Code::Authentication | Code::SaslAuthenticationFailed => {
                return Reaction::GiveUp(format!("Kafka at {brokers} refused the login: {reason}; check sasl and tls"));
            }
            Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                return Reaction::GiveUp(format!("Kafka at {brokers} does not allow this user to do this: {reason}"));
            }
            Code::Fatal | Code::FencedInstanceId | Code::InvalidGroupId | Code::InconsistentGroupProtocol => {
                return Reaction::GiveUp(format!("Kafka at {brokers}: {reason}"));
            }
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
                tracing::warn!(pipeline, connector = name, brokers, reason, "waiting for the topic to be created");
            }
            Code::PollExceeded => {
                tracing::warn!(pipeline, connector = name, reason, "left the consumer group for a moment")
            }
            Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve | Code::SSL => {
                // The first reason says more than that all brokers are down, which follows it.
                if code != Code::AllBrokersDown {
                    reason.clone_into(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner));
                }
                if !self.down.swap(true, Ordering::Relaxed) {
                    tracing::warn!(pipeline, connector = name, brokers, reason, "Kafka is not reachable; trying again");
                }
            }
            _ => tracing::debug!(pipeline, connector = name, brokers, %code, reason, "librdkafka reports"),
        }
        Reaction::Wait
    }

    /// A log line of librdkafka.
    pub(super) fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let Identity { pipeline, name, .. } = &self.identity;
        match level {
            // Reading stood still for longer than the broker keeps messages.
            RDKafkaLogLevel::Warning if facility == "OFFSET" => tracing::error!(
                pipeline,
                connector = name,
                detail = text,
                "the broker no longer has the next messages (retention, or the topic was made anew); reading goes on at \
                 the first one that it has, and those between are LOST"
            ),
            // Reported by `report` too, in our words and once.
            _ if matches!(facility, "FAIL" | "ERROR") => {
                tracing::debug!(pipeline, connector = name, facility, "{text}");
            }
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::error!(pipeline, connector = name, facility, "librdkafka: {text}");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(pipeline, connector = name, facility, "librdkafka: {text}"),
            _ => tracing::debug!(pipeline, connector = name, facility, "librdkafka: {text}"),
        }
    }
}

/// The error code inside of `error`, if there is one.
pub(super) fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    error.rdkafka_error_code()
}

/// How long a question to the brokers may take before it is asked again.
pub(super) const QUERY_TIMEOUT: StdDuration = StdDuration::from_secs(5);
