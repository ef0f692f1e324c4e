//! The end-to-end tests, in one binary so that they share the services; a module per subject.

#![allow(missing_docs, reason = "tests are named as what they show")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod demo;
mod golden;
mod harness;
mod kafka_connector;
