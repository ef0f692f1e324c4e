//! Real services for tests: started when first asked for, stopped when the test's process is gone, however it ends.

mod kafka;
mod kafka_client;
mod mosquitto;
mod postgres;
mod process;

pub use kafka::{Kafka, KafkaOptions, kafka};
pub use kafka_client::{KafkaMessage, Produce};
pub use mosquitto::{Mosquitto, MqttMessage, Subscription, mqtt};
pub use postgres::Postgres;
pub use process::{Process, free_port};
