//! What is bounded by a time-to-live on the clock on the wall, because its rows have no event time: operator by operator,
//! told what time it is, and once in a whole pipeline. Nothing here fails because the machine is slow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tokio::time::Instant;

use super::harness::{self, Delivery, Script, World};
use crate::engine::assembly::operator;
use crate::engine::operator::{Operator, Output};

const GROUP: &str = "SELECT k, count(*) AS c FROM s GROUP BY k";
const TOP: &str =
    "SELECT k, n FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY n DESC) AS r FROM s) WHERE r = 1";
const DISTINCT: &str = "SELECT DISTINCT k FROM s";

fn yaml(sql: &str, ttl: &str) -> String {
    let emit = if sql == DISTINCT { "" } else { ", emit: changes" };
    format!(
        "name: clock\nsources:\n  s: {{file: {{path: none.jsonl}}, columns: {{k: text, n: bigint}}, linger: 0s}}\nsteps:\n  \
         q: {{sql: \"{sql}\", state: {{ttl: {ttl}}}{emit}}}\nsinks:\n  out: {{from: q, stdout: {{}}}}\n"
    )
}

fn batch(rows: &[(&str, i64)]) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("k", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))) as _),
        ("n", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))) as _),
    ])
    .unwrap()
}

/// The rows of `batches` in the order in which they came.
fn shown(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default();
    let rows = batches.iter().flat_map(|batch| {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        let row = |row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ");
        (0..batch.num_rows()).map(row).collect::<Vec<_>>()
    });
    rows.collect()
}

/// The operators of the step `q`, of which one goes by the clock.
struct Chain(Vec<Box<dyn Operator>>);

impl Chain {
    async fn new(sql: &str, ttl: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plan = harness::plan(folder.path(), &yaml(sql, ttl)).await.unwrap();
        let mut operators = Vec::new();
        for node in plan.graph.nodes.iter().filter(|node| node.name.starts_with("q/")) {
            operators.push(operator(&plan, node).await.unwrap());
        }
        Self(operators)
    }

    /// What comes out where these rows come in.
    async fn feed(&mut self, rows: &[(&str, i64)]) -> Vec<String> {
        self.through(0, vec![batch(rows)]).await
    }

    async fn through(&mut self, first: usize, mut batches: Vec<RecordBatch>) -> Vec<String> {
        for operator in &mut self.0[first..] {
            let mut out = Output::default();
            for batch in batches {
                operator.batch(0, batch, &mut out).await.unwrap();
            }
            batches = out.batches;
        }
        shown(&batches)
    }

    fn next_tick(&self) -> Option<Instant> {
        self.0.iter().filter_map(|operator| operator.next_tick()).min()
    }

    /// What comes out where it is `now`.
    async fn tick(&mut self, now: Instant) -> Vec<String> {
        let mut all = Vec::new();
        for index in 0..self.0.len() {
            let mut out = Output::default();
            self.0[index].tick(now, &mut out).await.unwrap();
            all.extend(self.through(index + 1, out.batches).await);
        }
        all
    }

    fn rows(&self) -> usize {
        self.0.iter().map(|operator| operator.state_size().rows).sum()
    }

    /// The state, and another chain that has taken it back.
    async fn restored(mut self, sql: &str, ttl: &str) -> Self {
        let mut other = Self::new(sql, ttl).await;
        for (from, to) in self.0.iter_mut().zip(&mut other.0) {
            for batch in from.snapshot().unwrap() {
                to.restore(&batch, &|_| true).unwrap();
            }
        }
        other
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn the_clock_frees_what_has_had_no_row_for_the_time_to_live_and_nothing_before() {
    for (sql, early, last) in [
        (GROUP, ["a 2 false", "b 1 false"], ["a 2 true", "b 1 true"]),
        (TOP, ["a 5 false", "b 2 false"], ["a 5 true", "b 2 true"]),
    ] {
        let mut chain = Chain::new(sql, "1h").await;
        let before = Instant::now();
        assert_eq!(chain.feed(&[("a", 1), ("b", 2), ("a", 5)]).await, early, "{sql}");
        let after = Instant::now();
        assert_eq!(chain.tick(before + HOUR).await, [""; 0], "{sql}");
        assert_eq!(chain.rows(), 2);
        let due = chain.next_tick().unwrap();
        assert!(due > before + HOUR && due < after + HOUR + HOUR / 64 + Duration::from_millis(3), "{sql}");
        assert_eq!(chain.tick(due).await, last, "{sql}");
        assert_eq!((chain.rows(), chain.next_tick()), (0, None), "{sql}");
    }
}

#[tokio::test]
async fn a_distinct_row_passes_again_when_the_clock_has_freed_it() {
    let mut chain = Chain::new(DISTINCT, "1h").await;
    let before = Instant::now();
    assert_eq!(chain.feed(&[("a", 1), ("b", 1), ("a", 2)]).await, ["a", "b"]);
    chain.tick(before + HOUR).await;
    assert_eq!(chain.feed(&[("b", 1), ("a", 2)]).await, [""; 0]);
    assert_eq!(chain.tick(chain.next_tick().unwrap()).await, [""; 0]);
    assert_eq!((chain.rows(), chain.next_tick()), (0, None));
    assert_eq!(chain.feed(&[("b", 1)]).await, ["b"]);
}

#[tokio::test]
async fn a_row_that_comes_after_the_time_to_live_begins_anew_whether_the_clock_was_asked_or_not() {
    for (sql, expected) in
        [(GROUP, &["a 1 true", "a 1 false"][..]), (TOP, &["a 7 true", "a 1 false"]), (DISTINCT, &["a"])]
    {
        let mut chain = Chain::new(sql, "5ms").await;
        chain.feed(&[("a", 7)]).await;
        tokio::time::sleep(Duration::from_millis(8)).await;
        assert_eq!(chain.feed(&[("a", 1)]).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn after_a_restart_the_time_to_live_begins_anew() {
    for (sql, last) in [(GROUP, "a 2 true"), (TOP, "a 7 true")] {
        let mut chain = Chain::new(sql, "1h").await;
        chain.feed(&[("a", 7)]).await;
        let stopped = Instant::now();
        let mut chain = chain.restored(sql, "1h").await;
        assert_eq!(chain.tick(stopped + HOUR).await, [""; 0], "{sql}");
        let due = chain.next_tick().unwrap();
        assert!(due > stopped + HOUR, "{sql}");
        chain.feed(&[("a", 1)]).await;
        // The key is looked at again when its newest row is over.
        let (mut given, mut now) = (Vec::new(), due);
        while given.is_empty() {
            given = chain.tick(now).await;
            now = chain.next_tick().unwrap_or(now);
        }
        assert_eq!(given, [last], "{sql}");
        assert_eq!(chain.rows(), 0);
    }
}

#[test]
fn a_pipeline_gives_out_what_the_clock_has_freed_though_no_row_comes() {
    let folder = tempfile::tempdir().unwrap();
    let plan = harness::runtime().block_on(harness::plan(folder.path(), &yaml(GROUP, "5ms"))).unwrap();
    let script = Script { rows: batch(&[("a", 1), ("b", 2)]), partitions: vec![0, 0] };
    let world = World { scripts: [("s".to_owned(), Arc::new(script))].into(), ..World::default() };
    // Far longer than the time-to-live.
    let delivery = Delivery { splits: vec![1], hold_after: None, pause: Duration::from_secs(1) };
    harness::run(&plan, &world, &BTreeMap::from([("s".to_owned(), delivery)]), None).unwrap();
    assert_eq!(shown(&world.taken("out").batches()), ["a 1 false", "a 1 true", "b 1 false", "b 1 true"]);
}
