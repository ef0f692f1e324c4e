//! The sink that serves rows live, as server-sent events on the daemon's listener.
//!
//! It is a view, not a delivery: whoever looks sees what comes, and the last rows before. A client that is too slow
//! skips rows and is told so; it never holds the pipeline back. Rows that must arrive belong in another sink.

mod hub;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::hub::Hub;
use crate::error::ConnectorError;
use crate::format::{Encoder, FormatConfig};
use crate::http::{Cors, CorsConfig, Credentials, RETRY_AFTER_BUSY_S, Refusal, empty};
use crate::routes::{self, Handler, RouteGuard, Routes};
use crate::sink::{Flushed, Rejected, Sink, SinkContext};
use crate::units::Duration;

/// The most that `replay` can be.
const REPLAY_MAX: usize = 10_000;
/// The most that `clients_max` can be.
const CLIENTS_MAX: usize = 10_000;
/// What a browser shows that opens the path.
const PAGE: &str = include_str!("sse/page.html");
/// The page loads nothing from anywhere and talks to nobody but this path.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'";
const METHODS: &str = "GET, HEAD, OPTIONS";

/// Serves rows live, as server-sent events on the daemon's HTTP listener: each row an event `row` with a number as its
/// `id`. A browser that opens the path sees the rows as a table. This is a view, not a delivery: a client that is too
/// slow skips rows, and is told how many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SseConfig {
    /// The path on the daemon's listener. Default: `/live/PIPELINE/SINK`.
    pub path: Option<String>,
    /// So many of the last rows are sent to a client that connects, or those after its `Last-Event-ID`. Default: 100.
    #[schemars(range(min = 0, max = 10_000))]
    pub replay: usize,
    /// The most clients at a time; one more is answered with 503. Default: 100.
    #[schemars(range(min = 1, max = 10_000))]
    pub clients_max: usize,
    /// While no row comes, a comment is sent this often, so that nothing in between closes the connection. Default:
    /// `15s`.
    pub keep_alive: Duration,
    /// Which web pages may read from a browser. Default: only pages of the daemon itself.
    pub cors: Option<CorsConfig>,
    /// What a client must show. Browsers can only show `basic`. Default: nothing, everybody may look.
    pub auth: Option<Credentials>,
}

impl Default for SseConfig {
    fn default() -> Self {
        Self { path: None, replay: 100, clients_max: 100, keep_alive: Duration::from_secs(15), cors: None, auth: None }
    }
}

impl SseConfig {
    /// Checks the options and builds the sink.
    pub fn build(&self, context: &SinkContext) -> Result<Box<dyn Sink>, ConnectorError> {
        let format = context.format.clone().unwrap_or_default();
        if matches!(format, FormatConfig::Bytes(_)) {
            return Err(ConnectorError::configuration("", "server-sent events are text; use the format json or text"));
        }
        Ok(Box::new(SseSink::new(self, context, format.encoder(context.columns.clone())?)?))
    }

    fn check(&self) -> Result<(), ConnectorError> {
        let wrong = |option: &str, message: String| Err(ConnectorError::configuration(option, message));
        if self.replay > REPLAY_MAX {
            return wrong("replay", format!("{} is more than {REPLAY_MAX}", self.replay));
        }
        if !(1..=CLIENTS_MAX).contains(&self.clients_max) {
            return wrong("clients_max", format!("{} is not between 1 and {CLIENTS_MAX}", self.clients_max));
        }
        if self.keep_alive.0.is_zero() {
            return wrong("keep_alive", "0s would send nothing but comments".into());
        }
        self.auth.as_ref().map_or(Ok(()), |auth| auth.check("auth"))
    }
}

/// The sink.
struct SseSink {
    path: String,
    owner: String,
    routes: Arc<Routes>,
    encoder: Box<dyn Encoder>,
    endpoint: Arc<Endpoint>,
    guard: Option<RouteGuard>,
}

impl SseSink {
    fn new(config: &SseConfig, context: &SinkContext, encoder: Box<dyn Encoder>) -> Result<Self, ConnectorError> {
        config.check()?;
        let path = config.path.clone().unwrap_or_else(|| format!("/live/{}/{}", context.pipeline, context.name));
        routes::check_path(&path)?;
        let cors = config.cors.as_ref().map(|cors| cors.resolve(&[Method::GET])).transpose()?;
        let hub = Arc::new(Hub::new(config.replay, config.clients_max, config.keep_alive.0));
        Ok(Self {
            path,
            owner: format!("{}/{}", context.pipeline, context.name),
            routes: context.routes.clone(),
            encoder,
            endpoint: Arc::new(Endpoint { hub, cors, auth: config.auth.clone() }),
            guard: None,
        })
    }
}

impl Drop for SseSink {
    fn drop(&mut self) {
        // Clients hold the hub, and would wait for ever for rows that nobody sends.
        self.endpoint.hub.end();
    }
}

#[async_trait]
impl Sink for SseSink {
    async fn open(&mut self, restored: Option<&[u8]>) -> Result<(), ConnectorError> {
        if let Some(state) = restored {
            let next_id = state.try_into().map_err(|_| {
                ConnectorError::fatal(format!("the state of {} has {} bytes instead of 8", self.owner, state.len()))
            })?;
            self.endpoint.hub.restore(u64::from_le_bytes(next_id));
        }
        let endpoint = self.endpoint.clone();
        let handler: Handler = Arc::new(move |request| {
            let endpoint = endpoint.clone();
            Box::pin(async move { endpoint.answer(&request) })
        });
        self.guard = Some(self.routes.claim(&self.path, &self.owner, handler)?);
        tracing::info!(sink = %self.owner, path = %self.path, "serving rows live");
        Ok(())
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Rejected>, ConnectorError> {
        let hub = &self.endpoint.hub;
        // Rows that nobody looks at are encoded only as far as they may be replayed.
        let unseen = if hub.watched() { 0 } else { rows.num_rows().saturating_sub(hub.replay()) };
        let shown = rows.slice(unseen, rows.num_rows() - unseen);
        let encoded = self.encoder.encode(&shown)?;
        hub.publish(unseen as u64, encoded.messages());
        Ok(Vec::new())
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        let state = self.endpoint.hub.next_id().to_le_bytes().to_vec();
        Ok(Flushed { rejected: Vec::new(), state: Some(state) })
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.guard = None;
        let skipped = self.endpoint.hub.end();
        if skipped > 0 {
            tracing::info!(sink = %self.owner, skipped, "clients that were too slow skipped rows of the live view");
        }
        Ok(())
    }
}

/// Answers requests on the path.
struct Endpoint {
    hub: Arc<Hub>,
    cors: Option<Cors>,
    auth: Option<Credentials>,
}

impl Endpoint {
    fn answer(&self, request: &Request<Body>) -> Response {
        let headers = request.headers();
        let mut response = match *request.method() {
            Method::OPTIONS => self.options(headers),
            Method::GET | Method::HEAD => self.view(request).unwrap_or_else(Refusal::response),
            _ => Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "rows can only be looked at here: GET")
                .with(header::ALLOW, HeaderValue::from_static(METHODS))
                .response(),
        };
        if let Some(cors) = &self.cors {
            cors.allow(headers.get(header::ORIGIN), response.headers_mut());
        }
        response
    }

    fn options(&self, headers: &HeaderMap) -> Response {
        let mut response = empty(StatusCode::NO_CONTENT);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(METHODS));
        if let Some(cors) = self.cors.as_ref().filter(|_| Cors::is_preflight(&Method::OPTIONS, headers)) {
            cors.allow_preflight(response.headers_mut());
        }
        response
    }

    fn view(&self, request: &Request<Body>) -> Result<Response, Refusal> {
        let headers = request.headers();
        if let Some(auth) = &self.auth {
            auth.verify(headers)?;
        }
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let page = accept.contains("text/html") && !accept.contains("text/event-stream");
        let (body, content_type) = match (request.method() == Method::HEAD, page) {
            (true, true) => (Body::empty(), "text/html; charset=utf-8"),
            (true, false) => (Body::empty(), "text/event-stream"),
            (false, true) => (Body::from(PAGE), "text/html; charset=utf-8"),
            (false, false) => (self.events(headers)?, "text/event-stream"),
        };
        let mut response = Response::new(body);
        let answer = response.headers_mut();
        answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer.append(header::VARY, HeaderValue::from_static("Accept"));
        // Proxies that collect a whole answer before they pass it on would show nothing, ever.
        answer.insert("x-accel-buffering", HeaderValue::from_static("no"));
        if page {
            answer.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        }
        Ok(response)
    }

    fn events(&self, headers: &HeaderMap) -> Result<Body, Refusal> {
        let last_seen = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let events = self.hub.subscribe(last_seen).ok_or_else(|| {
            Refusal::unavailable("no place is free, or the sink is being reloaded; come back", RETRY_AFTER_BUSY_S)
        })?;
        Ok(Body::from_stream(events))
    }
}
