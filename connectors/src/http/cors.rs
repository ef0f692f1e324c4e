//! Cross-origin requests: which web pages may send to, or read from, a path of the daemon's listener.

use std::collections::BTreeSet;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;

/// Browsers ask again after this long (seconds).
const PREFLIGHT_MAX_AGE: &str = "600";

/// Which web pages may use the path from a browser.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins of web pages (`https://app.example.com`), or `*` for all.
    pub origins: Vec<String>,
    /// Request headers that pages may send beside the usual ones. Default: `content-type`, `content-encoding` and
    /// `authorization`.
    #[serde(default = "CorsConfig::default_headers")]
    pub headers: Vec<String>,
}

impl CorsConfig {
    fn default_headers() -> Vec<String> {
        ["content-type", "content-encoding", "authorization"].map(str::to_owned).to_vec()
    }

    /// Checks the options and makes the headers once.
    pub(crate) fn resolve(&self, methods: &[Method]) -> Result<Cors, ConnectorError> {
        if self.origins.is_empty() {
            return Err(ConnectorError::configuration("cors.origins", "name at least one origin, or `*` for all"));
        }
        for origin in self.origins.iter().filter(|origin| *origin != "*") {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if !rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', ' ', '*'])) {
                return Err(ConnectorError::configuration(
                    "cors.origins",
                    format!("`{origin}` is no origin; write scheme and host without a path: https://app.example.com"),
                ));
            }
        }
        for name in &self.headers {
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
                ConnectorError::configuration("cors.headers", format!("`{name}` is no name of a header"))
            })?;
        }
        let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
        let value = |text: String, option: &str| {
            HeaderValue::from_str(&text).map_err(|error| ConnectorError::configuration(option, error.to_string()))
        };
        Ok(Cors {
            any: self.origins.iter().any(|origin| origin == "*"),
            origins: self.origins.iter().map(|origin| origin.to_ascii_lowercase()).collect(),
            methods: value(methods.join(", "), "methods")?,
            headers: value(self.headers.join(", "), "cors.headers")?,
        })
    }
}

/// [`CorsConfig`], checked.
#[derive(Debug)]
pub(crate) struct Cors {
    any: bool,
    origins: BTreeSet<String>,
    methods: HeaderValue,
    headers: HeaderValue,
}

impl Cors {
    /// Whether this is a browser's question before the real request.
    pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        method == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Adds what a browser needs in every answer, so that the page can read it, errors too.
    pub(crate) fn allow(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        if self.any {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            return;
        }
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        let known =
            |origin: &&HeaderValue| origin.to_str().is_ok_and(|text| self.origins.contains(&text.to_ascii_lowercase()));
        if let Some(origin) = origin.filter(known) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
    }

    /// Adds the answer to a preflight; [`Cors::allow`] says for whom.
    pub(crate) fn allow_preflight(&self, answer: &mut HeaderMap) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone());
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_MAX_AGE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Result<Cors, ConnectorError> {
        let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        CorsConfig { origins, headers: CorsConfig::default_headers() }.resolve(&[Method::POST])
    }

    #[test]
    fn only_the_named_origins_are_allowed() {
        let cors = cors(&["https://app.example.com"]).unwrap();
        for (origin, allowed) in [("https://app.example.com", true), ("https://evil.example.com", false)] {
            let mut answer = HeaderMap::new();
            cors.allow(Some(&HeaderValue::from_static(origin)), &mut answer);
            assert_eq!(answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), allowed, "{origin}");
            assert_eq!(answer[header::VARY], "Origin");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for wrong in ["app.example.com", "https://", "https://a.example/path", "https://*.example.com"] {
            assert!(cors(&[wrong]).unwrap_err().to_string().contains("is no origin"), "{wrong}");
        }
        assert!(cors(&[]).is_err());
    }
}
