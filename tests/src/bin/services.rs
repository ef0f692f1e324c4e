//! Starts Kafka and Mosquitto, prints where they are, and stops them on Ctrl-C: for work by hand, and for running tests
//! several times against the same services.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use millstream_tests::services::{Kafka, Mosquitto};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (kafka, mosquitto) = tokio::join!(Kafka::start_own(), Mosquitto::start(true));
    println!("export MILLSTREAM_TEST_KAFKA={}", kafka.brokers);
    println!("export MILLSTREAM_TEST_MQTT={}:{}", mosquitto.host, mosquitto.port);
    println!("export KAFKA={} MQTT_URL={}", kafka.brokers, mosquitto.url());
    println!("# Ctrl-C stops both");
    tokio::signal::ctrl_c().await
}
