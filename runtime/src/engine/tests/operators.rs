//! Single operators: what regions do without their plan, and state that goes through a snapshot.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{Int64Type, TimestampMillisecondType};

use super::harness;
use crate::engine::assembly::operator;
use crate::engine::exchange::shard_of;
use crate::engine::operator::{Operator, Output};
use crate::engine::snapshot::{Snapshot, SnapshotStore};
use crate::plan::Plan;
use crate::plan::graph::NodeKind;

/// A pipeline of the steps `a` and `q` over `s`.
async fn plan(folder: &std::path::Path, sql: &str) -> Plan {
    std::fs::write(folder.join("t.jsonl"), "{\"name\":\"one\"}\n").unwrap();
    let yaml = format!(
        "name: piece\nsources:\n  s:\n    file: {{path: none.jsonl}}\n    \
         columns: {{ts: timestamp(3), k: text, n: bigint}}\n    event_time: {{column: ts, watermark: 0s}}\n  \
         t: {{file: {{path: t.jsonl}}, table: {{}}, columns: {{name: text}}}}\nsteps:\n  \
         a: {{sql: SELECT * FROM s}}\n  q:\n    sql: \"{sql}\"\nsinks:\n  out: {{from: q, stdout: {{}}}}\n"
    );
    harness::plan(folder, &yaml).await.unwrap()
}

fn rows(first: i64, count: i64) -> RecordBatch {
    let keys = (first..first + count).map(|row| (row % 5 != 0).then(|| format!("key {row}")));
    RecordBatch::try_from_iter([
        ("ts", Arc::new(TimestampMillisecondArray::from_iter_values((0..count).map(|row| row % 30))) as _),
        ("k", Arc::new(keys.collect::<StringArray>()) as _),
        ("n", Arc::new(Int64Array::from_iter((0..count).map(|row| (row % 7 != 0).then_some(row)))) as _),
    ])
    .unwrap()
}

#[tokio::test]
async fn regions_that_filter_and_compute_give_the_same_without_their_plan() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("SELECT * FROM s", true),
        ("SELECT n * 2 AS m, k FROM s WHERE n % 3 = 1", true),
        ("SELECT 1 AS one FROM s", true),
        ("SELECT n FROM s WHERE n IS NULL OR n < 50", true),
        ("SELECT n FROM s WHERE n > 1000000", true),
        ("SELECT ts, m + 1 AS m FROM (SELECT ts, n * n AS m FROM s WHERE n > 3) x WHERE m < 4000", true),
        ("SELECT n, k FROM s WHERE n > 5 UNION ALL SELECT n + 1, 'x' FROM s UNION ALL SELECT n, k FROM a", true),
        ("SELECT n, name FROM s JOIN t ON k = name", false),
        ("SELECT n FROM s WHERE k > (SELECT max(name) FROM t)", false),
    ];
    for (sql, direct) in cases {
        let plan = plan(folder.path(), sql).await;
        let region = plan.graph.nodes.iter().rev().find_map(|node| match &node.kind {
            NodeKind::Region(region) if node.name.starts_with("q/") => Some(region),
            _ => None,
        });
        let region = region.unwrap();
        let mut instance = region.instantiate().await.unwrap();
        assert_eq!(instance.is_direct(), direct, "{sql}");
        let mut planned = region.instantiate().await.unwrap().planned();
        for input in 0..3 {
            let results = instance.run(input, &rows(0, 200)).await.unwrap();
            let expected = planned.run(input, &rows(0, 200)).await.unwrap();
            let schema = region.schema();
            let whole = |results: &[RecordBatch]| arrow::compute::concat_batches(schema, results).unwrap();
            assert_eq!(whole(&results), whole(&expected), "{sql}");
        }
    }
}

/// The operators of the step `q` up to its aggregate.
async fn aggregate(plan: &Plan) -> Vec<Box<dyn Operator>> {
    let mut operators = Vec::new();
    for node in plan.graph.nodes.iter().filter(|node| node.name.starts_with("q/")) {
        operators.push(operator(plan, node).await.unwrap());
        if node.name == "q/aggregate" {
            break;
        }
    }
    operators
}

async fn feed(operators: &mut [Box<dyn Operator>], batch: RecordBatch) {
    let mut batches = vec![batch];
    for operator in operators {
        let mut out = Output::default();
        for batch in batches {
            operator.batch(0, batch, &mut out).await.unwrap();
        }
        batches = out.batches;
    }
    assert!(batches.is_empty());
}

/// All results, as lines.
async fn results(operator: &mut Box<dyn Operator>) -> Vec<String> {
    let mut out = Output::default();
    operator.watermark(i64::MAX, &mut out).await.unwrap();
    let mut lines = Vec::new();
    for batch in &out.batches {
        let keys = batch.column(0).as_string::<i32>();
        let ends = batch.column(2).as_primitive::<TimestampMillisecondType>();
        let sums = batch.column(3).as_primitive::<Int64Type>();
        lines.extend((0..batch.num_rows()).map(|row| {
            let key = if keys.is_null(row) { "" } else { keys.value(row) };
            let sum = sums.is_valid(row).then(|| sums.value(row));
            format!("{} {key} {sum:?}", ends.value(row))
        }));
    }
    lines
}

#[tokio::test]
async fn state_of_many_groups_goes_through_a_snapshot_into_other_shards() {
    const SHARDS: usize = 3;
    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT k, window_end, sum(n) AS s FROM TUMBLE(s, ts, INTERVAL '10 milliseconds') \
               GROUP BY k, window_start, window_end";
    let plan = plan(folder.path(), sql).await;
    let mut first = aggregate(&plan).await;
    // More groups than a batch of state holds, in three windows.
    for part in 0..10 {
        feed(&mut first, rows(part * 20_000, 20_000)).await;
    }
    let mut operator = first.pop().unwrap();
    let states = operator.snapshot().unwrap();
    assert!(states.len() > 1);
    let store = SnapshotStore::open(folder.path()).unwrap();
    let states = states.into_iter().map(|state| ("q/aggregate".to_owned(), state)).collect();
    store.write(&Snapshot { epoch: 1, states, ..Snapshot::default() }).unwrap();
    let states = store.newest().unwrap().unwrap().states;
    let mut restored = Vec::new();
    for shard in 0..SHARDS {
        let mut operator = aggregate(&plan).await.pop().unwrap();
        for (_, state) in &states {
            operator.restore(state, &|group| shard_of(group, SHARDS) == shard).unwrap();
        }
        assert!(operator.state_size().rows > 10_000);
        // What was taken back can be taken again, and goes on.
        assert!(!operator.snapshot().unwrap().is_empty());
        restored.extend(results(&mut operator).await);
    }
    // Taking the snapshot left the first operator as it was.
    let mut expected = results(&mut operator).await;
    assert_eq!(expected.len(), 160_003);
    assert!(expected[..10].is_sorted(), "{:?}", &expected[..10]);
    expected.sort_unstable();
    restored.sort_unstable();
    assert!(restored == expected);
}
