//! The answers of the HTTP source: short JSON, with a reason and what to do.

use axum::body::Body;
use axum::response::Response;
use http::header::{self, HeaderName};
use http::{HeaderValue, StatusCode};

use super::auth::Denied;

/// A client is told to come back after so long (seconds) when all places are taken.
pub(crate) const RETRY_AFTER_BUSY_S: u32 = 1;
/// A client is told to come back after so long (seconds) when the log is full or broken.
pub(crate) const RETRY_AFTER_FULL_S: u32 = 5;

/// An answer that is not yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), headers: Vec::new() }
    }

    pub(crate) fn bad_request(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    pub(crate) fn too_large(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
    }

    pub(crate) fn unavailable(reason: impl Into<String>, retry_after_s: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason).with(header::RETRY_AFTER, HeaderValue::from(retry_after_s))
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn response(self) -> Response {
        let mut response = json(self.status, &serde_json::json!({ "error": self.reason }));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let status = if denied.unauthenticated { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
        Self::new(status, denied.reason).with(header::WWW_AUTHENTICATE, denied.challenge)
    }
}

/// A response with a JSON body.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
