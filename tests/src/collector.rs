//! An HTTP server for the `http` sink to send to: it keeps every body, and refuses requests where a test asks for it.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server that collects lines.
#[derive(Debug)]
pub struct Collector {
    kept: Arc<Kept>,
    /// `http://127.0.0.1:port/rows`.
    pub url: String,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: Mutex<Vec<String>>,
    refuse: AtomicU32,
}

impl Collector {
    /// Starts on a free port.
    pub async fn start() -> Self {
        let kept = Arc::new(Kept::default());
        let router = Router::new().fallback(take).with_state(kept.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let url = format!("http://{}/rows", listener.local_addr().expect("a bound socket has an address"));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("the server runs") });
        Self { kept, url, task }
    }

    /// Answers the next `count` requests with 503, and keeps nothing of them.
    pub fn refuse(&self, count: u32) {
        self.kept.refuse.store(count, Ordering::SeqCst);
    }

    /// The lines of all bodies so far.
    pub fn lines(&self) -> Vec<String> {
        self.kept.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(kept): State<Arc<Kept>>, body: String) -> StatusCode {
    if kept.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    kept.lines.lock().unwrap_or_else(PoisonError::into_inner).extend(body.lines().map(str::to_owned));
    StatusCode::OK
}
