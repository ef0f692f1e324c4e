//! The sink that sends rows to an HTTP server: which rows go together in one request, and how many at a time.
//!
//! What happens to one request is in [`super::client`].

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};
use indexmap::IndexMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::client::{ClientOptions, client};
use super::keys::Keys;
use super::send::{IDEMPOTENCY_KEY, Outgoing, Sender, redirects};
use super::sink_config::{HttpSinkConfig, SinkLayout};
use crate::error::ConnectorError;
use crate::format::Encoder;
use crate::sink::{Flushed, Rejected, Sink, SinkContext};
use crate::template::Template;

/// Rows wait for at most so many different URLs at a time; with one more, all that wait are sent.
const TARGETS_MAX: usize = 1024;
/// What a column's value may have in a URL without being encoded (RFC 3986, unreserved).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Headers that belong to the sink or to the connection.
const OWN_HEADERS: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TRANSFER_ENCODING,
    IDEMPOTENCY_KEY,
];

/// What tells requests apart: rows with the same target go together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Target {
    url: String,
    /// The values of [`HttpSink::headers`] that have columns, in their order.
    headers: Vec<String>,
}

/// Rows that wait to be sent together.
struct Group {
    rows: Vec<Bytes>,
    bytes: usize,
    since: Instant,
}

/// The sink.
pub(crate) struct HttpSink {
    config: HttpSinkConfig,
    encoder: Box<dyn Encoder>,
    sender: Arc<Sender>,
    url: Template,
    /// Headers whose values are the same for all rows.
    fixed_headers: HeaderMap,
    headers: Vec<(HeaderName, Template)>,
    waiting: IndexMap<Target, Group>,
    under_way: JoinSet<Result<Vec<Rejected>, ConnectorError>>,
    keys: Keys,
}

impl HttpSink {
    pub(crate) fn new(
        config: HttpSinkConfig,
        context: &SinkContext,
        encoder: Box<dyn Encoder>,
    ) -> Result<Self, ConnectorError> {
        let url = url_template(&config.url, context)?;
        let (fixed_headers, headers) = headers(&config, context, encoder.media_type())?;
        let owner = format!("{}/{}", context.pipeline, context.name);
        let preamble = encoder.file_header().unwrap_or_default();
        let options = ClientOptions {
            timeout: config.timeout,
            redirects: redirects(config.redirects),
            proxy_from_environment: config.proxy_from_environment,
            tls: &config.tls,
        };
        let sender = Sender {
            client: client(options, &context.base_dir)?,
            owner: owner.clone(),
            method: config.method.into(),
            retry: config.retry.clone(),
            layout: config.layout,
            compression: config.compression,
            preamble,
        };
        Ok(Self {
            encoder,
            sender: Arc::new(sender),
            url,
            fixed_headers,
            headers,
            waiting: IndexMap::new(),
            under_way: JoinSet::new(),
            keys: Keys::new(owner),
            config,
        })
    }

    fn rows_max(&self) -> usize {
        if self.config.layout == SinkLayout::Object { 1 } else { self.config.batch.rows }
    }

    /// Where each row goes; `None` where all go to the same place.
    fn targets(&self, rows: &RecordBatch) -> Result<Option<Vec<Result<Target, String>>>, ConnectorError> {
        if self.url.constant().is_some() && self.headers.is_empty() {
            return Ok(None);
        }
        let urls = self.url.render_with(rows, |value, url| url.extend(utf8_percent_encode(value, ENCODED)))?;
        let mut targets: Vec<_> =
            urls.into_iter().map(|url| url.and_then(checked).map(|url| Target { url, headers: Vec::new() })).collect();
        for (name, template) in &self.headers {
            for (target, value) in targets.iter_mut().zip(template.render(rows)?) {
                let value = value.and_then(|value| match HeaderValue::from_str(&value) {
                    Ok(_) => Ok(value),
                    Err(_) => Err(format!("the header {name} would get characters that no header may have")),
                });
                match (target.as_mut(), value) {
                    (Ok(target), Ok(value)) => target.headers.push(value),
                    (Ok(_), Err(reason)) => *target = Err(reason),
                    (Err(_), _) => {}
                }
            }
        }
        Ok(Some(targets))
    }

    /// Puts a row with those it goes with; sends what is full.
    async fn add(&mut self, target: Target, row: Bytes, rejected: &mut Vec<Rejected>) -> Result<(), ConnectorError> {
        let (rows_max, bytes_max) = (self.rows_max(), self.config.batch.bytes.0);
        let full = |group: &Group, more: usize| (group.bytes + more) as u64 > bytes_max;
        if self.waiting.get(&target).is_some_and(|group| full(group, row.len()))
            && let Some(group) = self.waiting.shift_remove(&target)
        {
            self.dispatch(&target, group, rejected).await?;
        }
        if self.waiting.len() >= TARGETS_MAX && !self.waiting.contains_key(&target) {
            self.dispatch_all(rejected).await?;
        }
        let entry = self.waiting.entry(target);
        let index = entry.index();
        let group = entry.or_insert_with(|| Group { rows: Vec::new(), bytes: 0, since: Instant::now() });
        group.bytes += row.len();
        group.rows.push(row);
        if (group.rows.len() >= rows_max || full(group, 0))
            && let Some((target, group)) = self.waiting.shift_remove_index(index)
        {
            self.dispatch(&target, group, rejected).await?;
        }
        Ok(())
    }

    async fn dispatch_all(&mut self, rejected: &mut Vec<Rejected>) -> Result<(), ConnectorError> {
        while let Some((target, group)) = self.waiting.shift_remove_index(0) {
            self.dispatch(&target, group, rejected).await?;
        }
        Ok(())
    }

    /// Starts a request; waits while too many are under way.
    async fn dispatch(
        &mut self,
        target: &Target,
        group: Group,
        rejected: &mut Vec<Rejected>,
    ) -> Result<(), ConnectorError> {
        while self.under_way.len() >= self.config.concurrency {
            self.answered(rejected).await?;
        }
        let url = self.url.constant().unwrap_or(&target.url);
        let url = match Url::parse(url) {
            Ok(url) => url,
            Err(error) => {
                let reason = format!("the row's URL cannot be used: {error}");
                rejected.extend(group.rows.into_iter().map(|payload| Rejected { reason: reason.clone(), payload }));
                return Ok(());
            }
        };
        let mut headers = self.fixed_headers.clone();
        for ((name, _), value) in self.headers.iter().zip(&target.headers) {
            let mut value = HeaderValue::from_str(value).map_err(|error| ConnectorError::fatal(error.to_string()))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let key = self.keys.next(&url, &group.rows);
        let outgoing = Outgoing { url, headers, rows: group.rows, key };
        let sender = self.sender.clone();
        self.under_way.spawn(async move { sender.deliver(outgoing).await });
        Ok(())
    }

    /// Waits for one request that is under way, if there is one.
    async fn answered(&mut self, rejected: &mut Vec<Rejected>) -> Result<bool, ConnectorError> {
        let joined = self.under_way.join_next().await;
        self.collect(joined, rejected)
    }

    fn collect(
        &mut self,
        joined: Option<Result<Result<Vec<Rejected>, ConnectorError>, JoinError>>,
        rejected: &mut Vec<Rejected>,
    ) -> Result<bool, ConnectorError> {
        let outcome = match joined {
            None => return Ok(false),
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => Err(ConnectorError::retry(format!("a request was lost on the way: {error}"))),
        };
        match outcome {
            Ok(more) => {
                rejected.extend(more);
                Ok(true)
            }
            Err(error) => {
                // The pipeline starts again from its last checkpoint; what is under way is sent again from there.
                self.under_way.abort_all();
                Err(error)
            }
        }
    }

    /// Looks at what has been answered meanwhile, without waiting.
    fn look(&mut self, rejected: &mut Vec<Rejected>) -> Result<(), ConnectorError> {
        while let Some(joined) = self.under_way.try_join_next() {
            self.collect(Some(joined), rejected)?;
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn open(&mut self, restored: Option<&[u8]>) -> Result<(), ConnectorError> {
        self.keys.restore(restored)
    }

    async fn write(&mut self, rows: &RecordBatch) -> Result<Vec<Rejected>, ConnectorError> {
        let mut rejected = Vec::new();
        self.look(&mut rejected)?;
        let encoded = self.encoder.encode(rows)?;
        let mut targets = self.targets(rows)?.map(Vec::into_iter);
        for payload in encoded.messages() {
            match targets.as_mut().map_or(Some(Ok(Target::default())), Iterator::next) {
                Some(Ok(target)) => self.add(target, payload, &mut rejected).await?,
                Some(Err(reason)) => rejected.push(Rejected { reason, payload }),
                None => return Err(ConnectorError::fatal("the format made more messages than there are rows")),
            }
        }
        if self.config.batch.period.is_none() {
            self.dispatch_all(&mut rejected).await?;
        }
        Ok(rejected)
    }

    async fn flush(&mut self) -> Result<Flushed, ConnectorError> {
        let mut rejected = Vec::new();
        self.dispatch_all(&mut rejected).await?;
        while self.answered(&mut rejected).await? {}
        Ok(Flushed { rejected, state: Some(self.keys.epoch_ended()) })
    }

    fn next_tick(&self) -> Option<Instant> {
        let period = self.config.batch.period?;
        self.waiting.values().map(|group| group.since + period.0).min()
    }

    async fn tick(&mut self) -> Result<Vec<Rejected>, ConnectorError> {
        let mut rejected = Vec::new();
        self.look(&mut rejected)?;
        let (now, period) = (Instant::now(), self.config.batch.period.unwrap_or_default().0);
        // Groups are not in the order of their age: a group that was sent and came back stands at the end.
        while let Some(index) = self.waiting.values().position(|group| group.since + period <= now) {
            if let Some((target, group)) = self.waiting.shift_remove_index(index) {
                self.dispatch(&target, group, &mut rejected).await?;
            }
        }
        Ok(rejected)
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.waiting.clear();
        self.under_way.shutdown().await;
        Ok(())
    }
}

/// A URL made from a row's values, unless these would lead to another path.
fn checked(url: String) -> Result<String, String> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("a column makes `.` or `..` of a part of the URL's path, which leads to another place".into());
    }
    Ok(url)
}

fn url_template(text: &str, context: &SinkContext) -> Result<Template, ConnectorError> {
    let wrong = |message: &str| Err(ConnectorError::configuration("url", message));
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else {
        return wrong("must begin with http:// or https://");
    };
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    if rest[..host_end].contains('{') {
        return wrong("columns may stand only behind the host: data must not choose the server");
    }
    if rest.contains('#') {
        return wrong("has a `#`, and what follows it is never sent; write %23 if it is meant");
    }
    let template = Template::parse(text, &context.columns, "url")?;
    let sample = template.constant().unwrap_or(&text[..text.len() - rest.len() + host_end]);
    match Url::parse(sample) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            wrong("has a name or password in it; use auth.basic")
        }
        Ok(_) => Ok(template),
        Err(error) => wrong(&format!("is no URL: {error}")),
    }
}

type Headers = (HeaderMap, Vec<(HeaderName, Template)>);

fn headers(config: &HttpSinkConfig, context: &SinkContext, media_type: &str) -> Result<Headers, ConnectorError> {
    let content_type = match (media_type, config.layout) {
        ("application/json", SinkLayout::Lines) => "application/x-ndjson",
        (media_type, _) => media_type,
    };
    let content_type = HeaderValue::from_str(content_type).map_err(|error| ConnectorError::fatal(error.to_string()))?;
    let mut fixed = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]);
    let mut templates = Vec::new();
    for (name, value) in &config.headers {
        let option = format!("headers.{name}");
        let wrong = |message: &str| ConnectorError::configuration(option.as_str(), message);
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("is no name of a header"))?;
        if OWN_HEADERS.contains(&name) {
            return Err(wrong("is set by the sink itself; leave it out"));
        }
        let template = Template::parse(value.expose(), &context.columns, &option).map_err(|error| {
            // An error that shows the value would show a secret.
            if error.message.contains(value.expose()) { wrong("has a brace without its other half") } else { error }
        })?;
        match template.constant() {
            Some(text) => {
                let mut text = HeaderValue::from_str(text)
                    .map_err(|_| wrong("has characters that no header may have (a line end?)"))?;
                text.set_sensitive(true);
                fixed.insert(name, text);
            }
            None => {
                // A header for each row takes the place of one for all.
                fixed.remove(&name);
                templates.push((name, template));
            }
        }
    }
    if let Some(auth) = &config.auth {
        if fixed.contains_key(header::AUTHORIZATION) || templates.iter().any(|(name, _)| name == header::AUTHORIZATION)
        {
            return Err(ConnectorError::configuration(
                "auth",
                "and headers.authorization say the same; keep one of them",
            ));
        }
        fixed.insert(header::AUTHORIZATION, auth.header("auth")?);
    }
    Ok((fixed, templates))
}
