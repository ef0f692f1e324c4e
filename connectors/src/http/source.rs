//! The source that takes requests on a path of the daemon's listener.
//!
//! A request is answered with yes only when its messages are in the ingest log (`respond: durable`). It knows nothing of
//! columns: bodies are cut into messages here and decoded in the pipeline.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, StatusCode, header};
use tokio::sync::{Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;

use super::answer::{RETRY_AFTER_BUSY_S, RETRY_AFTER_FULL_S, Refusal, empty, json};
use super::body::{self, Encoding, Memory};
use super::cors::Cors;
use super::cut::CutError;
use super::request;
use super::source_config::{HttpSourceConfig, Respond};
use crate::error::ConnectorError;
use crate::ingest::{IngestError, IngestMessage, IngestWriter};
use crate::routes::{Handler, Routes};
use crate::source::{MetadataField, PushSource, SourceContext};

/// When the source stops, requests that are under way have so long to be answered; then they are told to come again.
pub(crate) const STOP_WAIT: Duration = Duration::from_secs(10);

/// The metadata fields that a row of this source can carry.
pub static METADATA: LazyLock<Vec<MetadataField>> = LazyLock::new(|| {
    let pair = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
    let pairs = DataType::List(Arc::new(Field::new("item", DataType::Struct(pair), true)));
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let field = |name, data_type, description| MetadataField { name, data_type, description };
    vec![
        field("path", DataType::Utf8, "The path of the request, as it was sent (percent-encoded)."),
        field("query", DataType::Utf8, "The query of the request without its question mark; null without one."),
        field("method", DataType::Utf8, "The method of the request: POST, PUT or PATCH."),
        field("headers", pairs, "The headers of the request, without those that carry secrets."),
        field("remote_addr", DataType::Utf8, "The address of the client, or of the proxy before it."),
        field("received_at", time, "When the request arrived, by this machine's clock."),
    ]
});

/// Where messages go: the ingest log, or what a test puts in its place.
pub(crate) trait Log: Send + Sync {
    fn append(&self, messages: Vec<IngestMessage>) -> BoxFuture<'_, Result<OnDisk, IngestError>>;
}

/// Resolves when the messages of one append are durable.
pub(crate) type OnDisk = BoxFuture<'static, Result<(), IngestError>>;

impl Log for IngestWriter {
    fn append(&self, messages: Vec<IngestMessage>) -> BoxFuture<'_, Result<OnDisk, IngestError>> {
        Box::pin(async move {
            let durable = IngestWriter::append(self, messages).await?;
            let on_disk: OnDisk = Box::pin(durable);
            Ok(on_disk)
        })
    }
}

/// The source.
pub(crate) struct HttpSource {
    config: HttpSourceConfig,
    path: String,
    owner: String,
    routes: Arc<Routes>,
    methods: Vec<Method>,
    allow: HeaderValue,
    cors: Option<Arc<Cors>>,
    /// Headers cost most of a small message in the log, so they are written only where the pipeline reads them.
    with_headers: bool,
}

impl HttpSource {
    pub(crate) fn new(config: HttpSourceConfig, path: String, context: &SourceContext) -> Result<Self, ConnectorError> {
        let methods: Vec<Method> = config.methods.iter().map(|method| Method::from(*method)).collect();
        let names: Vec<_> = methods.iter().map(Method::as_str).chain(["OPTIONS"]).collect();
        let allow = HeaderValue::from_str(&names.join(", "))
            .map_err(|error| ConnectorError::configuration("methods", error.to_string()))?;
        let cors = config.cors.as_ref().map(|cors| cors.resolve(&methods)).transpose()?.map(Arc::new);
        Ok(Self {
            path,
            owner: format!("{}/{}", context.pipeline, context.name),
            routes: context.routes.clone(),
            methods,
            allow,
            cors,
            with_headers: context.metadata.iter().any(|field| field == "headers"),
            config,
        })
    }

    fn endpoint(&self, log: Arc<dyn Log>) -> Endpoint {
        Endpoint {
            places: Arc::new(Semaphore::new(self.config.requests_max)),
            memory: Memory::new(self.config.buffer_max.0),
            methods: self.methods.clone(),
            allow: self.allow.clone(),
            cors: self.cors.clone(),
            with_headers: self.with_headers,
            config: self.config.clone(),
            log,
            give_up: CancellationToken::new(),
            broken: CancellationToken::new(),
            log_state: Mutex::new(None),
            owner: self.owner.clone(),
        }
    }

    /// [`PushSource::run`], with any log.
    pub(crate) async fn serve(&self, log: Arc<dyn Log>, stop: CancellationToken) -> Result<(), ConnectorError> {
        let endpoint = Arc::new(self.endpoint(log));
        let handler: Handler = {
            let endpoint = endpoint.clone();
            Arc::new(move |request| {
                let endpoint = endpoint.clone();
                Box::pin(async move { endpoint.answer(request).await })
            })
        };
        let guard = self.routes.claim(&self.path, &self.owner, handler)?;
        tracing::info!(source = %self.owner, path = %self.path, "taking requests");
        tokio::select! {
            () = stop.cancelled() => {}
            () = endpoint.broken.cancelled() => {}
        }
        // New requests wait in Routes::find for whoever claims the path next; those that are here are answered.
        drop(guard);
        endpoint.drain().await;
        if let Some(IngestError::Failed(reason)) = &*endpoint.log_state() {
            // The log takes nothing more until the daemon is started again, so a restart of the pipeline would not help.
            return Err(ConnectorError::fatal(format!(
                "the source {}: {}",
                self.owner,
                IngestError::Failed(reason.clone())
            )));
        }
        Ok(())
    }
}

#[async_trait]
impl PushSource for HttpSource {
    async fn run(&mut self, log: IngestWriter, stop: CancellationToken) -> Result<(), ConnectorError> {
        self.serve(Arc::new(log), stop).await
    }
}

/// What answers requests while the source runs.
struct Endpoint {
    config: HttpSourceConfig,
    owner: String,
    methods: Vec<Method>,
    allow: HeaderValue,
    cors: Option<Arc<Cors>>,
    with_headers: bool,
    log: Arc<dyn Log>,
    /// One permit per request under way.
    places: Arc<Semaphore>,
    memory: Memory,
    /// Cancelled when the time to answer is over.
    give_up: CancellationToken,
    /// Cancelled when the log failed for good.
    broken: CancellationToken,
    /// The last refusal of the log, so that its start and end are logged once, not per request.
    log_state: Mutex<Option<IngestError>>,
}

impl Endpoint {
    /// Waits for the requests under way, within [`STOP_WAIT`].
    async fn drain(&self) {
        // requests_max was checked to fit.
        let all = self.config.requests_max as u32;
        if tokio::time::timeout(STOP_WAIT, self.places.acquire_many(all)).await.is_err() {
            tracing::warn!(source = %self.owner, "requests were still under way after {STOP_WAIT:?} and are told to come again");
        }
        self.give_up.cancel();
        self.places.close();
    }

    async fn answer(&self, request: Request<Body>) -> Response {
        let origin = request.headers().get(header::ORIGIN).cloned();
        let mut response = if request.method() == Method::OPTIONS && !self.methods.contains(&Method::OPTIONS) {
            self.options(&request)
        } else {
            self.take(request).await.unwrap_or_else(Refusal::response)
        };
        if let Some(cors) = &self.cors {
            cors.allow(origin.as_ref(), response.headers_mut());
        }
        response
    }

    fn options(&self, request: &Request<Body>) -> Response {
        let mut response = empty(StatusCode::NO_CONTENT);
        response.headers_mut().insert(header::ALLOW, self.allow.clone());
        if let Some(cors) = self.cors.as_ref().filter(|_| Cors::is_preflight(request.method(), request.headers())) {
            cors.allow_preflight(response.headers_mut());
        }
        response
    }

    /// Takes one request, from its headers to the answer.
    async fn take(&self, request: Request<Body>) -> Result<Response, Refusal> {
        if !self.methods.contains(request.method()) {
            let reason = format!("the method {} is not taken here", request.method());
            let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, reason);
            return Err(refusal.with(header::ALLOW, self.allow.clone()));
        }
        let _place = self.places.try_acquire().map_err(|error| {
            let reason = match error {
                TryAcquireError::NoPermits => "too many requests are under way; send again later",
                TryAcquireError::Closed => "the source is being stopped or reloaded; send again",
            };
            Refusal::unavailable(reason, RETRY_AFTER_BUSY_S)
        })?;
        tokio::select! {
            // What is ready is answered, even when the time is over.
            biased;
            answer = self.store(request) => answer,
            () = self.give_up.cancelled() => {
                let reason = "the source stopped before the messages were known to be stored; send again";
                Err(Refusal::unavailable(reason, RETRY_AFTER_BUSY_S))
            }
        }
    }

    async fn store(&self, request: Request<Body>) -> Result<Response, Refusal> {
        let received_at = chrono::Utc::now();
        let (head, body) = request.into_parts();
        let auth = self.config.auth.as_ref();
        if let Some(auth) = auth {
            auth.verify_headers(&head.headers)?;
        }
        let encoding = Encoding::of(&head.headers)?;
        let mut held = self.memory.hold();
        let (body_max, body_timeout) = (self.config.body_max.0, self.config.body_timeout.0);
        let packed = body::read(&head.headers, body, body_max, body_timeout, &mut held).await?;
        if let Some(auth) = auth {
            auth.verify_body(&head.headers, &packed)?;
        }
        let (body, mut held) = body::unpack(encoding, packed, self.config.unpacked_max.0, held).await?;
        let payloads = self.cut(&head.headers, &body)?;
        let count = payloads.len();
        let secret = auth.and_then(|auth| auth.secret_header());
        let metadata = request::metadata(&head, received_at, self.with_headers, secret);
        held.grow(request::memory_of(&metadata, count))?;
        if count > 0 {
            let messages = payloads
                .into_iter()
                .map(|payload| IngestMessage { payload: Some(payload), metadata: metadata.clone() })
                .collect();
            self.append(messages).await?;
        }
        let status = match self.config.respond {
            Respond::Durable => StatusCode::OK,
            Respond::Accepted => StatusCode::ACCEPTED,
        };
        Ok(json(status, &serde_json::json!({ "accepted": count })))
    }

    fn cut(&self, headers: &http::HeaderMap, body: &bytes::Bytes) -> Result<Vec<bytes::Bytes>, Refusal> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let layout = self.config.layout.of(content_type, body);
        layout.cut(body, self.config.messages_max).map_err(|error| match error {
            CutError::Malformed(reason) => Refusal::bad_request(reason),
            CutError::TooMany => Refusal::too_large(format!(
                "the body holds more than {} messages (messages_max); send smaller bodies",
                self.config.messages_max
            )),
        })
    }

    async fn append(&self, messages: Vec<IngestMessage>) -> Result<(), Refusal> {
        let stored = match self.log.append(messages).await {
            Ok(on_disk) => match self.config.respond {
                Respond::Durable => on_disk.await,
                // The log writes on without being awaited, and reports a failure to the next append.
                Respond::Accepted => Ok(()),
            },
            Err(error) => Err(error),
        };
        let Err(error) = stored else {
            self.note(None);
            return Ok(());
        };
        let refusal = match &error {
            IngestError::Full => Refusal::unavailable("the log is full; send again later", RETRY_AFTER_FULL_S),
            IngestError::TooLarge { .. } => return Err(Refusal::too_large(format!("{error}; or send smaller bodies"))),
            IngestError::Failed(_) => {
                Refusal::unavailable("the log cannot be written; send again later", RETRY_AFTER_FULL_S)
            }
            IngestError::Closed => Refusal::unavailable("the daemon is stopping; send again later", RETRY_AFTER_FULL_S),
        };
        let failed = matches!(error, IngestError::Failed(_));
        self.note(Some(error));
        if failed {
            self.broken.cancel();
        }
        Err(refusal)
    }

    fn log_state(&self) -> MutexGuard<'_, Option<IngestError>> {
        self.log_state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a change of the log's state, once. A log that failed stays so.
    fn note(&self, now: Option<IngestError>) {
        let mut state = self.log_state();
        if *state == now || matches!(*state, Some(IngestError::Failed(_))) {
            return;
        }
        let source = &self.owner;
        match &now {
            None => tracing::info!(%source, "the ingest log takes messages again"),
            Some(error @ IngestError::Failed(_)) => tracing::error!(%source, "requests are answered with 503: {error}"),
            Some(error) => tracing::warn!(%source, "requests are answered with 503: {error}"),
        }
        *state = now;
    }
}
