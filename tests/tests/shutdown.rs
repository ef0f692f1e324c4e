//! How the daemon ends, and what stops it from starting: limits, exit codes, and messages that say what to do.

use std::time::{Duration, Instant};

use millstream_tests::daemon::Daemon;
use millstream_tests::load::KafkaLoad;
use millstream_tests::sandbox::Sandbox;
use millstream_tests::services::kafka;
use rustix::process::{Pid, Signal, kill_process};

use crate::accounts::{counting, every_id_once};

const BOUNDED: &[&str] = &["run", "pipelines", "--bounded", "--data-dir", "data", "--listen", "127.0.0.1:0"];

fn signal(daemon: &Daemon, signal: Signal) {
    kill_process(Pid::from_raw(daemon.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_ends_with_a_snapshot_and_the_next_start_goes_on_without_duplicates() {
    let kafka = kafka().await;
    kafka.create_topic("shutdown", 3).await;
    let mut sandbox = Sandbox::new();
    sandbox.pipeline("copy", &counting(&kafka.brokers, "shutdown", "10s"));
    let load = KafkaLoad::start(&kafka.brokers, "shutdown", 3000, 5);
    for _ in 0..3 {
        let before = sandbox.lines("rows.jsonl").len();
        sandbox.start().await;
        let file = sandbox.path("rows.jsonl");
        let size = async || std::fs::metadata(&file).map_or(0, |file| file.len());
        let at_start = size().await;
        let grown = async || if size().await > at_start + 100_000 { Ok(()) } else { Err("no rows".to_owned()) };
        sandbox.until("rows come", grown).await;
        let started = Instant::now();
        let status = sandbox.terminate();
        assert!(status.success(), "{status}: {}", sandbox.output());
        assert!(started.elapsed() < Duration::from_secs(10), "a stop took {:?}", started.elapsed());
        assert!(sandbox.lines("rows.jsonl").len() > before, "it moved rows: {}", sandbox.output());
    }
    let sent = load.stop().await;
    sandbox.start().await;
    every_id_once(&mut sandbox, "rows.jsonl", sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_stop_that_takes_long() {
    let mut sandbox = Sandbox::new();
    // A sink that nobody listens for cannot be flushed: the stop waits for its limit.
    let nobody = millstream_tests::services::free_port();
    sandbox.pipeline(
        "stuck",
        &format!(
            r#"
sources:
  ticks: {{generate: {{columns: {{n: {{sequence: {{}}}}}}, rate: 100/s}}}}
sinks:
  web: {{from: ticks, http: {{url: "http://127.0.0.1:{nobody}/", retry: {{max_elapsed: 1h}}}}}}
limits: {{stop_timeout: 50s}}
"#
        ),
    );
    sandbox.start().await;
    sandbox.running("stuck").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    signal(sandbox.daemon(), Signal::TERM);
    sandbox.daemon().wait_for_output("once more to stop at once").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(sandbox.daemon().ended(), None, "it waits for what is on its way");
    let second = Instant::now();
    signal(sandbox.daemon(), Signal::TERM);
    let status = loop {
        if let Some(status) = sandbox.daemon().ended() {
            break status;
        }
        assert!(second.elapsed() < Duration::from_secs(5), "the second signal was not heard");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(status.code(), Some(130), "{}", sandbox.output());
}

#[test]
fn a_bounded_run_says_by_its_exit_code_how_it_went() {
    let good = "sources: {s: {generate: {columns: {n: {sequence: {}}}, count: 10, rate: unlimited}}}\n\
                sinks: {o: {from: s, file: {path: ../out.jsonl}}}\n";
    let sandbox = Sandbox::new();
    sandbox.pipeline("good", good);
    let (status, _, stderr) = sandbox.run(BOUNDED);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(sandbox.lines("out.jsonl").len(), 10);

    let sandbox = Sandbox::new();
    sandbox.pipeline("endless", &good.replace("count: 10, ", ""));
    let (status, _, stderr) = sandbox.run(BOUNDED);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("this source has no end"), "{stderr}");

    let sandbox = Sandbox::new();
    sandbox.pipeline(
        "missing",
        &good.replace(
            "generate: {columns: {n: {sequence: {}}}, count: 10, rate: unlimited}",
            "file: {path: gone.jsonl}, columns: {n: bigint}",
        ),
    );
    let (status, _, stderr) = sandbox.run(BOUNDED);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("gone.jsonl"), "{stderr}");

    let sandbox = Sandbox::new();
    let (status, _, stderr) = sandbox.run(&["run", "nothing-here", "--bounded"]);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("nothing-here does not exist"), "{stderr}");

    let (status, _, stderr) = sandbox.run(BOUNDED);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("there is no *.yaml or *.yml file to run"), "{stderr}");
}

#[test]
fn the_end_of_a_bounded_run_says_what_became_of_its_rows() {
    let sandbox = Sandbox::new();
    // Every row but the first comes after its window has closed.
    let rows: String = (0..10).map(|n| format!("{{\"ts\": {}, \"k\": \"a\"}}\n", 100_000 - n * 10_000)).collect();
    std::fs::write(sandbox.path("in.jsonl"), rows).unwrap();
    let late = r#"
sources:
  s: {file: {path: ../in.jsonl}, columns: {ts: {type: timestamp, unit: ms}, k: text}, event_time: {column: ts, watermark: 0s}}
steps:
  counts: {sql: "SELECT k, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '1 second') GROUP BY k, window_start, window_end"}
sinks:
  o: {from: counts, file: {path: ../out.jsonl}}
"#;
    let line = |stderr: &str| stderr.lines().find(|line| line.contains("at their end")).unwrap_or_default().to_owned();
    sandbox.pipeline("late", late);
    let (status, _, stderr) = sandbox.run(BOUNDED);
    assert_eq!(status.code(), Some(0), "{stderr}");
    let letters = sandbox.lines("data/late/dead-letter.jsonl").len();
    assert_eq!(letters, 9, "{stderr}");
    let place = "dead_letters_in=\"data/late/dead-letter.jsonl\"";
    let end = line(&stderr);
    for part in ["WARN", "rows_in=10 rows_out=1 late=9 dropped=0 dead_letters=9", place] {
        assert!(end.contains(part), "{part}: {stderr}");
    }
    let first = stderr.lines().find(|line| line.contains("dead letter ") && line.contains("reason=")).unwrap();
    assert!(first.contains("WARN") && first.contains(place), "{stderr}");

    sandbox.pipeline("late", &late.replace("counts: {", "counts: {late: {to: drop}, "));
    let end = line(&sandbox.run(BOUNDED).2);
    assert!(end.contains("WARN") && end.contains("late=9 dropped=9 dead_letters=0"), "{end}");
    assert!(!end.contains("dead_letters_in"), "{end}");

    sandbox.pipeline("late", &late.replace("watermark: 0s", "watermark: 1h"));
    let (status, _, stderr) = sandbox.run(BOUNDED);
    assert_eq!(status.code(), Some(0), "{stderr}");
    let end = line(&stderr);
    assert!(end.contains("INFO") && end.contains("rows_in=10 rows_out=10 late=0 dropped=0 dead_letters=0"), "{end}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_data_or_the_same_port_is_told_why_it_cannot_start() {
    let mut sandbox = Sandbox::new();
    sandbox.start().await;
    let (status, _, stderr) = sandbox.run(&["run", "pipelines", "--data-dir", "data", "--listen", "127.0.0.1:0"]);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("in use by another millstream") && stderr.contains("--data-dir"), "{stderr}");

    let listen = format!("127.0.0.1:{}", sandbox.port);
    let (status, _, stderr) = sandbox.run(&["run", "pipelines", "--data-dir", "other", "--listen", &listen]);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("cannot listen on {listen}")) && stderr.contains("--listen"), "{stderr}");
    assert_eq!(sandbox.get("/health").await.0, 200, "the first one is not disturbed");
}
