//! What the oracle and a close look once found, in small. All times are whole seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::TimeUnit;

use super::batch::{ids, rows_of};
use super::harness::{self, Break, Delivery, Script, World};
use super::rows::{Row, TimeType, batch, columns_yaml};
use crate::plan::Plan;

const TIME: TimeType = TimeType { unit: TimeUnit::Second, zone: false };

/// Rows at these seconds, of these partitions.
pub(super) fn script(first_id: i64, rows: &[(u8, i64)]) -> Arc<Script> {
    script_of(TIME, first_id, rows)
}

/// Rows at these ticks of `time`, of these partitions.
fn script_of(time: TimeType, first_id: i64, rows: &[(u8, i64)]) -> Arc<Script> {
    let mut before = 0;
    let made = rows.iter().map(|(partition, tick)| {
        let step = i8::try_from(tick - before).unwrap();
        before = *tick;
        let (k, g, v, n) = (Some(0), Some(1), Some(4), Some(1));
        Row { partition: *partition, step: Some(step), k, g, v, n, b: Some(true), tags: None }
    });
    let made: Vec<Row> = made.collect();
    let partitions = rows.iter().map(|(partition, _)| *partition).collect();
    Arc::new(Script { rows: batch(&made, time, 0, first_id), partitions })
}

/// The steps `steps` (YAML) over sources with columns of `time`; the last rows come from `q`.
async fn planned(folder: &std::path::Path, time: TimeType, sources: &[&str], steps: &str) -> Result<Plan, String> {
    let mut yaml = String::from("name: small\nsources:\n");
    for source in sources {
        let columns = columns_yaml(time).replacen('{', "{other_ts: timestamp, ", 1);
        yaml += &format!(
            "  {source}: {{file: {{path: none.jsonl}}, columns: {columns}, linger: 0s, \
             event_time: {{column: ts, watermark: 0s}}}}\n"
        );
    }
    harness::plan(
        folder,
        &format!("{yaml}steps:\n{steps}sinks:\n  out: {{from: q, stdout: {{}}}}\n  late: {{stdout: {{}}}}\n"),
    )
    .await
}

fn check(time: TimeType, sources: &[&str], steps: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    harness::runtime().block_on(planned(folder.path(), time, sources, steps)).map(drop)
}

fn delivery(hold_after: Option<usize>) -> Delivery {
    Delivery { splits: vec![1], hold_after, pause: Duration::ZERO }
}

pub(super) fn shown(world: &World) -> Vec<String> {
    let rows = rows_of(&world.taken("out").batches());
    let cells = |row: Vec<super::batch::Cell>| {
        row.into_iter().map(|cell| match cell {
            super::batch::Cell::Float(float) => float.to_string(),
            super::batch::Cell::Text(text) => text,
        })
    };
    rows.into_iter().map(|row| cells(row).collect::<Vec<_>>().join(" ")).collect()
}

pub(super) fn late(world: &World) -> Vec<i64> {
    world.taken("late").batches().iter().flat_map(ids).collect()
}

/// Runs with the columns of the scripts (which lack `other_ts`) in two parts, broken after `hold` rows.
pub(super) fn in_two_runs(steps: &str, scripts: &[(&str, Arc<Script>)], hold: &[Option<usize>], ends: Break) -> World {
    in_two_runs_of(TIME, steps, scripts, hold, ends)
}

fn in_two_runs_of(
    time: TimeType,
    steps: &str,
    scripts: &[(&str, Arc<Script>)],
    hold: &[Option<usize>],
    ends: Break,
) -> World {
    let folder = tempfile::tempdir().unwrap();
    let world = World {
        scripts: scripts.iter().map(|(name, script)| ((*name).to_owned(), script.clone())).collect(),
        ..World::default()
    };
    let mut yaml = String::from("name: small\nsources:\n");
    for (source, _) in scripts {
        yaml += &format!(
            "  {source}: {{file: {{path: none.jsonl}}, columns: {}, linger: 0s, \
             event_time: {{column: ts, watermark: 0s}}}}\n",
            columns_yaml(time)
        );
    }
    yaml += &format!("steps:\n{steps}sinks:\n  out: {{from: q, stdout: {{}}}}\n  late: {{stdout: {{}}}}\n");
    let mut plan = harness::runtime().block_on(harness::plan(folder.path(), &yaml)).unwrap();
    plan.spec.checkpoint.interval.0 = Duration::from_millis(2);
    let deliveries = |hold: &dyn Fn(usize) -> Option<usize>| -> BTreeMap<String, Delivery> {
        scripts.iter().enumerate().map(|(i, (name, _))| ((*name).to_owned(), delivery(hold(i)))).collect()
    };
    harness::run(&plan, &world, &deliveries(&|index| hold[index]), Some(ends)).unwrap();
    harness::run(&plan, &world, &deliveries(&|_| None), None).unwrap();
    world
}

const COUNT: &str = "  q:\n    sql: SELECT window_start, count(*) FROM TUMBLE(s, ts, INTERVAL '10 seconds') GROUP BY window_start\n    late: {to: late}\n";

#[test]
fn a_row_that_is_late_is_late_after_a_restart_too() {
    for ends in [Break::Stop, Break::Crash] {
        let world = in_two_runs(COUNT, &[("s", script(0, &[(0, 1), (0, 25), (0, 3), (0, 26)]))], &[Some(2)], ends);
        assert_eq!(shown(&world), ["1970-01-01T00:00:00 1", "1970-01-01T00:00:20 2"]);
        assert_eq!(late(&world), [2]);
    }
}

#[test]
fn what_an_ended_input_no_longer_held_back_is_not_held_back_after_a_restart() {
    // The short source ends at second 5, the long one goes on to 25 and closes its first windows; then a restart, and
    // a row of second 3: late, whatever the ended source's own watermark was.
    let steps = "  a:\n    sql: SELECT * FROM s UNION ALL SELECT * FROM s2\n".to_owned() + &COUNT.replace("(s,", "(a,");
    let short = script(1000, &[(0, 5)]);
    let long = script(0, &[(0, 1), (0, 25), (0, 3), (0, 26)]);
    for _ in 0..20 {
        let world = in_two_runs(&steps, &[("s", long.clone()), ("s2", short.clone())], &[Some(2), None], Break::Stop);
        let total: usize =
            shown(&world).iter().map(|row| row.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum();
        assert_eq!(total + late(&world).len(), 5);
        let windows: Vec<String> = shown(&world).iter().map(|row| row.split(' ').next().unwrap().to_owned()).collect();
        let mut distinct = windows.clone();
        distinct.dedup();
        assert_eq!(windows, distinct, "a window came out twice");
    }
}

#[test]
fn streams_brought_together_keep_their_event_time_where_all_of_them_give_theirs() {
    let tumble = COUNT.replace("(s,", "(a,");
    let both = format!("  a:\n    sql: SELECT id, ts FROM s UNION ALL SELECT id, ts FROM s2\n{tumble}");
    check(TIME, &["s", "s2"], &both).unwrap();
    // The second stream's watermark says nothing about `other_ts`.
    let other = format!("  a:\n    sql: SELECT id, ts FROM s UNION ALL SELECT id, other_ts AS ts FROM s2\n{tumble}");
    let error = check(TIME, &["s", "s2"], &other).unwrap_err();
    assert!(error.contains("event time"), "{error}");
}

#[test]
fn what_is_made_of_the_event_time_is_not_the_event_time() {
    for expression in ["CASE WHEN id > 3 THEN ts ELSE other_ts END", "coalesce(other_ts, ts)", "ts - INTERVAL '1 day'"]
    {
        let steps = format!("  a:\n    sql: SELECT id, {expression} AS ts FROM s\n{}", COUNT.replace("(s,", "(a,"));
        let error = check(TIME, &["s"], &steps).expect_err(expression);
        assert!(error.contains("event time"), "{expression}: {error}");
    }
}

#[test]
fn a_time_cast_to_a_coarser_unit_is_not_late_for_what_was_cut_off() {
    let time = TimeType { unit: TimeUnit::Millisecond, zone: false };
    let steps = "  a:\n    sql: SELECT id, CAST(ts AS TIMESTAMP(0)) AS ts FROM s\n  q:\n    \
                 sql: SELECT id, row_number() OVER (ORDER BY ts, id) AS n FROM a\n    late: {to: late}\n";
    // Quarters of a second: 2.25 s, 2.5 s, 2.75 s, which are all 2 s; 4 s; then 3.75 s, which is late.
    let rows = script_of(time, 0, &[(0, 9), (0, 10), (0, 11), (0, 16), (0, 15)]);
    let world = in_two_runs_of(time, steps, &[("s", rows)], &[Some(2)], Break::Stop);
    assert_eq!(late(&world), [4]);
    let mut found = shown(&world);
    found.sort();
    assert_eq!(found, ["0 1", "1 2", "2 3", "3 4"]);
}

#[test]
fn a_group_named_twice_is_one_column() {
    let steps = "  q:\n    sql: SELECT k, k AS again, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') GROUP BY k, k, window_start, window_start\n    late: {to: late}\n";
    let world = in_two_runs(steps, &[("s", script(0, &[(0, 1), (0, 2)]))], &[Some(1)], Break::Stop);
    assert_eq!(shown(&world), ["a a 2"]);
}

#[test]
fn what_is_made_of_a_window_bound_is_a_key_like_any_other() {
    let steps = "  q:\n    sql: SELECT CAST(window_start AS DATE) AS day, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') GROUP BY CAST(window_start AS DATE), window_end\n    late: {to: late}\n";
    let world = in_two_runs(steps, &[("s", script(0, &[(0, 1), (0, 2), (0, 15)]))], &[Some(1)], Break::Stop);
    assert_eq!(shown(&world), ["1970-01-01 1", "1970-01-01 2"]);
}

#[test]
fn a_window_finer_than_its_time_column_is_refused() {
    for window in ["INTERVAL '500 milliseconds'", "INTERVAL '2 seconds', INTERVAL '1500 milliseconds'"] {
        let steps = COUNT.replace("INTERVAL '10 seconds'", window);
        let error = check(TIME, &["s"], &steps).expect_err(window);
        assert!(error.contains("finer than its time column"), "{error}");
        let fine = TimeType { unit: TimeUnit::Millisecond, zone: false };
        check(fine, &["s"], &steps).unwrap();
    }
}

#[test]
fn windows_of_a_step_can_be_brought_together_by_another() {
    let steps = "  a:\n    sql: SELECT k, window_start, window_end, count(*) AS n FROM TUMBLE(s, ts, INTERVAL '10 seconds') GROUP BY k, window_start, window_end\n    late: {to: late}\n  q:\n    sql: SELECT window_start AS start, window_end AS e, sum(n) AS n FROM a GROUP BY window_start, window_end\n";
    let rows = script(0, &[(0, 1), (0, 12), (0, 2), (0, 25)]);
    let world = in_two_runs(steps, &[("s", rows)], &[Some(2)], Break::Crash);
    assert_eq!(shown(&world).len(), 3);
    assert_eq!(late(&world), [2]);
}
