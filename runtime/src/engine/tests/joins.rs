//! Joins of streams as single operators: what they keep, and for how long.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, TimestampMillisecondArray};

use super::harness;
use crate::engine::assembly::operator;
use crate::engine::operator::{Operator, Output};

/// The operator of the step `q` over `a` and `b`, which have the columns ts, k, n.
async fn join(folder: &std::path::Path, sql: &str) -> Box<dyn Operator> {
    let source = |name: &str| {
        format!(
            "  {name}:\n    file: {{path: none.jsonl}}\n    columns: {{ts: timestamp(3), k: bigint, n: bigint}}\n    \
             event_time: {{column: ts, watermark: 0s}}\n"
        )
    };
    let yaml = format!(
        "name: piece\nsources:\n{}{}steps:\n  q:\n    sql: \"{sql}\"\nsinks:\n  out: {{from: q, stdout: {{}}}}\n",
        source("a"),
        source("b")
    );
    let plan = harness::plan(folder, &yaml).await.unwrap();
    let node = plan.graph.nodes.iter().find(|node| node.name == "q/join").unwrap();
    operator(&plan, node).await.unwrap()
}

/// Rows with these times (in milliseconds) and keys.
fn rows(rows: impl Iterator<Item = (i64, i64)> + Clone) -> RecordBatch {
    let keys = Int64Array::from_iter_values(rows.clone().map(|(_, key)| key));
    let times = TimestampMillisecondArray::from_iter_values(rows.map(|(time, _)| time));
    RecordBatch::try_from_iter([
        ("ts", Arc::new(times) as _),
        ("k", Arc::new(keys.clone()) as _),
        ("n", Arc::new(keys) as _),
    ])
    .unwrap()
}

fn count(out: &Output) -> usize {
    out.batches.iter().map(RecordBatch::num_rows).sum()
}

const MS: i64 = 1_000_000;

#[tokio::test]
async fn an_interval_join_forgets_rows_and_keys_that_nothing_can_match_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT a.n, b.n AS m, a.ts FROM a LEFT JOIN b ON a.k = b.k AND a.ts BETWEEN b.ts - INTERVAL '20 milliseconds' AND b.ts";
    let mut join = join(folder.path(), sql).await;
    let mut total = 0;
    let mut most = 0;
    for step in 0..400_i64 {
        // Every key once on the left, every second one on the right as well.
        let times = |step: i64| (0..100).map(move |row| (step * 10 + row / 10, step * 100 + row));
        let mut out = Output::default();
        join.batch(0, rows(times(step)), &mut out).await.unwrap();
        join.batch(1, rows(times(step).filter(|(_, key)| key % 2 == 0)), &mut out).await.unwrap();
        join.watermark(step * 10 * MS, &mut out).await.unwrap();
        total += count(&out);
        most = most.max(join.state_size().rows);
    }
    assert!(most <= 600, "{most}");
    assert!(join.state_size().bytes < 1 << 20, "{:?}", join.state_size());
    let mut out = Output::default();
    join.watermark(i64::MAX, &mut out).await.unwrap();
    assert_eq!(total + count(&out), 40_000);
    assert_eq!(join.state_size().rows, 0);
}

#[tokio::test]
async fn a_hot_key_comes_out_in_batches_of_a_limited_size() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT a.n, b.n AS m FROM a JOIN b ON a.k = b.k AND a.ts BETWEEN b.ts - INTERVAL '1 second' AND b.ts + INTERVAL '1 second' AND a.n + b.n > 1";
    let mut join = join(folder.path(), sql).await;
    let mut out = Output::default();
    let hot = || rows((0..300).map(|time| (time, 1)));
    join.batch(0, hot(), &mut out).await.unwrap();
    join.batch(1, hot(), &mut out).await.unwrap();
    assert_eq!(count(&out), 90_000);
    assert!(out.batches.iter().all(|batch| batch.num_rows() <= 8192));
}

#[tokio::test]
async fn of_the_versions_that_the_watermark_has_passed_the_newest_of_each_key_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT a.k, b.n FROM a JOIN b FOR SYSTEM_TIME AS OF a.ts AS b ON a.k = b.k";
    let mut join = join(folder.path(), sql).await;
    let mut out = Output::default();
    for step in 0..300_i64 {
        join.batch(1, rows((0..50).map(|key| (step, key))), &mut out).await.unwrap();
        join.watermark(step * MS, &mut out).await.unwrap();
        // The newest that is passed, and the one at the watermark.
        assert!(join.state_size().rows <= 100, "{:?}", join.state_size());
    }
    assert!(join.state_size().bytes < 1 << 17, "{:?}", join.state_size());
    join.batch(0, rows((0..60).map(|key| (299, key))), &mut out).await.unwrap();
    assert_eq!(count(&out), 0);
    join.watermark(300 * MS, &mut out).await.unwrap();
    assert_eq!(count(&out), 50);
    assert_eq!(join.state_size().rows, 50);
}
