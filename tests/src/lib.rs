//! The harness of the end-to-end tests: real services, the built daemon, and faults on the network between them.
//!
//! * [`services`]: Apache Kafka, Mosquitto and PostgreSQL, started on free ports of 127.0.0.1 in temporary folders.
//! * [`daemon`]: the built `millstream` binary as a child process.
//! * [`proxy`]: a TCP proxy that can be cut, delayed and resumed.
//! * [`sandbox`]: a folder of pipelines with a daemon that runs it.
//! * [`collector`]: an HTTP server that keeps what it is sent.
//! * [`load`]: producers that go on until they are told to stop, and know what was acknowledged.
//!
//! Nothing here is skipped where a service is missing: the test fails with a text that says what to install.

#![allow(clippy::disallowed_methods, reason = "a test may wait in a thread of its own")]

pub mod collector;
pub mod daemon;
pub mod load;
pub mod proxy;
pub mod sandbox;
pub mod services;

/// Writes logs to standard error where `RUST_LOG` asks for them; may be called by every test.
pub fn log_to_stderr() {
    if std::env::var_os("RUST_LOG").is_some() {
        // The harness's own clients report the end of a partition as an error.
        let asked = std::env::var("RUST_LOG").unwrap_or_default() + ",rdkafka=off,librdkafka=off";
        // Another test may have been first.
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(asked))
            .with_writer(std::io::stderr)
            .try_init()
            .ok();
    }
}
