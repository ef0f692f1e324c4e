//! The one place where a pipeline's channels are made and its tasks spawned.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_connectors::ingest::IngestLog;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::assembly::{Assembly, Tasks};
use crate::engine::channel::Gauge;
use crate::engine::connect::{Connectors, Planned};
use crate::engine::coordinator::{Coordinator, Outcome};
use crate::engine::dead_letter::{self, DeadLetters};
use crate::engine::error::{Interrupt, RunError};
use crate::engine::ingestor::{Ingestors, start_ingestors};
use crate::engine::snapshot::{Snapshot, SnapshotStore};
use crate::engine::stage_task;
use crate::engine::table_task::{self, distinct_by_key};
use crate::metrics::PipelineMetrics;
use crate::plan::Plan;

/// The most events of tasks waiting for the coordinator.
const EVENTS_WAITING_MAX: usize = 1024;

/// A pipeline that runs.
pub(crate) struct Running {
    stop: CancellationToken,
    /// The supervisor's view of how it ends.
    pub(crate) done: tokio::task::JoinHandle<Result<Outcome, RunError>>,
}

impl Running {
    /// Asks for a last barrier; [`Running::done`] resolves when its snapshot is published.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

/// Starts `plan` from its newest snapshot. Nothing is left behind where this fails.
pub(crate) async fn start(
    plan: &Plan,
    ingestors: &mut Ingestors,
    metrics: &Arc<PipelineMetrics>,
) -> Result<Running, RunError> {
    start_with(plan, &Planned, ingestors, metrics).await
}

/// Starts `plan` with the connectors that `connectors` builds.
pub(crate) async fn start_with(
    plan: &Plan,
    connectors: &dyn Connectors,
    ingestors: &mut Ingestors,
    metrics: &Arc<PipelineMetrics>,
) -> Result<Running, RunError> {
    let store =
        Arc::new(SnapshotStore::open(&plan.data_dir.join("checkpoints")).map_err(|error| {
            RunError::retry("checkpoint", format!("cannot open {}: {error}", plan.data_dir.display()))
        })?);
    let snapshot = store.newest().map_err(|error| RunError::fatal("checkpoint", error))?.unwrap_or_default();
    load_tables(plan, metrics).await?;
    start_ingestors(plan, ingestors).await?;
    let (events, events_out) = mpsc::channel(EVENTS_WAITING_MAX);
    let (dead_letters, letters) = DeadLetters::create(metrics.clone());
    let mut assembly = Assembly::new(plan, connectors, &snapshot, metrics, dead_letters.clone(), events);
    let mut tasks = assembly.tasks(ingestors).await?;
    let gauges = std::mem::take(&mut assembly.gauges);
    drop(assembly);
    let sink = connectors.dead_letter(&plan.dead_letter).map_err(|error| RunError::connector("dead letter", &error))?;
    let stop = CancellationToken::new();
    let coordinator = Coordinator {
        pipeline: plan.name.clone(),
        interval: plan.spec.checkpoint.interval.0,
        timeout: plan.spec.checkpoint.timeout.0,
        store,
        last: Snapshot { states: Vec::new(), ..snapshot.clone() },
        tasks: (0..tasks.count()).collect(),
        sources: std::mem::take(&mut tasks.source_controls),
        sinks: std::mem::take(&mut tasks.sink_controls),
        events: events_out,
        dead_letters,
        stop: stop.clone(),
        metrics: metrics.clone(),
        fingerprints: plan.fingerprints(),
    };
    // From here on everything is spawned; nothing below can fail.
    let restored = snapshot.sinks.get(dead_letter::NAME).cloned();
    let letters = dead_letter::run(plan.name.clone(), plan.dead_letter.place(), sink, restored, letters);
    let letters = AbortOnDropHandle::new(tokio::spawn(letters));
    let set = spawn(tasks);
    let background = background(plan, ingestors, gauges, metrics);
    let failures = ingestors.values().map(|ingestor| ingestor.failure.clone()).collect();
    metrics.running.set(1);
    let metrics = metrics.clone();
    let closing = Closing(coordinator.store.clone());
    let done = tokio::spawn(async move {
        let outcome = supervise(set, coordinator, letters, failures).await;
        metrics.running.set(0);
        // Dropping the set ends the background tasks.
        drop(background);
        drop(closing);
        outcome
    });
    Ok(Running { stop, done })
}

/// Closes a run's snapshot store when the run is over, however it ends: a write that goes on in its thread must not come
/// out beside those of the next run. (It waits for that write, which takes milliseconds, on a thread of the runtime.)
struct Closing(Arc<SnapshotStore>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Spawns the tasks that rows flow through, receivers before senders.
fn spawn(tasks: Tasks) -> JoinSet<Result<(), Interrupt>> {
    let mut set = JoinSet::new();
    for task in tasks.sinks {
        set.spawn(task.run());
    }
    for (task, name, gate, chain, events) in tasks.stages {
        set.spawn(stage_task::run(task, name, gate, chain, events));
    }
    for task in tasks.sources {
        set.spawn(task.run());
    }
    set
}

/// Spawns what goes on beside the rows: refreshes of tables, gauges.
fn background(
    plan: &Plan,
    ingestors: &Ingestors,
    gauges: Vec<(String, Gauge)>,
    metrics: &Arc<PipelineMetrics>,
) -> JoinSet<()> {
    let mut set = JoinSet::new();
    for table in &plan.tables {
        let (name, key, metrics) = (table.name.clone(), table.key.clone(), metrics.table(&table.name));
        set.spawn(table_task::run(plan.name.clone(), name, table.table.clone(), key, table.rows.clone(), metrics));
    }
    set.spawn(watch_queues(gauges, metrics.clone()));
    let logs = ingestors.iter().map(|(name, ingestor)| (name.clone(), ingestor.log.clone())).collect();
    set.spawn(watch_logs(logs, metrics.clone()));
    set
}

/// The error of the first source that fails while it fills its ingest log.
async fn ingest_failed(failures: Vec<watch::Receiver<Option<RunError>>>) -> RunError {
    let waits = failures.into_iter().map(|mut failure| {
        Box::pin(async move {
            match failure.wait_for(Option::is_some).await.ok().and_then(|error| error.clone()) {
                Some(error) => error,
                // It ended without an error, because it was stopped.
                None => std::future::pending().await,
            }
        })
    });
    let waits: Vec<_> = waits.collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(waits).await.0
}

/// Waits for the coordinator's word; a task that fails first ends the run.
async fn supervise(
    mut tasks: JoinSet<Result<(), Interrupt>>,
    coordinator: Coordinator,
    mut letters: AbortOnDropHandle<Result<(), RunError>>,
    failures: Vec<watch::Receiver<Option<RunError>>>,
) -> Result<Outcome, RunError> {
    let mut coordinator = AbortOnDropHandle::new(tokio::spawn(coordinator.run()));
    let panicked = |error: tokio::task::JoinError| RunError::fatal("task", format!("it panicked: {error}"));
    let mut outcome: Option<Outcome> = None;
    let mut failure: Option<RunError> = None;
    let ingest_failed = ingest_failed(failures);
    tokio::pin!(ingest_failed);
    loop {
        tokio::select! {
            biased;
            error = &mut ingest_failed, if outcome.is_none() => failure = Some(error),
            ended = tasks.join_next() => match ended {
                None if outcome.is_some() => break,
                None => {
                    // Every task has ended; the coordinator knows whether that is how it should be.
                    outcome = Some((&mut coordinator).await.map_err(panicked)??);
                    break;
                }
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(error)) => failure = Some(panicked(error)),
                Some(Ok(Err(Interrupt::Failed(error)))) => failure = Some((*error).clone()),
                Some(Ok(Ok(()) | Err(Interrupt::Closed))) => {}
            },
            result = &mut coordinator, if outcome.is_none() => {
                match result.map_err(panicked).and_then(|result| result) {
                    Ok(ended) => outcome = Some(ended),
                    Err(error) => failure = Some(error),
                }
            }
            result = &mut letters, if outcome.is_none() => {
                failure = Some(match result {
                    Ok(Err(error)) => error,
                    Ok(Ok(())) => RunError::fatal("dead letter", "its task ended before the others"),
                    Err(error) => panicked(error),
                });
            }
        }
        if let Some(failure) = failure {
            coordinator.abort();
            tasks.shutdown().await;
            letters.abort();
            return Err(failure);
        }
    }
    // The senders are gone: the dead letter writes what it has and ends.
    match letters.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error),
        Err(error) if error.is_cancelled() => {}
        Err(error) => return Err(panicked(error)),
    }
    outcome.ok_or_else(|| RunError::fatal("checkpoint", "the run ended without an outcome"))
}

/// How often gauges are read.
const GAUGE_PERIOD: std::time::Duration = std::time::Duration::from_secs(1);

async fn watch_queues(gauges: Vec<(String, Gauge)>, metrics: Arc<PipelineMetrics>) {
    loop {
        let mut fullest: BTreeMap<&str, f64> = BTreeMap::new();
        for (edge, gauge) in &gauges {
            let fill = fullest.entry(edge).or_default();
            *fill = fill.max(gauge.fill());
        }
        fullest.into_iter().for_each(|(edge, fill)| metrics.queue_fill(edge, fill));
        tokio::time::sleep(GAUGE_PERIOD).await;
    }
}

async fn watch_logs(logs: Vec<(String, Arc<IngestLog>)>, metrics: Arc<PipelineMetrics>) {
    loop {
        logs.iter().for_each(|(source, log)| metrics.ingest(source, log.stats().bytes));
        tokio::time::sleep(GAUGE_PERIOD).await;
    }
}

async fn load_tables(plan: &Plan, metrics: &PipelineMetrics) -> Result<(), RunError> {
    for table in &plan.tables {
        let component = format!("table {}", table.name);
        let rows = table.table.load().await.map_err(|error| RunError::connector(&component, &error))?;
        let rows = distinct_by_key(&rows, table.key.as_deref()).map_err(|error| RunError::fatal(&component, error))?;
        tracing::info!(pipeline = plan.name, table = table.name, rows = rows.num_rows(), "table read");
        metrics.table(&table.name).rows.set(i64::try_from(rows.num_rows()).unwrap_or(i64::MAX));
        table.rows.store(Arc::new(rows));
    }
    Ok(())
}
