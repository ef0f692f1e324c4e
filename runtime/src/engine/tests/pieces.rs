//! The pieces of the engine by themselves: exchange, coordinator, regions, error policy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, TimeUnit};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::batch::rows_of;
use super::harness::{self, Delivery, Script, World};
use super::rows::{Row, TimeType, batch, columns_yaml};
use crate::engine::channel::{Bounds, Receiver, channel};
use crate::engine::coordinator::{Coordinator, Outcome, Part, TaskEvent};
use crate::engine::dead_letter::{DeadLetters, Request};
use crate::engine::element::{Element, Watermark};
use crate::engine::exchange::Exchange;
use crate::engine::snapshot::{Snapshot, SnapshotStore};
use crate::engine::source_task::{SourceControl, SourceState};
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::plan::graph::NodeKind;
use crate::sql::region::RegionInstance;

const TIME: TimeType = TimeType { unit: TimeUnit::Millisecond, zone: false };

fn drain(receiver: &mut Receiver) -> Vec<Element> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut elements = Vec::new();
    while let std::task::Poll::Ready(Some(element)) = receiver.poll_recv(&mut context) {
        elements.push(element);
    }
    elements
}

#[tokio::test]
async fn an_exchange_loses_no_row_and_keeps_a_key_in_one_shard_in_order() {
    let bounds = Bounds { rows: 10_000, bytes: 1 << 20 };
    let (senders, mut receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| channel(bounds)).unzip();
    let exchange = Exchange::new(senders, vec![0]);
    let keys: StringArray = (0..200).map(|n| (n % 17 != 0).then(|| format!("key {}", n % 40))).collect();
    let rows = RecordBatch::try_from_iter([
        ("k", Arc::new(keys) as _),
        ("n", Arc::new(Int64Array::from_iter_values(0..200)) as _),
    ])
    .unwrap();
    exchange.send(Element::Batch(rows.slice(0, 90))).await.unwrap();
    exchange.send(Element::Watermark(Watermark::At(7))).await.unwrap();
    exchange.send(Element::Batch(rows.slice(90, 110))).await.unwrap();
    let mut seen = Vec::new();
    let mut shard_of_key: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for (shard, receiver) in receivers.iter_mut().enumerate() {
        let mut numbers = Vec::new();
        let mut watermark_at = None;
        for element in drain(receiver) {
            let Element::Batch(part) = element else {
                watermark_at = Some(numbers.len());
                continue;
            };
            let keys = part.column(0).as_string::<i32>();
            for (key, number) in keys.iter().zip(part.column(1).as_primitive::<Int64Type>().values()) {
                numbers.push(*number);
                assert_eq!(*shard_of_key.entry(key.map(str::to_owned)).or_insert(shard), shard);
            }
        }
        assert!(numbers.is_sorted(), "the order of a shard is not that of the input");
        assert_eq!(watermark_at, Some(numbers.iter().filter(|number| **number < 90).count()));
        seen.extend(numbers);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
    assert_eq!(shard_of_key.values().collect::<BTreeSet<_>>().len(), 3);
}

/// A coordinator of one source (task 0) and one sink (task 1), with what is needed to play both.
struct Stand {
    coordinator: Coordinator,
    events: mpsc::Sender<TaskEvent>,
    source: mpsc::Receiver<SourceControl>,
    store: Arc<SnapshotStore>,
    _folder: tempfile::TempDir,
}

fn stand() -> Stand {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SnapshotStore::open(folder.path()).unwrap());
    let metrics = Arc::new(Metrics::new().unwrap()).pipeline("test");
    let (dead_letters, mut letters) = DeadLetters::create(metrics.clone());
    tokio::spawn(async move {
        while let Some(request) = letters.recv().await {
            if let Request::Flush(done) = request {
                done.send(Some(vec![7])).ok();
            }
        }
    });
    let (events, events_out) = mpsc::channel(16);
    let (control, source) = mpsc::channel(16);
    let coordinator = Coordinator {
        pipeline: "test".into(),
        interval: Duration::from_secs(3600),
        timeout: Duration::from_secs(5),
        store: store.clone(),
        // Not the first run, which would begin with an epoch of its own.
        last: Snapshot { epoch: 1, ..Snapshot::default() },
        tasks: [0, 1].into(),
        sources: [("s".to_owned(), control)].into(),
        sinks: vec![],
        events: events_out,
        dead_letters,
        stop: CancellationToken::new(),
        metrics,
        fingerprints: BTreeMap::new(),
    };
    Stand { coordinator, events, source, store, _folder: folder }
}

fn source_at(position: u64) -> Part {
    let mut state = SourceState { connector: "file".into(), ..SourceState::default() };
    state.positions.set("p", position);
    Part { source: Some(("s".into(), state)), ..Part::default() }
}

#[tokio::test]
async fn a_source_that_ends_behind_the_barrier_of_an_open_epoch_is_at_its_end_in_the_next() {
    let Stand { coordinator, events, mut source, store, _folder } = stand();
    coordinator.stop.cancel();
    let run = tokio::spawn(coordinator.run());
    assert!(matches!(source.recv().await, Some(SourceControl::Barrier { epoch: 2, .. })));
    TaskEvent::Acked { task: 0, epoch: 2, part: source_at(5) }.send(&events).await.unwrap();
    TaskEvent::Finished { task: 0, part: source_at(9) }.send(&events).await.unwrap();
    TaskEvent::Acked { task: 1, epoch: 2, part: Part::default() }.send(&events).await.unwrap();
    // The first epoch is where its barrier was.
    let Some(SourceControl::Commit(positions)) = source.recv().await else { panic!() };
    assert_eq!(positions.get("p"), Some(5));
    assert_eq!(run.await.unwrap().unwrap(), Outcome::Stopped);
    let snapshot = store.newest().unwrap().unwrap();
    assert_eq!(snapshot.sources["s"].positions.get("p"), Some(5));
    assert_eq!(snapshot.sinks["dead_letter"], [7]);
}

#[tokio::test]
async fn what_ended_tasks_handed_over_last_is_published_before_the_run_is_finished() {
    let Stand { coordinator, events, mut source, store, _folder } = stand();
    coordinator.stop.cancel();
    let run = tokio::spawn(coordinator.run());
    assert!(source.recv().await.is_some());
    TaskEvent::Acked { task: 0, epoch: 2, part: source_at(5) }.send(&events).await.unwrap();
    TaskEvent::Finished { task: 0, part: source_at(9) }.send(&events).await.unwrap();
    TaskEvent::Finished { task: 1, part: Part::default() }.send(&events).await.unwrap();
    assert_eq!(run.await.unwrap().unwrap(), Outcome::Finished);
    let snapshot = store.newest().unwrap().unwrap();
    assert_eq!((snapshot.epoch, snapshot.sources["s"].positions.get("p")), (3, Some(9)));
}

#[tokio::test]
async fn an_epoch_that_takes_too_long_ends_the_run_and_publishes_nothing() {
    let Stand { mut coordinator, events, source: _source, store, _folder } = stand();
    coordinator.timeout = Duration::from_millis(20);
    coordinator.stop.cancel();
    TaskEvent::Acked { task: 0, epoch: 2, part: source_at(5) }.send(&events).await.unwrap();
    let error = coordinator.run().await.unwrap_err();
    assert!(error.to_string().contains("not complete"), "{error}");
    assert!(store.newest().unwrap().is_none());
}

fn rows(n: &[i64]) -> Vec<Row> {
    let row = |n: &i64| Row {
        partition: 0,
        step: Some(1),
        k: Some(0),
        g: Some(1),
        v: Some(4),
        n: i8::try_from(*n).ok(),
        b: None,
        tags: None,
    };
    n.iter().map(row).collect()
}

/// A pipeline of one step `q` over `s`, with the table `t`.
async fn plan(folder: &std::path::Path, sql: &str, more: &str) -> Plan {
    std::fs::write(folder.join("t.jsonl"), "{\"tg\":1,\"name\":\"one\"}\n").unwrap();
    let yaml = format!(
        "name: piece\nsources:\n  s: {{file: {{path: none.jsonl}}, columns: {}, linger: 0s}}\n  \
         t: {{file: {{path: t.jsonl}}, table: {{}}, columns: {{tg: int, name: text}}}}\n\
         steps:\n  q:\n    sql: {sql}\n{more}sinks:\n  out: {{from: q, stdout: {{}}}}\n",
        columns_yaml(TIME)
    );
    harness::plan(folder, &yaml).await.unwrap()
}

async fn region(plan: &Plan) -> RegionInstance {
    let mut regions = plan.graph.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Region(region) => Some(region),
        _ => None,
    });
    regions.next_back().unwrap().instantiate().await.unwrap()
}

fn shown(batches: &[RecordBatch]) -> String {
    format!("{:?}", rows_of(batches)).replace("Text(\"", "").replace("\")", "")
}

#[tokio::test]
async fn a_join_sees_the_rows_of_its_table_after_every_refresh_and_after_thousands_of_runs() {
    let folder = tempfile::tempdir().unwrap();
    for join in ["JOIN", "LEFT JOIN"] {
        let plan = plan(folder.path(), &format!("SELECT n, name FROM s {join} t ON g = tg"), "").await;
        let table = &plan.tables[0];
        table.rows.store(Arc::new(table.table.load().await.unwrap()));
        let mut region = region(&plan).await;
        let input = harness::narrowed(&batch(&rows(&[5]), TIME, 0, 0), &plan.sources[0]);
        for _ in 0..2100 {
            assert_eq!(shown(&region.run(0, &input).await.unwrap()), "[[5, one]]");
        }
        std::fs::write(folder.path().join("t.jsonl"), "{\"tg\":1,\"name\":\"uno\"}\n").unwrap();
        table.rows.store(Arc::new(table.table.load().await.unwrap()));
        assert_eq!(shown(&region.run(0, &input).await.unwrap()), "[[5, uno]]");
        assert_eq!(shown(&region.run(0, &input).await.unwrap()), "[[5, uno]]");
    }
}

#[tokio::test]
async fn now_is_asked_at_every_batch() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), "SELECT now() AS t FROM s", "").await;
    let mut region = region(&plan).await;
    let input = harness::narrowed(&batch(&rows(&[5]), TIME, 0, 0), &plan.sources[0]);
    let first = shown(&region.run(0, &input).await.unwrap());
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_ne!(first, shown(&region.run(0, &input).await.unwrap()));
}

fn world(n: &[i64]) -> World {
    let script = Script { rows: batch(&rows(n), TIME, 0, 0), partitions: vec![0; n.len()] };
    World { scripts: [("s".to_owned(), Arc::new(script))].into(), ..World::default() }
}

fn deliveries() -> BTreeMap<String, Delivery> {
    [("s".to_owned(), Delivery { splits: vec![100], hold_after: None, pause: Duration::ZERO })].into()
}

#[test]
fn a_row_that_fails_goes_to_the_dead_letter_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let plan = harness::runtime().block_on(plan(folder.path(), "SELECT 12 / n AS x FROM s", ""));
    let world = world(&[1, 2, 0, 3, 0, 4]);
    harness::run(&plan, &world, &deliveries(), None).unwrap();
    assert_eq!(shown(&world.taken("out").batches()), "[[12], [3], [4], [6]]");
    let letters = shown(&world.taken("dead_letter").batches());
    assert_eq!(letters.matches("step q").count(), 2);
    assert!(letters.to_lowercase().contains("divide by zero"), "{letters}");
}

#[test]
fn a_row_that_fails_ends_the_run_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), "SELECT 12 / n AS x FROM s", "    on_error: fail\n");
    let plan = harness::runtime().block_on(plan);
    let error = harness::run(&plan, &world(&[1, 0]), &deliveries(), None).unwrap_err();
    assert!(error.to_string().starts_with("step q: "), "{error}");
}

#[test]
fn a_sink_that_fails_ends_the_run_and_the_next_one_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plan = harness::runtime().block_on(plan(folder.path(), "SELECT n FROM s", ""));
    let world = world(&[1, 2, 3, 4]);
    let one_by_one = |pause| {
        let delivery = Delivery { splits: vec![1], hold_after: None, pause };
        [("s".to_owned(), delivery)].into()
    };
    world.fails_after.lock().unwrap().insert("out".into(), 2);
    let error = harness::run(&plan, &world, &one_by_one(Duration::from_millis(1)), None).unwrap_err();
    assert!(error.to_string().contains("sink out"), "{error}");
    world.fails_after.lock().unwrap().clear();
    harness::run(&plan, &world, &one_by_one(Duration::ZERO), None).unwrap();
    assert_eq!(shown(&world.taken("out").batches()), "[[1], [2], [3], [4]]");
}
