//! TLS to the broker: which certificates are trusted, and which one is shown.

use std::path::Path;

use rumqttc::tokio_native_tls::native_tls::{Certificate, Identity, TlsConnector};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;

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
        let read = |option: &str, path: &str| {
            let path = base_dir.join(path);
            std::fs::read(&path).map_err(|error| {
                ConnectorError::configuration(option, format!("{} cannot be read: {error}", path.display()))
            })
        };
        let mut builder = TlsConnector::builder();
        if let Some(ca) = &self.ca {
            let pem = read("tls.ca", ca)?;
            let wrong = |what: String| ConnectorError::configuration("tls.ca", format!("{ca}: {what}"));
            let authorities =
                Certificate::stack_from_pem(&pem).map_err(|error| wrong(format!("no PEM certificates: {error}")))?;
            if authorities.is_empty() {
                return Err(wrong("there is no certificate in it".into()));
            }
            builder.disable_built_in_roots(true);
            for authority in authorities {
                builder.add_root_certificate(authority);
            }
        }
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let identity = Identity::from_pkcs8(&read("tls.cert", cert)?, &read("tls.key", key)?);
                builder.identity(identity.map_err(|error| {
                    let hint =
                        "the key must be PKCS #8 without a password: openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW";
                    ConnectorError::configuration(
                        "tls.key",
                        format!("{cert} and {key} cannot be used: {error}; {hint}"),
                    )
                })?);
            }
            (None, None) => {}
            (Some(_), None) => return Err(ConnectorError::configuration("tls.key", "cert needs its key")),
            (None, Some(_)) => return Err(ConnectorError::configuration("tls.cert", "key needs its certificate")),
        }
        if self.insecure_skip_verify {
            builder.danger_accept_invalid_certs(true).danger_accept_invalid_hostnames(true);
        }
        builder.build().map_err(|error| ConnectorError::configuration("tls", error.to_string()))
    }
}
