//! Looks at the pipelines' `sse` sinks, as a browser does, and hands their rows to the screen.
//!
//! It asks the handlers of the listener's paths directly, without a connection. A sink that wants a login is left alone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use futures::StreamExt;
use millstream_connectors::config::SinkConfig;
use millstream_connectors::routes::Routes;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::spec::{LoadOptions, find, load};

/// The pause before a path is looked at again that is not served.
const RETRY: Duration = Duration::from_millis(200);
/// The longest event that is waited for.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// The most rows waiting for the screen; the sink skips rows for a client that is too slow.
pub(super) const ROWS_WAITING_MAX: usize = 1024;

/// A row of a sink.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    /// `pipeline/sink`
    pub(super) sink: Arc<str>,
    /// As the sink's format has it, mostly JSON.
    pub(super) text: String,
}

/// The `sse` sinks of the pipelines in a folder.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// `pipeline/sink`, and the path on the listener.
    pub(super) sinks: Vec<(String, String)>,
    /// Pipelines whose files have mistakes, so that nobody knows their sinks.
    pub(super) broken: Vec<String>,
}

/// Looks for the `sse` sinks of all pipelines in `folder`.
pub(super) fn sinks(folder: &PathBuf, options: &LoadOptions) -> Found {
    let (files, _) = find(std::slice::from_ref(folder));
    let mut found = Found::default();
    for loaded in files.iter().map(|file| load(file, options)) {
        let Some(spec) = &loaded.spec else {
            found.broken.push(loaded.name());
            continue;
        };
        for (name, sink) in &spec.sinks {
            if let SinkConfig::Sse(config) = &sink.connector {
                let path = config.path.clone().unwrap_or_else(|| format!("/live/{}/{name}", loaded.name()));
                found.sinks.push((format!("{}/{name}", loaded.name()), path));
            }
        }
    }
    found
}

/// Follows sinks; what is no longer among them is let go.
pub(super) struct Taps {
    routes: Arc<Routes>,
    rows: mpsc::Sender<Row>,
    followed: HashMap<(String, String), AbortOnDropHandle<()>>,
}

impl Taps {
    pub(super) fn new(routes: Arc<Routes>, rows: mpsc::Sender<Row>) -> Self {
        Self { routes, rows, followed: HashMap::new() }
    }

    /// Follows exactly these; of a pipeline whose file has mistakes, those that were followed before.
    pub(super) fn follow(&mut self, found: Found) {
        let Found { sinks, broken } = found;
        self.followed.retain(|followed, _| {
            let pipeline = followed.0.split('/').next().unwrap_or_default();
            sinks.contains(followed) || broken.iter().any(|name| name == pipeline)
        });
        for sink in sinks {
            let (routes, rows) = (self.routes.clone(), self.rows.clone());
            self.followed.entry(sink).or_insert_with_key(|(name, path)| {
                AbortOnDropHandle::new(tokio::spawn(follow(routes, name.as_str().into(), path.clone(), rows)))
            });
        }
    }
}

/// Reads one path for ever, over reloads.
async fn follow(routes: Arc<Routes>, sink: Arc<str>, path: String, rows: mpsc::Sender<Row>) {
    let mut last_id = None;
    loop {
        if let Some(handler) = routes.find(&path).await {
            let mut request = Request::builder().uri(&path).header(header::ACCEPT, "text/event-stream");
            if let Some(id) = &last_id {
                request = request.header("last-event-id", id);
            }
            let Ok(request) = request.body(Body::empty()) else { return };
            let response = handler(request).await;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return,
                _ => {
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
            let mut body = response.into_body().into_data_stream();
            let mut events = Events::default();
            while let Some(Ok(bytes)) = body.next().await {
                for event in events.push(&bytes) {
                    last_id = event.id.or(last_id);
                    if event.kind == "row" && rows.send(Row { sink: sink.clone(), text: event.data }).await.is_err() {
                        return;
                    }
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Cuts a stream of server-sent events.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
}

struct Event {
    id: Option<String>,
    kind: String,
    data: String,
}

impl Events {
    fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.rest.drain(..end + 2).collect();
            let (mut id, mut kind, mut data) = (None, String::new(), Vec::new());
            for line in String::from_utf8_lossy(&block).lines() {
                match line.split_once(": ").unwrap_or((line, "")) {
                    ("id", value) => id = Some(value.to_owned()),
                    ("event", value) => value.clone_into(&mut kind),
                    ("data", value) => data.push(value.to_owned()),
                    _ => {}
                }
            }
            events.push(Event { id, kind, data: data.join("\n") });
        }
        if self.rest.len() > EVENT_BYTES_MAX {
            self.rest.clear();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_wherever_the_chunks_end() {
        let stream = b"retry: 1000\n\nid: 7\nevent: row\ndata: {\"a\":1}\n\nid: 8\nevent: row\ndata: x\ndata: y\n\n";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let cut: Vec<Event> = stream.chunks(size).flat_map(|chunk| events.push(chunk)).collect();
            let rows: Vec<(Option<&str>, &str)> =
                cut.iter().filter(|e| e.kind == "row").map(|e| (e.id.as_deref(), e.data.as_str())).collect();
            assert_eq!(rows, [(Some("7"), "{\"a\":1}"), (Some("8"), "x\ny")]);
        }
    }

    #[test]
    fn the_live_sinks_of_a_folder_are_found_with_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = "sources: {a: {generate: {columns: {n: {sequence: {}}}}}}\n\
                    sinks:\n  live: {from: a, sse: {}}\n  other: {from: a, sse: {path: /b}}\n  out: {from: a, stdout: {}}\n";
        std::fs::write(folder.path().join("p.yaml"), yaml).unwrap();
        std::fs::write(folder.path().join("broken.yaml"), "sinks: [").unwrap();
        let found = sinks(&folder.path().to_owned(), &LoadOptions::default());
        let pair = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        assert_eq!(found.sinks, [pair("p/live", "/live/p/live"), pair("p/other", "/b")]);
        assert_eq!(found.broken, ["broken"]);
    }
}
