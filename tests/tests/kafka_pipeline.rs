//! Kafka to SQL to Kafka, compared with a model; what cannot be read stands in the dead letter with its bytes.

use std::collections::BTreeMap;

use base64_of::decode;
use millstream_tests::sandbox::Sandbox;
use millstream_tests::services::{Produce, kafka};
use serde_json::Value;

/// Base64, as the dead letter writes bytes that are no text.
mod base64_of {
    pub(super) fn decode(text: &str) -> Vec<u8> {
        let digit =
            |c: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|d| *d == c);
        let digits: Vec<u32> = text.bytes().filter_map(digit).map(|d| d as u32).collect();
        let mut bytes = Vec::new();
        for chunk in digits.chunks(4) {
            let bits = chunk.iter().enumerate().fold(0, |bits, (i, digit)| bits | (digit << (18 - 6 * i)));
            bytes.extend(bits.to_be_bytes()[1..].iter().take(chunk.len() - 1));
        }
        bytes
    }
}

const COUNT: u64 = 120_000;
const BASE_S: u64 = 1_767_225_600;

fn pipeline(brokers: &str) -> String {
    format!(
        r#"
sources:
  orders:
    kafka: {{brokers: "{brokers}", topics: [orders-in]}}
    columns: {{id: bigint, region: text, cents: bigint, ts: {{type: timestamp, unit: ms}}}}
    metadata: {{topic: topic, part: partition, at: offset, msg_key: key, sent: timestamp}}
    event_time: {{column: ts, watermark: 5s, idle_after: 5m}}
steps:
  large: {{sql: "SELECT region, cents, ts, part FROM orders WHERE cents >= 100"}}
  revenue:
    sql: |
      SELECT region, window_start, count(*) AS n, sum(cents) AS cents, count(DISTINCT part) AS parts
      FROM TUMBLE(large, ts, INTERVAL '1 minute') GROUP BY region, window_start, window_end
  traces:
    sql: "SELECT id, topic, part, at, CAST(msg_key AS varchar) AS msg_key, sent FROM orders WHERE id % 1000 = 0"
sinks:
  out: {{from: revenue, kafka: {{brokers: "{brokers}", topic: orders-out, key: region}}}}
  traces: {{from: traces, kafka: {{brokers: "{brokers}", topic: orders-traces}}}}
dead_letter: {{file: {{path: ../dead.jsonl}}}}
limits: {{parallelism: 2}}
checkpoint: {{interval: 250ms}}
"#
    )
}

fn order(id: u64) -> (String, u64, u64) {
    (format!("region-{}", id % 11), (id * 7919) % 1000, (BASE_S * 1000) + id * 5)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_and_twenty_thousand_orders_are_filtered_and_summed_as_the_model_says() {
    let kafka = kafka().await;
    // The messages have the times of their orders; the broker's default retention would delete what is that old.
    kafka.create_topic_with("orders-in", 3, &[("retention.ms", "-1")]).await;
    kafka.create_topic("orders-out", 3).await;
    kafka.create_topic("orders-traces", 1).await;
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("orders", &pipeline(&kafka.brokers));
    sandbox.start().await;
    let mut expected: BTreeMap<(String, u64), (u64, u64)> = BTreeMap::new();
    let broken: [&[u8]; 4] =
        [b"{\"id\": 1, \"region\": ", b"\xff\xfe\x00", b"{\"id\": \"many\", \"ts\": 1}", b"[1, 2]"];
    let mut messages = Vec::new();
    for id in 0..COUNT {
        let (region, cents, ts) = order(id);
        if cents >= 100 {
            let sum = expected.entry((region.clone(), ts / 60_000 * 60)).or_default();
            *sum = (sum.0 + 1, sum.1 + cents);
        }
        let value = format!(r#"{{"id":{id},"region":"{region}","cents":{cents},"ts":{ts}}}"#);
        messages.push(Produce {
            key: Some(format!("order-{id}").into_bytes()),
            partition: Some((id % 3) as i32),
            timestamp_ms: Some(ts as i64),
            ..Produce::value(value)
        });
        if id % (COUNT / 4) == 5 {
            let bytes = broken[(id / (COUNT / 4)) as usize];
            messages.push(Produce { partition: Some(2), key: Some(b"broken".to_vec()), ..Produce::value(bytes) });
        }
    }
    // The last windows close when every partition is past them.
    let end = (BASE_S * 1000) + COUNT * 5 + 120_000;
    messages.extend((0..3).map(|partition| Produce {
        partition: Some(partition),
        ..Produce::value(format!(r#"{{"id":-1,"region":"none","cents":0,"ts":{end}}}"#))
    }));
    kafka.produce_messages("orders-in", messages).await;
    let wanted = expected.len() as i64;
    let done = async || {
        let found: i64 = kafka.end_offsets("orders-out").await.values().map(|(from, to)| to - from).sum();
        if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted} groups")) }
    };
    sandbox.until("the windows close", done).await;
    assert!(sandbox.terminate().success(), "{}", sandbox.output());
    assert_dead(&sandbox.lines("dead.jsonl"), &broken);
    let mut found = BTreeMap::new();
    for message in kafka.consume_all("orders-out").await {
        let row = message.json();
        assert_eq!(message.key_text(), row["region"].as_str());
        let start = row["window_start"].as_str().unwrap().trim_end_matches('Z');
        let start = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(start).unwrap() / 1_000_000_000;
        let group = (row["region"].as_str().unwrap().to_owned(), start as u64);
        let sum = (row["n"].as_u64().unwrap(), row["cents"].as_u64().unwrap());
        let before = found.insert(group.clone(), sum);
        assert_eq!(before, None, "{group:?} came twice, now as {row}; in: {:?}", kafka.end_offsets("orders-in").await);
    }
    for (group, sum) in &expected {
        assert_eq!(found.get(group), Some(sum), "{group:?}; in: {:?}", kafka.end_offsets("orders-in").await);
    }
    assert_eq!(found.len(), expected.len());
    assert_traces(&kafka.consume_all("orders-traces").await.iter().map(|m| m.json()).collect::<Vec<_>>());
}

/// Metadata columns say where each message stood.
fn assert_traces(traces: &[Value]) {
    assert_eq!(traces.len() as u64, COUNT / 1000);
    for trace in traces {
        let id = trace["id"].as_u64().unwrap();
        assert_eq!(trace["topic"], "orders-in");
        assert_eq!(trace["part"].as_u64(), Some(id % 3));
        assert_eq!(trace["msg_key"], format!("order-{id}"));
        let behind = trace["at"].as_u64().unwrap() - id / 3;
        assert!(behind <= 4, "offset {trace} (broken messages stand between)");
        let sent = trace["sent"].as_str().unwrap().trim_end_matches('Z');
        let sent = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(sent).unwrap() / 1_000_000;
        assert_eq!(sent as u64, order(id).2);
    }
}

/// Each broken message is there once, byte for byte, with its place.
fn assert_dead(letters: &[Value], broken: &[&[u8]]) {
    let mut bytes: Vec<Vec<u8>> = Vec::new();
    assert!(letters.len() <= broken.len(), "{} letters, such as {:#?}", letters.len(), &letters[..10]);
    for letter in letters {
        assert_eq!(letter["component"], "source orders", "{letter}");
        assert!(!letter["reason"].as_str().unwrap().is_empty());
        let metadata: Value = serde_json::from_str(letter["metadata"].as_str().unwrap()).unwrap();
        assert_eq!(metadata["partition"], "orders-in/2", "{letter}");
        match letter["payload_base64"].as_str() {
            Some(base64) => bytes.push(decode(base64)),
            None => bytes.push(letter["payload"].as_str().unwrap().as_bytes().to_vec()),
        }
    }
    bytes.sort();
    let mut broken: Vec<Vec<u8>> = broken.iter().map(|bytes| bytes.to_vec()).collect();
    broken.sort();
    assert_eq!(bytes, broken, "{letters:#?}");
}
