//! Queries per window, operator by operator: order, late rows, rows that fail, state through a snapshot, what a run costs.

use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};

use super::batch::rows_of;
use super::harness;
use crate::engine::assembly::operator;
use crate::engine::element::END_OF_TIME;
use crate::engine::exchange::shard_of;
use crate::engine::operator::{Operator, Output};
use crate::plan::Plan;
use crate::sql::marks;

/// A pipeline whose step `q` reads the step `w`, which has windows of 10 ms.
async fn plan(sql: &str) -> Plan {
    let folder = tempfile::tempdir().unwrap();
    let yaml = format!(
        "name: piece\nsources:\n  s:\n    file: {{path: none.jsonl}}\n    \
         columns: {{ts: timestamp(3), k: text, n: bigint}}\n    event_time: {{column: ts, watermark: 0s}}\nsteps:\n  \
         w: {{sql: \"SELECT * FROM TUMBLE(s, ts, INTERVAL '10 milliseconds')\"}}\n  q:\n    sql: \"{sql}\"\nsinks:\n  \
         out: {{from: q, stdout: {{}}}}\n"
    );
    harness::plan(folder.path(), &yaml).await.unwrap()
}

/// Rows with these times in ms and numbers, in windows of 10 ms.
fn rows(rows: &[(i64, &str, Option<i64>)]) -> RecordBatch {
    let bound = |more: i64| -> Arc<dyn Array> {
        let starts = rows.iter().map(|(ts, ..)| ts.div_euclid(10) * 10 + more);
        Arc::new(TimestampMillisecondArray::from_iter_values(starts))
    };
    RecordBatch::try_from_iter([
        ("ts", Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|(ts, ..)| *ts))) as _),
        ("k", Arc::new(rows.iter().map(|(_, k, _)| Some(*k)).collect::<StringArray>()) as _),
        ("n", Arc::new(rows.iter().map(|(.., n)| *n).collect::<Int64Array>()) as _),
        ("window_start", bound(0)),
        ("window_end", bound(10)),
    ])
    .unwrap()
}

/// The operators of the step `q`.
async fn operators(plan: &Plan) -> Vec<Box<dyn Operator>> {
    let mut operators = Vec::new();
    for node in plan.graph.nodes.iter().filter(|node| node.name.starts_with("q/")) {
        operators.push(operator(plan, node).await.unwrap());
    }
    operators
}

/// What comes out at the end of the chain, where a batch or a watermark goes in.
async fn feed(operators: &mut [Box<dyn Operator>], batch: Option<RecordBatch>, watermark: Option<i64>) -> Output {
    let mut batches: Vec<RecordBatch> = batch.into_iter().collect();
    let mut all = Output::default();
    for operator in operators {
        let mut out = Output::default();
        for batch in batches {
            operator.batch(0, batch, &mut out).await.unwrap();
        }
        if let Some(watermark) = watermark {
            operator.watermark(watermark, &mut out).await.unwrap();
        }
        batches = out.batches;
        all.late.extend(out.late);
        all.letters.extend(out.letters);
    }
    all.batches = batches;
    all
}

fn shown(batches: &[RecordBatch]) -> String {
    let lines = batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| batch.slice(row, 1)));
    let lines = lines.map(|row| format!("{:?}", rows_of(&[row])).replace("Text(\"", "").replace("\")", ""));
    lines.collect::<Vec<_>>().join(" ").replace(['[', ']'], "")
}

const MS: i64 = 1_000_000;

#[tokio::test]
async fn windows_come_out_by_their_end_and_rows_in_the_order_that_is_asked_for() {
    let plan = plan("SELECT window_end, n FROM w ORDER BY window_end, n DESC").await;
    let mut operators = operators(&plan).await;
    let input =
        rows(&[(31, "a", Some(1)), (5, "a", Some(2)), (12, "b", Some(7)), (9, "c", Some(3)), (13, "", Some(8))]);
    assert!(feed(&mut operators, Some(input), None).await.batches.is_empty());
    let out = feed(&mut operators, None, Some(20 * MS)).await;
    let [one, two] = ["1970-01-01T00:00:00.010", "1970-01-01T00:00:00.020"];
    assert_eq!(shown(&out.batches), format!("{one}, 3 {one}, 2 {two}, 8 {two}, 7"));
    let rest = feed(&mut operators, None, Some(END_OF_TIME)).await;
    assert_eq!(shown(&rest.batches), "1970-01-01T00:00:00.040, 1");
}

#[tokio::test]
async fn a_row_of_a_window_that_has_closed_is_late_and_the_state_is_freed() {
    let plan = plan("SELECT n, count(*) OVER (PARTITION BY window_start, window_end) AS c FROM w").await;
    let mut operators = operators(&plan).await;
    feed(&mut operators, Some(rows(&[(5, "a", Some(1)), (11, "a", Some(2))])), None).await;
    assert_eq!(operators[1].state_size().rows, 2);
    let out = feed(&mut operators, None, Some(10 * MS)).await;
    assert_eq!(shown(&out.batches), "1, 1");
    let size = operators[1].state_size();
    assert!(size.rows == 1 && size.bytes > 0 && size.bytes < 100, "{size:?}");
    let out = feed(&mut operators, Some(rows(&[(9, "b", Some(3)), (12, "b", Some(4))])), None).await;
    assert_eq!(out.late.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let out = feed(&mut operators, None, Some(END_OF_TIME)).await;
    assert_eq!(shown(&out.batches), "2, 2 4, 2");
    let size = operators[1].state_size();
    assert_eq!((size.rows, size.bytes), (0, 0));
}

#[tokio::test]
async fn rows_for_which_the_query_fails_leave_as_letters_and_the_others_have_their_result() {
    let plan = plan("SELECT n, sum(12 / n) OVER (PARTITION BY window_start, window_end ORDER BY ts) AS s FROM w").await;
    let mut operators = operators(&plan).await;
    let input = [(1, "a", Some(1)), (2, "a", Some(0)), (3, "a", Some(3)), (4, "a", Some(0)), (5, "a", None)];
    feed(&mut operators, Some(rows(&input)), None).await;
    let out = feed(&mut operators, None, Some(END_OF_TIME)).await;
    assert_eq!(shown(&out.batches), "1, 12 3, 16 NULL, 16");
    let letters: Vec<&str> = out.letters.iter().filter_map(|letter| letter.row.as_deref()).collect();
    assert!(letters.len() == 2 && letters.iter().all(|row| row.contains("\"n\":0")), "{letters:?}");
}

#[tokio::test]
async fn rows_of_windows_go_through_a_snapshot_into_other_shards() {
    const SHARDS: usize = 3;
    let sql = "SELECT k, n, row_number() OVER (PARTITION BY window_start, window_end, k ORDER BY n) AS r FROM w";
    let plan = plan(sql).await;
    let mut first = operators(&plan).await;
    let keys: Vec<String> = (0..40).map(|key| format!("key {key}")).collect();
    for part in 0..10 {
        let input = (0..10_000).map(|row| (row % 40, keys[row as usize % 37].as_str(), Some(part * 10_000 + row)));
        feed(&mut first, Some(rows(&input.collect::<Vec<_>>())), None).await;
    }
    let states = first[1].snapshot().unwrap();
    assert!(states.len() > 1 && states.iter().all(|state| state.num_rows() <= 1 << 16));
    let mut restored = Vec::new();
    for shard in 0..SHARDS {
        let mut shards = operators(&plan).await;
        for state in &states {
            shards[1].restore(state, &|group| shard_of(group, SHARDS) == shard).unwrap();
        }
        assert!(shards[1].state_size().rows > 10_000);
        restored.extend(feed(&mut shards, None, Some(END_OF_TIME)).await.batches);
    }
    let expected = feed(&mut first, None, Some(END_OF_TIME)).await.batches;
    let lines = |batches: &[RecordBatch]| format!("{:?}", rows_of(batches));
    assert_eq!(expected.iter().map(RecordBatch::num_rows).sum::<usize>(), 100_000);
    assert!(lines(&restored) == lines(&expected));
}

#[tokio::test]
async fn bounds_that_may_be_null_are_no_bounds_any_more() {
    let columns = "a.window_end AS a, b.window_end AS b";
    let on = "a.window_start = b.window_start AND a.window_end = b.window_end";
    for (kind, kept) in [("", [true, true]), ("LEFT", [true, false]), ("RIGHT", [false, true]), ("FULL", [false; 2])] {
        let plan = plan(&format!("SELECT {columns} FROM w a {kind} JOIN w b ON {on}")).await;
        let node = plan.graph.nodes.iter().rfind(|node| node.name.starts_with("q/")).unwrap();
        let marks = [0, 1].map(|column| node.schema.field(column).metadata().contains_key(crate::sql::WINDOW_BOUND));
        assert_eq!(marks, kept, "{kind}");
        assert_eq!([0, 1].map(|column| marks::lag(node.schema.field(column)) == Some(0)), kept, "{kind}");
    }
}

/// Prints how long a run over 100 rows takes: `cargo test … cost_of_a_run -- --nocapture`.
#[tokio::test]
async fn cost_of_a_run() {
    const WINDOWS: i64 = 200;
    for sql in [
        "SELECT n, row_number() OVER (PARTITION BY window_start, window_end ORDER BY n) AS r FROM w",
        "SELECT a.n FROM w a JOIN w b ON a.window_start = b.window_start AND a.window_end = b.window_end AND a.n = b.n",
        "SELECT string_agg(k, '-' ORDER BY n) AS l, window_end FROM w GROUP BY window_end",
    ] {
        let plan = plan(sql).await;
        let node = plan.graph.nodes.iter().position(|node| node.name.starts_with("q/window")).unwrap();
        let mut operator = operator(&plan, &plan.graph.nodes[node]).await.unwrap();
        let inputs = plan.graph.nodes[node].inputs.len();
        for window in 0..WINDOWS {
            let of_window: Vec<_> = (0..100).map(|row| (window * 10 + row % 10, "a", Some(row))).collect();
            for (number, input) in plan.graph.nodes[node].inputs.clone().into_iter().enumerate() {
                let schema = &plan.graph.nodes[input].schema;
                let all = rows(&of_window);
                let columns = schema.fields().iter().map(|field| all.column_by_name(field.name()).unwrap().clone());
                let batch = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
                operator.batch(number, batch, &mut Output::default()).await.unwrap();
            }
        }
        let started = std::time::Instant::now();
        let mut out = Output::default();
        operator.watermark(END_OF_TIME, &mut out).await.unwrap();
        assert!(!out.batches.is_empty());
        println!("{:?} for a run over {inputs} × 100 rows: {sql}", started.elapsed() / WINDOWS as u32);
    }
}
