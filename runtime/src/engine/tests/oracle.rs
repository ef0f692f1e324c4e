//! The oracle: whatever the query, the rows, the batches, the partitions, the disorder, the shards, the stops and the
//! crashes, what comes out is what DataFusion says about the on-time rows as one batch, and the others are in the late
//! route. `MILLSTREAM_ORACLE_CASES=20000` looks longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::batch::{Batch, MS, Size, compare, ids, nanoseconds, watermarks, with_windows, without};
use super::harness::{self, Break, Delivery, Script, World};
use super::queries::{Last, Query, query};
use super::rows::{Row, TimeType, batch, columns_yaml, rows, time_type};
use crate::engine::coordinator::Outcome;

/// So many cases are tried by default.
const CASES: u32 = 200;

/// Where the cases of a run begin that asks for nothing else.
const SEED: u64 = 20_261_121;

/// What is fed, and to what.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) time: TimeType,
    /// The time of the first row, and the allowed disorder, in ticks.
    pub(super) base: i64,
    pub(super) delay: i64,
    /// Of `s` and `s2`.
    pub(super) rows: [Vec<Row>; 2],
    pub(super) query: Query,
    pub(super) executions: Vec<Execution>,
}

/// One way to run it.
#[derive(Debug, Clone)]
pub(super) struct Execution {
    pub(super) runs: Vec<Run>,
}

/// One run: all but the last are broken off.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) parallelism: u16,
    pub(super) splits: Vec<usize>,
    pub(super) checkpoint_ms: u64,
    pub(super) pause_ms: u64,
    /// How much of the rest of the rows comes before the break, in per cent.
    pub(super) share: usize,
    pub(super) ends: Break,
}

pub(super) fn run() -> impl Strategy<Value = Run> {
    let split = prop_oneof![3 => 1..6_usize, 1 => Just(1000)];
    let ends = prop_oneof![Just(Break::Stop), Just(Break::Crash)];
    (1..5_u16, proptest::collection::vec(split, 1..4), 1..6_u64, 0..2_u64, 0..101_usize, ends).prop_map(
        |(parallelism, splits, checkpoint_ms, pause_ms, share, ends)| Run {
            parallelism,
            splits,
            checkpoint_ms,
            pause_ms,
            share,
            ends,
        },
    )
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let base = prop_oneof![Just(0), Just(-20), Just(-400_000), Just(1_700_000_000_i64)];
    let delay = prop_oneof![1 => Just(0), 3 => 0..12_i64];
    let executions = proptest::collection::vec(proptest::collection::vec(run(), 1..4), 2..3);
    let some_rows = (1..4_u8).prop_flat_map(|partitions| rows(40, partitions));
    (time_type(), base, delay, some_rows, rows(20, 2), query(), executions).prop_map(
        |(time, base, delay, first, second, query, executions)| Scenario {
            time,
            base,
            delay,
            rows: [first, second],
            query,
            executions: executions.into_iter().map(|runs| Execution { runs }).collect(),
        },
    )
}

/// The scenario, made ready: what is fed, and what must come out.
pub(super) struct Expected {
    pub(super) scripts: BTreeMap<String, Arc<Script>>,
    pub(super) output: RecordBatch,
    pub(super) late: Vec<i64>,
    /// Rows that must be in the dead letter.
    pub(super) without_time: usize,
}

pub(super) fn table() -> RecordBatch {
    use arrow::array::{Float64Array, Int32Array, StringArray};
    let schema = Schema::new(vec![
        Field::new("tg", DataType::Int32, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("w", DataType::Float64, true),
    ]);
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![Some(0), Some(1), Some(1), None])),
        Arc::new(StringArray::from(vec![Some("zero"), Some("one"), None, Some("none")])),
        Arc::new(Float64Array::from(vec![Some(0.5), Some(-3.0), Some(10.0), Some(1.0)])),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

pub(super) const TABLE_JSON: &str = r#"{"tg":0,"name":"zero","w":0.5}
{"tg":1,"name":"one","w":-3.0}
{"tg":1,"name":null,"w":10.0}
{"tg":null,"name":"none","w":1.0}
"#;

impl Scenario {
    fn sources(&self) -> &'static [&'static str] {
        if self.query.two_sources { &["s", "s2"] } else { &["s"] }
    }

    /// The delay in nanoseconds. Where rows meet on several ways, it is so long that none can be late, because which
    /// ones are late depends on which way was quicker.
    fn delay_ns(&self) -> i64 {
        let tick = self.time.tick_ms() * MS;
        if self.query.one_way {
            return self.delay * tick;
        }
        let disorder = self.rows.iter().map(|rows| {
            let mut newest: BTreeMap<u8, i64> = BTreeMap::new();
            let behind = super::rows::times(rows, self.base).into_iter().zip(rows).map(|(time, row)| {
                let Some(time) = time else { return 0 };
                let newest = newest.entry(row.partition).or_insert(time);
                *newest = time.max(*newest);
                *newest - time
            });
            behind.max().unwrap_or(0)
        });
        disorder.max().unwrap_or(0) * tick
    }

    fn ms(&self, ticks: i64) -> i64 {
        ticks * self.time.tick_ms()
    }

    pub(super) fn yaml(&self) -> String {
        let mut yaml = String::from("name: oracle\nsources:\n");
        for source in self.sources() {
            yaml += &format!(
                "  {source}:\n    file: {{path: none.jsonl}}\n    columns: {}\n    linger: 0s\n    \
                 event_time: {{column: ts, watermark: {}ms}}\n",
                columns_yaml(self.time),
                self.delay_ns() / MS
            );
        }
        yaml +=
            "  t:\n    file: {path: t.jsonl}\n    table: {}\n    columns: {tg: int, name: text, w: double}\nsteps:\n";
        let step = |name: &str, sql: &str, more: &str| {
            format!("  {name}:\n    sql: {}\n{more}", serde_json::to_string(sql).unwrap())
        };
        for (name, sql) in &self.query.steps {
            yaml += &step(name, sql, "");
        }
        let (last, late) = match &self.query.last {
            Last::Stateless(sql) => {
                yaml += &step("q", sql, "");
                ("q", "")
            }
            Last::Window { size, offset, sql, post } => {
                let from = format!(
                    "TUMBLE({}, ts, INTERVAL '{} milliseconds', INTERVAL '{} milliseconds')",
                    self.query.relation,
                    self.ms(*size),
                    self.ms(*offset)
                );
                yaml += &step("q", &sql.replace("{FROM}", &from), "    late: {to: late}\n");
                if let Some(post) = post {
                    yaml += &step("post", post, "");
                }
                (if post.is_some() { "post" } else { "q" }, "  late: {stdout: {}}\n")
            }
        };
        yaml + &format!("sinks:\n  out: {{from: {last}, stdout: {{}}}}\n{late}")
    }

    fn scripts(&self) -> BTreeMap<String, Arc<Script>> {
        let scripts = self.sources().iter().zip(&self.rows).zip([0, 1000]).map(|((source, rows), first_id)| {
            let partitions = rows.iter().map(|row| row.partition).collect();
            let rows = batch(rows, self.time, self.base, first_id);
            ((*source).to_owned(), Arc::new(Script { rows, partitions }))
        });
        scripts.collect()
    }

    pub(super) async fn expected(&self) -> Result<Expected, String> {
        let scripts = self.scripts();
        let reference = Batch::new();
        reference.table("t", &table());
        let mut without_time = 0;
        let mut watermark_of: BTreeMap<i64, Option<i64>> = BTreeMap::new();
        let mut relations: BTreeMap<String, RecordBatch> = BTreeMap::new();
        for (source, script) in &scripts {
            let times = nanoseconds(script.rows.column_by_name("ts").unwrap());
            let all_ids = ids(&script.rows);
            let timeless: BTreeSet<i64> =
                all_ids.iter().zip(&times).filter(|(_, t)| t.is_none()).map(|(i, _)| *i).collect();
            without_time += timeless.len();
            watermark_of.extend(all_ids.into_iter().zip(watermarks(&times, &script.partitions, self.delay_ns())));
            let rows = without(&script.rows, &timeless);
            reference.table(source, &rows);
            relations.insert(source.clone(), rows);
        }
        for (name, sql) in &self.query.steps {
            let rows = reference.query(sql).await?;
            reference.table(name, &rows);
            relations.insert(name.clone(), rows);
        }
        let (size, offset, sql, post) = match &self.query.last {
            Last::Stateless(sql) => {
                let output = reference.query(sql).await?;
                return Ok(Expected { scripts, output, late: vec![], without_time });
            }
            Last::Window { size, offset, sql, post } => (size, offset, sql, post),
        };
        let size = Size { size_ns: self.ms(*size) * MS, offset_ns: self.ms(*offset) * MS };
        let rows = &relations[&self.query.relation];
        let times = nanoseconds(rows.column_by_name("ts").unwrap());
        let late: Vec<i64> = ids(rows)
            .into_iter()
            .zip(times)
            .filter(|(id, time)| watermark_of[id].is_some_and(|watermark| size.bounds(time.unwrap()).1 <= watermark))
            .map(|(id, _)| id)
            .collect();
        let on_time = without(rows, &late.iter().copied().collect());
        reference.table("w", &with_windows(&on_time, size));
        let mut output = reference.query(&sql.replace("{FROM}", "w")).await?;
        if let Some(post) = post {
            reference.table("q", &output);
            output = reference.query(post).await?;
        }
        Ok(Expected { scripts, output, late, without_time })
    }
}

/// Runs `scenario` in all its ways and compares. The error says what is different.
pub(super) fn check(scenario: &Scenario) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.jsonl"), TABLE_JSON).unwrap();
    let (expected, plan) = harness::runtime().block_on(async {
        let expected = scenario.expected().await.map_err(|error| format!("the reference fails: {error}"))?;
        let plan = harness::plan(folder.path(), &scenario.yaml()).await;
        Ok::<_, String>((expected, plan.map_err(|error| format!("no plan: {error}\n{}", scenario.yaml()))?))
    })?;
    let mut plan = plan;
    for (number, execution) in scenario.executions.iter().enumerate() {
        plan.data_dir = folder.path().join(format!("data-{number}"));
        let world = World { scripts: expected.scripts.clone(), ..World::default() };
        execute(&mut plan, &world, execution)?;
        let whole = |error| format!("execution {number}: {error}\n{}", scenario.yaml());
        verify(&world, &expected, execution).map_err(whole)?;
    }
    Ok(())
}

pub(super) fn execute(plan: &mut crate::plan::Plan, world: &World, execution: &Execution) -> Result<(), String> {
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    for (index, run) in execution.runs.iter().enumerate() {
        let last = index + 1 == execution.runs.len();
        plan.spec.limits.parallelism = run.parallelism;
        plan.spec.checkpoint.interval.0 = Duration::from_millis(run.checkpoint_ms);
        let deliveries = world.scripts.iter().map(|(source, script)| {
            let done = done.entry(source.clone()).or_default();
            *done += (script.partitions.len() - *done) * run.share / 100;
            let delivery = Delivery {
                splits: run.splits.clone(),
                hold_after: (!last).then_some(*done),
                pause: Duration::from_millis(run.pause_ms),
            };
            (source.clone(), delivery)
        });
        let deliveries = deliveries.collect();
        let outcome = harness::run(plan, world, &deliveries, (!last).then_some(run.ends));
        let outcome = outcome.map_err(|error| format!("run {index} failed: {error}"))?;
        let expected = match (last, run.ends) {
            (true, _) => Some(Outcome::Finished),
            (false, Break::Stop) => Some(Outcome::Stopped),
            (false, Break::Crash) => None,
        };
        if outcome != expected {
            return Err(format!("run {index} ended as {outcome:?}, not as {expected:?}"));
        }
    }
    Ok(())
}

pub(super) fn verify(world: &World, expected: &Expected, execution: &Execution) -> Result<(), String> {
    compare(&world.taken("out").batches(), std::slice::from_ref(&expected.output))?;
    verify_rest(world, &expected.late, expected.without_time, execution)
}

/// Every row that is not in the result stands where it must: the late ones in the late route, and those `without_time`
/// in the dead letter.
pub(super) fn verify_rest(
    world: &World,
    expected_late: &[i64],
    without_time: usize,
    execution: &Execution,
) -> Result<(), String> {
    let mut late: Vec<i64> = world.taken("late").batches().iter().flat_map(ids).collect();
    late.sort_unstable();
    let mut expected_late = expected_late.to_vec();
    expected_late.sort_unstable();
    if late != expected_late {
        return Err(format!("late are {late:?}, not {expected_late:?}"));
    }
    // The dead letter has no transactions to undo: after a crash a letter may come twice, but none may be missing.
    let letters = world.taken("dead_letter").row_count();
    let crashed = execution.runs.iter().rev().skip(1).any(|run| run.ends == Break::Crash);
    if letters != without_time && !(crashed && letters > without_time) {
        return Err(format!("{letters} letters for {without_time} rows without a time"));
    }
    Ok(())
}

/// `default` cases, the same in every run, so that a change is refused for what it did. `MILLSTREAM_ORACLE_CASES=20000`
/// looks for new ones, so many of them; `PROPTEST_RNG_SEED` sets where either begins.
pub(super) fn config(default: u32) -> ProptestConfig {
    let base = ProptestConfig { max_shrink_iters: 400, failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var("MILLSTREAM_ORACLE_CASES") {
        Ok(text) => ProptestConfig { cases: text.parse().expect("MILLSTREAM_ORACLE_CASES is a number"), ..base },
        Err(_) if base.rng_seed == RngSeed::Random => {
            ProptestConfig { cases: default, rng_seed: RngSeed::Fixed(SEED), ..base }
        }
        Err(_) => ProptestConfig { cases: default, ..base },
    }
}

proptest! {
    #![proptest_config(config(CASES))]

    #[test]
    fn what_comes_out_is_the_batch_answer_over_the_rows_that_were_on_time(scenario in scenario()) {
        check(&scenario).map_err(TestCaseError::fail)?;
    }
}
