//! Brokers are killed under load and come back: nothing is lost, the API says what is the matter, others go on.

use std::time::{Duration, Instant};

use millstream_tests::load::{KafkaLoad, MqttLoad};
use millstream_tests::sandbox::Sandbox;
use millstream_tests::services::{Kafka, Mosquitto};

use crate::accounts::{counting_from, ids, missing};

const KEYS: u64 = 12;
/// What Mosquitto acknowledged is on its disk after so long; what it had for less is its own to lose.
const MOSQUITTO_WRITES_AFTER: Duration = Duration::from_secs(3);

const ASIDE: &str = "sources: {s: {generate: {columns: {n: {sequence: {}}}, rate: 50/s}}}\n\
                     sinks: {o: {from: s, file: {path: ../aside.jsonl}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_kafka_that_comes_back_has_lost_nothing_of_what_goes_through() {
    let mut kafka = Kafka::start_own().await;
    kafka.create_topic("in", 3).await;
    kafka.create_topic("out", 3).await;
    let mut sandbox = Sandbox::new();
    let brokers = kafka.brokers.clone();
    sandbox.pipeline(
        "through",
        &format!(
            r#"
sources:
  events:
    kafka: {{brokers: "{brokers}", topics: in}}
    columns: {{id: bigint, k: text}}
sinks:
  out: {{from: events, kafka: {{brokers: "{brokers}", topic: out, key: k}}}}
restart: {{initial: 100ms, max: 1s}}
checkpoint: {{interval: 250ms, timeout: 5s}}
"#
        ),
    );
    sandbox.pipeline("aside", ASIDE);
    sandbox.start().await;
    sandbox.running("through").await;
    let aside = sandbox.running("aside").await;
    let load = KafkaLoad::start(&brokers, "in", 1500, KEYS);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        kafka.kill9();
        let down = sandbox.status("aside").await["rows_out"]["o"].as_u64();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let now = sandbox.status("aside").await;
        assert!(now["rows_out"]["o"].as_u64() > down, "a dead broker holds up no other pipeline: {now:#}");
        kafka.restart().await;
    }
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let sent = load.stop().await;
    let all = async || {
        let rows: Vec<_> = kafka.consume_all("out").await.iter().map(|message| message.json()).collect();
        missing(&ids(&rows), sent)
    };
    sandbox.until("every row comes out", all).await;
    let status = sandbox.running("through").await;
    println!("restarts: {}, last error: {}", status["restarts"], status["last_error"]);
    assert_eq!(sandbox.status("aside").await["since"], aside["since"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stays_away_is_named_by_the_status_and_the_pipeline_comes_back_by_itself() {
    let mut kafka = Kafka::start_own().await;
    kafka.create_topic("in", 1).await;
    let mut sandbox = Sandbox::new();
    sandbox.pipeline(
        "waits",
        &format!(
            r#"
sources: {{s: {{generate: {{columns: {{n: {{sequence: {{}}}}}}, rate: 200/s}}}}}}
sinks:
  out: {{from: s, kafka: {{brokers: "{}", topic: in, delivery_timeout: 2s}}}}
restart: {{initial: 100ms, max: 1s}}
checkpoint: {{interval: 250ms, timeout: 3s}}
"#,
            kafka.brokers
        ),
    );
    sandbox.start().await;
    sandbox.status_until("waits", "rows", |status| status["rows_out"]["out"].as_u64() > Some(100)).await;
    kafka.kill9();
    let status = sandbox.status_until("waits", "restarting", |status| status["restarts"].as_u64() >= Some(1)).await;
    let error = status["last_error"].as_str().unwrap_or_default();
    assert!(error.contains("out") || error.contains("checkpoint"), "{status:#}");
    kafka.restart().await;
    let epochs = sandbox.status("waits").await["epochs"].as_u64();
    sandbox
        .status_until("waits", "running again", |status| {
            status["state"] == "running" && status["epochs"].as_u64() > epochs
        })
        .await;
    assert!(sandbox.terminate().success(), "{}", sandbox.output());
    let rows: Vec<i64> = kafka.consume_all("in").await.iter().map(|m| m.json()["n"].as_i64().unwrap()).collect();
    let highest = *rows.iter().max().unwrap();
    let found: std::collections::BTreeSet<i64> = rows.into_iter().collect();
    let lost: Vec<i64> = (0..=highest).filter(|n| !found.contains(n)).take(20).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_mosquitto_that_comes_back_has_lost_nothing_that_it_had_on_disk() {
    let mut mosquitto = Mosquitto::start(true).await;
    let mut sandbox = Sandbox::new();
    let source = format!(r#"mqtt: {{url: "{}", topics: ["rows/#"]}}"#, mosquitto.url());
    sandbox.pipeline("mqtt", &counting_from(&source, "10 seconds"));
    sandbox.pipeline("aside", ASIDE);
    sandbox.start().await;
    sandbox.daemon().wait_for_output("subscribed").await;
    let aside = sandbox.running("aside").await;
    let load = MqttLoad::start(&format!("{}:{}", mosquitto.host, mosquitto.port), "rows/all", KEYS);
    let mut kills = Vec::new();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        mosquitto.kill9();
        kills.push(Instant::now());
        tokio::time::sleep(Duration::from_millis(700)).await;
        mosquitto.restart().await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (sent, acknowledged) = load.stop().await;
    // A device that cares keeps a message for as long as its broker may lose it, and sends it again.
    let kept = |(at, until): &(Instant, u64)| {
        let young =
            kills.iter().any(|kill| *at <= *kill + Duration::from_secs(1) && *at + MOSQUITTO_WRITES_AFTER > *kill);
        young.then_some(*until)
    };
    let again: Vec<u64> = acknowledged.iter().filter_map(kept).collect();
    for until in again {
        let chunk = until - 100..until;
        mosquitto.publish(1, chunk.map(|n| ("rows/all", millstream_tests::load::message(n, KEYS)))).await;
    }
    let path = sandbox.path("rows.jsonl");
    let all = async || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let rows: Vec<_> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        missing(&ids(&rows), sent)
    };
    sandbox.until("every message comes out", all).await;
    let status = sandbox.running("mqtt").await;
    println!("mqtt: restarts {}, last error {}", status["restarts"], status["last_error"]);
    assert_eq!(sandbox.status("aside").await["since"], aside["since"]);
}
