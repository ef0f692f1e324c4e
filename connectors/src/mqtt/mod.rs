//! The connector `mqtt`: a source and a sink for MQTT 5 and 3.1.1.
//!
//! * `config`: the options; `address` and `tls` are parts of them.
//! * `broker`: what it takes to connect; `backoff`: the pauses between tries; `trouble`: why a connection ended.
//! * `source`: subscribes, writes to the ingest log, and acknowledges what is durable there. `wire` is its connection,
//!   `inbox` what was read and is not in the log yet, `metadata` what the log keeps of a message beside its payload.
//! * `sink`: publishes rows, and knows of each whether the broker has it. `connection` is its connection, the client
//!   library's.
//!
//! A connection that breaks is thrown away with everything that belonged to it, packet ids above all, and a new one is
//! made. So an acknowledgement can never reach another message that got the same packet id later.

mod address;
mod backoff;
mod broker;
mod config;
mod connection;
mod inbox;
mod metadata;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod tls;
mod topic;
mod trouble;
mod wire;

pub use address::BrokerUrl;
pub use config::{
    DetailedTopic, LastWillConfig, MqttSinkConfig, MqttSourceConfig, QoS, ReconnectConfig, Topic, Version,
};
pub use metadata::METADATA;
pub use tls::TlsConfig;
