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

use crate::bench_support::whole::narrowed;
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

use crate::plan::{Environment, Plan, SourcePlan};
use crate::spec::{LoadOptions, load_text};
pub use whole::{Feed, Feeds, Given, Whole};

/// The most rows and bytes between two tasks: more than any bench sends at a time.
const BOUNDS: Bounds = Bounds { rows: 1 << 30, bytes: 1 << 40 };

/// The operators of a pipeline with one source, chained in one task.
pub struct Steps {
    chain: Chain,
    output: Receiver,
    source: SourcePlan,
    runtime: Runtime,
}

impl Steps {
    /// Plans `yaml`.
    ///
    /// # Panics
    /// Where it cannot be planned.
    pub fn new(yaml: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (chain, output, source) = runtime.block_on(Box::pin(chain(yaml)));
        Self { chain, output, source, runtime }
    }

    fn feed(&mut self, element: Element) -> usize {
        let fed = self.runtime.block_on(self.chain.feed(0, element));
        fed.unwrap_or_else(|error| panic!("an operator has failed: {error:?}"));
        rows(&mut self.output)
    }

    /// Takes a batch of the declared columns through all operators; the number of rows that come out.
    ///
    /// # Panics
    /// Where an operator fails, or a column has another type than the one that is declared.
    pub fn batch(&mut self, batch: &RecordBatch) -> usize {
        let rows = narrowed(batch, &self.source).unwrap_or_else(|error| panic!("{error}"));
        self.feed(Element::Batch(rows))
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

async fn chain(yaml: &str) -> (Chain, Receiver, SourcePlan) {
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
    let source = plan.sources.into_iter().next().expect("a source");
    (chain, output, source)
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, TimestampMillisecondArray};

    use super::*;

    #[test]
    fn steps_take_batches_of_the_declared_columns() {
        let mut steps = Steps::new(
            "name: bench\nsources:\n  s:\n    file: {path: none.jsonl}\n    \
             columns: {ts: timestamp(3), unread: text, v: bigint}\n    event_time: {column: ts, watermark: 0s}\n\
             steps:\n  q: {sql: \"SELECT window_end, sum(v) AS v FROM TUMBLE(s, ts, INTERVAL '1 second') \
             GROUP BY window_start, window_end\"}\nsinks:\n  out: {from: q, stdout: {}}\n",
        );
        let columns: [(&str, ArrayRef); 2] = [
            ("ts", Arc::new(TimestampMillisecondArray::from(vec![0, 500, 1500]))),
            ("v", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ];
        assert_eq!(steps.batch(&RecordBatch::try_from_iter(columns).unwrap()), 0);
        assert_eq!(steps.watermark(1_000_000_000), 1);
        assert_eq!(steps.snapshot().len(), 1);
    }
}
