//! The harness of the end-to-end tests: real services, the built daemon, and faults on the network between them.
//!
//! * [`services`]: Apache Kafka and Mosquitto, started on free ports of 127.0.0.1 in temporary folders.
//! * [`daemon`]: the built `millstream` binary as a child process.
//! * [`proxy`]: a TCP proxy that can be cut, delayed and resumed.
//!
//! Nothing here is skipped where a service is missing: the test fails with a text that says what to install.

pub mod daemon;
pub mod proxy;
pub mod services;
