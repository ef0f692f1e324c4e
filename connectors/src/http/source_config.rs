//! The options of the HTTP source, and their check.

use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::SourceAuth;
use super::cors::CorsConfig;
use super::cut::Layout;
use super::source::HttpSource;
use crate::error::ConnectorError;
use crate::ingest::IngestConfig;
use crate::routes;
use crate::source::{PushSource, SourceContext};
use crate::units::{ByteSize, Duration};

/// The most that `requests_max` can be.
pub(crate) const REQUESTS_MAX: usize = 65_536;
/// The most that `messages_max` can be.
pub(crate) const MESSAGES_MAX: usize = 1_000_000;
/// The most that a single body can be.
pub(crate) const BODY_MAX: ByteSize = ByteSize(1 << 30);

/// Takes requests on a path of the daemon's HTTP listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSourceConfig {
    /// The path on the daemon's listener (`/orders`); with `/*` at its end all paths below it (`/devices/*`). Default:
    /// `/ingest/PIPELINE/SOURCE`.
    pub path: Option<String>,
    /// The methods that are taken. Default: `[POST]`.
    pub methods: Vec<SourceMethod>,
    /// What a request must show: a token, a name and password, or a signature. Default: nothing, everybody may send.
    pub auth: Option<SourceAuth>,
    /// How a body is cut into messages. Default: `auto`, by the content type.
    pub layout: Layout,
    /// When a request is answered with yes. Default: `durable`.
    pub respond: Respond,
    /// The largest body, as sent; a larger one is answered with 413. Default: `4MiB`, at most `1GiB`.
    pub body_max: ByteSize,
    /// The largest body once unpacked (gzip, zstd); a larger one is answered with 413. Default: `16MiB`, at most `1GiB`.
    pub unpacked_max: ByteSize,
    /// The most messages in one body; more are answered with 413. Default: 100000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub messages_max: usize,
    /// How long a body may take to arrive; a slower one is answered with 408. Default: `30s`.
    pub body_timeout: Duration,
    /// The most requests at a time; one more is answered with 503. Default: 256.
    #[schemars(range(min = 1, max = 65_536))]
    pub requests_max: usize,
    /// The most memory that all requests on their way may take together; beyond it they are answered with 503.
    /// Default: `256MiB`.
    pub buffer_max: ByteSize,
    /// Which web pages may send from a browser. Default: none.
    pub cors: Option<CorsConfig>,
    /// The log that makes requests durable before they are answered.
    pub ingest: IngestConfig,
}

impl Default for HttpSourceConfig {
    fn default() -> Self {
        Self {
            path: None,
            methods: vec![SourceMethod::Post],
            auth: None,
            layout: Layout::Auto,
            respond: Respond::Durable,
            body_max: ByteSize::mib(4),
            unpacked_max: ByteSize::mib(16),
            messages_max: 100_000,
            body_timeout: Duration::from_secs(30),
            requests_max: 256,
            buffer_max: ByteSize::mib(256),
            cors: None,
            ingest: IngestConfig::default(),
        }
    }
}

/// A method with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SourceMethod {
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
}

impl From<SourceMethod> for Method {
    fn from(method: SourceMethod) -> Self {
        match method {
            SourceMethod::Post => Self::POST,
            SourceMethod::Put => Self::PUT,
            SourceMethod::Patch => Self::PATCH,
        }
    }
}

/// When a request is answered with yes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Respond {
    /// 200, once the messages are on disk: what was answered is never lost.
    #[default]
    Durable,
    /// 202, once the messages are taken, a moment before they are on disk: what was answered is lost if the daemon dies
    /// in that moment.
    Accepted,
}

impl HttpSourceConfig {
    /// Checks the options and builds the source.
    pub fn build(&self, context: &SourceContext) -> Result<Box<dyn PushSource>, ConnectorError> {
        self.check()?;
        let path = self.path.clone().unwrap_or_else(|| format!("/ingest/{}/{}", context.pipeline, context.name));
        routes::check_path(&path)?;
        Ok(Box::new(HttpSource::new(self.clone(), path, context)?))
    }

    fn check(&self) -> Result<(), ConnectorError> {
        let wrong = |option: &str, message: String| Err(ConnectorError::configuration(option, message));
        if self.methods.is_empty() {
            return wrong("methods", "name at least one of POST, PUT, PATCH".into());
        }
        for (option, value, max) in
            [("requests_max", self.requests_max, REQUESTS_MAX), ("messages_max", self.messages_max, MESSAGES_MAX)]
        {
            if !(1..=max).contains(&value) {
                return wrong(option, format!("{value} is not between 1 and {max}"));
            }
        }
        for (option, value) in [("body_max", self.body_max), ("unpacked_max", self.unpacked_max)] {
            if value.0 == 0 || value > BODY_MAX {
                return wrong(option, format!("{value} is not between 1B and {BODY_MAX}"));
            }
        }
        if self.body_timeout.0.is_zero() {
            return wrong("body_timeout", "0s leaves no time for a body to arrive".into());
        }
        let largest = ByteSize(self.body_max.0.saturating_add(self.unpacked_max.0));
        if self.buffer_max < largest {
            let message = format!("{} is less than one request may need: body_max and unpacked_max", self.buffer_max);
            return wrong("buffer_max", format!("{message} together are {largest}"));
        }
        self.ingest.check("ingest")?;
        self.auth.as_ref().map_or(Ok(()), SourceAuth::check)
    }
}
