//! What benches need of the engine. It is no part of the library's interface.

mod whole;

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arrow::array::RecordBatch;
use millstream_connectors::routes::Routes;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::engine::assembly::operator;
use crate::engine::chain::{Chain, LateRoute, Link, Target};
use crate::engine::channel::{Bounds, Receiver, channel};
use crate::engine::clock::{ClockState, Disorder, SourceClock as _};
use crate::engine::dead_letter::DeadLetters;
use crate::engine::element::{Element, Watermark};
use crate::engine::event_time::EventClock;
use crate::engine::exchange::Exchange;
use crate::functions::Engine;
use crate::metrics::Metrics;
use crate::plan::graph::NodeKind;
use crate::plan::{Environment, Plan};
use crate::spec::{LoadOptions, load_text};
pub use whole::{Feed, Feeds, Given, Whole};

/// The most rows and bytes between two tasks: more than any bench sends at a time.
const BOUNDS: Bounds = Bounds { rows: 1 << 30, bytes: 1 << 40 };

/// The operators of a pipeline with one source, chained in one task.
pub struct Steps {
    chain: Chain,
    output: Receiver,
    runtime: Runtime,
}

impl Steps {
    /// Plans `yaml`.
    ///
    /// # Panics
    /// Where it cannot be planned.
    pub fn new(yaml: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (chain, output) = runtime.block_on(Box::pin(chain(yaml)));
        Self { chain, output, runtime }
    }

    fn feed(&mut self, element: Element) -> usize {
        let fed = self.runtime.block_on(self.chain.feed(0, element));
        assert!(fed.is_ok(), "an operator has failed");
        rows(&mut self.output)
    }

    /// Takes a batch through all operators; the number of rows that come out.
    pub fn batch(&mut self, batch: RecordBatch) -> usize {
        self.feed(Element::Batch(batch))
    }

    /// Event time comes to `time`, in nanoseconds; the number of rows that come out.
    pub fn watermark(&mut self, time: i64) -> usize {
        self.feed(Element::Watermark(Watermark::At(time)))
    }

    /// Takes the state of all operators.
    pub fn snapshot(&mut self) -> Vec<RecordBatch> {
        self.feed(Element::Barrier(1));
        self.chain.states.drain(..).map(|(_, state)| state).collect()
    }
}

/// How many rows are waiting.
fn rows(receiver: &mut Receiver) -> usize {
    let mut context = Context::from_waker(Waker::noop());
    let mut rows = 0;
    while let Poll::Ready(Some(element)) = receiver.poll_recv(&mut context) {
        rows += element.weight().0;
    }
    rows
}

async fn chain(yaml: &str) -> (Chain, Receiver) {
    let file = Path::new("bench.yaml");
    let loaded = load_text(file, yaml, &LoadOptions::default());
    let spec = loaded.spec.unwrap_or_else(|| panic!("{:?}", loaded.problems));
    let environment = Environment {
        functions: Engine::new(None).expect("an engine for functions"),
        routes: Arc::new(Routes::default()),
        data_dir: "data".into(),
    };
    let (plan, problems) = Box::pin(Plan::build(file, &spec, &environment)).await;
    let plan = plan.unwrap_or_else(|| panic!("{problems:?}"));
    let metrics = Arc::new(Metrics::new().expect("metrics")).pipeline("bench");
    let (dead_letters, _) = DeadLetters::create(metrics.clone());
    let (sender, output) = channel(BOUNDS);
    let mut links = Vec::new();
    let nodes = &plan.graph.nodes;
    // The source is the first node and no operator.
    for (id, node) in nodes.iter().enumerate().filter(|(_, node)| !matches!(node.kind, NodeKind::Source(_))) {
        let readers = nodes.iter().enumerate().filter(|(_, reader)| reader.inputs.contains(&id));
        let mut targets: Vec<Target> = readers.map(|(reader, _)| Target::Operator(reader - 1)).collect();
        if targets.is_empty() {
            targets.push(Target::Edge(0));
        }
        links.push(Link {
            name: node.name.clone(),
            step: node.step.clone().unwrap_or_default(),
            lag: node.lag(0),
            operator: operator(&plan, node).await.unwrap_or_else(|error| panic!("{error}")),
            targets,
            late: LateRoute::Drop,
            metrics: metrics.operator(&node.name),
        });
    }
    let chain = Chain {
        links,
        edges: vec![Exchange::new(vec![sender], vec![])],
        dead_letters,
        entry: vec![Target::Operator(0)],
        states: Vec::new(),
        input_watermark: None,
        queue: Default::default(),
    };
    (chain, output)
}

/// The event time of a source with one partition.
pub struct Clock(EventClock);

impl Clock {
    /// Rows may come so late after newer ones; the time is the column with the index `column`.
    pub fn new(column: usize, delay: Duration) -> Self {
        let plan = Disorder { delay, idle_after: Duration::from_secs(30), max_ahead: None };
        Self(EventClock::new(column, plan, &ClockState::default(), Instant::now()))
    }

    /// Takes a batch; the number of batches and watermarks that it becomes.
    pub fn batch(&mut self, batch: RecordBatch) -> usize {
        let timed = self.0.batch(&"0".into(), batch, Instant::now(), i64::MAX);
        timed.map_or(0, |timed| timed.elements.len())
    }
}

/// An edge between stages.
pub struct Spread {
    exchange: Exchange,
    shards: Vec<Receiver>,
    runtime: Runtime,
}

impl Spread {
    /// Spreads by the columns `keys` over so many shards.
    ///
    /// # Panics
    /// Where there can be no runtime.
    pub fn new(keys: Vec<usize>, shards: usize) -> Self {
        let (senders, shards) = (0..shards).map(|_| channel(BOUNDS)).unzip();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Self { exchange: Exchange::new(senders, keys), shards, runtime }
    }

    /// Sends a batch; the number of rows that arrive.
    pub fn batch(&mut self, batch: RecordBatch) -> usize {
        let sent = self.runtime.block_on(self.exchange.send(Element::Batch(batch)));
        assert!(sent.is_ok(), "the exchange has failed");
        self.shards.iter_mut().map(rows).sum()
    }
}
