//! Where the rows of the live view are shared among its clients: the last rows, and those that come.
//!
//! All clients read the same bytes. What is kept is bounded whatever clients do: the ring by rows and bytes, the rows on
//! their way by [`CHUNKS_MAX`] chunks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

/// The rows kept for new clients may take so many bytes.
const RING_BYTES_MAX: usize = 16 << 20;
/// Rows are handed to clients in chunks of about so many bytes …
const CHUNK_BYTES: usize = 64 << 10;
/// … of which so many are kept for a client that is slower than the rows come.
const CHUNKS_MAX: usize = 256;
/// A client that lost its connection is asked to come back after so long (milliseconds).
const RECONNECT_MS: u32 = 1000;

/// What the clients of one sink share.
pub(super) struct Hub {
    state: Mutex<State>,
    places: Arc<Semaphore>,
    replay: usize,
    keep_alive: Duration,
    skipped: AtomicU64,
}

struct State {
    /// The number of the next row; the first is 1.
    next_id: u64,
    /// The last rows as events, the newest at the end; their numbers have no gaps.
    ring: VecDeque<Bytes>,
    ring_bytes: usize,
    /// `None` once the sink is closed.
    sender: Option<broadcast::Sender<Chunk>>,
}

/// Events that go together: rows `first` to `last`.
#[derive(Debug, Clone)]
struct Chunk {
    first: u64,
    last: u64,
    events: Bytes,
}

impl Hub {
    pub(super) fn new(replay: usize, clients_max: usize, keep_alive: Duration) -> Self {
        let sender = Some(broadcast::Sender::new(CHUNKS_MAX));
        Self {
            state: Mutex::new(State { next_id: 1, ring: VecDeque::new(), ring_bytes: 0, sender }),
            places: Arc::new(Semaphore::new(clients_max)),
            replay,
            keep_alive,
            skipped: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn replay(&self) -> usize {
        self.replay
    }

    /// Goes on from the number of a checkpoint.
    pub(super) fn restore(&self, next_id: u64) {
        self.state().next_id = next_id.max(1);
    }

    pub(super) fn next_id(&self) -> u64 {
        self.state().next_id
    }

    /// Whether anybody looks.
    pub(super) fn watched(&self) -> bool {
        self.state().sender.as_ref().is_some_and(|sender| sender.receiver_count() > 0)
    }

    /// Shows rows; `unseen` rows before them are only counted.
    pub(super) fn publish(&self, unseen: u64, rows: impl Iterator<Item = Bytes>) {
        let mut state = self.state();
        if unseen > 0 {
            state.next_id += unseen;
            // Rows are missing between those in the ring and those that come.
            state.ring.clear();
            state.ring_bytes = 0;
        }
        let mut chunk = Vec::new();
        let mut first = state.next_id;
        for row in rows {
            let id = state.next_id;
            state.next_id += 1;
            let event = event(id, &row);
            chunk.extend_from_slice(&event);
            state.keep(event, self.replay);
            if chunk.len() >= CHUNK_BYTES {
                state.send(Chunk { first, last: id, events: std::mem::take(&mut chunk).into() });
                first = id + 1;
            }
        }
        if !chunk.is_empty() {
            let last = state.next_id - 1;
            state.send(Chunk { first, last, events: chunk.into() });
        }
    }

    /// Ends all streams; gives the number of rows that clients skipped.
    pub(super) fn end(&self) -> u64 {
        self.state().sender = None;
        self.skipped.load(Ordering::Relaxed)
    }

    /// The events for a client that has seen the row `last_seen`; `None` where there is no place or the sink is closed.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        last_seen: Option<u64>,
    ) -> Option<impl Stream<Item = Result<Bytes, Infallible>> + use<>> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        // Under one lock: no row falls between the replay and what comes.
        let state = self.state();
        let receiver = state.sender.as_ref()?.subscribe();
        let kept_from = state.next_id - state.ring.len() as u64;
        // A number that was never given is of another life of the sink.
        let known = last_seen.filter(|id| *id < state.next_id);
        let from = known.map_or(kept_from, |id| (id + 1).max(kept_from));
        let mut start = format!("retry: {RECONNECT_MS}\n\n").into_bytes();
        let missed = known.map_or(0, |id| from - (id + 1));
        if missed > 0 {
            start.extend_from_slice(&skipped(missed));
            self.skipped.fetch_add(missed, Ordering::Relaxed);
        }
        let seen = (from - kept_from) as usize;
        state.ring.iter().skip(seen).for_each(|event| start.extend_from_slice(event));
        let client =
            Client { hub: self.clone(), receiver, next: state.next_id, start: Some(Bytes::from(start)), _place: place };
        drop(state);
        Some(futures::stream::unfold(client, |mut client| async move {
            let events = client.next().await?;
            Some((Ok(events), client))
        }))
    }
}

impl State {
    fn keep(&mut self, event: Bytes, replay: usize) {
        self.ring_bytes += event.len();
        self.ring.push_back(event);
        while self.ring.len() > replay || self.ring_bytes > RING_BYTES_MAX {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.len();
        }
    }

    fn send(&self, chunk: Chunk) {
        if let Some(sender) = &self.sender {
            // An error says that nobody looks.
            sender.send(chunk).ok();
        }
    }
}

/// One who looks.
struct Client {
    hub: Arc<Hub>,
    receiver: broadcast::Receiver<Chunk>,
    /// The number of the row that comes next, if none was skipped.
    next: u64,
    start: Option<Bytes>,
    _place: OwnedSemaphorePermit,
}

impl Client {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(start) = self.start.take() {
            return Some(start);
        }
        loop {
            match tokio::time::timeout(self.hub.keep_alive, self.receiver.recv()).await {
                Ok(Ok(chunk)) => return Some(self.take(chunk)),
                // The numbers of the next chunk say how many rows were skipped.
                Ok(Err(RecvError::Lagged(_))) => {}
                Ok(Err(RecvError::Closed)) => return None,
                Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
            }
        }
    }

    fn take(&mut self, chunk: Chunk) -> Bytes {
        let missed = chunk.first.saturating_sub(self.next);
        self.next = chunk.last + 1;
        if missed == 0 {
            return chunk.events;
        }
        self.hub.skipped.fetch_add(missed, Ordering::Relaxed);
        let mut events = skipped(missed);
        events.extend_from_slice(&chunk.events);
        Bytes::from(events)
    }
}

/// Says that rows are missing: a comment for those who read along, an event for programs.
fn skipped(rows: u64) -> Vec<u8> {
    format!(": skipped {rows} rows: this client is too slow, or was away too long\nevent: skipped\ndata: {rows}\n\n")
        .into_bytes()
}

/// A row as an event. Line ends in it would end the event early, so each line gets its own `data`, as the standard has
/// it.
fn event(id: u64, row: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(row.len() + 40);
    // Writing to a Vec cannot fail.
    write!(event, "id: {id}\nevent: row\n").ok();
    let text = String::from_utf8_lossy(row);
    let mut line = |line: &str| {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line.as_bytes());
        event.push(b'\n');
    };
    if row.contains(&b'\n') || row.contains(&b'\r') {
        let text = text.replace("\r\n", "\n");
        text.strip_suffix('\n').unwrap_or(&text).split(['\n', '\r']).for_each(line);
    } else {
        line(&text);
    }
    event.push(b'\n');
    Bytes::from(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_can_end_its_event_or_make_another() {
        let shown = |row: &[u8]| String::from_utf8(event(1, row).to_vec()).unwrap();
        assert_eq!(shown(b"{}"), "id: 1\nevent: row\ndata: {}\n\n");
        assert_eq!(shown(b"a\r\nb\n"), "id: 1\nevent: row\ndata: a\ndata: b\n\n");
        assert_eq!(shown(b"a\n\nid: 9\rb"), "id: 1\nevent: row\ndata: a\ndata: \ndata: id: 9\ndata: b\n\n");
        assert_eq!(shown(b""), "id: 1\nevent: row\ndata: \n\n");
    }
}
