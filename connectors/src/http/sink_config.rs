//! The options of the HTTP sink, and their check.

use http::Method;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::Credentials;
use super::client::TlsConfig;
use super::retry::RetryConfig;
use super::sink::HttpSink;
use crate::error::ConnectorError;
use crate::format::FormatConfig;
use crate::secret::Secret;
use crate::sink::{Sink, SinkContext};
use crate::units::{ByteSize, Duration};

/// The most that `concurrency` can be.
pub(crate) const CONCURRENCY_MAX: usize = 256;
/// The most that `batch.rows` can be.
pub(crate) const BATCH_ROWS_MAX: usize = 1_000_000;
/// The most that `redirects` can be.
pub(crate) const REDIRECTS_MAX: usize = 10;

/// Sends rows to an HTTP server. Delivery is at least once: after a failure rows may be sent again, with the same
/// `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSinkConfig {
    /// Where to send to. Columns may stand behind the host: `https://example.com/fleet/{vehicle}?day={day}`; their
    /// values are percent-encoded. Rows with different URLs go in different requests.
    pub url: String,
    /// The method. Default: `POST`.
    #[serde(default)]
    pub method: SinkMethod,
    /// Headers to send. Values may have columns (`{tenant}`) and are never shown.
    #[serde(default)]
    pub headers: IndexMap<String, Secret>,
    /// How the sink says who it is. Default: not at all.
    #[serde(default)]
    pub auth: Option<Credentials>,
    /// How rows stand in a body. Default: `lines`.
    #[serde(default)]
    pub layout: SinkLayout,
    /// How many rows go in one request.
    #[serde(default)]
    pub batch: BatchConfig,
    /// How a body is packed. Default: `none`.
    #[serde(default)]
    pub compression: Compression,
    /// The most requests under way at a time. Rows keep their order only with 1. Default: 4.
    #[serde(default = "HttpSinkConfig::default_concurrency")]
    #[schemars(range(min = 1, max = 256))]
    pub concurrency: usize,
    /// How long one request may take, from the connection to the end of the answer. Default: `10s`.
    #[serde(default = "HttpSinkConfig::default_timeout")]
    pub timeout: Duration,
    /// When a request that failed is sent again.
    #[serde(default)]
    pub retry: RetryConfig,
    /// How many redirects (307 and 308, which keep method and body) are followed. Default: 0; a redirect is an error.
    #[serde(default)]
    #[schemars(range(min = 0, max = 10))]
    pub redirects: usize,
    /// Use the proxy that the environment names (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`). Default: false.
    #[serde(default)]
    pub proxy_from_environment: bool,
    /// Certificates for `https`. Default: those of the system.
    #[serde(default)]
    pub tls: TlsConfig,
}

/// A method of the sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SinkMethod {
    /// POST.
    #[default]
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
}

impl From<SinkMethod> for Method {
    fn from(method: SinkMethod) -> Self {
        match method {
            SinkMethod::Post => Self::POST,
            SinkMethod::Put => Self::PUT,
            SinkMethod::Patch => Self::PATCH,
        }
    }
}

/// How rows stand in a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkLayout {
    /// One row per line: `application/x-ndjson` for JSON.
    #[default]
    Lines,
    /// A JSON array of rows: `application/json`.
    Array,
    /// One request per row.
    Object,
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, with `Content-Encoding: gzip`.
    Gzip,
}

/// How many rows go in one request: whatever limit is reached first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// The most rows in one request. Default: 1000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub rows: usize,
    /// The most bytes of rows in one request, before it is packed; one larger row goes alone. Default: `1MiB`.
    pub bytes: ByteSize,
    /// How long rows wait for more. Default: not at all, what arrives together is sent together.
    pub period: Option<Duration>,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { rows: 1000, bytes: ByteSize::mib(1), period: None }
    }
}

impl HttpSinkConfig {
    fn default_concurrency() -> usize {
        4
    }

    fn default_timeout() -> Duration {
        Duration::from_secs(10)
    }

    /// Checks the options and builds the sink.
    pub fn build(&self, context: &SinkContext) -> Result<Box<dyn Sink>, ConnectorError> {
        let format = context.format.clone().unwrap_or_default();
        self.check(&format)?;
        let encoder = format.encoder(context.columns.clone())?;
        Ok(Box::new(HttpSink::new(self.clone(), context, encoder)?))
    }

    fn check(&self, format: &FormatConfig) -> Result<(), ConnectorError> {
        let wrong = |option: &str, message: String| Err(ConnectorError::configuration(option, message));
        match (self.layout, format) {
            (SinkLayout::Array, FormatConfig::Csv(_) | FormatConfig::Text(_) | FormatConfig::Bytes(_)) => {
                return wrong("layout", "an array needs the format json; use lines or object".into());
            }
            (SinkLayout::Lines, FormatConfig::Bytes(_)) => {
                return wrong("layout", "bytes may have line ends in them; use object".into());
            }
            _ => {}
        }
        for (option, value, max) in
            [("concurrency", self.concurrency, CONCURRENCY_MAX), ("batch.rows", self.batch.rows, BATCH_ROWS_MAX)]
        {
            if !(1..=max).contains(&value) {
                return wrong(option, format!("{value} is not between 1 and {max}"));
            }
        }
        if self.redirects > REDIRECTS_MAX {
            return wrong("redirects", format!("{} is more than {REDIRECTS_MAX}", self.redirects));
        }
        if self.batch.bytes.0 == 0 {
            return wrong("batch.bytes", "0B leaves no room for a row".into());
        }
        for (option, value) in [("batch.period", self.batch.period), ("timeout", Some(self.timeout))] {
            if value.is_some_and(|value| value.0.is_zero()) {
                return wrong(option, "0s is no time; leave it out for the default".into());
            }
        }
        if self.layout == SinkLayout::Object && self.batch != BatchConfig::default() {
            return wrong("batch", "with the layout object every row is a request of its own; leave batch out".into());
        }
        if let Some(auth) = &self.auth {
            auth.check("auth")?;
        }
        self.retry.check()
    }
}
