//! The client of the sink and of the table, and what they say about URLs and errors.

use std::error::Error as _;
use std::fmt::Write as _;
use std::path::Path;

use reqwest::Url;
use reqwest::redirect::Policy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;
use crate::units::Duration;

/// Certificates for `https`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file with the authorities to trust, instead of the system's; relative to the pipeline's file.
    pub ca: Option<String>,
    /// A PEM file with the client's certificate (and those between it and its authority). Needs `key`.
    pub cert: Option<String>,
    /// A PEM file with the client's key, PKCS #8. Needs `cert`.
    pub key: Option<String>,
    /// Accept every certificate, of anybody. Only for trying things out. Default: false.
    pub insecure_skip_verify: bool,
}

/// What both have options for.
pub(crate) struct ClientOptions<'a> {
    pub(crate) timeout: Duration,
    pub(crate) redirects: Policy,
    pub(crate) proxy_from_environment: bool,
    pub(crate) tls: &'a TlsConfig,
}

/// Builds the client; reads the certificates' files and connects to nothing.
pub(crate) fn client(options: ClientOptions<'_>, base_dir: &Path) -> Result<reqwest::Client, ConnectorError> {
    let wrong = |option: &str, error: reqwest::Error| ConnectorError::configuration(option, chain(&error));
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
        .timeout(options.timeout.0)
        .tcp_nodelay(true)
        .referer(false)
        .redirect(options.redirects);
    if !options.proxy_from_environment {
        builder = builder.no_proxy();
    }
    let read = |option: &str, file: &str| {
        let path = base_dir.join(file);
        std::fs::read(&path).map_err(|error| {
            ConnectorError::configuration(option, format!("{} cannot be read: {error}", path.display()))
        })
    };
    let tls = options.tls;
    if let Some(ca) = &tls.ca {
        let pem = read("tls.ca", ca)?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong("tls.ca", error))?;
        if certificates.is_empty() {
            return Err(ConnectorError::configuration("tls.ca", format!("{ca} holds no certificate")));
        }
        builder = builder.tls_certs_only(certificates);
    }
    match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let (cert, key) = (read("tls.cert", cert)?, read("tls.key", key)?);
            let identity = reqwest::Identity::from_pkcs8_pem(&cert, &key).map_err(|error| wrong("tls.cert", error))?;
            builder = builder.identity(identity);
        }
        (None, None) => {}
        (Some(_), None) => return Err(ConnectorError::configuration("tls.key", "is missing: cert is set")),
        (None, Some(_)) => return Err(ConnectorError::configuration("tls.cert", "is missing: key is set")),
    }
    if tls.insecure_skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true).tls_danger_accept_invalid_hostnames(true);
    }
    builder.build().map_err(|error| wrong("", error))
}

/// A URL without what may be secret: webhooks have tokens in their paths, too.
pub(crate) fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// An error with its causes: "error sending request" alone helps nobody.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").ok();
        cause = error.source();
    }
    text
}
