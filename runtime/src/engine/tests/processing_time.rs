//! Processing time: the test sets the clock on the wall.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::datatypes::TimeUnit;

use super::harness::{self, Break, Delivery, Script, World};
use super::regressions::{late, script, shown};
use super::rows::{TimeType, columns_yaml};
use crate::engine::snapshot::SnapshotStore;
use crate::plan::Plan;

const TIME: TimeType = TimeType { unit: TimeUnit::Second, zone: false };
const SECOND: i64 = 1_000_000_000;
/// Whatever a test waits for comes within so long.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Counts by windows of 10 s.
const COUNT: &str = "SELECT window_start, count(*) FROM TUMBLE(s, processing_time, INTERVAL '10 seconds') GROUP BY \
                     window_start";

/// The clock on the wall.
struct Wall(Arc<AtomicI64>);

impl Wall {
    fn at(second: i64) -> Self {
        Self(Arc::new(AtomicI64::new(second * SECOND)))
    }

    fn set(&self, second: i64) {
        self.0.store(second * SECOND, Ordering::SeqCst);
    }

    /// The doubles that see it.
    fn world(&self, scripts: &[(&str, Arc<Script>)]) -> World {
        let scripts = scripts.iter().map(|(name, script)| ((*name).to_owned(), script.clone())).collect();
        World { scripts, wall_ns: Some(self.0.clone()), ..World::default() }
    }
}

/// The step `sql` over the sources, each with its event time. Snapshots are taken at the begin and at a stop only.
fn planned(folder: &Path, sources: &[(&str, &str)], sql: &str) -> Plan {
    let mut yaml = String::from("name: small\nsources:\n");
    for (source, event_time) in sources {
        let columns = columns_yaml(TIME);
        yaml += &format!(
            "  {source}: {{file: {{path: none.jsonl, follow: true}}, columns: {columns}, linger: 0s, event_time: {event_time}}}\n"
        );
    }
    yaml += &format!("steps:\n  q:\n    sql: {sql}\n");
    // Late rows of two sources have different columns.
    let late = sources.len() == 1;
    yaml += if late { "    late: {to: late}\n" } else { "" };
    yaml += "checkpoint: {interval: 1h}\nsinks:\n  out: {from: q, stdout: {}}\n";
    yaml += if late { "  late: {stdout: {}}\n" } else { "" };
    harness::runtime().block_on(harness::plan(folder, &yaml)).unwrap()
}

/// A source that hands out one row after another, and waits after so many.
fn delivery(source: &str, hold_after: Option<usize>) -> BTreeMap<String, Delivery> {
    [(source.to_owned(), Delivery { splits: vec![1], hold_after, pause: Duration::ZERO })].into()
}

/// Rows of one partition without a meaning.
fn rows(count: usize) -> Arc<Script> {
    script(1, &vec![(0, 0); count])
}

#[test]
fn a_window_closes_by_the_clock_while_no_row_comes() {
    let folder = tempfile::tempdir().unwrap();
    let plan = planned(folder.path(), &[("s", "processing")], COUNT);
    let wall = Wall::at(1);
    let world = wall.world(&[("s", rows(3))]);
    harness::runtime().block_on(async {
        let (running, held) = harness::begin(&plan, &world, &delivery("s", Some(3))).await.unwrap();
        drop(held.acquire().await.unwrap());
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(world.taken("out").row_count(), 0, "the window is open");
        wall.set(10);
        let closed = async {
            while world.taken("out").row_count() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, closed).await.expect("the window closes");
        running.stop();
        running.done.await.unwrap().unwrap();
    });
    assert_eq!(shown(&world), ["1970-01-01T00:00:00 3"]);
    assert!(late(&world).is_empty());
}

#[test]
fn an_open_window_goes_on_after_a_stop_and_the_clock_never_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let plan = planned(folder.path(), &[("s", "processing")], COUNT);
    let wall = Wall::at(15);
    let world = wall.world(&[("s", rows(5))]);
    harness::run(&plan, &world, &delivery("s", Some(3)), Some(Break::Stop)).unwrap();
    assert!(shown(&world).is_empty());
    // Set back: the rows have the time that was reached.
    wall.set(5);
    harness::run(&plan, &world, &delivery("s", None), None).unwrap();
    assert_eq!(shown(&world), ["1970-01-01T00:00:10 5"]);
    assert!(late(&world).is_empty());
}

#[test]
fn what_was_open_at_a_stop_closes_at_the_start_where_its_end_has_passed() {
    let folder = tempfile::tempdir().unwrap();
    let plan = planned(folder.path(), &[("s", "processing")], COUNT);
    let wall = Wall::at(5);
    let world = wall.world(&[("s", rows(5))]);
    harness::run(&plan, &world, &delivery("s", Some(3)), Some(Break::Stop)).unwrap();
    wall.set(25);
    harness::run(&plan, &world, &delivery("s", None), None).unwrap();
    assert_eq!(shown(&world), ["1970-01-01T00:00:00 3", "1970-01-01T00:00:20 2"]);
}

#[test]
fn rows_that_are_read_again_after_a_crash_have_new_times() {
    let folder = tempfile::tempdir().unwrap();
    let plan = planned(folder.path(), &[("s", "{processing: at}")], &COUNT.replace("processing_time", "at"));
    let wall = Wall::at(5);
    let world = wall.world(&[("s", rows(5))]);
    harness::run(&plan, &world, &delivery("s", Some(3)), Some(Break::Crash)).unwrap();
    // The first snapshot is taken while the first rows come.
    let newest = SnapshotStore::open(&plan.data_dir.join("checkpoints")).unwrap().newest().unwrap();
    let kept: u64 = newest.iter().flat_map(|snapshot| snapshot.sources["s"].positions.0.values()).sum();
    wall.set(25);
    harness::run(&plan, &world, &delivery("s", None), None).unwrap();
    let mut expected = vec![format!("1970-01-01T00:00:00 {kept}"), format!("1970-01-01T00:00:20 {}", 5 - kept)];
    expected.retain(|row| !row.ends_with(" 0"));
    assert_eq!(shown(&world), expected);
}

#[test]
fn rows_have_the_clock_as_a_column_behind_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let plan = planned(folder.path(), &[("s", "processing")], "SELECT * FROM s");
    let wall = Wall::at(7);
    let world = wall.world(&[("s", rows(1))]);
    harness::run(&plan, &world, &delivery("s", None), None).unwrap();
    assert_eq!(world.taken("out").batches()[0].schema().fields().last().unwrap().name(), "processing_time");
    assert!(shown(&world)[0].ends_with(" 1970-01-01T00:00:07"), "{:?}", shown(&world));
}

#[test]
fn a_stream_by_the_clock_joins_one_by_the_time_of_its_rows() {
    let folder = tempfile::tempdir().unwrap();
    let sql = "SELECT a.id, b.id AS other FROM a JOIN b ON a.k = b.k AND a.processing_time BETWEEN b.ts - INTERVAL '3 seconds' AND \
               b.ts + INTERVAL '3 seconds'";
    let sources = [("a", "processing"), ("b", "{column: ts, watermark: 0s}")];
    let plan = planned(folder.path(), &sources, sql);
    let wall = Wall::at(100);
    let world = wall.world(&[("a", script(1, &[(0, 0), (0, 0)])), ("b", script(11, &[(0, 97), (0, 103), (0, 104)]))]);
    let deliveries = delivery("a", None).into_iter().chain(delivery("b", None)).collect();
    harness::run(&plan, &world, &deliveries, None).unwrap();
    let mut rows = shown(&world);
    rows.sort();
    assert_eq!(rows, ["1 11", "1 12", "2 11", "2 12"]);
    assert_eq!(world.taken("dead_letter").row_count(), 0);
}

#[test]
fn the_time_of_rows_and_that_of_the_clock_do_not_go_on_from_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let sources = ["{processing: at}", "{column: ts, watermark: 0s}"];
    let count = |column: &str| COUNT.replace("processing_time", column);
    let by_clock = planned(folder.path(), &[("s", sources[0])], &count("at"));
    let by_rows = planned(folder.path(), &[("s", sources[1])], &count("ts"));
    let (old, new) = (by_clock.fingerprints(), by_rows.fingerprints());
    let nodes: Vec<&String> = old.keys().collect();
    assert_eq!(nodes, ["q/aggregate"]);
    assert_ne!(old, new, "the open windows of one mean nothing to the other");
    // The clock was at 1000 s; the rows are of the first 20 s, and not late.
    let wall = Wall::at(1000);
    let world = wall.world(&[("s", script(1, &[(0, 0), (0, 5), (0, 12), (0, 20)]))]);
    harness::run(&by_clock, &world, &delivery("s", Some(1)), Some(Break::Stop)).unwrap();
    harness::run(&by_rows, &world, &delivery("s", None), None).unwrap();
    assert!(late(&world).is_empty());
    assert_eq!(shown(&world), ["1970-01-01T00:00:00 1", "1970-01-01T00:00:10 1", "1970-01-01T00:00:20 1"]);
}
