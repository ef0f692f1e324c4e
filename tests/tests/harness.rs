//! The harness itself works: services start, survive a kill with their data, and faults are faults.

use std::time::Duration;

use millstream_tests::proxy::Proxy;
use millstream_tests::services::{Kafka, Mosquitto, Produce, kafka, mqtt};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_produced_can_be_consumed() {
    let kafka = kafka().await;
    kafka.create_topic("harness-produce", 3).await;
    kafka.produce("harness-produce", (0..1000).map(|n| json!({"n": n}))).await;
    let message =
        Produce { key: Some(b"k".to_vec()), headers: vec![("h".into(), Some(b"v".to_vec()))], ..Default::default() };
    kafka.produce_messages("harness-produce", vec![message]).await;
    let messages = kafka.consume_all("harness-produce").await;
    let sum: i64 = messages.iter().filter_map(|message| message.json()["n"].as_i64()).sum();
    assert_eq!((messages.len(), sum), (1001, 499_500));
    let tombstone = messages.iter().find(|message| message.payload.is_none()).unwrap();
    assert_eq!(tombstone.key_text(), Some("k"));
    assert_eq!(tombstone.headers, [("h".to_owned(), Some(b"v".to_vec()))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_kafka_comes_back_with_its_data() {
    let mut kafka = Kafka::start_own().await;
    kafka.create_topic("harness-kill", 1).await;
    kafka.produce("harness-kill", [json!(1), json!(2)]).await;
    kafka.kill9();
    kafka.restart().await;
    kafka.produce("harness-kill", [json!(3)]).await;
    let values: Vec<_> = kafka.consume_all("harness-kill").await.iter().map(|message| message.json()).collect();
    assert_eq!(values, [json!(1), json!(2), json!(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_mosquitto_comes_back_with_its_retained_messages() {
    let mut mosquitto = Mosquitto::start(true).await;
    mosquitto.publish_retained("harness/kept", "last").await;
    // The file is written after the message was acknowledged.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    mosquitto.kill9();
    mosquitto.restart().await;
    let message = mosquitto.subscribe("harness/#", 1).await.next().await;
    assert_eq!((message.topic.as_str(), message.payload.as_slice()), ("harness/kept", b"last".as_slice()));
    assert!(message.retain);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_proxy_closes_connections_and_a_resumed_one_lets_them_in_again() {
    let broker = mqtt().await;
    let proxy = Proxy::start(&format!("{}:{}", broker.host, broker.port)).await;
    let through = Mosquitto::named(&proxy.address.to_string()).unwrap();
    let mut direct = broker.subscribe("harness/proxy", 1).await;
    through.publish(1, [("harness/proxy", "one")]).await;
    proxy.cut();
    let late = through.publish(1, [("harness/proxy", "two")]);
    let resume = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.resume();
    };
    tokio::join!(late, resume);
    let payloads: Vec<_> = direct.take(2).await.into_iter().map(|message| message.payload).collect();
    assert_eq!(payloads, [b"one", b"two"]);
}
