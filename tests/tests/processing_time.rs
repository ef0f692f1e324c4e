//! `event_time: processing`, on the real clock: windows that close while nothing comes, over restarts, at the end.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use millstream_tests::load::KafkaLoad;
use millstream_tests::sandbox::Sandbox;
use millstream_tests::services::kafka;
use serde_json::Value;

use crate::accounts::counting;

/// Rows that are posted, counted by what `sql` says.
fn posted(event_time: &str, columns: &str, sql: &str) -> String {
    format!(
        r#"
sources:
  clicks:
    http: {{path: /clicks}}
    columns: {{n: bigint{columns}}}
    event_time: {event_time}
steps:
  counted:
    sql: |
      {sql}
sinks:
  counted: {{from: counted, file: {{path: ../out.jsonl}}}}
"#
    )
}

const BY_SECOND: &str = "SELECT window_start, window_end, count(*) AS n, min(at) AS first, max(at) AS last \
                         FROM TUMBLE(clicks, at, INTERVAL '1 second') GROUP BY window_start, window_end";
const BY_HOUR: &str =
    "SELECT window_end, count(*) AS n FROM TUMBLE(clicks, at, INTERVAL '1 hour') GROUP BY window_start, window_end";

/// Waits for so many lines of the sink.
async fn lines(sandbox: &mut Sandbox, count: usize) -> Vec<Value> {
    let file = sandbox.path("out.jsonl");
    let whole = async || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if text.ends_with('\n') && text.lines().count() >= count { Ok(()) } else { Err(text) }
    };
    sandbox.until("the window closes", whole).await;
    sandbox.lines("out.jsonl")
}

/// A time of a row, in nanoseconds since 1970.
fn time(row: &Value, column: &str) -> i64 {
    string_to_timestamp_nanos(row[column].as_str().unwrap()).unwrap_or_else(|error| panic!("{row}: {error}"))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_the_clock_closes_while_no_further_row_comes() {
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("web", &posted("{processing: at}", "", BY_SECOND));
    sandbox.start().await;
    sandbox.running("web").await;
    let before = now();
    assert_eq!(sandbox.post("/clicks", r#"[{"n": 1}, {"n": 2}, {"n": 3}]"#).await.0, 200);
    let after = now();
    let rows = lines(&mut sandbox, 1).await;
    let counted: u64 = rows.iter().map(|row| row["n"].as_u64().unwrap()).sum();
    assert_eq!(counted, 3, "{rows:?}");
    for row in &rows {
        let (start, end) = (time(row, "window_start"), time(row, "window_end"));
        let (first, last) = (time(row, "first"), time(row, "last"));
        assert!(before <= first && start <= first && first <= last && last < end, "{row}");
        // The answer comes when the rows are on disk, mostly before they are read there.
        assert!(last < after + 5_000_000_000, "{row}");
        assert!(now() >= end, "no window closes before its end: {row}");
    }
    let (_, metrics) = sandbox.get("/metrics").await;
    let lag = metrics.lines().find(|line| line.starts_with("millstream_source_watermark_lag_seconds"));
    let lag: f64 = lag.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap();
    assert!((0.0..30.0).contains(&lag), "the watermark follows the clock: {lag}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pipeline_writes_no_snapshots_though_its_watermark_moves() {
    let mut sandbox = Sandbox::new();
    let often = "checkpoint: {interval: 50ms}\n";
    sandbox.pipeline("web", &(posted("{processing: at}", "", BY_SECOND) + often));
    sandbox.start().await;
    sandbox.running("web").await;
    let epochs = async || sandbox.status("web").await["epochs"].as_u64();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = epochs().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(epochs().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_clock_alone_brings_out_is_followed_by_a_snapshot() {
    let mut sandbox = Sandbox::new();
    let sql = "SELECT window_end, count(*) AS n FROM SESSION(clicks, processing_time, INTERVAL '3 seconds') \
               GROUP BY window_start, window_end";
    sandbox.pipeline("web", &(posted("processing", "", sql) + "checkpoint: {interval: 50ms}\n"));
    sandbox.start().await;
    sandbox.running("web").await;
    assert_eq!(sandbox.post("/clicks", r#"{"n": 1}"#).await.0, 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = sandbox.status("web").await["epochs"].as_u64();
    assert!(sandbox.lines("out.jsonl").is_empty(), "the session is open");
    lines(&mut sandbox, 1).await;
    sandbox.status_until("web", "an epoch more", |status| status["epochs"].as_u64() > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_an_open_window_at_a_stop_are_in_it_after_the_restart() {
    let mut sandbox = Sandbox::new();
    // A window that begins with the rows, so that no boundary falls between them and the stop.
    let sql = "SELECT window_start, window_end, count(*) AS n FROM SESSION(clicks, processing_time, INTERVAL '4 seconds') \
               GROUP BY window_start, window_end";
    sandbox.pipeline("web", &posted("processing", "", sql));
    sandbox.start().await;
    sandbox.running("web").await;
    assert_eq!(sandbox.post("/clicks", r#"[{"n": 1}, {"n": 2}]"#).await.0, 200);
    let counted = |status: &Value| status["rows_in"]["clicks"].as_u64() == Some(2);
    sandbox.status_until("web", "both rows are read", counted).await;
    let read = Instant::now();
    assert!(sandbox.terminate().success());
    assert!(read.elapsed() < Duration::from_secs(3), "the stop took too long for this test");
    assert!(sandbox.lines("out.jsonl").is_empty());
    sandbox.start().await;
    let rows = lines(&mut sandbox, 1).await;
    assert_eq!((rows.len(), rows[0]["n"].as_u64()), (1, Some(2)), "{rows:?}");
    assert!(now() >= time(&rows[0], "window_end"));
}

#[test]
fn a_bounded_file_closes_its_windows_at_its_end() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("pipelines/in.jsonl"), "{\"n\": 1}\n{\"n\": 2}\n{\"n\": 3}\n").unwrap();
    let yaml = posted("{processing: at}", "", BY_HOUR).replace("http: {path: /clicks}", "file: {path: in.jsonl}");
    sandbox.pipeline("file", &yaml);
    let started = Instant::now();
    let (status, _, stderr) =
        sandbox.run(&["run", "pipelines", "--bounded", "--data-dir", "data", "--listen", "127.0.0.1:0"]);
    assert!(status.success(), "{stderr}");
    assert!(started.elapsed() < Duration::from_secs(50), "it did not wait for the hour");
    let counts: Vec<u64> = sandbox.lines("out.jsonl").iter().map(|row| row["n"].as_u64().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 3, "{counts:?}");
    assert!(sandbox.lines("data/file/dead-letter.jsonl").is_empty(), "no row is late");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_windows_of_the_clock_are_not_handed_to_the_time_of_rows_nor_back() {
    let mut sandbox = Sandbox::new();
    let by_clock = posted("{processing: at}", "", BY_HOUR);
    let by_rows = posted("{column: at, watermark: 0s}", ", at: timestamp", BY_HOUR);
    sandbox.pipeline("web", &by_clock);
    sandbox.start().await;
    sandbox.running("web").await;
    assert_eq!(sandbox.post("/clicks", r#"{"n": 1}"#).await.0, 200);
    for (reloads, other) in [(1, &by_rows), (2, &by_clock)] {
        sandbox.pipeline("web", other);
        let status = sandbox.status_until("web", "refused", |status| status["refused"].is_string()).await;
        let reason = status["refused"].as_str().unwrap();
        assert!(
            reason.contains("`counted`") && reason.contains("event_time") && reason.contains("revision"),
            "{reason}"
        );
        sandbox.pipeline(
            "web",
            &other.replace("  counted:\n    sql", &format!("  counted:\n    revision: {reloads}\n    sql")),
        );
        sandbox.status_until("web", "reloaded", |status| status["reloads"] == reloads).await;
    }
    assert_eq!(sandbox.post("/clicks", r#"{"n": 2}"#).await.0, 200);
    sandbox.status_until("web", "it goes on", |status| status["rows_in"]["clicks"].as_u64() >= Some(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_kafka_is_in_one_window_of_the_clock_over_stops_and_none_is_late() {
    let kafka = kafka().await;
    kafka.create_topic("clock", 3).await;
    let mut sandbox = Sandbox::new();
    let by_clock = counting(&kafka.brokers, "clock", "1 second")
        .replace("{column: ts, watermark: 20s, idle_after: 5m}", "processing")
        .replace("TUMBLE(events, ts,", "TUMBLE(events, processing_time,");
    sandbox.pipeline("clock", &(by_clock + "limits: {parallelism: 2}\n"));
    let load = KafkaLoad::start(&kafka.brokers, "clock", 1000, 5);
    for _ in 0..2 {
        sandbox.start().await;
        sandbox.running("clock").await;
        tokio::time::sleep(Duration::from_millis(2300)).await;
        assert!(sandbox.terminate().success());
    }
    sandbox.start().await;
    let sent = load.stop().await;
    let file = sandbox.path("windows.jsonl");
    let counted = || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let rows = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap());
        rows.sum::<u64>()
    };
    // No further row comes: the last window closes by the clock.
    let all = async || if counted() >= sent { Ok(()) } else { Err(format!("{} of {sent}", counted())) };
    sandbox.until("all rows are in windows", all).await;
    assert_eq!(counted(), sent, "each in one");
    assert!(sandbox.lines("data/clock/dead-letter.jsonl").is_empty());
}
