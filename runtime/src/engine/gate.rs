//! The incoming side of a task: merges its edges, takes the minimum watermark, aligns barriers.

use std::task::{Context, Poll};

use arrow::array::RecordBatch;

use crate::engine::channel::Receiver;
use crate::engine::element::{Element, Epoch, Watermark};

/// An edge into a task.
pub(crate) struct Input {
    /// Which input of the first operator it feeds.
    pub(crate) number: usize,
    /// How far behind the edge's watermark the times may be that the operator goes by, in nanoseconds.
    pub(crate) lag: i64,
    pub(crate) receiver: Receiver,
}

/// What comes out of the gate.
#[derive(Debug)]
pub(crate) enum Event {
    /// Rows for the input with this number, and the watermark of the edge that they came by, where that has said one.
    Batch(usize, RecordBatch, Option<i64>),
    /// Event time has come this far on all inputs.
    Watermark(Watermark),
    /// The barrier has come on all inputs.
    Barrier(Epoch),
    /// All inputs are at their end.
    End,
    /// A sender went away without an end: the run is being stopped.
    Closed,
}

struct Edge {
    input: Input,
    watermark: Option<Watermark>,
    /// The barrier at which this edge waits for the others.
    barrier: Option<Epoch>,
    ended: bool,
}

/// Merges edges.
pub(crate) struct Gate {
    edges: Vec<Edge>,
    /// Where the search for the next element starts, so that no edge starves.
    turn: usize,
    watermark: i64,
    idle: bool,
    /// An event that is due before anything is read.
    pending: Option<Event>,
}

impl Gate {
    /// A gate over `inputs`.
    pub(crate) fn new(inputs: Vec<Input>) -> Self {
        let edges = inputs.into_iter().map(|input| Edge { input, watermark: None, barrier: None, ended: false });
        Self { edges: edges.collect(), turn: 0, watermark: i64::MIN, idle: false, pending: None }
    }

    /// Goes on from the watermark of a former run: it never goes back, also where an input that had ended or was idle
    /// has a lower one of its own.
    pub(crate) fn restore(&mut self, watermark: i64) {
        self.watermark = watermark;
        self.pending = Some(Event::Watermark(Watermark::At(watermark)));
    }

    /// How far event time has come on all inputs; `None` before all have said it.
    pub(crate) fn watermark(&self) -> Option<i64> {
        (self.watermark > i64::MIN).then_some(self.watermark)
    }

    /// The next event. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Event {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.pending.take() {
            return Poll::Ready(event);
        }
        let count = self.edges.len();
        let mut offset = 0;
        while offset < count {
            let index = (self.turn + offset) % count;
            let edge = &mut self.edges[index];
            if edge.ended || edge.barrier.is_some() {
                offset += 1;
                continue;
            }
            let Poll::Ready(element) = edge.input.receiver.poll_recv(context) else {
                offset += 1;
                continue;
            };
            let event = match element {
                None => Some(Event::Closed),
                Some(Element::Batch(batch)) => {
                    let reached = match edge.watermark {
                        Some(Watermark::At(time)) => Some(time),
                        Some(Watermark::Idle) | None => None,
                    };
                    Some(Event::Batch(edge.input.number, batch, reached))
                }
                Some(Element::Watermark(watermark)) => {
                    edge.watermark = Some(match watermark {
                        Watermark::At(time) => Watermark::At(time.saturating_sub(edge.input.lag)),
                        Watermark::Idle => Watermark::Idle,
                    });
                    self.combine()
                }
                Some(Element::Barrier(epoch)) => {
                    edge.barrier = Some(epoch);
                    self.align()
                }
                Some(Element::End) => {
                    edge.ended = true;
                    self.ended()
                }
            };
            if let Some(event) = event {
                self.turn = (index + 1) % count;
                return Poll::Ready(event);
            }
            // This edge may have more; an aligned barrier may have opened others.
            offset = 0;
        }
        Poll::Pending
    }

    /// The minimum over the edges that count, if it is news.
    fn combine(&mut self) -> Option<Event> {
        let mut lowest: Option<i64> = None;
        for edge in self.edges.iter().filter(|edge| !edge.ended) {
            match edge.watermark {
                None => return None,
                Some(Watermark::Idle) => {}
                Some(Watermark::At(time)) => lowest = Some(lowest.map_or(time, |lowest| lowest.min(time))),
            }
        }
        match lowest {
            Some(time) => {
                let woken = std::mem::take(&mut self.idle);
                let news = time > self.watermark;
                self.watermark = self.watermark.max(time);
                (news || woken).then_some(Event::Watermark(Watermark::At(self.watermark)))
            }
            None => (!std::mem::replace(&mut self.idle, true)).then_some(Event::Watermark(Watermark::Idle)),
        }
    }

    /// The barrier, where all edges that have not ended have come to it.
    fn align(&mut self) -> Option<Event> {
        let mut open = self.edges.iter().filter(|edge| !edge.ended);
        let epoch = open.clone().find_map(|edge| edge.barrier)?;
        if open.any(|edge| edge.barrier != Some(epoch)) {
            return None;
        }
        self.edges.iter_mut().for_each(|edge| edge.barrier = None);
        Some(Event::Barrier(epoch))
    }

    /// An edge has ended: that may be the end, or what the others waited for.
    fn ended(&mut self) -> Option<Event> {
        if self.edges.iter().all(|edge| edge.ended) {
            return Some(Event::End);
        }
        match (self.combine(), self.align()) {
            (Some(watermark), barrier) => {
                self.pending = barrier;
                Some(watermark)
            }
            (None, barrier) => barrier,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::channel::{Bounds, Sender, channel};

    fn gate(edges: usize) -> (Vec<Sender>, Gate) {
        let bounds = Bounds { rows: 100, bytes: 1 << 20 };
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..edges).map(|_| channel(bounds)).unzip();
        let inputs = receivers.into_iter().enumerate().map(|(number, receiver)| Input { number, lag: 0, receiver });
        (senders, Gate::new(inputs.collect()))
    }

    async fn show(gate: &mut Gate) -> String {
        let next = tokio::time::timeout(std::time::Duration::from_millis(20), gate.next());
        match next.await {
            Ok(event) => format!("{event:?}"),
            Err(_) => "nothing".into(),
        }
    }

    fn at(time: i64) -> Element {
        Element::Watermark(Watermark::At(time))
    }

    #[tokio::test]
    async fn the_watermark_is_the_minimum_and_idle_inputs_do_not_count() {
        let (senders, mut gate) = gate(2);
        senders[0].send(at(10)).await.unwrap();
        assert_eq!(show(&mut gate).await, "nothing");
        senders[1].send(at(5)).await.unwrap();
        assert_eq!(show(&mut gate).await, "Watermark(At(5))");
        senders[1].send(Element::Watermark(Watermark::Idle)).await.unwrap();
        assert_eq!(show(&mut gate).await, "Watermark(At(10))");
        senders[0].send(Element::Watermark(Watermark::Idle)).await.unwrap();
        assert_eq!(show(&mut gate).await, "Watermark(Idle)");
        // It comes back with an older time: the watermark stays.
        senders[1].send(at(7)).await.unwrap();
        assert_eq!(show(&mut gate).await, "Watermark(At(10))");
    }

    #[tokio::test]
    async fn a_barrier_waits_for_all_inputs_and_holds_back_what_follows_it() {
        let (senders, mut gate) = gate(2);
        senders[0].send(Element::Barrier(1)).await.unwrap();
        senders[0].send(at(99)).await.unwrap();
        assert_eq!(show(&mut gate).await, "nothing");
        senders[1].send(at(3)).await.unwrap();
        assert_eq!(show(&mut gate).await, "nothing");
        senders[1].send(Element::Barrier(1)).await.unwrap();
        assert_eq!(show(&mut gate).await, "Barrier(1)");
        assert_eq!(show(&mut gate).await, "Watermark(At(3))");
    }

    #[tokio::test]
    async fn an_ended_input_holds_back_neither_barrier_nor_watermark() {
        let (senders, mut gate) = gate(2);
        senders[1].send(at(8)).await.unwrap();
        senders[1].send(Element::Barrier(4)).await.unwrap();
        assert_eq!(show(&mut gate).await, "nothing");
        senders[0].send(Element::End).await.unwrap();
        assert_eq!(show(&mut gate).await, "Watermark(At(8))");
        assert_eq!(show(&mut gate).await, "Barrier(4)");
        senders[1].send(Element::End).await.unwrap();
        assert_eq!(show(&mut gate).await, "End");
    }
}
