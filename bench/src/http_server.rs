//! The server to which the daemon's `http` sink posts rows.

use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::arrivals::Arrivals;
use crate::failure::Result;

type Target = Arc<OnceLock<Arc<Arrivals>>>;

/// Runs until it is dropped.
#[derive(Debug)]
pub(crate) struct HttpServer {
    /// Where to post.
    pub(crate) url: String,
    target: Target,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Starts on a free port.
    pub(crate) fn start(runtime: &Runtime) -> Result<Self> {
        let target = Target::default();
        let router = Router::new().fallback(take).with_state(target.clone());
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let url = format!("http://{}/rows", listener.local_addr()?);
        let task = runtime.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("bench: the HTTP server ended: {error}");
            }
        });
        Ok(Self { url, target, task })
    }

    /// From now on rows are handed in here.
    pub(crate) fn take(&self, arrivals: Arc<Arrivals>) {
        self.target.get_or_init(|| arrivals);
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A row that cannot be read is refused, so the daemon puts it into its dead letter, which fails the measurement.
async fn take(State(target): State<Target>, body: Bytes) -> StatusCode {
    let at = Instant::now();
    let Some(arrivals) = target.get() else { return StatusCode::BAD_REQUEST };
    for row in body.split(|byte| *byte == b'\n').filter(|row| !row.is_empty()) {
        if arrivals.row(row, at).is_err() {
            return StatusCode::BAD_REQUEST;
        }
    }
    StatusCode::OK
}
