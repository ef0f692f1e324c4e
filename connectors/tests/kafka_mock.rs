//! Source and sink of Kafka against librdkafka's mock cluster, which runs inside this process: what they do in batches
//! comes out as it went in, and nothing is read or freed twice. `./dev memcheck` runs these under valgrind.

#![expect(clippy::unwrap_used, reason = "a panic is how these fail")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int32Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type, Schema, SchemaRef, TimestampMillisecondType};
use millstream_connectors::format::FormatConfig;
use millstream_connectors::kafka::{KafkaSinkConfig, KafkaSourceConfig, METADATA};
use millstream_connectors::source::{ExpressionCompiler, RowExpression};
use millstream_connectors::{MessageBatch, Positions, Sink, SinkContext, Source, SourceContext, SourceEvent};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::json;

/// valgrind runs everything some thirty times slower.
const PATIENCE: Duration = Duration::from_secs(120);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(topic: &str, partitions: i32) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(topic, partitions, 1).unwrap();
    cluster
}

struct NoExpressions;

impl ExpressionCompiler for NoExpressions {
    fn compile(&self, _: &str, _: &SchemaRef) -> Result<Arc<dyn RowExpression>, String> {
        Err("there are none here".to_owned())
    }
}

async fn source(cluster: &Cluster, more: serde_json::Value, metadata: bool, rows: usize) -> Box<dyn Source> {
    let mut options = json!({"brokers": cluster.bootstrap_servers(), "topics": "t", "group_id": "g"});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config: KafkaSourceConfig = serde_json::from_value(options).unwrap();
    let mut source = config
        .build(&SourceContext {
            pipeline: "p".into(),
            name: "s".into(),
            base_dir: ".".into(),
            metadata: METADATA.iter().filter(|_| metadata).map(|field| field.name.to_owned()).collect(),
            batch_rows_max: rows,
            batch_bytes_max: 64 << 10,
            columns: Arc::new(Schema::empty()),
            routes: Arc::default(),
            expressions: Arc::new(NoExpressions),
        })
        .unwrap();
    source.open(&Positions::default()).await.unwrap();
    source
}

async fn sink(cluster: &Cluster, more: serde_json::Value, rows: &RecordBatch) -> Box<dyn Sink> {
    let mut options = json!({"brokers": cluster.bootstrap_servers(), "topic": "t"});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config: KafkaSinkConfig = serde_json::from_value(options).unwrap();
    let format: FormatConfig =
        serde_json::from_value(if rows.num_columns() == 1 { json!("bytes") } else { json!("json") }).unwrap();
    let mut sink = config
        .build(&SinkContext {
            pipeline: "p".into(),
            name: "k".into(),
            base_dir: ".".into(),
            columns: rows.schema(),
            format: Some(format),
            routes: Arc::default(),
        })
        .unwrap();
    sink.open(None).await.unwrap();
    sink
}

/// Takes batches until there are so many messages.
async fn take(source: &mut dyn Source, messages: usize) -> Vec<MessageBatch> {
    let (mut batches, mut taken) = (Vec::new(), 0);
    while taken < messages {
        match tokio::time::timeout(PATIENCE, source.next()).await.expect("messages come").unwrap() {
            SourceEvent::Messages(batch) => {
                taken += batch.payloads.len();
                batches.push(batch);
            }
            SourceEvent::Partitions(_) => {}
            other => panic!("{other:?}"),
        }
    }
    batches
}

fn numbered(from: usize, count: usize) -> RecordBatch {
    let payloads = (from..from + count).map(|n| format!("message {n} {}", "x".repeat(n % 97)));
    let payloads = BinaryArray::from_iter_values(payloads.map(String::into_bytes));
    RecordBatch::try_from_iter([("payload", Arc::new(payloads) as ArrayRef)]).unwrap()
}

/// The number in each message, by partition.
fn numbers(batches: &[MessageBatch]) -> BTreeMap<String, Vec<usize>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for batch in batches {
        let number =
            |payload: &[u8]| std::str::from_utf8(payload).unwrap().split(' ').nth(1).unwrap().parse::<usize>().unwrap();
        let numbers = batch.payloads.iter().map(|payload| number(payload.unwrap()));
        found.entry(batch.partition.to_string()).or_default().extend(numbers);
    }
    found
}

#[tokio::test]
async fn what_is_written_in_batches_is_read_in_batches_within_their_bounds() {
    let cluster = cluster("t", 1);
    let (parts, size) = (6, 1_500);
    let mut sink = sink(&cluster, json!({}), &numbered(0, 1)).await;
    for part in 0..parts {
        assert!(sink.write(&numbered(part * size, size)).await.unwrap().is_empty());
    }
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    sink.close().await.unwrap();
    let mut source = source(&cluster, json!({}), false, 1_000).await;
    let batches = take(&mut *source, parts * size).await;
    assert!(batches.iter().all(|batch| batch.payloads.len() <= 1_000 && batch.payloads.values().len() <= 64 << 10));
    assert_eq!(numbers(&batches), BTreeMap::from([("t/0".to_owned(), (0..parts * size).collect())]));
    assert_eq!(batches.last().unwrap().next_position, (parts * size) as u64);
    source.close().await.unwrap();
}

/// A row with everything, one with nothing, and a tombstone.
fn full_rows() -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(StringArray::from(vec![Some("a"), None, Some("c")])) as ArrayRef, true),
        ("p", Arc::new(Int32Array::from(vec![Some(1), Some(1), Some(0)])), true),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![Some(1_700_000_000_000), None, None])), true),
        ("gone", Arc::new(BooleanArray::from(vec![Some(false), None, Some(true)])), true),
    ])
    .unwrap()
}

#[tokio::test]
async fn key_partition_time_headers_and_tombstones_arrive() {
    let cluster = cluster("t", 2);
    let options = json!({
        "key": "k", "partition": "p", "timestamp": "at", "tombstone": "gone", "headers": {"app": "x", "key": "<{k}>"},
    });
    let mut sink = sink(&cluster, options, &full_rows()).await;
    assert!(sink.write(&full_rows()).await.unwrap().is_empty());
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    let mut source = source(&cluster, json!({}), true, 100).await;
    let mut batches = take(&mut *source, 3).await;
    batches.sort_by(|a, b| a.partition.cmp(&b.partition));
    let partitions: Vec<_> = batches.iter().map(|batch| (&*batch.partition, batch.payloads.len())).collect();
    assert_eq!(partitions, [("t/0", 1), ("t/1", 2)]);
    let [zero, one] = batches.as_slice() else { panic!("{batches:?}") };
    assert!(zero.payloads.is_null(0), "a tombstone");
    assert!(one.payloads.is_valid(0) && one.payloads.value(0).starts_with(b"{"));
    let [key, topic, partition, offset, time, time_type, headers] = one.metadata.as_slice() else { panic!() };
    assert_eq!(key.as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(b"a".as_slice()), None]);
    assert_eq!(topic.as_string::<i32>().value(1), "t");
    assert_eq!(partition.as_primitive::<Int32Type>().values(), &[1, 1]);
    assert_eq!(offset.as_primitive::<Int64Type>().values(), &[0, 1]);
    assert_eq!(time.as_primitive::<TimestampMillisecondType>().value(0), 1_700_000_000_000);
    assert!(time.as_primitive::<TimestampMillisecondType>().value(1) > 1_700_000_000_000, "now");
    assert_eq!(time_type.as_string::<i32>().value(0), "create_time");
    let headers = headers.as_list::<i32>();
    let names = |row| {
        let all = headers.value(row);
        let all = all.as_struct();
        let values = all.column(1).as_binary::<i32>().iter().map(|value| value.unwrap().to_vec());
        all.column(0).as_string::<i32>().iter().map(|name| name.unwrap().to_owned()).zip(values).collect::<Vec<_>>()
    };
    assert_eq!(names(0), [("app".to_owned(), b"x".to_vec()), ("key".to_owned(), b"<a>".to_vec())]);
    assert_eq!(names(1), [("app".to_owned(), b"x".to_vec())], "a header whose column is null is left out");
    source.close().await.unwrap();
    sink.close().await.unwrap();
}

#[tokio::test]
async fn a_message_whose_headers_are_all_null_arrives_without_one() {
    let cluster = cluster("t", 1);
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(StringArray::from(vec![None, Some("b")])) as ArrayRef, true),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![Some(1_700_000_000_000), None])), true),
    ])
    .unwrap();
    // The first is sent by itself, for its time; the second for its header.
    let mut sink = sink(&cluster, json!({"timestamp": "at", "headers": {"key": "<{k}>"}}), &rows).await;
    assert!(sink.write(&rows).await.unwrap().is_empty());
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    let mut source = source(&cluster, json!({}), true, 100).await;
    let batches = take(&mut *source, 2).await;
    let headers = batches.iter().flat_map(|batch| batch.metadata[6].as_list::<i32>().iter().collect::<Vec<_>>());
    let counts: Vec<_> = headers.map(|headers| headers.map(|headers| headers.len())).collect();
    assert_eq!(counts, [Some(0), Some(1)]);
    source.close().await.unwrap();
    sink.close().await.unwrap();
}

#[tokio::test]
async fn partitions_that_move_to_another_member_lose_and_repeat_nothing() {
    let cluster = cluster("t", 4);
    let mut sink = sink(&cluster, json!({"partitioner": "random"}), &numbered(0, 1)).await;
    sink.write(&numbered(0, 2_000)).await.unwrap();
    sink.flush().await.unwrap();
    // Two batches wait in the source, and more in librdkafka, when the other member comes.
    let timing = json!({"session_timeout": "6s", "heartbeat": "500ms"});
    let mut first = source(&cluster, timing.clone(), false, 100).await;
    let mut found = take(&mut *first, 500).await;
    let mut positions = Positions::default();
    found.iter().for_each(|batch| positions.set(&batch.partition, batch.next_position));
    first.commit(&positions).await.unwrap();
    let mut second = source(&cluster, timing, false, 100).await;
    let mut others = Vec::new();
    let is_complete = |found: &[MessageBatch], others: &[MessageBatch]| {
        let mut all: Vec<_> = numbers(found).into_values().chain(numbers(others).into_values()).flatten().collect();
        all.sort_unstable();
        all.dedup();
        all.len() == 2_000
    };
    let both = async {
        while !is_complete(&found, &others) {
            tokio::select! {
                event = first.next() => if let SourceEvent::Messages(batch) = event.unwrap() {
                    positions.set(&batch.partition, batch.next_position);
                    first.commit(&positions).await.unwrap();
                    found.push(batch);
                },
                event = second.next() => if let SourceEvent::Messages(batch) = event.unwrap() {
                    others.push(batch);
                },
            }
        }
    };
    tokio::time::timeout(PATIENCE, both).await.expect("all messages are read");
    for (partition, numbers) in numbers(&found).into_iter().chain(numbers(&others)) {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{partition} is out of order, or repeated within one member");
    }
    first.close().await.unwrap();
    second.close().await.unwrap();
    sink.close().await.unwrap();
}

#[tokio::test]
async fn a_row_that_cannot_be_sent_is_rejected_and_the_others_arrive() {
    let cluster = cluster("t", 1);
    let rows = RecordBatch::try_from_iter([
        ("p", Arc::new(Int32Array::from(vec![0, 7, 0, -1, 0])) as ArrayRef),
        ("text", Arc::new(StringArray::from(vec!["a", "b", &"x".repeat(2_000), "d", "e"]))),
    ])
    .unwrap();
    let mut sink = sink(&cluster, json!({"partition": "p", "max_message_bytes": "1000B"}), &rows).await;
    // Twice: once before the topic's partitions are known, and once after.
    for _ in 0..2 {
        let mut rejected = sink.write(&rows).await.unwrap();
        rejected.extend(sink.flush().await.unwrap().rejected);
        let mut reasons: Vec<_> = rejected.iter().map(|one| one.reason.as_str()).collect();
        reasons.sort_unstable();
        let too_large =
            "the message is larger than the topic t (max.message.bytes) or this sink (max_message_bytes) allows";
        assert_eq!(reasons, ["-1 is no partition", too_large, "the topic t has no partition 7"]);
    }
    let mut source = source(&cluster, json!({}), false, 100).await;
    let texts: Vec<_> = take(&mut *source, 4)
        .await
        .iter()
        .flat_map(|b| b.payloads.iter().flatten().collect::<Vec<_>>())
        .map(|json| serde_json::from_slice::<serde_json::Value>(json).unwrap()["text"].clone())
        .collect();
    assert_eq!(texts, ["a", "e", "a", "e"]);
    source.close().await.unwrap();
    sink.close().await.unwrap();
}

#[tokio::test]
async fn what_is_under_way_when_all_ends_is_given_back() {
    let cluster = cluster("t", 2);
    let mut sink = sink(&cluster, json!({}), &numbered(0, 1)).await;
    sink.write(&numbered(0, 3_000)).await.unwrap();
    sink.flush().await.unwrap();
    // A source with batches that nobody takes, and with more of them in librdkafka.
    let mut source = source(&cluster, json!({}), true, 10).await;
    take(&mut *source, 10).await;
    // A sink whose broker is gone.
    cluster.broker_down(1).unwrap();
    sink.write(&numbered(0, 3_000)).await.unwrap();
    drop(source);
    sink.close().await.unwrap();
}
