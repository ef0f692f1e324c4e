//! The edge between two tasks: a queue bounded in rows and bytes.
//!
//! A batch larger than the bounds passes alone, so that nothing can block for ever. Elements without rows (watermarks,
//! barriers) are bounded in number.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use crate::engine::element::Element;
use crate::engine::error::Closed;

/// The bounds of an edge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// The most rows waiting.
    pub(crate) rows: usize,
    /// The most bytes waiting.
    pub(crate) bytes: usize,
}

/// The most elements waiting, whatever their size.
const ELEMENTS_MAX: usize = 1024;

struct State {
    queue: VecDeque<Element>,
    rows: usize,
    bytes: usize,
    sender_gone: bool,
    receiver_gone: bool,
    receiver: Option<Waker>,
}

struct Shared {
    state: Mutex<State>,
    room: Notify,
    bounds: Bounds,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end that elements go in.
pub(crate) struct Sender(Arc<Shared>);

/// The end that elements come out.
pub(crate) struct Receiver(Arc<Shared>);

/// A look at how full an edge is, for metrics.
#[derive(Clone)]
pub(crate) struct Gauge(Arc<Shared>);

/// A new edge.
pub(crate) fn channel(bounds: Bounds) -> (Sender, Receiver) {
    let state =
        State { queue: VecDeque::new(), rows: 0, bytes: 0, sender_gone: false, receiver_gone: false, receiver: None };
    let shared = Arc::new(Shared { state: Mutex::new(state), room: Notify::new(), bounds });
    (Sender(shared.clone()), Receiver(shared))
}

impl Sender {
    /// Waits for room and sends.
    pub(crate) async fn send(&self, element: Element) -> Result<(), Closed> {
        let (rows, bytes) = element.weight();
        let mut element = Some(element);
        loop {
            let room = self.0.room.notified();
            tokio::pin!(room);
            // Registered before the look, so that room made in between is not missed.
            room.as_mut().enable();
            {
                let mut state = self.0.lock();
                if state.receiver_gone {
                    return Err(Closed);
                }
                let fits = state.rows + rows <= self.0.bounds.rows && state.bytes + bytes <= self.0.bounds.bytes;
                if (fits && state.queue.len() < ELEMENTS_MAX) || state.queue.is_empty() {
                    state.queue.extend(element.take());
                    state.rows += rows;
                    state.bytes += bytes;
                    if let Some(waker) = state.receiver.take() {
                        waker.wake();
                    }
                    return Ok(());
                }
            }
            room.await;
        }
    }

    /// A look at this edge.
    pub(crate) fn gauge(&self) -> Gauge {
        Gauge(self.0.clone())
    }
}

impl Receiver {
    /// The next element; `None` when the sender is gone and all is read.
    pub(crate) fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Element>> {
        let mut state = self.0.lock();
        if let Some(element) = state.queue.pop_front() {
            let (rows, bytes) = element.weight();
            state.rows -= rows;
            state.bytes -= bytes;
            drop(state);
            self.0.room.notify_one();
            return Poll::Ready(Some(element));
        }
        if state.sender_gone {
            return Poll::Ready(None);
        }
        state.receiver = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Gauge {
    /// The share of the bounds that is taken, 0 to 1.
    pub(crate) fn fill(&self) -> f64 {
        let state = self.0.lock();
        let rows = state.rows as f64 / self.0.bounds.rows.max(1) as f64;
        let bytes = state.bytes as f64 / self.0.bounds.bytes.max(1) as f64;
        rows.max(bytes).min(1.0)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.sender_gone = true;
        if let Some(waker) = state.receiver.take() {
            waker.wake();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_gone = true;
        state.queue.clear();
        drop(state);
        self.0.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn batch(rows: i64) -> Element {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let array = Int64Array::from_iter_values(0..rows);
        Element::Batch(RecordBatch::try_new(schema, vec![Arc::new(array)]).unwrap())
    }

    async fn recv(receiver: &mut Receiver) -> Option<Element> {
        std::future::poll_fn(|context| receiver.poll_recv(context)).await
    }

    #[tokio::test]
    async fn a_full_edge_stops_its_sender_until_there_is_room() {
        let (sender, mut receiver) = channel(Bounds { rows: 10, bytes: 1 << 20 });
        sender.send(batch(8)).await.unwrap();
        let blocked = tokio::spawn(async move { sender.send(batch(8)).await.is_ok() });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!blocked.is_finished());
        assert!(matches!(recv(&mut receiver).await, Some(Element::Batch(_))));
        assert!(blocked.await.unwrap());
        assert!(matches!(recv(&mut receiver).await, Some(Element::Batch(_))));
        assert!(recv(&mut receiver).await.is_none());
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_bounds_passes_alone() {
        let (sender, mut receiver) = channel(Bounds { rows: 10, bytes: 1 << 20 });
        sender.send(batch(1000)).await.unwrap();
        assert_eq!(sender.gauge().fill(), 1.0);
        assert!(recv(&mut receiver).await.is_some());
        assert_eq!(sender.gauge().fill(), 0.0);
    }

    #[tokio::test]
    async fn a_sender_learns_that_its_receiver_is_gone() {
        let (sender, receiver) = channel(Bounds { rows: 1, bytes: 1 });
        sender.send(batch(1)).await.unwrap();
        let blocked = tokio::spawn(async move { sender.send(batch(1)).await.is_err() });
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(receiver);
        assert!(blocked.await.unwrap());
    }
}
