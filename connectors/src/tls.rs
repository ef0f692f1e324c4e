//! The certificates of a client's TLS connection, from PEM files to OpenSSL.

use std::path::Path;

use native_tls::{Certificate, Identity, TlsConnector, TlsConnectorBuilder};

use crate::error::ConnectorError;

/// The PEM files, as they are written in YAML.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PemFiles<'a> {
    /// Authorities to trust, and no others; the system's where this is missing.
    pub(crate) ca: Option<&'a str>,
    /// The client's certificate.
    pub(crate) cert: Option<&'a str>,
    /// The certificate's private key.
    pub(crate) key: Option<&'a str>,
}

impl PemFiles<'_> {
    /// Reads the files, relative to `base_dir`. Errors name the options `tls.ca`, `tls.cert` and `tls.key`.
    pub(crate) fn builder(&self, base_dir: &Path) -> Result<TlsConnectorBuilder, ConnectorError> {
        let read = |option: &str, path: &str| {
            let path = base_dir.join(path);
            std::fs::read(&path).map_err(|error| {
                ConnectorError::configuration(option, format!("{} cannot be read: {error}", path.display()))
            })
        };
        let mut builder = TlsConnector::builder();
        if let Some(ca) = self.ca {
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
        match (self.cert, self.key) {
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
        Ok(builder)
    }
}
