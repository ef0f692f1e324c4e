//! Tests of the MQTT source and sink, with a real Mosquitto, and with a broker of a few bytes where Mosquitto cannot be
//! made to misbehave.

#[expect(clippy::disallowed_methods, reason = "a test may wait in a thread of its own")]
#[path = "../../tests/support/mosquitto.rs"]
mod mosquitto;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration as StdDuration, Instant};

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::{self, mqttbytes::v5 as p5};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::mosquitto::Mosquitto;
use super::*;
use crate::ingest::{IngestLog, PARTITION, ReaderOptions};
use crate::position::Positions;
use crate::source::{ExpressionCompiler, RowExpression, SourceEvent};
use crate::{ConnectorError, ErrorKind, PushSource, Sink, SinkContext, SourceContext};

const LONG: StdDuration = StdDuration::from_secs(20);

struct NoExpressions;

impl ExpressionCompiler for NoExpressions {
    fn compile(&self, _: &str, _: &SchemaRef) -> Result<Arc<dyn RowExpression>, String> {
        Err("not here".into())
    }
}

fn source_context() -> SourceContext {
    SourceContext {
        pipeline: "p".into(),
        name: "s".into(),
        base_dir: "/".into(),
        metadata: Vec::new(),
        batch_rows_max: 8192,
        batch_bytes_max: 4 << 20,
        columns: Arc::new(Schema::empty()),
        routes: Arc::default(),
        expressions: Arc::new(NoExpressions),
    }
}

fn source_config(port: u16, extra: serde_json::Value) -> MqttSourceConfig {
    let mut config = serde_json::json!({
        "url": format!("mqtt://127.0.0.1:{port}"), "topics": ["t/#"], "reconnect": {"initial": "20ms", "max": "200ms"},
    });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    serde_json::from_value(config).unwrap()
}

/// A source that runs, its log, and how it is stopped.
struct Running {
    log: Arc<IngestLog>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ConnectorError>>,
}

fn run(config: &MqttSourceConfig, log: Arc<IngestLog>) -> Running {
    let mut source: Box<dyn PushSource> = config.build(&source_context()).unwrap();
    let (stop, writer) = (CancellationToken::new(), log.writer());
    let stopped = stop.clone();
    let task = tokio::spawn(async move { source.run(writer, stopped).await });
    Running { log, stop, task }
}

impl Running {
    async fn stop(self) -> Arc<IngestLog> {
        self.stop.cancel();
        timeout(LONG, self.task).await.unwrap().unwrap().unwrap();
        self.log
    }

    /// Reads until `numbers` distinct payloads were seen; commits what was read. Returns how many came in all.
    async fn read_numbers(&self, numbers: usize) -> (BTreeSet<u64>, usize) {
        let fields = Vec::new();
        let mut reader = self.log.reader(ReaderOptions { fields, batch_rows_max: 8192, batch_bytes_max: 4 << 20 });
        reader.open(&Positions::default()).await.unwrap();
        let (mut seen, mut rows) = (BTreeSet::new(), 0);
        while seen.len() < numbers {
            let event = timeout(LONG, reader.next()).await.unwrap_or_else(|_| {
                let missing: Vec<_> = (0..numbers as u64).filter(|n| !seen.contains(n)).collect();
                panic!("{} of {numbers} came; missing {missing:?}", seen.len())
            });
            let SourceEvent::Messages(batch) = event.unwrap() else { continue };
            rows += batch.payloads.len();
            let number =
                |bytes: Option<&[u8]>| std::str::from_utf8(bytes.unwrap()).unwrap().trim().parse::<u64>().unwrap();
            seen.extend(batch.payloads.iter().map(number));
            let mut upto = Positions::default();
            upto.set(PARTITION, batch.next_position);
            reader.commit(&upto).await.unwrap();
        }
        (seen, rows)
    }
}

/// Publishes with QoS 1 and waits for every acknowledgement. Ends where the broker does.
async fn publish(port: u16, messages: impl IntoIterator<Item = (String, String)>) {
    let mut options = v5::MqttOptions::new(format!("publisher-{}", rand::random::<u64>()), "127.0.0.1", port);
    options.set_outgoing_inflight_upper_limit(20);
    let (client, mut events) = v5::AsyncClient::new(options, 100);
    let messages: Vec<_> = messages.into_iter().collect();
    let mut left = messages.len();
    let sending = async {
        for (topic, payload) in messages {
            let properties = p5::PublishProperties {
                user_properties: vec![("unit".into(), "°C".into())],
                content_type: Some("text/plain".into()),
                response_topic: Some("answers".into()),
                correlation_data: Some(Bytes::from_static(b"\x01")),
                ..Default::default()
            };
            client.publish_with_properties(topic, QoS5::AtLeastOnce, false, payload, properties).await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let receiving = async {
        while left > 0 {
            if let v5::Event::Incoming(v5::Incoming::PubAck(_)) = events.poll().await.unwrap() {
                left -= 1;
            }
        }
    };
    timeout(LONG, async {
        tokio::select! { () = sending => {}, () = receiving => {} }
    })
    .await
    .unwrap();
}

fn numbers(range: std::ops::Range<u64>) -> impl Iterator<Item = (String, String)> {
    range.map(|n| (format!("t/{}", n % 7), n.to_string()))
}

/// Waits until the source has subscribed, by asking the broker for a session of its client id.
async fn subscribed(running: &Running, port: u16) {
    let before = running.log.stats().next_sequence;
    let started = Instant::now();
    // A probe that arrives proves the subscription; it is published again until one does.
    while running.log.stats().next_sequence == before {
        assert!(started.elapsed() < LONG);
        publish(port, [("t/probe".into(), "0".into())]).await;
        tokio::time::sleep(StdDuration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_with_all_their_metadata_in_both_versions() {
    let broker = Mosquitto::start("", &[]);
    for version in ["5", "3.1.1"] {
        let folder = tempfile::tempdir().unwrap();
        let config = source_config(broker.port(), serde_json::json!({"version": version, "client_id": version}));
        let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());
        subscribed(&running, broker.port()).await;
        publish(broker.port(), [("t/é".into(), "x".into())]).await;

        let options = ReaderOptions { fields: METADATA.clone(), batch_rows_max: 100, batch_bytes_max: 1 << 20 };
        let mut reader = running.log.reader(options);
        reader.open(&Positions::default()).await.unwrap();
        let (batch, row) = loop {
            let SourceEvent::Messages(batch) = timeout(LONG, reader.next()).await.unwrap().unwrap() else { continue };
            if let Some(row) = batch.payloads.iter().position(|payload| payload == Some(b"x")) {
                break (batch, row);
            }
        };
        let column = |name: &str| &batch.metadata[METADATA.iter().position(|field| field.name == name).unwrap()];
        assert_eq!(column("topic").as_string::<i32>().value(row), "t/é");
        assert_eq!(column("qos").as_primitive::<Int32Type>().value(row), 1);
        assert!(column("packet_id").as_primitive::<Int32Type>().value(row) > 0);
        assert!(!column("retain").as_boolean().value(row) && column("received_at").is_valid(row));
        let v5 = version == "5";
        assert_eq!(column("content_type").is_valid(row), v5);
        assert_eq!(column("user_properties").is_valid(row), v5);
        if v5 {
            let entries = column("user_properties").as_map().value(row);
            assert_eq!(entries.column(1).as_string::<i32>().value(0), "°C");
            assert_eq!(column("response_topic").as_string::<i32>().value(row), "answers");
            assert_eq!(column("correlation_data").as_binary::<i32>().value(row), b"\x01");
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_messages_come_once_each() {
    let broker = Mosquitto::start("", &[]);
    for (version, count) in [("5", 20_000), ("3.1.1", 20_000)] {
        let folder = tempfile::tempdir().unwrap();
        let config = source_config(broker.port(), serde_json::json!({"version": version, "client_id": version}));
        let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());
        subscribed(&running, broker.port()).await;
        let started = Instant::now();
        let publishing = tokio::spawn(publish(broker.port(), numbers(1..count + 1)));
        // The probes are the number 0.
        let (seen, rows) = running.read_numbers(count as usize + 1).await;
        println!("MQTT {version}: {:.0} messages/s", count as f64 / started.elapsed().as_secs_f64());
        publishing.await.unwrap();
        assert_eq!(seen.iter().sum::<u64>(), count * (count + 1) / 2);
        assert!(rows < count as usize + 100, "only probes come more than once: {rows}");
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_the_source_is_away_comes_when_it_is_back() {
    let broker = Mosquitto::start("", &[]);
    let folder = tempfile::tempdir().unwrap();
    for version in ["5", "3.1.1"] {
        let config = source_config(broker.port(), serde_json::json!({"version": version, "client_id": version}));
        let log = IngestLog::open(&folder.path().join(version), &config.ingest).unwrap();
        let running = run(&config, log);
        subscribed(&running, broker.port()).await;
        let log = running.stop().await;
        publish(broker.port(), numbers(1..101)).await;
        let running = run(&config, log);
        running.read_numbers(101).await;
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_while_the_log_is_full_loses_nothing() {
    // It stores every change at once, so that what it acknowledged to the publisher survives `kill -9`.
    let mut broker = Mosquitto::start("autosave_on_changes true\nautosave_interval 1", &[]);
    let folder = tempfile::tempdir().unwrap();
    let extra = serde_json::json!({
        "ingest": {"max_bytes": "64KiB", "segment_bytes": "16KiB"}, "max_packet_size": "4KiB", "receive_maximum": 50,
    });
    let config = source_config(broker.port(), extra);
    let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());
    subscribed(&running, broker.port()).await;
    let padding = " ".repeat(1000);
    publish(broker.port(), numbers(1..201).map(|(topic, n)| (topic, n + &padding))).await;
    // It stores when there is *more* than one change, so the last one needs company.
    publish(broker.port(), std::iter::repeat_n(("t/0".into(), "0".into()), 3)).await;
    let started = Instant::now();
    while !running.log.stats().full {
        assert!(started.elapsed() < LONG, "200 kB fill a log of 64 KiB");
        tokio::time::sleep(StdDuration::from_millis(10)).await;
    }
    broker.wait_until_stored(format!("200{padding}").as_bytes());
    broker.kill();
    tokio::time::sleep(StdDuration::from_millis(100)).await;
    broker.restart();
    let (seen, _) = running.read_numbers(201).await;
    assert_eq!(seen.iter().sum::<u64>(), 200 * 201 / 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_no_longer_named_are_left_out_and_acknowledged() {
    let broker = Mosquitto::start("", &[]);
    let folder = tempfile::tempdir().unwrap();
    let config = source_config(broker.port(), serde_json::json!({}));
    let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());
    subscribed(&running, broker.port()).await;
    let log = running.stop().await;
    let before = log.stats().next_sequence;
    // The broker's session still has t/#.
    publish(broker.port(), numbers(1..100)).await;
    let running = run(&source_config(broker.port(), serde_json::json!({"topics": ["new"]})), log);
    let options = ReaderOptions { fields: Vec::new(), batch_rows_max: 1000, batch_bytes_max: 1 << 20 };
    let mut reader = running.log.reader(options);
    let mut from = Positions::default();
    from.set(PARTITION, before);
    reader.open(&from).await.unwrap();
    reader.next().await.unwrap();
    let batch = loop {
        publish(broker.port(), [("t/0".into(), "6".into()), ("new".into(), "5".into())]).await;
        if let Ok(event) = timeout(StdDuration::from_millis(200), reader.next()).await {
            let SourceEvent::Messages(batch) = event.unwrap() else { panic!("only messages come") };
            break batch;
        }
    };
    // What was left out was acknowledged: it does not come with the next connection either.
    assert!(batch.payloads.iter().all(|payload| payload == Some(b"5")));
    running.stop().await;
}

/// Reads one packet of a client: its type, and what follows the length.
async fn read_packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let kind = stream.read_u8().await.unwrap();
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let byte = stream.read_u8().await.unwrap();
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await.unwrap();
    (kind >> 4, rest)
}

/// Takes the connection of a client of 3.1.1, up to its subscription, which is answered with `code`.
async fn accept(listener: &TcpListener, session_present: u8, code: Option<u8>) -> TcpStream {
    let (mut stream, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    assert_eq!(read_packet(&mut stream).await.0, 1);
    stream.write_all(&[0x20, 2, session_present, 0]).await.unwrap();
    if let Some(code) = code {
        let (kind, subscribe) = read_packet(&mut stream).await;
        assert_eq!(kind, 8);
        stream.write_all(&[0x90, 3, subscribe[0], subscribe[1], code]).await.unwrap();
    }
    stream
}

#[tokio::test]
async fn an_acknowledgement_is_never_sent_on_another_connection_than_its_message_came_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let extra = serde_json::json!({"version": "3.1.1", "ingest": {"commit_interval": "700ms"}});
    let config = source_config(listener.local_addr().unwrap().port(), extra);
    let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());

    let mut first = accept(&listener, 0, Some(1)).await;
    // Message `a` on t/x, with QoS 1 and packet id 7; it is durable only 700 ms later.
    first.write_all(&[0x32, 8, 0, 3, b't', b'/', b'x', 0, 7, b'a']).await.unwrap();
    tokio::time::sleep(StdDuration::from_millis(100)).await;
    drop(first);
    let mut second = accept(&listener, 1, None).await;
    let stale = timeout(StdDuration::from_millis(1500), read_packet(&mut second)).await;
    assert!(stale.is_err(), "packet id 7 means another message here: {stale:?}");
    second.write_all(&[0x32, 8, 0, 3, b't', b'/', b'x', 0, 7, b'b']).await.unwrap();
    assert_eq!(timeout(LONG, read_packet(&mut second)).await.unwrap(), (4, vec![0, 7]));
    assert_eq!(running.log.stats().next_sequence, 2);
    running.stop().await;
}

#[tokio::test]
async fn a_refused_subscription_names_its_topic() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = source_config(listener.local_addr().unwrap().port(), serde_json::json!({"version": "3.1.1"}));
    let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());
    let _stream = accept(&listener, 0, Some(0x80)).await;
    let error = timeout(LONG, running.task).await.unwrap().unwrap().unwrap_err();
    assert!(error.message.contains("refuses the subscription to `t/#`"), "{error}");
}

#[test]
fn options_that_cannot_work_are_refused_by_name() {
    let refused = |extra: serde_json::Value| {
        let error = source_config(1883, extra).build(&source_context()).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Configuration);
        error.option.unwrap()
    };
    use serde_json::json;
    for (extra, option) in [
        (json!({"url": "http://h"}), "url"),
        (json!({"url": "mqtt://h/path"}), "url"),
        (json!({"url": "mqtt://u:p@h", "username": "v"}), "username"),
        (json!({"url": "mqtt://u:p@h", "password": "v"}), "password"),
        (json!({"password": "v"}), "password"),
        (json!({"keep_alive": "1s"}), "keep_alive"),
        (json!({"keep_alive": "5500ms"}), "keep_alive"),
        (json!({"connect_timeout": "0s"}), "connect_timeout"),
        (json!({"topics": []}), "topics"),
        (json!({"topics": ["a", "a#"]}), "topics[1]"),
        (json!({"topics": ["a", "a"]}), "topics[1]"),
        (json!({"qos": 2}), "qos"),
        (json!({"topics": [{"topic": "a", "qos": 2}]}), "topics[0].qos"),
        (json!({"version": "3.1.1", "session_expiry": "1h"}), "session_expiry"),
        (json!({"clean_start": true, "session_expiry": "1h"}), "session_expiry"),
        (json!({"receive_maximum": 0}), "receive_maximum"),
        (json!({"tls": {}}), "tls"),
        (json!({"url": "mqtts://h", "tls": {"ca": "/none"}}), "tls.ca"),
        (json!({"url": "mqtts://h", "tls": {"cert": "/none"}}), "tls.key"),
        (json!({"last_will": {"topic": "a/+"}}), "last_will.topic"),
        (json!({"reconnect": {"initial": "1m", "max": "1s"}}), "reconnect.initial"),
        (json!({"reconnect": {"jitter": 2.0}}), "reconnect.jitter"),
        (json!({"max_packet_size": "1B"}), "max_packet_size"),
        (json!({"ingest": {"max_bytes": "1B"}}), "ingest.max_bytes"),
        (json!({"ingest": {"max_bytes": "16MiB", "segment_bytes": "1MiB"}}), "max_packet_size"),
    ] {
        assert_eq!(refused(extra.clone()), option, "{extra}");
    }
    for wrong in [json!({"qos": 7}), json!({"qso": 1}), json!({"tls": {"caa": ""}}), json!({"version": "4"})] {
        let mut config = json!({"url": "mqtt://h", "topics": ["a"]});
        config.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        assert!(serde_json::from_value::<MqttSourceConfig>(config).is_err(), "{wrong}");
    }
}

#[test]
fn a_password_in_the_url_is_never_shown() {
    let config = source_config(1883, serde_json::json!({"url": "mqtt://me:s3cret@h:1", "client_id": "c"}));
    let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
    assert!(shown.contains("mqtt://me:***@h:1") && !shown.contains("s3cret"), "{shown}");
}

fn columns() -> SchemaRef {
    let fields = vec![Field::new("topic", DataType::Utf8, true), Field::new("n", DataType::Int64, false)];
    Arc::new(Schema::new(fields))
}

fn rows(topic: Option<&str>, range: std::ops::Range<i64>) -> RecordBatch {
    let topics = StringArray::from(vec![topic; range.clone().count()]);
    RecordBatch::try_new(columns(), vec![Arc::new(topics), Arc::new(Int64Array::from_iter_values(range))]).unwrap()
}

/// Writes the column `n`.
struct NumberEncoder;

impl crate::format::Encoder for NumberEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<crate::format::Encoded, ConnectorError> {
        let (mut buffer, mut ends) = (Vec::new(), Vec::new());
        for n in rows.column(1).as_primitive::<arrow::datatypes::Int64Type>().values() {
            buffer.extend_from_slice(n.to_string().as_bytes());
            ends.push(buffer.len());
        }
        Ok(crate::format::Encoded { buffer: buffer.into(), ends })
    }

    fn media_type(&self) -> &'static str {
        "text/plain"
    }
}

fn build_sink(port: u16, extra: serde_json::Value) -> Box<dyn Sink> {
    let mut config = serde_json::json!({
        "url": format!("mqtt://127.0.0.1:{port}"), "topic": "{topic}", "reconnect": {"initial": "20ms", "max": "200ms"},
    });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let config: MqttSinkConfig = serde_json::from_value(config).unwrap();
    let context = SinkContext {
        pipeline: "p".into(),
        name: "s".into(),
        base_dir: "/".into(),
        columns: columns(),
        format: None,
        routes: Arc::default(),
    };
    Box::new(config.build_with(&context, Box::new(NumberEncoder)).unwrap())
}

/// A source that takes what a sink publishes.
async fn taker(port: u16, folder: &std::path::Path) -> Running {
    let config = source_config(port, serde_json::json!({"client_id": "taker"}));
    let running = run(&config, IngestLog::open(folder, &config.ingest).unwrap());
    subscribed(&running, port).await;
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_returns_when_the_broker_has_every_row_in_all_versions_and_qualities() {
    let broker = Mosquitto::start("", &[]);
    let folder = tempfile::tempdir().unwrap();
    let running = taker(broker.port(), folder.path()).await;
    let mut upto = 1;
    for version in ["5", "3.1.1"] {
        for qos in [0, 1, 2] {
            let mut sink = build_sink(broker.port(), serde_json::json!({"version": version, "qos": qos}));
            sink.open(None).await.unwrap();
            let started = Instant::now();
            for _ in 0..4 {
                assert!(sink.write(&rows(Some("t/x"), upto..upto + 500)).await.unwrap().is_empty());
                upto += 500;
            }
            assert!(sink.flush().await.unwrap().rejected.is_empty());
            println!("sink {version} QoS {qos}: {:.0} rows/s", 2000.0 / started.elapsed().as_secs_f64());
            sink.close().await.unwrap();
        }
    }
    let (seen, _) = running.read_numbers(upto as usize).await;
    assert_eq!(seen.len() as i64, upto);
    running.stop().await;
}

/// Forwards connections to `port`, each for at most `bytes` bytes of the client, and then cuts it hard. Returns its own
/// port and the number of connections it took.
async fn cutting_proxy(port: u16, bytes: usize) -> (u16, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut broker = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut from_client, mut to_client) = client.split();
                let (mut from_broker, mut to_broker) = broker.split();
                let limited = &mut (&mut from_client).take(bytes as u64);
                tokio::select! {
                    _ = tokio::io::copy(limited, &mut to_broker) => {}
                    _ = tokio::io::copy(&mut from_broker, &mut to_client) => {}
                }
            });
        }
    });
    (own, connections)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_on_their_way_when_the_connection_is_cut_are_sent_again() {
    let broker = Mosquitto::start("", &[]);
    let folder = tempfile::tempdir().unwrap();
    let running = taker(broker.port(), folder.path()).await;
    let mut first = 1;
    for version in ["5", "3.1.1"] {
        for qos in [1, 2] {
            // About a hundred rows get through on each connection.
            let (port, connections) = cutting_proxy(broker.port(), 1500).await;
            let mut sink = build_sink(port, serde_json::json!({"version": version, "qos": qos}));
            sink.open(None).await.unwrap();
            sink.write(&rows(Some("t/x"), first..first + 500)).await.unwrap();
            sink.flush().await.unwrap();
            sink.close().await.unwrap();
            assert!(connections.load(std::sync::atomic::Ordering::SeqCst) > 3);
            first += 500;
        }
    }
    running.read_numbers(first as usize).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_broker_ends_the_run_after_the_delivery_timeout() {
    let mut broker = Mosquitto::start("", &[]);
    let extra = serde_json::json!({"delivery_timeout": "300ms", "inflight": 10});
    let mut sink = build_sink(broker.port(), extra.clone());
    sink.open(None).await.unwrap();
    broker.kill();
    // More rows than fit in the window and the channel: already writing must not wait for ever.
    let error = timeout(LONG, sink.write(&rows(Some("t/x"), 0..100))).await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.message.contains("has acknowledged nothing for 300ms"), "{error}");
    timeout(LONG, sink.flush()).await.unwrap().unwrap_err();
    sink.close().await.unwrap();
    let error = build_sink(broker.port(), extra).open(None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.message.contains("cannot be reached"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_no_broker_can_take_are_rejected_with_a_reason() {
    let broker = Mosquitto::start("acl_file FOLDER/acl", &[("acl", "topic readwrite t/#\n")]);
    for qos in [1, 2] {
        let mut sink = build_sink(broker.port(), serde_json::json!({"qos": qos, "max_packet_size": "1KiB"}));
        sink.open(None).await.unwrap();
        let mut rejected = Vec::new();
        for topic in [None, Some("a/+"), Some(""), Some(&*"x".repeat(1020)), Some("forbidden"), Some("t/x")] {
            rejected.extend(sink.write(&rows(topic, 0..1)).await.unwrap());
        }
        rejected.extend(sink.flush().await.unwrap().rejected);
        // Mosquitto 2.0.11 breaks the connection when it refuses a message of QoS 2 and more is on its way: the refusal
        // that came just before still counts, or it would come for ever.
        let topics = StringArray::from(vec!["forbidden", "t/x"]);
        let both =
            RecordBatch::try_new(columns(), vec![Arc::new(topics), Arc::new(Int64Array::from(vec![0, 1]))]).unwrap();
        let mut refused = sink.write(&both).await.unwrap();
        refused.extend(sink.flush().await.unwrap().rejected);
        assert_eq!(refused.len(), 1, "{refused:?}");
        let mut reasons: Vec<_> = rejected.iter().map(|rejected| rejected.reason.as_str()).collect();
        reasons.sort();
        assert_eq!(reasons.len(), 5, "{reasons:?}");
        for (part, reason) in [
            "a packet of 1031 bytes",
            "an empty topic",
            "forbidden: the broker refuses it: NotAuthorized",
            "topic is null",
            "contains '+'",
        ]
        .iter()
        .zip([reasons[0], reasons[1], reasons[2], reasons[3], reasons[4]])
        {
            assert!(reasons.iter().any(|reason| reason.contains(part)), "{part}: {reason} {reasons:?}");
        }
        sink.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_and_a_right_one_lets_in() {
    let broker =
        Mosquitto::start("allow_anonymous false\npassword_file FOLDER/passwords", &[("passwords", "me:plain\n")]);
    // Mosquitto only reads hashed passwords, so nobody is let in: what counts is how that is said.
    let extra = serde_json::json!({"username": "me", "password": "wrong-s3cret"});
    let folder = tempfile::tempdir().unwrap();
    let config = source_config(broker.port(), extra.clone());
    let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());
    let error = timeout(LONG, running.task).await.unwrap().unwrap().unwrap_err();
    assert!(error.message.contains("does not let the user `me` in"), "{error}");
    assert!(!error.message.contains("s3cret"));
    let error = build_sink(broker.port(), extra).open(None).await.unwrap_err();
    assert!(error.message.contains("does not let the user `me` in"), "{error}");
}

#[tokio::test]
async fn pings_go_on_while_the_log_is_full() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let extra = serde_json::json!({
        "version": "3.1.1", "keep_alive": "5s", "max_packet_size": "16KiB",
        "ingest": {"max_bytes": "64KiB", "segment_bytes": "16KiB"},
    });
    let config = source_config(listener.local_addr().unwrap().port(), extra);
    let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());
    let mut stream = accept(&listener, 0, Some(1)).await;
    for id in 1..=20u8 {
        let payload = vec![b'x'; 8000];
        // 7 bytes of topic and packet id; the length has two bytes.
        let length = payload.len() + 7;
        let header = [0x32, (length % 128) as u8 | 0x80, (length / 128) as u8, 0, 3, b't', b'/', b'x', 0, id];
        stream.write_all(&header).await.unwrap();
        stream.write_all(&payload).await.unwrap();
    }
    let mut acknowledged = 0;
    loop {
        match timeout(LONG, read_packet(&mut stream)).await.unwrap() {
            (4, _) => acknowledged += 1,
            (12, _) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(running.log.stats().full && acknowledged < 20, "{acknowledged}");
    running.stop().await;
}

/// Runs `openssl` in `folder`.
fn openssl(folder: &std::path::Path, arguments: &str) {
    let done = std::process::Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let done = done.expect("openssl is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_the_given_authority_only_and_shows_its_own_certificate() {
    let keys = tempfile::tempdir().unwrap();
    let folder = keys.path();
    openssl(folder, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca");
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost").unwrap();
    for name in ["server", "client"] {
        openssl(folder, &format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.pem"
            ),
        );
    }
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let files = [("ca.pem", read("ca.pem")), ("server.pem", read("server.pem")), ("server.key", read("server.key"))];
    let files: Vec<_> = files.iter().map(|(name, content)| (*name, content.as_str())).collect();
    let lines = "cafile FOLDER/ca.pem\ncertfile FOLDER/server.pem\nkeyfile FOLDER/server.key\nrequire_certificate true";
    let broker = Mosquitto::start(lines, &files);

    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let own = serde_json::json!({"cert": file("client.pem"), "key": file("client.key")});
    for (host, ca, insecure, lets_in) in [
        ("localhost", Some("ca.pem"), false, true),
        // The certificate names another host.
        ("127.0.0.1", Some("ca.pem"), false, false),
        // The system does not know the authority.
        ("localhost", None, false, false),
        ("127.0.0.1", None, true, true),
    ] {
        let mut tls = own.clone();
        tls["insecure_skip_verify"] = insecure.into();
        if let Some(ca) = ca {
            tls["ca"] = file(ca).into();
        }
        for version in ["5", "3.1.1"] {
            let url = format!("mqtts://{host}:{}", broker.port());
            let mut sink = build_sink(0, serde_json::json!({"url": url, "tls": tls, "version": version}));
            let opened = sink.open(None).await;
            assert_eq!(opened.is_ok(), lets_in, "{host} {ca:?} {version}: {opened:?}");
            sink.close().await.unwrap();
        }
    }
    let url = format!("mqtts://localhost:{}", broker.port());
    let mut trusted = own.clone();
    trusted["ca"] = file("ca.pem").into();
    for version in ["5", "3.1.1"] {
        let tls = serde_json::json!({"url": url, "tls": trusted, "version": version, "client_id": version});
        let config = source_config(0, tls.clone());
        let logs = tempfile::tempdir().unwrap();
        let running = run(&config, IngestLog::open(logs.path(), &config.ingest).unwrap());
        let mut sink = build_sink(0, serde_json::json!({"url": url, "tls": trusted}));
        sink.open(None).await.unwrap();
        while running.log.stats().next_sequence == 0 {
            sink.write(&rows(Some("t/x"), 0..1)).await.unwrap();
            sink.flush().await.unwrap();
        }
        // Many records of TLS, and more than one read.
        sink.write(&rows(Some("t/x"), 1..5001)).await.unwrap();
        sink.flush().await.unwrap();
        sink.close().await.unwrap();
        running.read_numbers(5001).await;
        running.stop().await;
        let mut stranger = tls;
        stranger["tls"]["ca"] = serde_json::Value::Null;
        let config = source_config(0, stranger);
        let trouble = wire_trouble(&config).await;
        assert!(trouble.contains("certificate verify failed"), "{trouble}");
    }
    let tls = serde_json::json!({"ca": file("ca.pem")});
    let nameless = build_sink(0, serde_json::json!({"url": url, "tls": tls})).open(None).await;
    assert!(nameless.is_err(), "the broker requires a certificate");
}

#[tokio::test]
async fn a_full_log_does_not_hold_up_a_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let extra = serde_json::json!({
        "version": "3.1.1", "receive_maximum": 1, "max_packet_size": "32KiB",
        "ingest": {"max_bytes": "64KiB", "segment_bytes": "16KiB"},
    });
    let config = source_config(listener.local_addr().unwrap().port(), extra);
    let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());
    let mut stream = accept(&listener, 0, Some(1)).await;
    // QoS 0, so that nothing but the full queue holds the messages back.
    let mut packet = vec![0x30, 0xf0, 0x2e, 0, 3, b't', b'/', b'x'];
    packet.resize(3 + 0x70 + 0x2e * 128, b'x');
    let flood = async { while stream.write_all(&packet).await.is_ok() {} };
    let stopping = async {
        while !running.log.stats().full {
            tokio::time::sleep(StdDuration::from_millis(10)).await;
        }
        tokio::time::sleep(StdDuration::from_millis(200)).await;
        running.stop().await;
    };
    timeout(LONG, async { tokio::join!(flood, stopping) }).await.expect("the source stops and closes its connection");
}

/// Why a connection of the source's own cannot be made.
async fn wire_trouble(config: &MqttSourceConfig) -> String {
    let broker = config.broker("trouble".into(), std::path::Path::new("/")).unwrap();
    let session = broker::Session { clean: true, expiry: 0, receive_maximum: 10 };
    match wire::connect(&broker, session).await.err().expect("no connection is made") {
        trouble::Trouble::Lost(message) => message,
        trouble::Trouble::End(error) => error.message,
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_or_silent_or_something_else_is_said() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let message = wire_trouble(&source_config(free, serde_json::json!({}))).await;
    assert!(message.contains("Connection refused"), "{message}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = source_config(port, serde_json::json!({"connect_timeout": "50ms"}));
    let message = wire_trouble(&silent).await;
    assert!(message.contains("no answer within 50ms"), "{message}");
    drop(listener.accept().await);

    for (version, answer, said) in [
        ("5", &[0x20, 3, 0, 0x86, 0][..], "does not let no user in (BadUserNamePassword)"),
        ("3.1.1", &[0x20, 2, 0, 5], "does not let no user in (NotAuthorized)"),
        ("5", &[0x20, 3, 0, 0x84, 0], "does not speak this version"),
        ("3.1.1", &[0x20, 2, 0, 1], "does not speak this version"),
        ("3.1.1", &[0x20, 2, 0, 2], "refuses the client id"),
        ("3.1.1", &[0x20, 2, 0, 3], "refuses the connection: ServiceUnavailable"),
        ("5", &[0xd0, 0], "wrong packet"),
        ("3.1.1", &[0xf0, 1, 0], "Mqtt state"),
        ("5", &[0x30, 0xff, 0xff, 0xff, 0x7f], "max_packet_size"),
        ("3.1.1", &[], "closed the connection"),
    ] {
        let config = source_config(port, serde_json::json!({"version": version}));
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_eq!(read_packet(&mut stream).await.0, 1);
            stream.write_all(answer).await.unwrap();
        };
        let (message, ()) = timeout(LONG, async { tokio::join!(wire_trouble(&config), answering) }).await.unwrap();
        assert!(message.contains(said) || said == "max_packet_size" && message.contains("are allowed"), "{message}");
    }
}

#[tokio::test]
async fn many_messages_of_one_read_are_acknowledged_in_order_and_in_one_piece() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = source_config(listener.local_addr().unwrap().port(), serde_json::json!({"version": "3.1.1"}));
    let running = run(&config, IngestLog::open(folder.path(), &config.ingest).unwrap());
    let mut stream = accept(&listener, 0, Some(1)).await;
    // The last one's second half comes later.
    let packet = |id: u8| [0x32, 8, 0, 3, b't', b'/', b'x', 0, id, b'0' + id % 10];
    let packets: Vec<u8> = (1..=100).flat_map(packet).collect();
    let (most, rest) = packets.split_at(packets.len() - 5);
    stream.write_all(most).await.unwrap();
    let mut acknowledged = vec![0; 99 * 4];
    timeout(LONG, stream.read_exact(&mut acknowledged)).await.unwrap().unwrap();
    assert_eq!(acknowledged, (1..100).flat_map(|id| [0x40, 2, 0, id]).collect::<Vec<_>>());
    stream.write_all(rest).await.unwrap();
    assert_eq!(timeout(LONG, read_packet(&mut stream)).await.unwrap(), (4, vec![0, 100]));
    // The good-bye comes after the last acknowledgement.
    stream.write_all(&packet(101)).await.unwrap();
    while running.log.stats().next_sequence < 101 {
        tokio::time::sleep(StdDuration::from_millis(1)).await;
    }
    let stopping = tokio::spawn(running.stop());
    assert_eq!(timeout(LONG, read_packet(&mut stream)).await.unwrap(), (4, vec![0, 101]));
    assert_eq!(timeout(LONG, read_packet(&mut stream)).await.unwrap(), (14, vec![]));
    drop(stream);
    assert_eq!(stopping.await.unwrap().stats().next_sequence, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_will_is_published_when_the_source_dies_and_not_when_it_stops() {
    let broker = Mosquitto::start("", &[]);
    let folder = tempfile::tempdir().unwrap();
    let watching = taker(broker.port(), folder.path()).await;
    for (version, number) in [("5", 1), ("3.1.1", 2)] {
        for dies in [false, true] {
            let payload = if dies { number } else { number + 10 };
            let will = serde_json::json!({"topic": "t/will", "payload": payload.to_string()});
            let extra = serde_json::json!({"version": version, "client_id": version, "last_will": will});
            let config = source_config(broker.port(), extra);
            let logs = tempfile::tempdir().unwrap();
            let running = run(&config, IngestLog::open(logs.path(), &config.ingest).unwrap());
            subscribed(&running, broker.port()).await;
            match dies {
                true => running.task.abort(),
                false => drop(running.stop().await),
            }
        }
    }
    // The probes are the number 0.
    let (seen, _) = watching.read_numbers(3).await;
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
    watching.stop().await;
}

#[test]
fn the_schema_shows_every_option_with_its_description() {
    for schema in [schemars::schema_for!(MqttSourceConfig), schemars::schema_for!(MqttSinkConfig)] {
        let properties = schema.get("properties").and_then(|properties| properties.as_object()).unwrap();
        for (name, property) in properties {
            assert!(property.get("description").is_some(), "{name}: {property}");
        }
        assert_eq!(properties["keep_alive"]["default"], "1m");
        assert_eq!(properties["qos"]["default"], 1);
        assert_eq!(schema.get("additionalProperties"), Some(&false.into()));
    }
}
