//! The one place where a pipeline's channels are made and its tasks spawned.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_connectors::ingest::{IngestLog, ReaderOptions};
use millstream_connectors::{BuiltSource, ConnectorError, Source};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::chain::{Chain, LateRoute, Link, Target};
use crate::engine::channel::{Bounds, Gauge, channel};
use crate::engine::connect::{Connectors, Planned};
use crate::engine::coordinator::{Coordinator, Outcome, TaskEvent};
use crate::engine::dead_letter::{self, DeadLetters};
use crate::engine::error::{Interrupt, RunError};
use crate::engine::event_time::EventClock;
use crate::engine::exchange::{Exchange, shard_of};
use crate::engine::gate::{Gate, Input};
use crate::engine::operator::Operator;
use crate::engine::operators::aggregate::WindowAggregate;
use crate::engine::operators::stateless::Stateless;
use crate::engine::operators::window_assign::WindowAssign;
use crate::engine::sink_task::{SinkControl, SinkTask};
use crate::engine::snapshot::{Snapshot, SnapshotStore};
use crate::engine::source_task::{SourceControl, SourceState, SourceTask};
use crate::engine::table_task::{self, distinct_by_key};
use crate::engine::{source_task, stage_task};
use crate::metrics::{Metrics, PipelineMetrics};
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::plan::{Plan, Port, SourcePlan};
use crate::spec::model::OnError;

/// The most control messages waiting for a task.
const CONTROL_WAITING_MAX: usize = 16;
/// The most events of tasks waiting for the coordinator.
const EVENTS_WAITING_MAX: usize = 1024;
/// A batch smaller than this share of the largest waits a little for company while rows keep coming.
const SMALL_BATCH_SHARE: usize = 4;

/// The ingest log of a source that cannot replay, and the connector that fills it. Belongs to the daemon: it outlives
/// the runs of its pipeline and a reload that does not change its source.
pub(crate) struct Ingestor {
    /// What it was built from.
    pub(crate) fingerprint: String,
    pub(crate) log: Arc<IngestLog>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), ConnectorError>>,
}

/// The ingestors of a pipeline, by source.
pub(crate) type Ingestors = HashMap<String, Ingestor>;

impl Ingestor {
    /// Opens the log and starts the connector.
    fn start(plan: &Plan, source: &SourcePlan) -> Result<Self, RunError> {
        let component = format!("source {}", source.name);
        let failed = |error: ConnectorError| RunError::connector(&component, &error);
        let Some(config) = &source.ingest else {
            return Err(RunError::fatal(&component, "the source has no ingest log"));
        };
        let folder = plan.data_dir.join("ingest").join(format!("{}.{}", source.name, source.connector));
        let log = IngestLog::open(&folder, config).map_err(failed)?;
        let BuiltSource::Push(mut connector) = source.build().map_err(failed)? else {
            return Err(RunError::fatal(&component, "the connector replays by itself and needs no ingest log"));
        };
        let (stop, writer) = (CancellationToken::new(), log.writer());
        let stopped = stop.clone();
        let task = tokio::spawn(async move { connector.run(writer, stopped).await });
        Ok(Self { fingerprint: Self::fingerprint(source), log, stop, task })
    }

    /// What an ingestor depends on: the connector's options, not the SQL behind it.
    fn fingerprint(source: &SourcePlan) -> String {
        format!("{:?}", source.config)
    }

    /// Lets the connector finish what it has begun, and closes the log.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Ok(Err(error)) = self.task.await {
            tracing::warn!(%error, "a source ended with an error while it was stopped");
        }
    }
}

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

/// Everything that the tasks of one run share while they are made.
struct Assembly<'a> {
    plan: &'a Plan,
    connectors: &'a dyn Connectors,
    snapshot: &'a Snapshot,
    metrics: &'a Arc<PipelineMetrics>,
    dead_letters: DeadLetters,
    events: mpsc::Sender<TaskEvent>,
    bounds: Bounds,
    gauges: Vec<(String, Gauge)>,
    /// By node: the stage that it is in.
    stage_of: Vec<usize>,
    /// By stage: its nodes in order, and how many shards it has.
    stages: Vec<Stage>,
    /// Edges already made: (receiving stage or sink, shard) → inputs.
    stage_inputs: HashMap<(usize, usize), Vec<Input>>,
    sink_inputs: Vec<Vec<Input>>,
}

struct Stage {
    nodes: Vec<NodeId>,
    shards: usize,
    /// The source at its head; other stages have a gate.
    source: Option<usize>,
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
    load_tables(plan).await?;
    start_ingestors(plan, ingestors).await?;
    let (events, events_out) = mpsc::channel(EVENTS_WAITING_MAX);
    let (dead_letters, letters) = DeadLetters::create(metrics.clone());
    let (stage_of, stages) = stages(plan);
    let mut assembly = Assembly {
        plan,
        connectors,
        snapshot: &snapshot,
        metrics,
        dead_letters: dead_letters.clone(),
        events,
        bounds: Bounds {
            rows: plan.spec.limits.queue_rows_max,
            bytes: usize::try_from(plan.spec.limits.queue_bytes_max.0).unwrap_or(usize::MAX),
        },
        gauges: Vec::new(),
        stage_of,
        stages,
        stage_inputs: HashMap::new(),
        sink_inputs: plan.sinks.iter().map(|_| Vec::new()).collect(),
    };
    let tasks = assembly.tasks(ingestors).await?;
    let gauges = std::mem::take(&mut assembly.gauges);
    drop(assembly);
    let sink = connectors.dead_letter(&plan.dead_letter).map_err(|error| RunError::connector("dead letter", &error))?;
    let coordinator = Coordinator {
        pipeline: plan.name.clone(),
        interval: plan.spec.checkpoint.interval.0,
        timeout: plan.spec.checkpoint.timeout.0,
        store,
        last: Snapshot { states: Vec::new(), ..snapshot.clone() },
        tasks: (0..tasks.sources.len() + tasks.stages.len() + tasks.sinks.len()).collect(),
        sources: tasks.source_controls,
        sinks: tasks.sink_controls,
        events: events_out,
        dead_letters,
        stop: CancellationToken::new(),
        metrics: metrics.clone(),
        fingerprints: plan.fingerprints(),
    };
    let stop = coordinator.stop.clone();
    // From here on everything is spawned; nothing below can fail.
    let mut set: JoinSet<Result<(), Interrupt>> = JoinSet::new();
    tasks.sinks.into_iter().for_each(|task| drop(set.spawn(task.run())));
    for (task, name, gate, chain, events) in tasks.stages {
        set.spawn(stage_task::run(task, name, gate, chain, events));
    }
    tasks.sources.into_iter().for_each(|task| drop(set.spawn(task.run())));
    let restored = snapshot.sinks.get(dead_letter::NAME).cloned();
    let mut background = JoinSet::new();
    let name = plan.name.clone();
    let letters = AbortOnDropHandle::new(tokio::spawn(dead_letter::run(name, sink, restored, letters)));
    for table in &plan.tables {
        let (name, key) = (table.name.clone(), table.key.clone());
        background.spawn(table_task::run(plan.name.clone(), name, table.table.clone(), key, table.rows.clone()));
    }
    background.spawn(watch_queues(gauges, metrics.clone()));
    let logs = ingestors.iter().map(|(name, ingestor)| (name.clone(), ingestor.log.clone())).collect();
    background.spawn(watch_logs(logs, metrics.clone()));
    metrics.running.set(1);
    let metrics = metrics.clone();
    let done = tokio::spawn(async move {
        let outcome = supervise(set, coordinator, letters).await;
        metrics.running.set(0);
        // Dropping the set ends the background tasks.
        drop(background);
        outcome
    });
    Ok(Running { stop, done })
}

/// Waits for the coordinator's word; a task that fails first ends the run.
async fn supervise(
    mut tasks: JoinSet<Result<(), Interrupt>>,
    coordinator: Coordinator,
    mut letters: AbortOnDropHandle<Result<(), RunError>>,
) -> Result<Outcome, RunError> {
    let mut coordinator = AbortOnDropHandle::new(tokio::spawn(coordinator.run()));
    let panicked = |error: tokio::task::JoinError| RunError::fatal("task", format!("it panicked: {error}"));
    let mut outcome: Option<Outcome> = None;
    let mut failure: Option<RunError> = None;
    loop {
        tokio::select! {
            biased;
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

async fn load_tables(plan: &Plan) -> Result<(), RunError> {
    for table in &plan.tables {
        let component = format!("table {}", table.name);
        let rows = table.table.load().await.map_err(|error| RunError::connector(&component, &error))?;
        let rows = distinct_by_key(&rows, table.key.as_deref()).map_err(|error| RunError::fatal(&component, error))?;
        tracing::info!(pipeline = plan.name, table = table.name, rows = rows.num_rows(), "table read");
        table.rows.store(Arc::new(rows));
    }
    Ok(())
}

/// Keeps the ingestors whose source did not change, stops the others, starts what is missing.
async fn start_ingestors(plan: &Plan, ingestors: &mut Ingestors) -> Result<(), RunError> {
    let wanted = |name: &str| plan.sources.iter().find(|source| source.name == name && source.ingest.is_some());
    let gone: Vec<String> = ingestors
        .iter()
        .filter(|(name, ingestor)| {
            let unchanged = wanted(name).is_some_and(|source| Ingestor::fingerprint(source) == ingestor.fingerprint);
            !unchanged || ingestor.task.is_finished()
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in gone {
        if let Some(ingestor) = ingestors.remove(&name) {
            ingestor.stop().await;
        }
    }
    for source in plan.sources.iter().filter(|source| source.ingest.is_some()) {
        if !ingestors.contains_key(&source.name) {
            ingestors.insert(source.name.clone(), Ingestor::start(plan, source)?);
        }
    }
    Ok(())
}

/// Cuts the graph into stages: a node is chained to its input unless rows have to be spread or brought together.
fn stages(plan: &Plan) -> (Vec<usize>, Vec<Stage>) {
    let parallelism = usize::from(plan.spec.limits.parallelism);
    let mut stage_of: Vec<usize> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for (id, node) in plan.graph.nodes.iter().enumerate() {
        let shards = match &node.keys {
            Some(keys) if !keys.is_empty() => parallelism,
            _ => 1,
        };
        let chained = match (&node.kind, &node.inputs[..]) {
            (NodeKind::Source(_), _) => None,
            (_, [input]) => {
                let stage = stage_of[*input];
                // A key needs an exchange where there are several shards; no key needs all rows in one.
                let stays = node.keys.is_none() || (shards == 1 && stages[stage].shards == 1);
                stays.then_some(stage)
            }
            _ => None,
        };
        let stage = chained.unwrap_or_else(|| {
            let source = match node.kind {
                NodeKind::Source(source) => Some(source),
                _ => None,
            };
            stages.push(Stage { nodes: Vec::new(), shards, source });
            stages.len() - 1
        });
        stage_of.push(stage);
        stages[stage].nodes.push(id);
    }
    (stage_of, stages)
}

/// The tasks of a run, made and not yet spawned.
struct Tasks {
    sources: Vec<SourceTask>,
    stages: Vec<(usize, String, Gate, Chain, mpsc::Sender<TaskEvent>)>,
    sinks: Vec<SinkTask>,
    source_controls: BTreeMap<String, mpsc::Sender<SourceControl>>,
    sink_controls: Vec<mpsc::Sender<SinkControl>>,
}

impl Assembly<'_> {
    async fn tasks(&mut self, ingestors: &Ingestors) -> Result<Tasks, RunError> {
        let mut tasks = Tasks {
            sources: Vec::new(),
            stages: Vec::new(),
            sinks: Vec::new(),
            source_controls: BTreeMap::new(),
            sink_controls: Vec::new(),
        };
        let mut number = 0;
        for stage in 0..self.stages.len() {
            for shard in 0..self.stages[stage].shards {
                let chain = self.chain(stage, shard).await?;
                let task = number;
                number += 1;
                match self.stages[stage].source {
                    Some(source) => {
                        let (control, controls) = mpsc::channel(CONTROL_WAITING_MAX);
                        let source = &self.plan.sources[source];
                        tasks.source_controls.insert(source.name.clone(), control);
                        tasks.sources.push(self.source(task, source, chain, controls, ingestors)?);
                    }
                    None => {
                        let inputs = self.stage_inputs.remove(&(stage, shard)).unwrap_or_default();
                        let (name, watermark) = self.stage_watermark(stage);
                        let mut gate = Gate::new(inputs);
                        watermark.into_iter().for_each(|watermark| gate.restore(watermark));
                        tasks.stages.push((task, name, gate, chain, self.events.clone()));
                    }
                }
            }
        }
        for (index, inputs) in std::mem::take(&mut self.sink_inputs).into_iter().enumerate() {
            let plan = &self.plan.sinks[index];
            let (control, controls) = mpsc::channel(CONTROL_WAITING_MAX);
            tasks.sink_controls.push(control);
            tasks.sinks.push(SinkTask {
                task: number,
                name: plan.name.clone(),
                sink: (self.connectors.sink(plan))
                    .map_err(|error| RunError::connector(format!("sink {}", plan.name), &error))?,
                restored: self.snapshot.sinks.get(&plan.name).cloned(),
                gate: Gate::new(inputs),
                control: controls,
                events: self.events.clone(),
                dead_letters: self.dead_letters.clone(),
                metrics: self.metrics.sink(&plan.name),
            });
            number += 1;
        }
        Ok(tasks)
    }

    /// The name of a stage, and the watermark that it had in the snapshot, where all its sources go on from there.
    fn stage_watermark(&self, stage: usize) -> (String, Option<i64>) {
        let graph = &self.plan.graph;
        let first = self.stages[stage].nodes[0];
        let mut waiting = vec![first];
        let mut goes_on = true;
        while let Some(id) = waiting.pop() {
            let node = &graph.nodes[id];
            waiting.extend(&node.inputs);
            if let NodeKind::Source(source) = node.kind {
                goes_on &= self.restored(&self.plan.sources[source]).is_some();
            }
        }
        let name = graph.nodes[first].name.clone();
        let watermark = self.snapshot.watermarks.get(&name).copied().filter(|_| goes_on);
        (name, watermark)
    }

    /// What the snapshot has of a source. Positions of another connector mean nothing.
    fn restored(&self, plan: &SourcePlan) -> Option<&SourceState> {
        self.snapshot.sources.get(&plan.name).filter(|state| state.connector == plan.connector)
    }

    fn source(
        &self,
        task: usize,
        plan: &SourcePlan,
        chain: Chain,
        control: mpsc::Receiver<SourceControl>,
        ingestors: &Ingestors,
    ) -> Result<SourceTask, RunError> {
        let failed = |error: ConnectorError| RunError::connector(format!("source {}", plan.name), &error);
        let source: Box<dyn Source> = match ingestors.get(&plan.name) {
            Some(ingestor) => ingestor.log.reader(ReaderOptions {
                fields: plan.metadata.iter().map(|(_, field)| field.clone()).collect(),
                batch_rows_max: plan.context.batch_rows_max,
                batch_bytes_max: plan.context.batch_bytes_max,
            }),
            None => match self.connectors.source(plan).map_err(failed)? {
                BuiltSource::Replayable(source) => source,
                BuiltSource::Push(_) => return Err(RunError::fatal(&plan.name, "the source has no ingest log")),
            },
        };
        let state = self.restored(plan).cloned().unwrap_or_else(|| SourceState {
            connector: plan.connector.clone(),
            ..source_task::SourceState::default()
        });
        let clock = plan
            .event_time
            .as_ref()
            .map(|event_time| EventClock::new(event_time.clone(), &state.clock, tokio::time::Instant::now()));
        Ok(SourceTask {
            task,
            name: plan.name.clone(),
            source,
            decoder: plan.decoder().map_err(failed)?,
            schema: plan.schema.clone(),
            metadata: plan.metadata.iter().map(|(column, _)| column.clone()).collect(),
            clock,
            linger: plan.linger,
            small_batch: plan.context.batch_rows_max.div_ceil(SMALL_BATCH_SHARE),
            state,
            chain,
            control,
            events: self.events.clone(),
            metrics: self.metrics.source(&plan.name),
        })
    }

    /// The operators of one shard of a stage, with the edges that leave them.
    async fn chain(&mut self, stage: usize, shard: usize) -> Result<Chain, RunError> {
        let nodes = self.stages[stage].nodes.clone();
        let mut edges = Vec::new();
        let mut links = Vec::new();
        let mut entry = Vec::new();
        let position = |id: NodeId| {
            // A source has no operator: what follows it in the chain is one place further to the front.
            let index = nodes.iter().position(|node| *node == id)?;
            index.checked_sub(usize::from(self.stages[stage].source.is_some()))
        };
        let positions: HashMap<NodeId, usize> = nodes.iter().filter_map(|id| Some((*id, position(*id)?))).collect();
        for id in &nodes {
            let targets = self.targets(*id, stage, &positions, &mut edges);
            let node = &self.plan.graph.nodes[*id];
            if matches!(node.kind, NodeKind::Source(_)) {
                entry = targets;
                continue;
            }
            let late = self.late(*id, node, &mut edges);
            let mut operator = self.operator(node).await?;
            self.restore(node, operator.as_mut(), shard, self.stages[stage].shards)?;
            links.push(Link {
                name: node.name.clone(),
                step: node.step.clone().unwrap_or_default(),
                operator,
                targets,
                late,
                metrics: self.metrics.operator(&node.name),
            });
        }
        if self.stages[stage].source.is_none() {
            entry = vec![Target::Operator(0)];
        }
        Ok(Chain { links, edges, dead_letters: self.dead_letters.clone(), entry, states: Vec::new() })
    }

    /// Where the rows of node `id` go: operators of the same stage, other stages, sinks.
    fn targets(
        &mut self,
        id: NodeId,
        stage: usize,
        positions: &HashMap<NodeId, usize>,
        edges: &mut Vec<Exchange>,
    ) -> Vec<Target> {
        let mut targets = Vec::new();
        for (reader_id, reader) in self.plan.graph.nodes.iter().enumerate() {
            for (number, _) in reader.inputs.iter().enumerate().filter(|(_, input)| **input == id) {
                let reader_stage = self.stage_of[reader_id];
                if reader_stage == stage {
                    targets.extend(positions.get(&reader_id).map(|position| Target::Operator(*position)));
                    continue;
                }
                let keys = reader.keys.clone().unwrap_or_default();
                let name = format!("{}→{}", self.plan.graph.nodes[id].name, reader.name);
                let shards = self.stages[reader_stage].shards;
                let mut senders = Vec::new();
                for shard in 0..shards {
                    let (sender, receiver) = channel(self.bounds);
                    self.gauges.push((name.clone(), sender.gauge()));
                    self.stage_inputs.entry((reader_stage, shard)).or_default().push(Input { number, receiver });
                    senders.push(sender);
                }
                targets.push(Target::Edge(edges.len()));
                edges.push(Exchange::new(senders, keys));
            }
        }
        targets.extend(self.sink_edges(id, Port::Main, edges));
        targets
    }

    fn sink_edges(&mut self, id: NodeId, port: Port, edges: &mut Vec<Exchange>) -> Vec<Target> {
        let mut targets = Vec::new();
        for (index, sink) in self.plan.sinks.iter().enumerate() {
            for _ in sink.from.iter().filter(|from| **from == (id, port)) {
                let (sender, receiver) = channel(self.bounds);
                self.gauges.push((format!("{}→{}", self.plan.graph.nodes[id].name, sink.name), sender.gauge()));
                self.sink_inputs[index].push(Input { number: 0, receiver });
                targets.push(Target::Edge(edges.len()));
                edges.push(Exchange::new(vec![sender], vec![]));
            }
        }
        targets
    }

    fn late(&mut self, id: NodeId, node: &Node, edges: &mut Vec<Exchange>) -> LateRoute {
        let to = node.step.as_ref().and_then(|step| self.plan.routes.get(step)).map(|routes| routes.late.to.as_str());
        match to {
            Some("drop") => LateRoute::Drop,
            Some("dead_letter") | None => LateRoute::DeadLetter,
            Some(_) => {
                let targets = self.sink_edges(id, Port::Late, edges);
                if targets.is_empty() { LateRoute::DeadLetter } else { LateRoute::Targets(targets) }
            }
        }
    }

    async fn operator(&self, node: &Node) -> Result<Box<dyn Operator>, RunError> {
        let step = node.step.clone().unwrap_or_default();
        let on_error = self.plan.routes.get(&step).map_or(OnError::default(), |routes| routes.on_error);
        Ok(match &node.kind {
            NodeKind::Source(_) => return Err(RunError::fatal(&node.name, "a source is no operator")),
            NodeKind::Region(region) => {
                let instance = region.instantiate().await;
                let instance =
                    instance.map_err(|error| RunError::fatal(format!("step {step}"), error.strip_backtrace()))?;
                Box::new(Stateless::new(instance, step, on_error))
            }
            NodeKind::WindowAssign(window) => Box::new(WindowAssign::new(window.clone(), node.schema.clone(), step)),
            NodeKind::Aggregate(plan) => Box::new(WindowAggregate::new(plan.clone(), step)),
        })
    }

    /// Gives `operator` its part of the snapshot, where that is of the same operator.
    fn restore(&self, node: &Node, operator: &mut dyn Operator, shard: usize, shards: usize) -> Result<(), RunError> {
        let fingerprints = self.plan.fingerprints();
        let (Some(now), Some(then)) = (fingerprints.get(&node.name), self.snapshot.fingerprints.get(&node.name)) else {
            return Ok(());
        };
        if now != then {
            tracing::warn!(
                pipeline = self.plan.name,
                operator = node.name,
                "the operator has changed: its state is left"
            );
            return Ok(());
        }
        let states: Vec<&RecordBatch> =
            self.snapshot.states.iter().filter(|(name, _)| *name == node.name).map(|(_, state)| state).collect();
        for state in states {
            operator.restore(state, &|group| shard_of(group, shards) == shard)?;
        }
        Ok(())
    }
}

/// The metrics of `plan`.
pub(crate) fn metrics(all: &Arc<Metrics>, plan: &Plan) -> Arc<PipelineMetrics> {
    all.pipeline(&plan.name)
}
