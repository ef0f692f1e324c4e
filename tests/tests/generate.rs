//! The synthetic source: the same seed gives the same rows and sums, run after run, however parallel the pipeline is.

use std::collections::BTreeMap;

use millstream_tests::sandbox::Sandbox;
use serde_json::Value;

const COUNT: u64 = 60_000;

fn pipeline(parallelism: u16, seed: u64) -> String {
    format!(
        r#"
sources:
  readings:
    generate:
      columns:
        ts: {{timestamp: {{}}}}
        k: {{key: {{prefix: bay, count: 23, order: random}}}}
        v: {{uniform: {{min: 0, max: 1000, integer: true}}}}
      count: {COUNT}
      seed: {seed}
      rate: unlimited
      start: "2026-01-01T00:00:00Z"
      interval: 100ms
      disorder: {{max: 20s, probability: 0.2}}
      partitions: 3
    event_time: {{column: ts, watermark: 20s}}
steps:
  sums:
    sql: |
      SELECT k, window_start, count(*) AS n, sum(v) AS total, min(v) AS low, max(v) AS high
      FROM TUMBLE(readings, ts, INTERVAL '1 minute')
      GROUP BY k, window_start, window_end
limits: {{parallelism: {parallelism}}}
sinks:
  out: {{from: sums, file: {{path: ../out.jsonl}}}}
"#
    )
}

/// The rows of a bounded run, by window and key, and what the dead letter holds.
fn run(yaml: &str) -> (BTreeMap<(String, String), Value>, Vec<Value>) {
    let sandbox = Sandbox::new();
    sandbox.pipeline("gen", yaml);
    let arguments = ["run", "pipelines", "--bounded", "--data-dir", "data", "--listen", "127.0.0.1:0"];
    let (status, _, stderr) = sandbox.run(&arguments);
    assert!(status.success(), "{stderr}");
    let lines = sandbox.lines("out.jsonl");
    let count = lines.len();
    let key = |row: &Value| (row["window_start"].as_str().unwrap().to_owned(), row["k"].as_str().unwrap().to_owned());
    let rows: BTreeMap<_, _> = lines.into_iter().map(|row| (key(&row), row)).collect();
    assert_eq!(rows.len(), count, "no group of a window comes twice");
    (rows, sandbox.lines("data/gen/dead-letter.jsonl"))
}

#[test]
fn a_seed_gives_the_same_sums_on_every_run_and_over_every_parallelism() {
    let (first, late) = run(&pipeline(1, 7));
    let counted: u64 = first.values().map(|row| row["n"].as_u64().unwrap()).sum();
    assert_eq!((counted, late.len()), (COUNT, 0), "every row is in a window, none is late: {late:?}");
    for parallelism in [1, 2, 4] {
        let (again, late) = run(&pipeline(parallelism, 7));
        assert!(late.is_empty(), "parallelism {parallelism}: {late:?}");
        assert_eq!(again.len(), first.len(), "parallelism {parallelism}");
        for (group, row) in &first {
            assert_eq!(again.get(group), Some(row), "parallelism {parallelism}");
        }
    }
    assert_ne!(run(&pipeline(1, 8)).0, first, "another seed gives other rows");
}
