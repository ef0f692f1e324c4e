//! What the tests of the HTTP connectors share: a listener like the daemon's, a log to play with, rows and an encoder.

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::StatusCode;
use tokio::sync::{Notify, watch};

use super::source::{Log, OnDisk};
use crate::error::ConnectorError;
use crate::format::{Encoded, Encoder};
use crate::ingest::{IngestError, IngestMessage};
use crate::routes::Routes;
use crate::sink::SinkContext;
use crate::source::{ExpressionCompiler, RowExpression, SourceContext};

/// Listens as the daemon does: every path is looked up in `routes`.
pub(crate) async fn listen(routes: Arc<Routes>) -> SocketAddr {
    serve(Router::new().fallback(move |request: Request| {
        let routes = routes.clone();
        async move {
            match routes.find(request.uri().path()).await {
                Some(handler) => handler(request).await,
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
    }))
    .await
}

/// Serves `router` on a free port.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(axum::serve(listener, service).into_future());
    address
}

struct NoExpressions;

impl ExpressionCompiler for NoExpressions {
    fn compile(&self, _: &str, _: &SchemaRef) -> Result<Arc<dyn RowExpression>, String> {
        Err("there are no expressions in these tests".into())
    }
}

pub(crate) fn source_context(routes: Arc<Routes>, metadata: &[&str]) -> SourceContext {
    SourceContext {
        pipeline: "p".into(),
        name: "s".into(),
        base_dir: PathBuf::new(),
        metadata: metadata.iter().map(|name| (*name).to_owned()).collect(),
        batch_rows_max: 100,
        batch_bytes_max: 1 << 20,
        columns: Arc::new(Schema::empty()),
        routes,
        expressions: Arc::new(NoExpressions),
    }
}

pub(crate) fn sink_context(routes: Arc<Routes>) -> SinkContext {
    SinkContext {
        pipeline: "p".into(),
        name: "k".into(),
        base_dir: PathBuf::new(),
        columns: columns(),
        format: None,
        routes,
    }
}

fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)]))
}

/// Rows `{"id": …, "name": …}`.
pub(crate) fn rows(rows: &[(i64, Option<&str>)]) -> RecordBatch {
    let ids = Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id));
    let names: StringArray = rows.iter().map(|(_, name)| *name).collect();
    RecordBatch::try_new(columns(), vec![Arc::new(ids), Arc::new(names)]).unwrap()
}

/// Rows with the numbers `ids`.
pub(crate) fn numbered(ids: std::ops::Range<i64>) -> RecordBatch {
    rows(&ids.map(|id| (id, Some("x"))).collect::<Vec<_>>())
}

/// Writes the rows of [`rows`] as JSON, whatever became of the format `json`.
pub(crate) struct TestEncoder;

impl Encoder for TestEncoder {
    fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded, ConnectorError> {
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write(rows).unwrap();
        writer.finish().unwrap();
        let mut encoded = Encoded::default();
        let mut buffer = Vec::new();
        for line in writer.into_inner().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            buffer.extend_from_slice(line);
            encoded.ends.push(buffer.len());
        }
        encoded.buffer = Bytes::from(buffer);
        Ok(encoded)
    }

    fn media_type(&self) -> &'static str {
        "application/json"
    }
}

/// A log in memory that fails and waits when it is told to.
pub(crate) struct TestLog {
    messages: Mutex<Vec<IngestMessage>>,
    error: Mutex<Option<IngestError>>,
    durable: watch::Sender<bool>,
    pub(crate) appended: Notify,
}

impl TestLog {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            messages: Mutex::default(),
            error: Mutex::default(),
            durable: watch::Sender::new(true),
            appended: Notify::new(),
        })
    }

    /// Appends become durable only while this is true.
    pub(crate) fn set_durable(&self, durable: bool) {
        self.durable.send_replace(durable);
    }

    pub(crate) fn fail(&self, error: Option<IngestError>) {
        *self.error.lock().unwrap() = error;
    }

    pub(crate) fn messages(&self) -> Vec<IngestMessage> {
        self.messages.lock().unwrap().clone()
    }

    pub(crate) fn payloads(&self) -> Vec<String> {
        let text = |message: IngestMessage| String::from_utf8(message.payload.unwrap().to_vec()).unwrap();
        self.messages().into_iter().map(text).collect()
    }
}

impl Log for TestLog {
    fn append(&self, messages: Vec<IngestMessage>) -> BoxFuture<'_, Result<OnDisk, IngestError>> {
        Box::pin(async move {
            if let Some(error) = self.error.lock().unwrap().clone() {
                return Err(error);
            }
            self.messages.lock().unwrap().extend(messages);
            self.appended.notify_one();
            let mut durable = self.durable.subscribe();
            let on_disk: OnDisk = Box::pin(async move {
                durable.wait_for(|durable| *durable).await.map(|_| ()).map_err(|_| IngestError::Closed)
            });
            Ok(on_disk)
        })
    }
}

/// The text of an answer.
pub(crate) async fn text(response: Response) -> String {
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}
