//! The daemon's one HTTP listener: health, metrics, the API, and the paths of connectors.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, Request, State as Shared_};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::supervisor::{State, Status};
use super::{Event, Pipeline, Shared, StartError};
use crate::spec::Located;
use crate::spec::problem::Severity;

/// What the handlers work with.
#[derive(Clone)]
struct Api {
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
}

/// Binds `listen` and serves.
pub(crate) async fn serve(
    listen: &str,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
) -> Result<(SocketAddr, AbortOnDropHandle<()>), StartError> {
    let failed = |error| StartError::Listen(listen.to_owned(), error);
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let router = Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/pipelines", get(pipelines))
        .route("/v1/pipelines/{name}", get(pipeline))
        .route("/v1/reload", post(reload))
        .fallback(connectors)
        .with_state(Api { shared, events });
    let task = tokio::spawn(async move {
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        if let Err(error) = axum::serve(listener, service).await {
            tracing::error!(%error, "the HTTP listener ended");
        }
    });
    Ok((address, AbortOnDropHandle::new(task)))
}

/// A pipeline, as the API shows it.
#[derive(serde::Serialize)]
struct Shown {
    name: String,
    file: String,
    #[serde(flatten)]
    status: Status,
    reloads: u64,
    /// Why the file's last change is not what runs.
    refused: Option<String>,
    problems: Vec<Located>,
    /// Rows so far, by source and sink.
    rows_in: HashMap<String, u64>,
    rows_out: HashMap<String, u64>,
    epochs: u64,
}

fn show(name: &str, pipeline: &Pipeline) -> Shown {
    let metrics = &pipeline.supervisor.metrics;
    let (rows_in, rows_out) = metrics.row_counts();
    Shown {
        name: name.to_owned(),
        file: pipeline.file.display().to_string(),
        status: pipeline.supervisor.status(),
        reloads: pipeline.reloads,
        refused: pipeline.refused.clone(),
        problems: pipeline.problems.clone(),
        rows_in,
        rows_out,
        epochs: metrics.epochs.get(),
    }
}

async fn index(Shared_(api): Shared_<Api>) -> Response {
    let mut text = String::from(
        "millstream\n\nGET  /health\nGET  /metrics\nGET  /v1/pipelines\nGET  /v1/pipelines/NAME\nPOST /v1/reload\n",
    );
    let mut routes = api.shared.routes.list();
    routes.sort();
    for (path, owner) in routes {
        text.push_str(&format!("     {path}  ({owner})\n"));
    }
    text.into_response()
}

/// 200 while the daemon works; the body says how many pipelines do.
async fn health(Shared_(api): Shared_<Api>) -> Response {
    let pipelines = api.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
    let count = |wanted: State| pipelines.values().filter(|p| p.supervisor.status().state == wanted).count();
    let body = serde_json::json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "pipelines": pipelines.len(),
        "running": count(State::Running),
        "restarting": count(State::Restarting),
        "finished": count(State::Finished),
    });
    Json(body).into_response()
}

async fn metrics(Shared_(api): Shared_<Api>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, api.shared.metrics.render()).into_response()
}

async fn pipelines(Shared_(api): Shared_<Api>) -> Response {
    let pipelines = api.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
    let shown: Vec<Shown> = pipelines.iter().map(|(name, pipeline)| show(name, pipeline)).collect();
    let problems = api.shared.problems.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Json(serde_json::json!({ "pipelines": shown, "problems": problems })).into_response()
}

async fn pipeline(Shared_(api): Shared_<Api>, Path(name): Path<String>) -> Response {
    let pipelines = api.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
    match pipelines.get(&name) {
        Some(pipeline) => Json(show(&name, pipeline)).into_response(),
        None => error(StatusCode::NOT_FOUND, format!("there is no pipeline `{name}`")),
    }
}

/// Looks at the files at once. 200 where all is well, 422 where a file has mistakes, a change was refused, or what is new
/// failed as soon as it was started.
async fn reload(Shared_(api): Shared_<Api>) -> Response {
    let (reply, answer) = oneshot::channel();
    if api.events.send(Event::Reload(reply)).await.is_err() {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping".into());
    }
    match answer.await {
        Ok(report) => {
            let mistakes = report.problems.iter().any(|problem| problem.severity == Severity::Error);
            let well = !mistakes && report.refused.is_empty() && report.failed.is_empty();
            let status = if well { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
            (status, Json(report)).into_response()
        }
        Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping".into()),
    }
}

/// Everything else belongs to connectors.
async fn connectors(
    Shared_(api): Shared_<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let Some(handler) = api.shared.routes.find(&path).await else {
        if api.shared.routes.is_claimed(&path) {
            let mut response = error(StatusCode::SERVICE_UNAVAILABLE, format!("{path} is not served at this moment"));
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
            return response;
        }
        return error(StatusCode::NOT_FOUND, format!("nothing is served at {path}; GET / lists what is"));
    };
    let mut request: axum::http::Request<Body> = request;
    request.extensions_mut().insert(ConnectInfo(peer));
    handler(request).await
}

fn error(status: StatusCode, message: String) -> Response {
    (status, Json(serde_json::json!({ "error": message }))).into_response()
}
