//! The table `http`: fetched whole by GET, and again on each refresh.

use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use indexmap::IndexMap;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::Credentials;
use super::client::{ClientOptions, TlsConfig, chain, client, shown};
use super::send::answer_text;
use super::sink_config::REDIRECTS_MAX;
use crate::error::ConnectorError;
use crate::format::FormatConfig;
use crate::format::csv::CsvConfig;
use crate::format::document::Document;
use crate::secret::Secret;
use crate::table::{Table, check_limits};
use crate::units::{ByteSize, Duration};

/// A table is not fetched more often.
const REFRESH_MIN: std::time::Duration = std::time::Duration::from_secs(1);
/// What is asked for where the YAML names no format.
const ACCEPT: &str = "text/csv, application/x-ndjson, application/json";

/// Options of the table: a URL that answers with CSV with a header, or JSON (an object per line, or an array of objects).
/// The source needs `columns`: nothing is asked of the server when a pipeline is loaded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpTableConfig {
    /// Where to fetch it from, by GET. The format is that of the answer's `Content-Type` (`text/csv`, `application/json`,
    /// `application/x-ndjson`) where `format` does not say it.
    pub url: String,
    /// How often it is fetched again, at least `1s`; never where this is missing. The server is asked whether it has
    /// changed (`ETag`, `Last-Modified`). A table that cannot be fetched leaves the rows of the last time in use.
    #[serde(default)]
    pub refresh: Option<Duration>,
    /// Headers to send. Values are never shown.
    #[serde(default)]
    pub headers: IndexMap<String, Secret>,
    /// How the request says who it is. Default: not at all.
    #[serde(default)]
    pub auth: Option<Credentials>,
    /// How long a request may take, from the connection to the end of the answer. Default: `30s`.
    #[serde(default = "HttpTableConfig::default_timeout")]
    pub timeout: Duration,
    /// The largest answer that is read; 64MiB by default, 1GiB at most.
    #[serde(default = "HttpTableConfig::default_size_max")]
    pub size_max: ByteSize,
    /// How many redirects are followed; with `auth` or `headers` only to the same server, which alone may see them.
    /// Default: 5.
    #[serde(default = "HttpTableConfig::default_redirects")]
    #[schemars(range(min = 0, max = 10))]
    pub redirects: usize,
    /// Use the proxy that the environment names (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`). Default: false.
    #[serde(default)]
    pub proxy_from_environment: bool,
    /// Certificates for `https`. Default: those of the system.
    #[serde(default)]
    pub tls: TlsConfig,
}

impl HttpTableConfig {
    fn default_timeout() -> Duration {
        Duration::from_secs(30)
    }

    fn default_size_max() -> ByteSize {
        ByteSize::mib(64)
    }

    fn default_redirects() -> usize {
        5
    }

    /// Checks the options and builds the table; opens no connection.
    pub fn build(
        &self,
        base_dir: &Path,
        columns: Option<SchemaRef>,
        format: Option<&FormatConfig>,
    ) -> Result<Box<dyn Table>, ConnectorError> {
        self.check_limits()?;
        let url = Url::parse(&self.url).map_err(|error| ConnectorError::configuration("url", error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(ConnectorError::configuration("url", "must begin with http:// or https://"));
        }
        let options = ClientOptions {
            timeout: self.timeout,
            redirects: self.policy(),
            proxy_from_environment: self.proxy_from_environment,
            tls: &self.tls,
        };
        let client = client(options, base_dir)?;
        let Some(columns) = columns else {
            return Err(ConnectorError::configuration(
                "",
                "the source needs `columns`: nothing is asked of the server when a pipeline is loaded",
            ));
        };
        let document = Document::new(columns);
        if let Some(format) = format {
            document.check(format)?;
        }
        Ok(Box::new(HttpTable {
            client,
            place: shown(&url),
            url,
            headers: self.header_map()?,
            format: format.cloned(),
            document: Arc::new(document),
            size_max: self.size_max,
            refresh: self.refresh,
            last: Mutex::new(None),
        }))
    }

    fn check_limits(&self) -> Result<(), ConnectorError> {
        let refuse = |option: &str, rule: String| Err(ConnectorError::configuration(option, rule));
        check_limits(self.refresh, Duration(REFRESH_MIN), self.size_max)?;
        if self.timeout.0.is_zero() {
            return refuse("timeout", "0s is no time; leave it out for the default".into());
        }
        if self.redirects > REDIRECTS_MAX {
            return refuse("redirects", format!("{} is more than {REDIRECTS_MAX}", self.redirects));
        }
        Ok(())
    }

    fn policy(&self) -> Policy {
        let (max, keep_within) = (self.redirects, self.auth.is_some() || !self.headers.is_empty());
        Policy::custom(move |attempt| {
            let elsewhere = attempt.previous().first().is_some_and(|first| first.origin() != attempt.url().origin());
            if attempt.previous().len() > max || (keep_within && elsewhere) { attempt.stop() } else { attempt.follow() }
        })
    }

    fn header_map(&self) -> Result<HeaderMap, ConnectorError> {
        let mut headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(ACCEPT))]);
        for (name, value) in &self.headers {
            let wrong = |message: String| ConnectorError::configuration(format!("headers.{name}"), message);
            let key = HeaderName::from_bytes(name.as_bytes());
            let key = key.map_err(|_| wrong(format!("`{name}` is no name of a header")))?;
            let mut value = HeaderValue::from_str(value.expose())
                .map_err(|_| wrong("the value has characters that no HTTP header may have (a line end?)".into()))?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        if let Some(auth) = &self.auth {
            auth.check("auth")?;
            if headers.insert(header::AUTHORIZATION, auth.header("auth")?).is_some() {
                let message = "auth and headers.authorization say the same; keep one of them";
                return Err(ConnectorError::configuration("auth", message));
            }
        }
        Ok(headers)
    }
}

/// What the server said the last time.
struct Last {
    /// What to ask with whether it has changed.
    conditions: HeaderMap,
    rows: RecordBatch,
}

struct HttpTable {
    client: Client,
    url: Url,
    /// The URL without what may be secret.
    place: String,
    headers: HeaderMap,
    format: Option<FormatConfig>,
    document: Arc<Document>,
    size_max: ByteSize,
    refresh: Option<Duration>,
    last: Mutex<Option<Last>>,
}

impl HttpTable {
    fn failed(&self, what: impl std::fmt::Display) -> ConnectorError {
        ConnectorError::retry(format!("the table at {}: {what}", self.place))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn content(&self, mut response: Response) -> Result<Vec<u8>, ConnectorError> {
        let too_large = || self.failed(format!("the answer has more bytes than `size_max` ({}) allows", self.size_max));
        if response.content_length().is_some_and(|length| length > self.size_max.0) {
            return Err(too_large());
        }
        let mut content = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(chain(&error.without_url())))? {
            if (content.len() + chunk.len()) as u64 > self.size_max.0 {
                return Err(too_large());
            }
            content.extend_from_slice(&chunk);
        }
        Ok(content)
    }

    /// The format of an answer.
    fn format_of(&self, headers: &HeaderMap) -> Result<FormatConfig, ConnectorError> {
        if let Some(format) = &self.format {
            return Ok(format.clone());
        }
        let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "text/csv" => Ok(FormatConfig::Csv(CsvConfig::default())),
            "text/tab-separated-values" => Ok(FormatConfig::Csv(CsvConfig::delimited_by("\t"))),
            json if json.ends_with("json") => Ok(FormatConfig::default()),
            _ => Err(self.failed(format!(
                "the answer's Content-Type `{media_type}` does not say its format; set `format: csv` or `format: json`"
            ))),
        }
    }
}

#[async_trait]
impl Table for HttpTable {
    fn schema(&self) -> SchemaRef {
        self.document.columns().clone()
    }

    async fn load(&self) -> Result<RecordBatch, ConnectorError> {
        let mut headers = self.headers.clone();
        if let Some(last) = &*self.last() {
            headers.extend(last.conditions.clone());
        }
        let sent = self.client.get(self.url.clone()).headers(headers).send().await;
        let mut response = sent.map_err(|error| self.failed(chain(&error.without_url())))?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED
            && let Some(last) = &*self.last()
        {
            return Ok(last.rows.clone());
        }
        if status.is_redirection() {
            return Err(self.failed(format!("{status}: the redirect is not followed; see `redirects`")));
        }
        if !status.is_success() {
            let text = answer_text(&mut response).await;
            let between = if text.is_empty() { "" } else { ": " };
            return Err(self.failed(format!("{status}{between}{text}")));
        }
        let format = self.format_of(response.headers())?;
        let conditions = [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)];
        let conditions =
            conditions.into_iter().filter_map(|(said, ask)| Some((ask, response.headers().get(said)?.clone())));
        let conditions: HeaderMap = conditions.collect();
        let content = self.content(response).await?;
        let (document, place) = (self.document.clone(), self.place.clone());
        let rows = tokio::task::spawn_blocking(move || document.rows(&format!("at {place}"), &content, &format));
        let rows = rows.await.map_err(|error| self.failed(format!("reading it has failed: {error}")))??;
        *self.last() = (!conditions.is_empty()).then(|| Last { conditions, rows: rows.clone() });
        Ok(rows)
    }

    fn refresh(&self) -> Option<std::time::Duration> {
        self.refresh.map(|refresh| refresh.0)
    }
}
