//! A recording goes over MQTT with its own timestamps through a tumbling average and a WebAssembly function to a Kafka
//! topic and an HTTP endpoint; the rows are those that DataFusion computes over the same rows in one batch.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch, TimestampMillisecondArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use millstream_tests::collector::Collector;
use millstream_tests::sandbox::{Sandbox, workspace};
use millstream_tests::services::{Kafka, Mosquitto, kafka};
use serde_json::Value;

const HOUR_MS: i64 = 3_600_000;

/// A size of windows: in SQL, and in milliseconds.
#[derive(Clone, Copy)]
struct Size(&'static str, i64);

const HOUR: Size = Size("1 hour", HOUR_MS);
const TEN_MINUTES: Size = Size("10 minutes", HOUR_MS / 6);

/// A row: time in milliseconds, value.
type Row = (i64, f64);
/// A window: rows, average, average in Fahrenheit.
type Window = (i64, f64, f64);

fn pipeline(name: &str, mqtt: &Mosquitto, kafka: &Kafka, http: &Collector, watermark: &str, window: Size) -> String {
    format!(
        r#"
name: {name}
sources:
  readings:
    mqtt: {{url: "{}", topics: ["{name}/#"], qos: 1}}
    columns: {{ts: timestamp, value: double}}
    event_time: {{column: ts, watermark: {watermark}, idle_after: 5m}}
functions:
  - wasm: ../udf/thermal.wasm
steps:
  hourly:
    sql: |
      SELECT window_start, count(*) AS n, avg(value) AS avg_c, c_to_f(avg(value)) AS avg_f
      FROM TUMBLE(readings, ts, INTERVAL '{window}')
      GROUP BY window_start, window_end
    late: {{to: too_late}}
sinks:
  topic: {{from: hourly, kafka: {{brokers: "{}", topic: {name}}}}}
  web: {{from: hourly, http: {{url: "{}"}}}}
  too_late: {{file: {{path: ../late.jsonl}}}}
checkpoint: {{interval: 200ms}}
"#,
        mqtt.url(),
        kafka.brokers,
        http.url,
        window = window.0,
    )
}

/// What the same SQL gives over all rows at once.
async fn batch(rows: &[Row], window: Size) -> BTreeMap<i64, Window> {
    let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.0));
    let values = Float64Array::from_iter_values(rows.iter().map(|row| row.1));
    let rows = RecordBatch::try_from_iter([("ts", Arc::new(times) as _), ("value", Arc::new(values) as _)]).unwrap();
    // One partition: the order of the additions is part of a floating-point sum.
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
    context.register_table("readings", Arc::new(table)).unwrap();
    let sql = format!(
        "SELECT date_bin(INTERVAL '{}', ts) AS window_start, count(*) AS n, avg(value) AS avg_c, \
         avg(value) * 9.0 / 5.0 + 32.0 AS avg_f FROM readings GROUP BY 1",
        window.0
    );
    let mut windows = BTreeMap::new();
    for batch in context.sql(&sql).await.unwrap().collect().await.unwrap() {
        let starts = arrow::compute::cast(
            batch.column(0),
            &arrow::datatypes::DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None),
        );
        let starts = starts.unwrap();
        let starts = starts.as_primitive::<TimestampMillisecondType>();
        let (n, c, f) = (
            batch.column(1).as_primitive::<Int64Type>(),
            batch.column(2).as_primitive::<Float64Type>(),
            batch.column(3).as_primitive::<Float64Type>(),
        );
        for row in 0..batch.num_rows() {
            assert!(!starts.is_null(row));
            windows.insert(starts.value(row), (n.value(row), c.value(row), f.value(row)));
        }
    }
    windows
}

/// The number in `column` of a line of JSON, to its last bit (serde_json's numbers are not).
fn number(line: &str, column: &str) -> f64 {
    let at = line.find(&format!("\"{column}\":")).unwrap_or_else(|| panic!("no {column} in {line}"));
    let rest = &line[at + column.len() + 3..];
    rest[..rest.find([',', '}']).unwrap()].parse().unwrap_or_else(|_| panic!("{column} in {line}"))
}

fn windows<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeMap<i64, Window> {
    let mut windows = BTreeMap::new();
    for line in lines {
        let json: Value = serde_json::from_str(line).unwrap();
        let start = millis(json["window_start"].as_str().unwrap());
        let window = (json["n"].as_i64().unwrap(), number(line, "avg_c"), number(line, "avg_f"));
        assert_eq!(windows.insert(start, window), None, "the window {line} came twice");
    }
    windows
}

fn millis(time: &str) -> i64 {
    let time = time.trim_end_matches('Z').replace(' ', "T");
    let parsed = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(&time);
    parsed.unwrap_or_else(|error| panic!("{time}: {error}")) / 1_000_000
}

fn time(ms: i64) -> String {
    let at = arrow::temporal_conversions::timestamp_ms_to_datetime(ms).unwrap();
    format!("{}Z", at.format("%Y-%m-%dT%H:%M:%S"))
}

fn compare(found: &BTreeMap<i64, Window>, expected: &BTreeMap<i64, Window>, place: &str) {
    for (start, window) in expected {
        let found = found.get(start);
        let found = found.unwrap_or_else(|| panic!("{place}: the window of {} is missing", time(*start)));
        assert_eq!((found.0, found.1), (window.0, window.1), "{place}: the window of {}", time(*start));
        assert!((found.2 - window.2).abs() <= 1e-9, "{place}: Fahrenheit of {}", time(*start));
    }
    assert_eq!(found.len(), expected.len(), "{place} has windows that should not be there");
}

/// Runs `rows` through the real thing; what is expected are `in_time` and, in the late route, `late` rows.
async fn replay(name: &str, window: Size, watermark: &str, rows: &[Row], late: &[Row]) {
    let in_time: Vec<Row> = rows.iter().filter(|row| !late.contains(row)).copied().collect();
    // One of its own: the shared one writes its disk after every message.
    let (mqtt, kafka, http) = (&Mosquitto::start(false).await, kafka().await, Collector::start().await);
    kafka.create_topic(name, 1).await;
    let mut sandbox = Sandbox::new().with_thermal();
    sandbox.pipeline(name, &pipeline(name, mqtt, kafka, &http, watermark, window));
    sandbox.start().await;
    sandbox.running(name).await;
    // The subscription must be there before the first message.
    sandbox.daemon().wait_for_output("subscribed").await;
    http.refuse(2);
    // A row far behind the last one closes its window.
    let last = rows.iter().map(|row| row.0).max().unwrap() + 5 * HOUR_MS;
    let closing = (last, 0.0);
    let lines = rows
        .iter()
        .chain([&closing])
        .map(|(ts, value)| (format!("{name}/sensor"), format!(r#"{{"ts": "{}", "value": {value:?}}}"#, time(*ts))));
    mqtt.publish(1, lines).await;
    let expected = batch(&in_time, window).await;
    let (wanted, web) = (expected.len(), &http);
    let check = async || {
        let topic = kafka.end_offsets(name).await.values().map(|(from, to)| (to - from) as usize).sum::<usize>();
        let web = web.lines().len();
        if topic >= wanted && web >= wanted { Ok(()) } else { Err(format!("{topic} and {web} of {wanted} windows")) }
    };
    sandbox.until("all windows close", check).await;
    let topic = kafka.consume_all(name).await;
    let topic: Vec<String> =
        topic.into_iter().map(|message| String::from_utf8(message.payload.unwrap()).unwrap()).collect();
    compare(&windows(topic.iter().map(String::as_str)), &expected, "Kafka");
    compare(&windows(http.lines().iter().map(String::as_str)), &expected, "HTTP");
    let status = sandbox.status(name).await;
    assert_eq!(status["restarts"], 0, "{status:#}");
    assert!(sandbox.terminate().success(), "{}", sandbox.output());
    let found: Vec<Row> = sandbox
        .lines("late.jsonl")
        .iter()
        .map(|row| (millis(row["ts"].as_str().unwrap()), row["value"].as_f64().unwrap()))
        .collect();
    let late: Vec<i64> = late.iter().map(|row| row.0).collect();
    assert_eq!(found.iter().map(|row| row.0).collect::<Vec<_>>(), late, "the late route has exactly the late rows");
    assert_eq!(sandbox.lines(&format!("data/{name}/dead-letter.jsonl")), Vec::<Value>::new());
}

/// The rows that come when their window has closed.
fn late(rows: &[Row], window: Size, watermark_ms: i64) -> Vec<Row> {
    let mut newest = i64::MIN;
    let late = rows.iter().filter(|(ts, _)| {
        let late = (ts.div_euclid(window.1) + 1) * window.1 <= newest.saturating_sub(watermark_ms);
        newest = newest.max(*ts);
        late
    });
    late.copied().collect()
}

/// The recording, where it is.
fn recording() -> Option<Vec<Row>> {
    let file = workspace().join("../shared/data/machine_temperature.csv.zst");
    let Ok(opened) = std::fs::File::open(&file) else {
        eprintln!("SKIPPED: the recording {} is not there", file.display());
        return None;
    };
    let mut text = String::new();
    zstd::Decoder::new(opened).unwrap().read_to_string(&mut text).unwrap();
    let rows = text.lines().skip(1).map(|line| {
        let (ts, value) = line.split_once(',').unwrap();
        (millis(ts), value.parse().unwrap())
    });
    Some(rows.collect())
}

/// The same shape, made here: a reading every five minutes, and an hour that comes twice.
fn synthetic() -> Vec<Row> {
    let start = millis("2025-10-20T21:15:00");
    let reading = |n: i64, back: i64| {
        (start + n * 300_000 - back, 80.0 + (n as f64 * 0.7).sin() * 11.3 + (n as f64 * 0.013).cos() * 7.77)
    };
    (0..2000).map(|n| reading(n, 0)).chain((2000..4000).map(|n| reading(n, HOUR_MS))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_gives_the_rows_of_a_batch_query() {
    let Some(rows) = recording() else { return };
    assert_eq!(rows.len(), 22_695);
    // The clocks went back by an hour: a watermark of an hour keeps those rows in time.
    assert_eq!(late(&rows, HOUR, HOUR_MS), []);
    replay("temperature", HOUR, "1h", &rows, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_recording_that_come_after_their_window_has_closed_go_to_the_late_route() {
    let Some(rows) = recording() else { return };
    // The rows around the change of the clocks, where five past two comes twice.
    let rows = &rows[9_000..11_000];
    let late = late(rows, TEN_MINUTES, 0);
    assert!(late.len() >= 8, "{late:?}");
    replay("temperature-late", TEN_MINUTES, "0s", rows, &late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_readings_give_the_rows_of_a_batch_query() {
    let rows = synthetic();
    assert_eq!(late(&rows, HOUR, 2 * HOUR_MS), []);
    replay("readings", HOUR, "2h", &rows, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_readings_of_a_window_that_has_closed_go_to_the_late_route() {
    let rows = synthetic();
    let late = late(&rows, TEN_MINUTES, 0);
    assert!(late.len() >= 8, "{late:?}");
    replay("readings-late", TEN_MINUTES, "0s", &rows, &late).await;
}
