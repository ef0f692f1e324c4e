//! The connector `mqtt`: a source and a sink for MQTT 5 and 3.1.1.
//!
//! * `config`: the options; `address` and `tls` are parts of them.
//! * `connection`: one connection to a broker, with both versions of the protocol behind one surface; `trouble`: why it ended.
//! * `source`: subscribes, writes to the ingest log, and acknowledges what is durable there.
//! * `sink`: publishes rows, and knows of each whether the broker has it.
//!
//! A connection that breaks is thrown away with everything that belonged to it, packet ids above all, and a new one is
//! made. So an acknowledgement can never reach another message that got the same packet id later.

mod address;
mod backoff;
mod config;
mod connection;
mod metadata;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod tls;
mod topic;
mod trouble;

pub use address::BrokerUrl;
pub use config::{
    DetailedTopic, LastWillConfig, MqttSinkConfig, MqttSourceConfig, QoS, ReconnectConfig, Topic, Version,
};
pub use metadata::METADATA;
pub use tls::TlsConfig;
