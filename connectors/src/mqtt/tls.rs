//! TLS to the broker: which certificates are trusted, and which one is shown.

use std::path::Path;

use native_tls::TlsConnector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;
use crate::tls::PemFiles;

/// TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file of the authorities to trust, and no others. The system's where this is missing.
    pub ca: Option<String>,
    /// A PEM file with this client's certificate (and those between it and its authority).
    pub cert: Option<String>,
    /// A PEM file with the certificate's private key, in PKCS #8 (`BEGIN PRIVATE KEY`).
    pub key: Option<String>,
    /// Trust any certificate of any name. Anyone on the way can then read and change everything: for tests only.
    pub insecure_skip_verify: bool,
}

impl TlsConfig {
    pub(super) fn connector(&self, base_dir: &Path) -> Result<TlsConnector, ConnectorError> {
        let files = PemFiles { ca: self.ca.as_deref(), cert: self.cert.as_deref(), key: self.key.as_deref() };
        let mut builder = files.builder(base_dir)?;
        if self.insecure_skip_verify {
            builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
        }
        builder.build().map_err(|error| ConnectorError::configuration("tls", error.to_string()))
    }
}
