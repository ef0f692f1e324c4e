//! Sends one batch of rows until the server has answered: retries, redirects, the split of a batch that is refused.
//!
//! It knows nothing of columns and batching; see [`super::sink`].

use std::io::Write as _;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use reqwest::Url;
use reqwest::redirect::Policy;
use tokio::time::Instant;

use super::client::{chain, shown};
use super::retry::{self, RetryConfig};
use super::sink_config::{Compression, SinkLayout};
use crate::error::ConnectorError;
use crate::sink::Rejected;

/// The header that stays the same when a request is sent again.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// So much of an answer is shown in a reason.
const ANSWER_CHARACTERS: usize = 200;
/// So much of an answer is read, so that the connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A refused batch is split at most so often to find the rows that are at fault; the rest is refused as a whole.
const SPLITS_MAX: u32 = 64;

/// Follows only redirects that keep method and body: with the others the rows would be lost on the way.
pub(super) fn redirects(max: usize) -> Policy {
    Policy::custom(move |attempt| {
        let keeps = matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        if keeps && attempt.previous().len() <= max { attempt.follow() } else { attempt.stop() }
    })
}

/// What is the same for all requests of a sink.
pub(crate) struct Sender {
    pub(crate) client: reqwest::Client,
    pub(crate) owner: String,
    pub(crate) method: Method,
    pub(crate) retry: RetryConfig,
    pub(crate) layout: SinkLayout,
    pub(crate) compression: Compression,
    /// What stands before the rows of every body (a CSV header).
    pub(crate) preamble: Bytes,
}

/// Rows for one URL.
pub(crate) struct Outgoing {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) rows: Vec<Bytes>,
    pub(crate) key: String,
}

/// What a server said in the end.
enum Verdict {
    Accepted,
    Refused(StatusCode, String),
}

/// What one attempt came to.
enum Attempt {
    Final(Verdict),
    Again { reason: String, asked: Option<Duration> },
}

impl Sender {
    /// Sends the rows until each is accepted or refused; the error says that the server cannot be reached.
    pub(crate) async fn deliver(&self, outgoing: Outgoing) -> Result<Vec<Rejected>, ConnectorError> {
        let mut rejected = Vec::new();
        let mut splits = 0;
        let whole = 0..outgoing.rows.len();
        let mut parts = vec![whole.clone()];
        while let Some(part) = parts.pop() {
            let key = if part == whole {
                outgoing.key.clone()
            } else {
                format!("{}-{}-{}", outgoing.key, part.start, part.end)
            };
            match self.send(&outgoing, part.clone(), key).await? {
                Verdict::Accepted => {}
                Verdict::Refused(status, _) if part.len() > 1 && may_be_one_row(status) && splits < SPLITS_MAX => {
                    splits += 1;
                    let middle = part.start + part.len() / 2;
                    // The first half is taken from the end first.
                    parts.push(middle..part.end);
                    parts.push(part.start..middle);
                }
                Verdict::Refused(_, reason) => {
                    let rows = outgoing.rows.get(part).unwrap_or_default();
                    rejected.extend(rows.iter().map(|row| Rejected { reason: reason.clone(), payload: row.clone() }));
                }
            }
        }
        Ok(rejected)
    }

    async fn send(&self, outgoing: &Outgoing, part: Range<usize>, key: String) -> Result<Verdict, ConnectorError> {
        let rows = outgoing.rows.get(part).unwrap_or_default();
        let body = self.body(rows)?;
        let mut headers = outgoing.headers.clone();
        let key = HeaderValue::from_str(&key).map_err(|error| ConnectorError::fatal(error.to_string()))?;
        headers.insert(IDEMPOTENCY_KEY, key);
        if self.compression == Compression::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let started = Instant::now();
        let mut failures = 0;
        loop {
            let (reason, asked) = match self.attempt(&outgoing.url, headers.clone(), body.clone()).await? {
                Attempt::Final(verdict) => return Ok(verdict),
                Attempt::Again { reason, asked } => (reason, asked),
            };
            failures += 1;
            let left = self.retry.max_elapsed.0.saturating_sub(started.elapsed());
            if left.is_zero() || self.retry.max_attempts.is_some_and(|max| failures >= max) {
                let elapsed = started.elapsed().as_secs_f64();
                return Err(ConnectorError::retry(format!("{reason} (attempt {failures}, after {elapsed:.1} s)")));
            }
            let pause = self.retry.pause(failures, rand::random(), asked).min(left);
            tracing::warn!(sink = %self.owner, failures, ?pause, "{reason}; sending again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<Attempt, ConnectorError> {
        let request = self.client.request(self.method.clone(), url.clone()).headers(headers).body(body);
        let place = shown(url);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => {
                return Err(ConnectorError::configuration("url", format!("{place}: {}", chain(&error.without_url()))));
            }
            Err(error) => {
                let reason = format!("{place} gave no answer: {}", chain(&error.without_url()));
                return Ok(Attempt::Again { reason, asked: None });
            }
        };
        let status = response.status();
        if status.is_success() {
            // The status counts; what follows is read only so that the connection can be used again.
            answer_text(&mut response).await;
            return Ok(Attempt::Final(Verdict::Accepted));
        }
        if status.is_redirection() {
            let target = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target = target.and_then(|target| url.join(target).ok()).map_or("nowhere".into(), |url| shown(&url));
            return Err(ConnectorError::retry(format!(
                "{place} answered {status} to a place on {target}: set `url` to where the server is now (`redirects` follows 307 \
                 and 308)"
            )));
        }
        let asked = retry::retry_after(response.headers(), SystemTime::now());
        let text = answer_text(&mut response).await;
        let reason = format!("{place} answered {status}{}{text}", if text.is_empty() { "" } else { ": " });
        Ok(if self.retry.applies_to(status) {
            Attempt::Again { reason, asked }
        } else {
            Attempt::Final(Verdict::Refused(status, reason))
        })
    }

    fn body(&self, rows: &[Bytes]) -> Result<Bytes, ConnectorError> {
        let size = self.preamble.len() + rows.iter().map(|row| row.len() + 1).sum::<usize>() + 2;
        let mut body = BytesMut::with_capacity(size);
        if self.layout != SinkLayout::Array {
            body.extend_from_slice(&self.preamble);
        }
        match self.layout {
            SinkLayout::Object => rows.iter().for_each(|row| body.extend_from_slice(row)),
            SinkLayout::Lines => rows.iter().for_each(|row| {
                body.extend_from_slice(row);
                // CSV rows may end their lines themselves.
                if !row.ends_with(b"\n") {
                    body.put_u8(b'\n');
                }
            }),
            SinkLayout::Array => {
                body.put_u8(b'[');
                for (i, row) in rows.iter().enumerate() {
                    if i > 0 {
                        body.put_u8(b',');
                    }
                    body.extend_from_slice(row);
                }
                body.put_u8(b']');
            }
        }
        match self.compression {
            Compression::None => Ok(body.freeze()),
            Compression::Gzip => {
                let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                let packed = packer.write_all(&body).and_then(|()| packer.finish());
                packed
                    .map(Bytes::from)
                    .map_err(|error| ConnectorError::fatal(format!("a body cannot be packed: {error}")))
            }
        }
    }
}

/// Whether a batch with this answer may be refused for the sake of a few of its rows, or of its size.
fn may_be_one_row(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY)
}

/// Reads an answer, within a limit, and gives its beginning. An answer that breaks off is as long as it is.
pub(super) async fn answer_text(response: &mut reqwest::Response) -> String {
    let mut text = Vec::new();
    let mut length = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        // A character is 4 bytes at most.
        let room = (ANSWER_CHARACTERS * 4).saturating_sub(text.len());
        text.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
        length += chunk.len();
        if length > ANSWER_BYTES_MAX {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(ANSWER_CHARACTERS).collect()
}
