//! The chained operators of one task: an element goes in, and through all of them, before the next one does.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use tokio::time::Instant;

use crate::engine::coordinator::TaskEvent;
use crate::engine::dead_letter::{DeadLetters, Letter};
use crate::engine::element::{END_OF_TIME, Element, Watermark};
use crate::engine::error::Interrupt;
use crate::engine::exchange::Exchange;
use crate::engine::operator::{Operator, Output};
use crate::metrics::OperatorMetrics;

/// Where an operator's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the chain's operator with this index (its only input).
    Operator(usize),
    /// To the chain's edge with this index.
    Edge(usize),
}

/// Where late rows go.
#[derive(Debug, Clone)]
pub(crate) enum LateRoute {
    /// To the dead letter.
    DeadLetter,
    /// Nowhere; they are counted.
    Drop,
    /// To a sink.
    Targets(Vec<Target>),
}

/// An operator with where its output goes.
pub(crate) struct Link {
    /// The node's name, for state and metrics.
    pub(crate) name: String,
    /// The step it belongs to.
    pub(crate) step: String,
    /// How much earlier than the watermark that comes in is the one that the operator and all behind it see.
    pub(crate) lag: i64,
    pub(crate) operator: Box<dyn Operator>,
    pub(crate) targets: Vec<Target>,
    pub(crate) late: LateRoute,
    pub(crate) metrics: OperatorMetrics,
}

/// Chained operators and the edges that leave them.
pub(crate) struct Chain {
    pub(crate) links: Vec<Link>,
    pub(crate) edges: Vec<Exchange>,
    pub(crate) dead_letters: DeadLetters,
    /// Where elements that are put in go first.
    pub(crate) entry: Vec<Target>,
    /// States taken at the barrier that went through last, by node.
    pub(crate) states: Vec<(String, RecordBatch)>,
    /// How far event time has come on the edge that the element at hand came by, where that is known.
    pub(crate) input_watermark: Option<i64>,
    /// What is under way; empty between elements, kept to reuse its memory.
    pub(crate) queue: VecDeque<(Target, usize, Element)>,
}

impl Chain {
    /// Takes `element` through the chain; `input` is the number of the first operator's input that it is for.
    pub(crate) async fn feed(&mut self, input: usize, element: Element) -> Result<(), Interrupt> {
        let mut queue = std::mem::take(&mut self.queue);
        enqueue(&mut queue, &self.entry, input, element);
        self.drain(queue).await
    }

    /// When an operator wants a tick next.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        self.links.iter().filter_map(|link| link.operator.next_tick()).min()
    }

    /// Ticks the operators whose time has come.
    pub(crate) async fn tick(&mut self, now: Instant) -> Result<(), Interrupt> {
        for index in 0..self.links.len() {
            let link = &mut self.links[index];
            if link.operator.next_tick().is_none_or(|due| due > now) {
                continue;
            }
            let mut out = Output::default();
            link.operator.tick(now, &mut out).await?;
            let mut queue = std::mem::take(&mut self.queue);
            self.give(index, out, &mut queue).await?;
            self.drain(queue).await?;
        }
        Ok(())
    }

    /// Takes everything in `queue` through the chain.
    async fn drain(&mut self, mut queue: VecDeque<(Target, usize, Element)>) -> Result<(), Interrupt> {
        while let Some((target, input, element)) = queue.pop_front() {
            match target {
                Target::Edge(edge) => self.edges[edge].send(element).await?,
                Target::Operator(index) => self.operate(index, input, element, &mut queue).await?,
            }
        }
        self.queue = queue;
        Ok(())
    }

    async fn operate(
        &mut self,
        index: usize,
        input: usize,
        element: Element,
        queue: &mut VecDeque<(Target, usize, Element)>,
    ) -> Result<(), Interrupt> {
        let link = &mut self.links[index];
        // The chain's first operator is the only one that the edge leads to.
        let input_watermark = self.input_watermark.filter(|_| index == 0);
        let mut out = Output { input_watermark, ..Output::default() };
        let forward = match element {
            Element::Batch(batch) => {
                link.metrics.rows_in.inc_by(batch.num_rows() as u64);
                link.operator.batch(input, batch, &mut out).await?;
                None
            }
            Element::Watermark(Watermark::At(time)) => {
                let time = time.saturating_sub(link.lag);
                link.operator.watermark(time, &mut out).await?;
                Some(Element::Watermark(Watermark::At(time)))
            }
            Element::Watermark(Watermark::Idle) => Some(element),
            Element::Barrier(_) => {
                let size = link.operator.state_size();
                link.metrics.state_rows.set(size.rows as i64);
                link.metrics.state_bytes.set(size.bytes as i64);
                self.states.extend(link.operator.snapshot()?.into_iter().map(|state| (link.name.clone(), state)));
                Some(element)
            }
            Element::End => {
                link.operator.watermark(END_OF_TIME, &mut out).await?;
                Some(element)
            }
        };
        self.give(index, out, queue).await?;
        if let Some(element) = forward {
            let link = &self.links[index];
            if let LateRoute::Targets(targets) = &link.late {
                enqueue(queue, targets, 0, element.clone());
            }
            enqueue(queue, &link.targets, 0, element);
        }
        Ok(())
    }

    /// Sends on what the operator number `index` gave out.
    async fn give(
        &mut self,
        index: usize,
        out: Output,
        queue: &mut VecDeque<(Target, usize, Element)>,
    ) -> Result<(), Interrupt> {
        let link = &mut self.links[index];
        // What time alone brought about is to be flushed too, though no row came.
        if !out.is_empty() {
            TaskEvent::progress(&link.metrics.progress);
        }
        for batch in out.batches {
            link.metrics.rows_out.inc_by(batch.num_rows() as u64);
            enqueue(queue, &link.targets, 0, Element::Batch(batch));
        }
        for batch in out.late {
            link.metrics.late.inc_by(batch.num_rows() as u64);
            match &link.late {
                LateRoute::Drop => {}
                LateRoute::Targets(targets) => enqueue(queue, targets, 0, Element::Batch(batch)),
                LateRoute::DeadLetter => {
                    for row in 0..batch.num_rows() {
                        let reason = "late: the watermark had passed the row or its window when it came";
                        let letter = Letter::row(format!("step {}", link.step), reason, &batch.slice(row, 1));
                        self.dead_letters.send(letter).await?;
                    }
                }
            }
        }
        link.metrics.errors.inc_by(out.letters.len() as u64);
        for letter in out.letters {
            self.dead_letters.send(letter).await?;
        }
        Ok(())
    }
}

/// Queues `element` for each of `targets`, cloned only where there are several.
fn enqueue(queue: &mut VecDeque<(Target, usize, Element)>, targets: &[Target], input: usize, element: Element) {
    let Some((last, others)) = targets.split_last() else { return };
    for target in others {
        queue.push_back((*target, input, element.clone()));
    }
    queue.push_back((*last, input, element));
}
