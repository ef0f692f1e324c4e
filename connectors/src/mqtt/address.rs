//! The broker's address and the login that may stand in it.

use std::fmt;

use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use crate::error::ConnectorError;
use crate::secret::Secret;

/// A broker's address. A password in it is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct BrokerUrl(String);

impl BrokerUrl {
    /// The address, with `***` for a password.
    fn shown(&self) -> String {
        match reqwest::Url::parse(&self.0) {
            Ok(mut url) if url.password().is_some() => match url.set_password(Some("***")) {
                Ok(()) => url.to_string(),
                Err(()) => "***".into(),
            },
            Ok(_) => self.0.clone(),
            // What cannot be read may have a password anywhere.
            Err(_) => "***".into(),
        }
    }
}

impl From<&str> for BrokerUrl {
    fn from(url: &str) -> Self {
        Self(url.into())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown())
    }
}

/// Host, port, whether TLS, and user and password.
pub(super) type Address = (String, u16, bool, Option<(String, String)>);

/// Host, port, whether TLS, and the login.
pub(super) fn address(
    url: &BrokerUrl,
    user: Option<&str>,
    password: Option<&Secret>,
) -> Result<Address, ConnectorError> {
    let wrong = |what: &str| {
        ConnectorError::configuration("url", format!("{what}; write mqtt://HOST:PORT or mqtts://HOST:PORT"))
    };
    let parsed = reqwest::Url::parse(&url.0).map_err(|error| wrong(&error.to_string()))?;
    let (tls, default_port) = match parsed.scheme() {
        "mqtt" => (false, 1883),
        "mqtts" => (true, 8883),
        scheme => return Err(wrong(&format!("`{scheme}://` is not known here"))),
    };
    let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("the host is missing"))?;
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(wrong("nothing may follow the port"));
    }
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().map_err(|_| wrong("its user or password is not UTF-8"))?;
        Ok::<_, ConnectorError>(text.into_owned())
    };
    let url_user = Some(parsed.username()).filter(|user| !user.is_empty()).map(decode).transpose()?;
    let url_password = parsed.password().map(decode).transpose()?;
    if url_user.is_some() && user.is_some() {
        return Err(ConnectorError::configuration("username", "the url names a user as well; write one of them"));
    }
    if url_password.is_some() && password.is_some() {
        return Err(ConnectorError::configuration("password", "the url has a password as well; write one of them"));
    }
    let user = url_user.or_else(|| user.map(str::to_owned));
    let password = url_password.or_else(|| password.map(|secret| secret.expose().to_owned()));
    let login = match (user, password) {
        (Some(user), password) => Some((user, password.unwrap_or_default())),
        (None, Some(_)) => {
            return Err(ConnectorError::configuration("password", "a password needs a username"));
        }
        (None, None) => None,
    };
    Ok((host.to_owned(), parsed.port().unwrap_or(default_port), tls, login))
}
