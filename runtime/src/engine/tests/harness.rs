//! Runs a real plan with doubles of its sources and sinks: the test says in which batches rows come, when the run is
//! stopped or dies, and where it goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use arrow::array::{RecordBatch, new_null_array};
use arrow::datatypes::Field;
use async_trait::async_trait;
use millstream_connectors::batch::RowBatch;
use millstream_connectors::routes::Routes;
use millstream_connectors::sink::Flushed;
use millstream_connectors::{BuiltSource, ConnectorError, Positions, Rejected, Sink, Source, SourceEvent};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::engine::clock::{self, WallClock};
use crate::engine::connect::Connectors;
use crate::engine::coordinator::Outcome;
use crate::engine::error::RunError;
use crate::engine::ingestor::Ingestors;
use crate::engine::pipeline::{self, Running};
use crate::functions::Engine;
use crate::metrics::Metrics;
use crate::plan::{DeadLetterPlan, Environment, Plan, SinkPlan, SourcePlan};
use crate::spec::{LoadOptions, load_text};

static FUNCTIONS: LazyLock<Arc<Engine>> = LazyLock::new(|| Engine::new(None).unwrap());

/// Loads and plans `yaml`; its data is below `folder`.
pub(super) async fn plan(folder: &Path, yaml: &str) -> Result<Plan, String> {
    let file = folder.join("test.yaml");
    let loaded = load_text(&file, yaml, &LoadOptions::default());
    let said = |problems: &[crate::spec::problem::Problem]| {
        problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("\n")
    };
    let spec = loaded.spec.as_ref().ok_or_else(|| said(&loaded.problems))?;
    let environment = Environment {
        functions: FUNCTIONS.clone(),
        routes: Arc::new(Routes::default()),
        data_dir: folder.join("data"),
    };
    let (plan, problems) = Box::pin(Plan::build(&file, spec, &environment)).await;
    plan.ok_or_else(|| said(&problems))
}

/// What a source has to deliver: rows in this order, each from its partition.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) rows: RecordBatch,
    /// By row.
    pub(super) partitions: Vec<u8>,
}

impl Script {
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        let mut numbers = self.partitions.clone();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(partition_name).collect()
    }

    fn narrowed(&self, plan: &SourcePlan) -> Arc<Self> {
        Arc::new(Self { rows: narrowed(&self.rows, plan), partitions: self.partitions.clone() })
    }

    /// How many rows `positions` cover. They must be the first ones: positions belong to a moment.
    fn covered(&self, positions: &Positions) -> usize {
        let total: u64 = positions.0.values().sum();
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for partition in &self.partitions[..usize::try_from(total).unwrap()] {
            *counts.entry(partition_name(*partition).to_string()).or_default() += 1;
        }
        assert_eq!(counts, positions.0, "positions that no moment of the run had");
        usize::try_from(total).unwrap()
    }
}

/// The rows as a source delivers them whose plan reads only some columns: those, and nulls in place of the messages.
pub(super) fn narrowed(rows: &RecordBatch, plan: &SourcePlan) -> RecordBatch {
    let column = |field: &Arc<Field>| match rows.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None => new_null_array(field.data_type(), rows.num_rows()),
    };
    let schema = plan.received();
    RecordBatch::try_new(schema.clone(), schema.fields().iter().map(column).collect()).unwrap()
}

fn partition_name(number: u8) -> Arc<str> {
    format!("p{number}").into()
}

/// How one source behaves in one run.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    /// The sizes of batches, over and over.
    pub(super) splits: Vec<usize>,
    /// After so many rows of the script (over all runs) it waits until the run is stopped or dies.
    pub(super) hold_after: Option<usize>,
    /// How long it waits after a batch, so that barriers come in between.
    pub(super) pause: Duration,
}

struct ScriptSource {
    script: Arc<Script>,
    delivery: Delivery,
    next: usize,
    turn: usize,
    announced: bool,
    due: Option<Instant>,
    /// A permit for each time it has come to the point where it holds.
    held: Arc<Semaphore>,
    holding: bool,
    committed: u64,
}

#[async_trait]
impl Source for ScriptSource {
    async fn open(&mut self, from: &Positions) -> Result<(), ConnectorError> {
        self.next = self.script.covered(from);
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent, ConnectorError> {
        if !std::mem::replace(&mut self.announced, true) {
            return Ok(SourceEvent::Partitions(self.script.names()));
        }
        if let Some(due) = self.due {
            tokio::time::sleep_until(due).await;
            self.due = None;
        }
        let limit = self.delivery.hold_after.unwrap_or(usize::MAX);
        if self.next >= limit {
            if !std::mem::replace(&mut self.holding, true) {
                self.held.add_permits(1);
            }
            std::future::pending::<()>().await;
        }
        let partitions = &self.script.partitions;
        let Some(partition) = partitions.get(self.next).copied() else { return Ok(SourceEvent::End) };
        let size = self.delivery.splits[self.turn % self.delivery.splits.len()];
        self.turn += 1;
        let end = partitions.len().min(limit).min(self.next + size);
        let same = partitions[self.next..end].iter().take_while(|other| **other == partition).count();
        let rows = self.script.rows.slice(self.next, same);
        self.next += same;
        self.due = Some(Instant::now() + self.delivery.pause);
        let position = partitions[..self.next].iter().filter(|other| **other == partition).count();
        Ok(SourceEvent::Rows(RowBatch { partition: partition_name(partition), rows, next_position: position as u64 }))
    }

    async fn commit(&mut self, upto: &Positions) -> Result<(), ConnectorError> {
        let covered = self.script.covered(upto) as u64;
        assert!(covered >= self.committed && covered <= self.next as u64, "a commit goes back or ahead of the rows");
        self.committed = covered;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// What a sink has taken. It has transactions: what was written after the barrier from which a run goes on is undone.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken(Arc<Mutex<Vec<RecordBatch>>>);

impl Taken {
    pub(super) fn batches(&self) -> Vec<RecordBatch> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn row_count(&self) -> usize {
        self.0.lock().unwrap().iter().map(RecordBatch::num_rows).sum()
    }
}

struct MemorySink {
    taken: Taken,
    /// Fails with this error once so many rows are there.
    fails_after: Option<usize>,
}

#[async_trait]
impl Sink for MemorySink {
    async fn open(&mut self, restored: Option<&[u8]>) -> Result<(), ConnectorError> {
        let keep = restored.map_or(0, |state| u64::from_le_bytes(state.try_into().unwrap()) as usize);
        let mut taken = self.taken.0.lock().unwrap();
        let mut rows = 0;
        taken.retain(|batch| {
            rows += batch.num_rows();
            rows <= keep
        });
        let left: usize = taken.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(left, keep, "the sink is asked to go on from a moment that it has not had");
        Ok(())
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Rejected>, ConnectorError> {
        if self.fails_after.is_some_and(|limit| self.taken.row_count() >= limit) {
            return Err(ConnectorError::retry("the sink was told to fail"));
        }
        self.taken.0.lock().unwrap().push(rows.clone());
        Ok(vec![])
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        let state = (self.taken.row_count() as u64).to_le_bytes().to_vec();
        Ok(Flushed { rejected: vec![], state: Some(state) })
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// The doubles of one pipeline, over all its runs.
#[derive(Default)]
pub(super) struct World {
    /// By source.
    pub(super) scripts: BTreeMap<String, Arc<Script>>,
    /// By sink; the dead letter is `dead_letter`.
    pub(super) taken: Mutex<BTreeMap<String, Taken>>,
    /// By sink: after how many rows it fails.
    pub(super) fails_after: Mutex<BTreeMap<String, usize>>,
    /// What the clock on the wall shows, in nanoseconds, where the test sets it.
    pub(super) wall_ns: Option<Arc<AtomicI64>>,
}

impl World {
    pub(super) fn taken(&self, sink: &str) -> Taken {
        self.taken.lock().unwrap().entry(sink.to_owned()).or_default().clone()
    }

    fn sink(&self, name: &str) -> Box<dyn Sink> {
        let fails_after = self.fails_after.lock().unwrap().get(name).copied();
        Box::new(MemorySink { taken: self.taken(name), fails_after })
    }
}

/// How a run ends, if not by the end of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// By a stop, with a last snapshot.
    Stop,
    /// It dies.
    Crash,
}

/// The doubles of one run.
struct Doubles<'a> {
    world: &'a World,
    /// By source.
    deliveries: &'a BTreeMap<String, Delivery>,
    held: Arc<Semaphore>,
}

impl Connectors for Doubles<'_> {
    fn source(&self, plan: &SourcePlan) -> Result<BuiltSource, ConnectorError> {
        Ok(BuiltSource::Replayable(Box::new(ScriptSource {
            script: self.world.scripts[&plan.name].narrowed(plan),
            delivery: self.deliveries[&plan.name].clone(),
            next: 0,
            turn: 0,
            announced: false,
            due: None,
            held: self.held.clone(),
            holding: false,
            committed: 0,
        })))
    }

    fn sink(&self, plan: &SinkPlan) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(self.world.sink(&plan.name))
    }

    fn dead_letter(&self, _: &DeadLetterPlan) -> Result<Box<dyn Sink>, ConnectorError> {
        Ok(self.world.sink("dead_letter"))
    }

    fn wall_clock(&self) -> WallClock {
        match self.world.wall_ns.clone() {
            Some(wall_ns) => Arc::new(move || wall_ns.load(Ordering::SeqCst)),
            None => clock::wall_clock(),
        }
    }
}

/// Far longer than any run of a test takes: who is not done by then hangs.
const RUN_MAX: Duration = Duration::from_secs(60);

/// One run of `plan`. Where `ends` is given, it is broken off when all sources that are to hold do.
///
/// The run has a runtime of its own: when that is gone, so is everything that the run left behind.
pub(super) fn run(
    plan: &Plan,
    world: &World,
    deliveries: &BTreeMap<String, Delivery>,
    ends: Option<Break>,
) -> Result<Option<Outcome>, RunError> {
    runtime().block_on(run_async(plan, world, deliveries, ends))
}

/// A run that has begun, and a permit for each source that has come to where it holds.
pub(super) async fn begin(
    plan: &Plan,
    world: &World,
    deliveries: &BTreeMap<String, Delivery>,
) -> Result<(Running, Arc<Semaphore>), RunError> {
    let metrics = Arc::new(Metrics::new().unwrap()).pipeline(&plan.name);
    let held = Arc::new(Semaphore::new(0));
    let doubles = Doubles { world, deliveries, held: held.clone() };
    Ok((pipeline::start_with(plan, &doubles, &mut Ingestors::new(), &metrics).await?, held))
}

async fn run_async(
    plan: &Plan,
    world: &World,
    deliveries: &BTreeMap<String, Delivery>,
    ends: Option<Break>,
) -> Result<Option<Outcome>, RunError> {
    let (mut running, held) = begin(plan, world, deliveries).await?;
    let holding = deliveries.values().filter(|delivery| delivery.hold_after.is_some()).count();
    let all_hold = async {
        match ends {
            Some(_) => drop(held.acquire_many(u32::try_from(holding).unwrap()).await.unwrap()),
            None => std::future::pending().await,
        }
    };
    let ended = |ended: Result<_, ()>| -> Result<Option<Outcome>, RunError> {
        let joined: Result<Result<Outcome, RunError>, tokio::task::JoinError> = ended.expect("the run hangs");
        joined.unwrap().map(Some)
    };
    tokio::select! {
        biased;
        result = tokio::time::timeout(RUN_MAX, &mut running.done) => ended(result.map_err(|_| ())),
        () = all_hold => match ends {
            Some(Break::Crash) => {
                running.done.abort();
                Ok(None)
            }
            _ => {
                running.stop();
                ended(tokio::time::timeout(RUN_MAX, running.done).await.map_err(|_| ()))
            }
        },
    }
}

/// A runtime of one thread.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
