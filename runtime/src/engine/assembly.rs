//! Makes the tasks of a run: cuts the graph into stages, makes the edges between them, restores state. Spawns nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_connectors::ingest::ReaderOptions;
use millstream_connectors::{BuiltSource, ConnectorError, Source};
use tokio::sync::mpsc;

use crate::engine::chain::{Chain, LateRoute, Link, Target};
use crate::engine::channel::{Bounds, Gauge, channel};
use crate::engine::clock::{ClockState, EventTimePlan, SourceClock, TimeKind};
use crate::engine::connect::Connectors;
use crate::engine::coordinator::TaskEvent;
use crate::engine::dead_letter::DeadLetters;
use crate::engine::error::RunError;
use crate::engine::event_time::EventClock;
use crate::engine::exchange::{Exchange, shard_of};
use crate::engine::gate::{Gate, Input};
use crate::engine::ingestor::Ingestors;
use crate::engine::operator::{Operator, Site};
use crate::engine::operators::stateless::Stateless;
use crate::engine::processing_time::ProcessingClock;
use crate::engine::sink_task::{SinkControl, SinkTask};
use crate::engine::snapshot::Snapshot;
use crate::engine::source_task::{SourceControl, SourceState, SourceTask};
use crate::metrics::PipelineMetrics;
use crate::plan::graph::{Node, NodeId, NodeKind};
use crate::plan::{Plan, Port, SourcePlan};
use crate::spec::model::OnError;

/// The most control messages waiting for a task.
const CONTROL_WAITING_MAX: usize = 16;
/// A batch smaller than this share of the largest waits a little for company while rows keep coming.
const SMALL_BATCH_SHARE: usize = 4;

/// Everything that the tasks of one run share while they are made.
pub(crate) struct Assembly<'a> {
    plan: &'a Plan,
    connectors: &'a dyn Connectors,
    snapshot: &'a Snapshot,
    metrics: &'a Arc<PipelineMetrics>,
    dead_letters: DeadLetters,
    events: mpsc::Sender<TaskEvent>,
    bounds: Bounds,
    pub(crate) gauges: Vec<(String, Gauge)>,
    /// By node: the stage that it is in.
    stage_of: Vec<usize>,
    /// By stage: its nodes in order, and how many shards it has.
    stages: Vec<Stage>,
    /// Edges already made: (receiving stage or sink, shard) → inputs.
    stage_inputs: HashMap<(usize, usize), Vec<Input>>,
    sink_inputs: Vec<Vec<Input>>,
}

/// Operators that are chained in one task, of which there is one per shard.
pub(crate) struct Stage {
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) shards: usize,
    /// The source at its head; other stages have a gate.
    source: Option<usize>,
}

/// Cuts the graph into stages: a node is chained to its input unless rows have to be spread or brought together.
/// By node its stage, and the stages.
pub(crate) fn stages(plan: &Plan) -> (Vec<usize>, Vec<Stage>) {
    let parallelism = plan.spec.limits.shards();
    let mut stage_of: Vec<usize> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for (id, node) in plan.graph.nodes.iter().enumerate() {
        let shards = match node.keys_of(0) {
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
pub(crate) struct Tasks {
    pub(crate) sources: Vec<SourceTask>,
    pub(crate) stages: Vec<(usize, String, Gate, Chain, mpsc::Sender<TaskEvent>)>,
    pub(crate) sinks: Vec<SinkTask>,
    pub(crate) source_controls: BTreeMap<String, mpsc::Sender<SourceControl>>,
    pub(crate) sink_controls: Vec<mpsc::Sender<SinkControl>>,
}

impl Tasks {
    /// How many tasks take part in an epoch.
    pub(crate) fn count(&self) -> usize {
        self.sources.len() + self.stages.len() + self.sinks.len()
    }
}

impl<'a> Assembly<'a> {
    /// An assembly without tasks yet.
    pub(crate) fn new(
        plan: &'a Plan,
        connectors: &'a dyn Connectors,
        snapshot: &'a Snapshot,
        metrics: &'a Arc<PipelineMetrics>,
        dead_letters: DeadLetters,
        events: mpsc::Sender<TaskEvent>,
    ) -> Self {
        let (stage_of, stages) = stages(plan);
        let limits = &plan.spec.limits;
        let bytes = usize::try_from(limits.queue_bytes_max.0).unwrap_or(usize::MAX);
        Self {
            plan,
            connectors,
            snapshot,
            metrics,
            dead_letters,
            events,
            bounds: Bounds { rows: limits.queue_rows_max, bytes },
            gauges: Vec::new(),
            stage_of,
            stages,
            stage_inputs: HashMap::new(),
            sink_inputs: plan.sinks.iter().map(|_| Vec::new()).collect(),
        }
    }

    pub(crate) async fn tasks(&mut self, ingestors: &Ingestors) -> Result<Tasks, RunError> {
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
                        let name = self.plan.sources[source].name.clone();
                        tasks.source_controls.insert(name, control);
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
                goes_on &= self.restored_clock(&self.plan.sources[source]).is_some();
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

    /// How far the snapshot's time of a source is. That of the clock means nothing to rows with times, nor theirs to it.
    fn restored_clock(&self, plan: &SourcePlan) -> Option<&ClockState> {
        let clock = &self.restored(plan)?.clock;
        let processing = plan.event_time.as_ref().is_some_and(EventTimePlan::is_processing);
        (clock.processing == processing).then_some(clock)
    }

    fn source(
        &self,
        task: usize,
        number: usize,
        chain: Chain,
        control: mpsc::Receiver<SourceControl>,
        ingestors: &Ingestors,
    ) -> Result<SourceTask, RunError> {
        let plan = &self.plan.sources[number];
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
        let state = self
            .restored(plan)
            .cloned()
            .unwrap_or_else(|| SourceState { connector: plan.connector.clone(), ..SourceState::default() });
        let clock = clock(plan, self.restored_clock(plan), self.plan.graph.waits_for_time(number));
        Ok(SourceTask {
            task,
            name: plan.name.clone(),
            source,
            decoder: plan.decoder().map_err(failed)?,
            received: plan.received(),
            keeps_message: plan.keeps_message,
            metadata: plan.metadata.iter().map(|(column, _)| column.clone()).collect(),
            clock,
            wall: self.connectors.wall_clock(),
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
            let mut operator = operator(self.plan, node).await?;
            self.restore(node, operator.as_mut(), shard, self.stages[stage].shards)?;
            links.push(Link {
                name: node.name.clone(),
                step: node.step.clone().unwrap_or_default(),
                // At the head of a stage the gate sees to it, edge by edge.
                lag: if self.stages[stage].nodes[0] == *id { 0 } else { node.lag(0) },
                operator,
                targets,
                late,
                metrics: self.metrics.operator(&node.name),
            });
        }
        if self.stages[stage].source.is_none() {
            entry = vec![Target::Operator(0)];
        }
        Ok(Chain {
            links,
            edges,
            dead_letters: self.dead_letters.clone(),
            entry,
            states: Vec::new(),
            input_watermark: None,
            queue: VecDeque::new(),
        })
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
                let keys = reader.keys_of(number).unwrap_or_default().to_vec();
                let lag = reader.lag(number);
                let name = format!("{}→{}", self.plan.graph.nodes[id].name, reader.name);
                let shards = self.stages[reader_stage].shards;
                let mut senders = Vec::new();
                for shard in 0..shards {
                    let (sender, receiver) = channel(self.bounds);
                    self.gauges.push((name.clone(), sender.gauge()));
                    self.stage_inputs.entry((reader_stage, shard)).or_default().push(Input { number, lag, receiver });
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
                self.sink_inputs[index].push(Input { number: 0, lag: 0, receiver });
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
                "the operator has changed: its state (open windows) is thrown away"
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

/// The clock of a source with an event time, which goes on from `state`; `waits` where something waits for time to pass.
fn clock(plan: &SourcePlan, state: Option<&ClockState>, waits: bool) -> Option<Box<dyn SourceClock>> {
    let EventTimePlan { column, kind } = plan.event_time.as_ref()?;
    let state = state.cloned().unwrap_or_default();
    let now = tokio::time::Instant::now();
    Some(match kind {
        TimeKind::OfRows(disorder) => Box::new(EventClock::new(*column, disorder.clone(), &state, now)),
        TimeKind::Processing => {
            Box::new(ProcessingClock::new(&plan.name, (*column, plan.schema.clone()), &state, waits, now))
        }
    })
}

/// The operator of `node`, without state.
pub(crate) async fn operator(plan: &Plan, node: &Node) -> Result<Box<dyn Operator>, RunError> {
    let step = node.step.clone().unwrap_or_default();
    let on_error = plan.routes.get(&step).map_or(OnError::default(), |routes| routes.on_error);
    Ok(match &node.kind {
        NodeKind::Source(_) => return Err(RunError::fatal(&node.name, "a source is no operator")),
        NodeKind::Region(region) => {
            let instance = region.instantiate().await;
            let instance =
                instance.map_err(|error| RunError::fatal(format!("step {step}"), error.strip_backtrace()))?;
            Box::new(Stateless::new(instance, step, on_error))
        }
        NodeKind::Operator(plan) => plan.create(Site { step, schema: node.schema.clone(), on_error }).await?,
    })
}
