//! The end-to-end tests, in one binary so that they share the services; a module per subject.

#![allow(missing_docs, reason = "tests are named as what they show")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::disallowed_methods, reason = "a test may wait in a thread of its own")]

mod accounts;
mod broker_restart;
mod check;
mod crash;
mod demo;
mod docs;
mod explain;
mod generate;
mod golden;
mod harness;
mod http_ingest;
mod kafka_connector;
mod kafka_pipeline;
mod machine_temperature;
mod nexmark;
mod postgres;
mod processing_time;
mod reload;
mod shutdown;
mod whole_sql;
