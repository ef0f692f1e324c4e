//! The Kafka connector against a real broker, without the engine around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimestampMillisecondType};
use millstream_connectors::kafka::{KafkaSinkConfig, KafkaSourceConfig};
use millstream_connectors::source::{ExpressionCompiler, RowExpression};
use millstream_connectors::{MessageBatch, Positions, Sink, SinkContext, Source, SourceContext, SourceEvent};
use millstream_tests::services::{Kafka, KafkaMessage, KafkaOptions, Produce, kafka};
use serde_json::{Value, json};

/// No test waits longer for what must come.
const TIMEOUT: Duration = Duration::from_secs(60);

struct NoExpressions;

impl ExpressionCompiler for NoExpressions {
    fn compile(&self, _: &str, _: &SchemaRef) -> Result<Arc<dyn RowExpression>, String> {
        Err("no expressions here".to_owned())
    }
}

fn source_context(name: &str, metadata: &[&str]) -> SourceContext {
    SourceContext {
        pipeline: "test".to_owned(),
        name: name.to_owned(),
        base_dir: std::env::temp_dir(),
        metadata: metadata.iter().map(|&name| name.to_owned()).collect(),
        batch_rows_max: 8192,
        batch_bytes_max: 8 << 20,
        columns: Arc::new(Schema::empty()),
        routes: Arc::default(),
        expressions: Arc::new(NoExpressions),
    }
}

fn try_source(options: Value, context: &SourceContext) -> Result<Box<dyn Source>, String> {
    let config: KafkaSourceConfig = serde_json::from_value(options).map_err(|error| error.to_string())?;
    config.build(context).map_err(|error| error.to_string())
}

/// A source of `topic`, whose group is named after it, with `more` options.
fn source(brokers: &str, topic: &str, metadata: &[&str], more: Value) -> Box<dyn Source> {
    let mut options = json!({"brokers": brokers, "topics": topic});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    try_source(options, &source_context(topic, metadata)).unwrap()
}

fn sink_context(columns: SchemaRef) -> SinkContext {
    SinkContext {
        pipeline: "test".to_owned(),
        name: "out".to_owned(),
        base_dir: std::env::temp_dir(),
        columns,
        format: None,
        routes: Arc::default(),
    }
}

fn try_sink(options: Value, columns: SchemaRef) -> Result<Box<dyn Sink>, String> {
    let config: KafkaSinkConfig = serde_json::from_value(options).map_err(|error| error.to_string())?;
    config.build(&sink_context(columns)).map_err(|error| error.to_string())
}

fn numbers(from: i64, to: i64) -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(from..to)) as ArrayRef)]).unwrap()
}

fn lines(range: std::ops::Range<i64>) -> impl Iterator<Item = Value> {
    range.map(|n| json!({"n": n}))
}

async fn next(source: &mut Box<dyn Source>) -> SourceEvent {
    tokio::time::timeout(TIMEOUT, source.next()).await.expect("an event comes").expect("the source goes on")
}

async fn next_messages(source: &mut Box<dyn Source>) -> MessageBatch {
    loop {
        if let SourceEvent::Messages(batch) = next(source).await {
            return batch;
        }
    }
}

/// The numbers in a batch of `{"n": …}`.
fn numbers_of(batch: &MessageBatch) -> Vec<i64> {
    let number = |payload: Option<&[u8]>| serde_json::from_slice::<Value>(payload.unwrap()).unwrap()["n"].as_i64();
    batch.payloads.iter().map(|payload| number(payload).unwrap()).collect()
}

fn numbers_in(messages: &[KafkaMessage]) -> Vec<i64> {
    messages.iter().map(|message| message.json()["n"].as_i64().unwrap()).collect()
}

/// Reads until `count` messages have come; returns their numbers and the positions reached.
async fn read(source: &mut Box<dyn Source>, count: usize) -> (Vec<i64>, Positions) {
    let (mut found, mut positions) = (Vec::new(), Positions::default());
    while found.len() < count {
        let batch = next_messages(source).await;
        found.extend(numbers_of(&batch));
        positions.set(&batch.partition, batch.next_position);
    }
    (found, positions)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_messages_go_in_and_out_and_their_sums_are_equal() {
    const COUNT: i64 = 100_000;
    let kafka = kafka().await;
    kafka.create_topic("many-in", 3).await;
    kafka.create_topic("many-out", 3).await;
    kafka.produce("many-in", lines(0..COUNT)).await;
    let mut source = source(&kafka.brokers, "many-in", &[], json!({}));
    let columns = numbers(0, 0).schema();
    let mut sink = try_sink(json!({"brokers": kafka.brokers, "topic": "many-out", "key": "n"}), columns).unwrap();
    source.open(&Positions::default()).await.unwrap();
    sink.open(None).await.unwrap();

    let (mut read, mut partitions, mut positions) = (0, BTreeSet::new(), Positions::default());
    let (mut batches, mut announced) = (Vec::new(), Vec::new());
    let mut first = None;
    while read < COUNT {
        match next(&mut source).await {
            SourceEvent::Messages(batch) => {
                first.get_or_insert_with(Instant::now);
                assert!(announced.contains(&batch.partition), "a partition is announced before its messages");
                read += batch.payloads.len() as i64;
                partitions.insert(batch.partition.to_string());
                positions.set(&batch.partition, batch.next_position);
                batches.push(batch);
            }
            SourceEvent::Partitions(all) => announced = all,
            other => panic!("{other:?}"),
        }
    }
    let took = first.unwrap().elapsed();
    println!("source: {:.0} messages/s in {} batches", COUNT as f64 / took.as_secs_f64(), batches.len());
    assert_eq!(partitions.len(), 3);
    assert_eq!(positions.0.values().sum::<u64>(), COUNT as u64);

    let started = Instant::now();
    for batch in &batches {
        let column = Arc::new(Int64Array::from(numbers_of(batch))) as ArrayRef;
        let rejected = sink.write(&RecordBatch::try_from_iter([("n", column)]).unwrap()).await.unwrap();
        assert!(rejected.is_empty());
    }
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    println!("sink: {:.0} messages/s", COUNT as f64 / started.elapsed().as_secs_f64());
    source.commit(&positions).await.unwrap();
    source.close().await.unwrap();
    sink.close().await.unwrap();

    let out = kafka.consume_all("many-out").await;
    assert_eq!(out.len() as i64, COUNT);
    assert_eq!(numbers_in(&out).iter().sum::<i64>(), COUNT * (COUNT - 1) / 2);
    assert!(out.iter().all(|message| message.key_text() == Some(&message.json()["n"].to_string())));
    let committed: i64 = kafka.committed("millstream-test-many-in", "many-in").await.values().sum();
    assert_eq!(committed, COUNT, "the last commit arrives before the group is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_resumes_at_the_snapshot_and_without_one_at_the_committed_offset() {
    let kafka = kafka().await;
    kafka.create_topic("resume", 1).await;
    kafka.produce("resume", lines(0..100)).await;
    let open = async |from: Positions| {
        let mut source = source(&kafka.brokers, "resume", &[], json!({}));
        source.open(&from).await.unwrap();
        source
    };
    let mut first = open(Positions::default()).await;
    assert_eq!(read(&mut first, 100).await.0, (0..100).collect::<Vec<_>>());
    first.commit(&Positions([("resume/0".to_owned(), 60)].into())).await.unwrap();
    first.close().await.unwrap();

    let mut committed = open(Positions::default()).await;
    assert_eq!(read(&mut committed, 40).await.0, (60..100).collect::<Vec<_>>());
    committed.close().await.unwrap();

    let mut snapshot = open(Positions([("resume/0".to_owned(), 25)].into())).await;
    assert_eq!(read(&mut snapshot, 75).await.0, (25..100).collect::<Vec<_>>());
    snapshot.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_means_the_same_place_after_a_failure_before_the_first_commit() {
    let kafka = kafka().await;
    kafka.create_topic("latest", 1).await;
    kafka.produce("latest", lines(0..10)).await;
    let options = json!({"start_offset": "latest", "metadata_max_age": "200ms"});
    let mut first = source(&kafka.brokers, "latest", &[], options.clone());
    first.open(&Positions::default()).await.unwrap();
    assert!(matches!(next(&mut first).await, SourceEvent::Partitions(all) if all.len() == 1));
    kafka.produce("latest", lines(10..20)).await;
    assert_eq!(read(&mut first, 10).await.0, (10..20).collect::<Vec<_>>());
    // A partition that is new is read from its beginning.
    kafka.add_partitions("latest", 2).await;
    let late = |n: i64| Produce { partition: Some(1), ..Produce::value(json!({"n": n}).to_string()) };
    kafka.produce_messages("latest", vec![late(100), late(101)]).await;
    assert_eq!(read(&mut first, 2).await.0, [100, 101]);
    // Nothing was committed: it fails, and all must come again.
    drop(first);
    let mut second = source(&kafka.brokers, "latest", &[], options);
    second.open(&Positions::default()).await.unwrap();
    let found: BTreeSet<_> = read(&mut second, 12).await.0.into_iter().collect();
    assert_eq!(found, (10..20).chain([100, 101]).collect());
    second.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_time_begins_at_its_first_message() {
    let kafka = kafka().await;
    let at = |n: i64| Produce {
        timestamp_ms: Some(1_700_000_000_000 + n * 1000),
        ..Produce::value(json!({"n": n}).to_string())
    };
    // The broker's default retention would delete messages that old.
    kafka.create_topic_with("since-kept", 1, &[("retention.ms", "-1")]).await;
    kafka.produce_messages("since-kept", (0..10).map(at).collect()).await;
    let options = json!({"start_offset": {"timestamp": "2023-11-14T22:13:26.500Z"}});
    let mut source = source(&kafka.brokers, "since-kept", &[], options);
    source.open(&Positions::default()).await.unwrap();
    assert_eq!(read(&mut source, 3).await.0, [7, 8, 9]);
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_takes_partitions_over_and_no_message_is_missed() {
    let kafka = kafka().await;
    kafka.create_topic("shared", 4).await;
    let spread = |range: std::ops::Range<i64>| {
        let message =
            |n: i64| Produce { partition: Some((n % 4) as i32), ..Produce::value(json!({"n": n}).to_string()) };
        range.map(message).collect::<Vec<_>>()
    };
    kafka.produce_messages("shared", spread(0..400)).await;
    let member = async || {
        let mut source = source(&kafka.brokers, "shared", &[], json!({"group_id": "shared"}));
        source.open(&Positions::default()).await.unwrap();
        source
    };
    let mut one = member().await;
    let (mut found, positions) = read(&mut one, 400).await;
    one.commit(&positions).await.unwrap();
    let mut two = member().await;
    let mut theirs = 4;
    let mut ours = 0;
    while (theirs, ours) != (2, 2) {
        tokio::select! {
            event = one.next() => if let SourceEvent::Partitions(all) = event.unwrap() { theirs = all.len() },
            event = two.next() => match event.unwrap() {
                SourceEvent::Partitions(all) => ours = all.len(),
                SourceEvent::Messages(batch) => found.extend(numbers_of(&batch)),
                _ => {}
            },
            () = tokio::time::sleep(TIMEOUT) => panic!("no rebalance"),
        }
    }
    kafka.produce_messages("shared", spread(400..800)).await;
    let (from_one, from_two) = tokio::join!(read(&mut one, 200), read(&mut two, 200));
    found.extend(from_one.0);
    found.extend(from_two.0);
    // The first one leaves; the second one has all.
    one.commit(&from_one.1).await.unwrap();
    one.close().await.unwrap();
    kafka.produce_messages("shared", spread(800..1200)).await;
    found.extend(read(&mut two, 400).await.0);
    two.close().await.unwrap();
    found.sort_unstable();
    assert_eq!(found, (0..1200).collect::<Vec<_>>(), "each once, because all was committed before each move");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_under_load_loses_nothing() {
    const COUNT: i64 = 60_000;
    let mut kafka = Kafka::start_own().await;
    kafka.create_topic("kill-in", 3).await;
    kafka.create_topic("kill-out", 3).await;
    kafka.produce("kill-in", lines(0..COUNT)).await;
    let brokers = kafka.brokers.clone();
    let mut source = source(&brokers, "kill-in", &[], json!({"librdkafka": {"queued.min.messages": 1000}}));
    let columns = numbers(0, 0).schema();
    let mut sink = try_sink(json!({"brokers": brokers, "topic": "kill-out"}), columns).unwrap();
    source.open(&Positions::default()).await.unwrap();
    sink.open(None).await.unwrap();
    let (half, at_half) = tokio::sync::oneshot::channel();
    let pump = tokio::spawn(async move {
        let (mut done, mut half) = (0, Some(half));
        let mut positions = Positions::default();
        while done < COUNT {
            let batch = next_messages(&mut source).await;
            let column = Arc::new(Int64Array::from(numbers_of(&batch))) as ArrayRef;
            let rejected = sink.write(&RecordBatch::try_from_iter([("n", column)]).unwrap()).await.unwrap();
            assert!(rejected.is_empty());
            done += batch.payloads.len() as i64;
            positions.set(&batch.partition, batch.next_position);
            if done > COUNT / 3 {
                half.take().map(|half| half.send(()));
            }
            if half.is_none() && done < COUNT {
                // A commit without a broker must do no harm.
                source.commit(&positions).await.unwrap();
            }
        }
        sink.flush().await.unwrap();
        source.commit(&positions).await.unwrap();
        source.close().await.unwrap();
        sink.close().await.unwrap();
    });
    at_half.await.unwrap();
    kafka.kill9();
    tokio::time::sleep(Duration::from_secs(2)).await;
    kafka.restart().await;
    tokio::time::timeout(TIMEOUT, pump).await.expect("the connector recovers").unwrap();
    let mut found = numbers_in(&kafka.consume_all("kill-out").await);
    found.sort_unstable();
    assert_eq!(found, (0..COUNT).collect::<Vec<_>>(), "each once: the producer is idempotent");
    // The last commit may be lost when the group's coordinator is not back in time: the snapshot's positions win over the
    // group's, so it may be behind and must never be ahead.
    let committed: i64 = kafka.committed("millstream-test-kill-in", "kill-in").await.values().sum();
    assert!((0..=COUNT).contains(&committed), "{committed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_waits_for_its_broker_and_gives_up_in_time() {
    let mut kafka = Kafka::start_own().await;
    kafka.create_topic("away", 1).await;
    let columns = numbers(0, 0).schema();
    let options = json!({"brokers": kafka.brokers, "topic": "away"});
    let mut patient = try_sink(options.clone(), columns.clone()).unwrap();
    let mut hasty_options = options;
    hasty_options["delivery_timeout"] = json!("2s");
    let mut hasty = try_sink(hasty_options, columns).unwrap();
    patient.open(None).await.unwrap();
    hasty.open(None).await.unwrap();
    patient.write(&numbers(0, 10)).await.unwrap();
    patient.flush().await.unwrap();
    kafka.kill9();
    patient.write(&numbers(10, 20)).await.unwrap();
    hasty.write(&numbers(0, 1)).await.unwrap();
    let error = hasty.flush().await.unwrap_err();
    assert_eq!(error.kind, millstream_connectors::ErrorKind::Retry);
    assert!(error.message.contains("within delivery_timeout"), "{error}");
    assert!(error.message.contains("the topic away"), "{error}");
    kafka.restart().await;
    patient.flush().await.unwrap();
    assert_eq!(numbers_in(&kafka.consume_all("away").await), (0..20).collect::<Vec<_>>());
    patient.close().await.unwrap();
    hasty.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_becomes_columns() {
    let kafka = kafka().await;
    kafka.create_topic_with("metadata", 2, &[("retention.ms", "-1")]).await;
    let full = Produce {
        payload: Some(b"{}".to_vec()),
        key: Some(vec![0xff, 0]),
        partition: Some(1),
        timestamp_ms: Some(1_700_000_000_123),
        headers: vec![("a".into(), Some(b"1".to_vec())), ("b".into(), None)],
    };
    let bare = Produce { partition: Some(1), timestamp_ms: Some(5), ..Produce::default() };
    kafka.produce_messages("metadata", vec![full, bare]).await;
    let fields = ["headers", "timestamp_type", "timestamp", "offset", "partition", "topic", "key"];
    let mut source = source(&kafka.brokers, "metadata", &fields, json!({}));
    source.open(&Positions::default()).await.unwrap();
    let batch = next_messages(&mut source).await;
    source.close().await.unwrap();
    assert_eq!((&*batch.partition, batch.next_position), ("metadata/1", 2));
    assert_eq!((batch.payloads.value(0), batch.payloads.is_null(1)), (b"{}".as_slice(), true));
    let [headers, kind, time, offset, partition, topic, key] = &batch.metadata[..] else { panic!("seven columns") };
    let known: BTreeMap<_, _> =
        millstream_connectors::kafka::METADATA.iter().map(|field| (field.name, &field.data_type)).collect();
    assert_eq!(known.len(), fields.len());
    for (name, column) in fields.iter().zip(&batch.metadata) {
        assert_eq!(column.data_type(), known[name], "{name}");
        assert_eq!(column.len(), 2);
    }
    let first = headers.as_list::<i32>().value(0);
    let (keys, values) = (first.as_struct().column(0), first.as_struct().column(1));
    assert_eq!(keys.as_string::<i32>(), &StringArray::from(vec!["a", "b"]));
    assert_eq!((values.as_binary::<i32>().value(0), values.is_null(1)), (b"1".as_slice(), true));
    assert_eq!(headers.as_list::<i32>().value(1).len(), 0);
    assert_eq!(kind.as_string::<i32>().value(0), "create_time");
    assert_eq!(time.as_primitive::<TimestampMillisecondType>().values(), &[1_700_000_000_123, 5]);
    assert_eq!(offset.as_primitive::<Int64Type>().values(), &[0, 1]);
    assert_eq!(partition.as_primitive::<Int32Type>().values(), &[1, 1]);
    assert_eq!(topic.as_string::<i32>().value(1), "metadata");
    assert_eq!((key.as_binary::<i32>().value(0), key.is_null(1)), ([0xff, 0].as_slice(), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_has_the_parts_that_the_options_name() {
    let kafka = kafka().await;
    for topic in ["parts-x", "parts-y"] {
        kafka.create_topic_with(topic, 3, &[("retention.ms", "-1")]).await;
    }
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("to", Arc::new(StringArray::from(vec![Some("x"), Some("y"), None, Some("x")])) as ArrayRef, true),
        ("id", Arc::new(StringArray::from(vec!["a", "b", "c", "d"])), true),
        ("part", Arc::new(Int64Array::from(vec![Some(2), Some(1), None, Some(7)])), true),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![Some(1000), Some(2000), None, Some(1)])), true),
        ("gone", Arc::new(BooleanArray::from(vec![Some(false), Some(true), None, None])), true),
    ])
    .unwrap();
    let options = json!({
        "brokers": [kafka.brokers], "topic": "parts-{to}", "key": "{id}!", "partition": "part", "timestamp": "at",
        "tombstone": "gone", "headers": {"from": "test", "id": "{id}"}
    });
    let mut sink = try_sink(options, rows.schema()).unwrap();
    sink.open(None).await.unwrap();
    let mut rejected = sink.write(&rows).await.unwrap();
    rejected.extend(sink.flush().await.unwrap().rejected);
    sink.close().await.unwrap();
    let mut reasons: Vec<_> = rejected.iter().map(|one| one.reason.as_str()).collect();
    reasons.sort_unstable();
    let null = "the column to is null, and the destination is made from it";
    assert_eq!(reasons, [null, "the topic parts-x has no partition 7"]);
    assert!(rejected.iter().all(|one| one.payload.starts_with(b"{")));

    let x = kafka.consume_all("parts-x").await;
    assert_eq!(x.len(), 1);
    assert_eq!((x[0].partition, x[0].timestamp_ms, x[0].key_text()), (2, Some(1000), Some("a!")));
    assert_eq!(x[0].json()["id"], "a");
    let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    assert_eq!(x[0].headers, [header("from", "test"), header("id", "a")]);
    let y = kafka.consume_all("parts-y").await;
    assert_eq!((y[0].partition, y[0].payload.is_none(), y[0].key_text()), (1, true, Some("b!")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_can_be_read_back_and_too_large_messages_are_rejected() {
    let kafka = kafka().await;
    let wide = StringArray::from(vec!["x".repeat(2000), "y".repeat(5000)]);
    let rows = RecordBatch::try_from_iter([("text", Arc::new(wide) as ArrayRef)]).unwrap();
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("compression-{compression}");
        kafka.create_topic(&topic, 1).await;
        let options = json!({
            "brokers": kafka.brokers, "topic": topic, "compression": compression, "max_message_bytes": "4KB",
            "batch_size": "64KiB", "idempotence": false, "acks": "leader"
        });
        let mut sink = try_sink(options, rows.schema()).unwrap();
        sink.open(None).await.unwrap();
        let mut rejected = sink.write(&rows).await.unwrap();
        rejected.extend(sink.flush().await.unwrap().rejected);
        sink.close().await.unwrap();
        assert_eq!(rejected.len(), 1);
        assert!(rejected[0].reason.contains("max_message_bytes") && rejected[0].payload.len() > 5000);
        let found = kafka.consume_all(&topic).await;
        assert_eq!(found[0].json()["text"], "x".repeat(2000), "{compression}");
        assert_eq!(found.len(), 1);
    }
    // The topic's own limit is found out by the broker.
    kafka.create_topic_with("compression-small", 1, &[("max.message.bytes", "3000")]).await;
    let mut sink = try_sink(
        json!({"brokers": kafka.brokers, "topic": "compression-small", "linger": "0s",
        "librdkafka": {"batch.num.messages": 1}}),
        rows.schema(),
    )
    .unwrap();
    sink.open(None).await.unwrap();
    sink.write(&rows).await.unwrap();
    let rejected = sink.flush().await.unwrap().rejected;
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert_eq!(kafka.consume_all("compression-small").await.len(), 1);
    sink.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_retention_deleted_goes_on_at_the_first_message_there_is() {
    let kafka = kafka().await;
    kafka.create_topic("expired", 1).await;
    kafka.produce("expired", lines(0..100)).await;
    kafka.delete_before("expired", 0, 50).await;
    let mut source = source(&kafka.brokers, "expired", &[], json!({"start_offset": "latest"}));
    source.open(&Positions([("expired/0".to_owned(), 10)].into())).await.unwrap();
    assert_eq!(read(&mut source, 50).await.0, (50..100).collect::<Vec<_>>(), "not at the end: that would lose more");
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_come_later_are_found_by_name_and_by_pattern() {
    let kafka = kafka().await;
    let quick = json!({"metadata_max_age": "200ms"});
    let mut named = source(&kafka.brokers, "later-one", &[], quick.clone());
    let mut pattern = source(&kafka.brokers, "^later-.*", &[], quick);
    named.open(&Positions::default()).await.unwrap();
    pattern.open(&Positions::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    kafka.create_topic("later-one", 1).await;
    kafka.produce("later-one", [json!({"n": 1})]).await;
    kafka.create_topic("later-two", 1).await;
    kafka.produce("later-two", [json!({"n": 2})]).await;
    assert_eq!(read(&mut named, 1).await.0, [1]);
    let mut both = read(&mut pattern, 2).await.0;
    both.sort_unstable();
    assert_eq!(both, [1, 2]);
    named.close().await.unwrap();
    pattern.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_nobody_reads_stays_in_its_group_and_reports_its_lag() {
    let kafka = kafka().await;
    kafka.create_topic("stalled", 2).await;
    kafka.produce("stalled", lines(0..50_000)).await;
    let options = json!({"max_poll": "6s", "session_timeout": "6s", "heartbeat": "1s"});
    let mut source = source(&kafka.brokers, "stalled", &[], options);
    source.open(&Positions::default()).await.unwrap();
    let (mut found, _) = read(&mut source, 1).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    let lag: u64 = source.lag().into_iter().map(|(_, lag)| lag).sum();
    assert_eq!(lag, 50_000 - found.len() as u64);
    while found.len() < 50_000 {
        match next(&mut source).await {
            SourceEvent::Messages(batch) => found.extend(numbers_of(&batch)),
            other => panic!("the group went on without us: {other:?}"),
        }
    }
    found.sort_unstable();
    assert_eq!(found, (0..50_000).collect::<Vec<_>>());
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_every_login_work_and_a_wrong_password_is_said() {
    let kafka = Kafka::start_with(KafkaOptions { sasl: true, tls: true, load: false }).await;
    kafka.create_topic("secured", 1).await;
    let sasl = |mechanism: &str, password: &str| json!({"sasl": {"mechanism": mechanism, "username": "millstream", "password": password}});
    let folder = |name: &str| kafka.folder().join(name).to_string_lossy().into_owned();
    let tls = json!({"tls": {"ca": folder("ca.pem"), "cert": folder("client.pem"), "key": folder("client.key")}});
    let (plain_text, secure) = (kafka.sasl_brokers.as_deref().unwrap(), kafka.tls_brokers.as_deref().unwrap());
    let ways = [
        (plain_text, sasl("PLAIN", "secret")),
        (plain_text, sasl("SCRAM-SHA-256", "secret")),
        (plain_text, sasl("SCRAM-SHA-512", "secret")),
        (secure, tls),
    ];
    for (round, (brokers, options)) in ways.into_iter().enumerate() {
        let mut sink_options = json!({"brokers": brokers, "topic": "secured"});
        sink_options.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let round = round as i64;
        let mut sink = try_sink(sink_options, numbers(0, 0).schema()).unwrap();
        sink.open(None).await.unwrap();
        sink.write(&numbers(round, round + 1)).await.unwrap();
        sink.flush().await.unwrap();
        sink.close().await.unwrap();
        let mut source = source(brokers, "secured", &[], options);
        source.open(&Positions([("secured/0".to_owned(), round as u64)].into())).await.unwrap();
        assert_eq!(read(&mut source, 1).await.0, [round]);
        source.close().await.unwrap();
    }
    let mut wrong = source(plain_text, "secured", &[], sasl("PLAIN", "guess"));
    wrong.open(&Positions::default()).await.unwrap();
    let error = tokio::time::timeout(TIMEOUT, wrong.next()).await.unwrap().unwrap_err();
    assert!(error.message.contains("refused the login"), "{error}");
    assert!(!error.message.contains("guess"), "{error}");
    // Without the authority's certificate the broker is not believed, and nothing is sent.
    let mut doubting = source(secure, "secured", &[], json!({"tls": {}}));
    doubting.open(&Positions::default()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(2), doubting.next()).await.is_err());
}

#[test]
fn wrong_options_are_refused_with_their_names() {
    let context = source_context("in", &[]);
    let refused = |options: Value| {
        let mut all = json!({"brokers": "localhost:9092", "topics": "t"});
        all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        try_source(all, &context).err().unwrap_or_else(|| panic!("{options} was accepted"))
    };
    let started = Instant::now();
    assert!(refused(json!({"brokers": "localhost"})).starts_with("brokers: `localhost` is no address"));
    assert!(refused(json!({"brokers": "kafka://localhost:9092"})).starts_with("brokers: "));
    assert!(refused(json!({"topics": []})).starts_with("topics: "));
    assert!(refused(json!({"topics": ["a b"]})).contains("`a b` is no topic"));
    assert!(refused(json!({"topic": "t"})).contains("unknown field `topic`"));
    assert!(refused(json!({"heartbeat": "20s"})).starts_with("heartbeat: 20s is more than a third"));
    assert!(refused(json!({"max_poll": "9s"})).starts_with("max_poll: "));
    assert!(refused(json!({"fetch_wait": "1h"})).starts_with("fetch_wait: 1h is not between"));
    assert!(refused(json!({"start_offset": {"timestamp": "yesterday"}})).starts_with("start_offset.timestamp: "));
    assert!(refused(json!({"tls": {"ca": "no-such.pem"}})).starts_with("tls.ca: cannot read"));
    assert!(refused(json!({"tls": {"cert": "a.pem"}})).starts_with("tls.key: "));
    let oauth = json!({"sasl": {"mechanism": "OAUTHBEARER", "username": "u", "password": "p"}});
    assert!(refused(oauth).starts_with("sasl.mechanism: OAUTHBEARER is not supported"));
    assert_eq!(
        refused(json!({"librdkafka": {"enable.auto.commit": true}})),
        "librdkafka.enable.auto.commit: Millstream must decide it itself; leave it out"
    );
    assert_eq!(
        refused(json!({"librdkafka": {"group.id": "g"}})),
        "librdkafka.group.id: use the option group_id instead"
    );
    let unknown = refused(json!({"librdkafka": {"no.such.option": 1}}));
    assert!(unknown.starts_with("librdkafka.no.such.option: No such configuration property"), "{unknown}");
    let value = refused(json!({"librdkafka": {"check.crcs": "perhaps"}}));
    assert!(value.starts_with("librdkafka.check.crcs: "), "{value}");
    println!("17 builds took {:?}", started.elapsed());

    let columns = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let refused = |options: Value| {
        let mut all = json!({"brokers": "localhost:9092", "topic": "t"});
        all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        try_sink(all, columns.clone()).err().unwrap_or_else(|| panic!("{options} was accepted"))
    };
    assert!(refused(json!({"key": "m"})).starts_with("key: `m` names no column"));
    assert!(refused(json!({"topic": "t-{m}"})).starts_with("topic: `{m}` names no column"));
    assert!(refused(json!({"acks": "leader"})).starts_with("acks: "));
    assert!(refused(json!({"acks": "none"})).contains("unknown variant"));
    assert!(refused(json!({"tombstone": "n", "key": "n"})).starts_with("tombstone: the column n is Int64"));
    assert!(refused(json!({"linger": "5m"})).starts_with("linger: 5m is not between 0s and 1m"));
    assert!(refused(json!({"max_message_bytes": "1B"})).starts_with("max_message_bytes: "));
    let accepted = try_sink(json!({"brokers": ["a:1", "b:2"], "topic": "t"}), columns.clone());
    assert!(accepted.is_ok(), "{:?}", accepted.err());
}
