//! HTTP: a source that takes requests on the daemon's listener, a sink that sends requests, and a table that is fetched.
//!
//! The source never listens by itself; it claims a path of the daemon's listener ([`crate::routes`]). TLS for requests
//! that come in is the listener's business.

mod answer;
mod auth;
mod body;
mod client;
mod cors;
mod cut;
mod keys;
mod request;
mod retry;
mod send;
mod sink;
mod sink_config;
#[cfg(test)]
mod sink_tests;
mod source;
mod source_config;
#[cfg(test)]
mod source_tests;
mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use auth::{BasicAuth, Credentials, HmacAlgorithm, HmacAuth, SignatureEncoding, SourceAuth};
pub use client::TlsConfig;
pub use cors::CorsConfig;
pub use cut::Layout;
pub use retry::{RetryConfig, StatusPattern};
pub use sink_config::{BatchConfig, Compression, HttpSinkConfig, SinkLayout, SinkMethod};
pub use source::METADATA;
pub use source_config::{HttpSourceConfig, Respond, SourceMethod};
pub use table::HttpTableConfig;

pub(crate) use answer::{RETRY_AFTER_BUSY_S, Refusal, empty};
pub(crate) use cors::Cors;
