//! Who may send, and who we say we are: bearer tokens, basic authentication and signed bodies.
//!
//! Every comparison with a secret takes the same time wherever the first difference is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderMap, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::error::ConnectorError;
use crate::secret::Secret;

/// How a client says who it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    /// A token: `Authorization: Bearer TOKEN`.
    Bearer(Secret),
    /// A name and a password: `Authorization: Basic …`. Only safe over TLS.
    Basic(BasicAuth),
}

/// A name and a password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// The name; without a colon.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// What a request must show to be accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceAuth {
    /// A token: `Authorization: Bearer TOKEN`.
    Bearer(Secret),
    /// A name and a password: `Authorization: Basic …`. Only safe over TLS.
    Basic(BasicAuth),
    /// A signature of the body as it was sent (before it is decompressed), in a header: what most webhooks do.
    Hmac(HmacAuth),
}

/// A signed body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HmacAuth {
    /// The header with the signature (`X-Hub-Signature-256`).
    pub header: String,
    /// The key that both sides know.
    pub secret: Secret,
    /// How the signature is computed; default `sha256`.
    #[serde(default)]
    pub algorithm: HmacAlgorithm,
    /// What stands before the signature in the header (`sha256=`); default nothing.
    #[serde(default)]
    pub prefix: String,
    /// How the signature is written; default `hex`.
    #[serde(default)]
    pub encoding: SignatureEncoding,
}

/// How a signature is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HmacAlgorithm {
    /// HMAC with SHA-256.
    #[default]
    Sha256,
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureEncoding {
    /// Hexadecimal digits, of either case.
    #[default]
    Hex,
    /// Base64 with padding.
    Base64,
}

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denied {
    /// True where the request showed nothing (401), false where a signature was wrong (403).
    pub(crate) unauthenticated: bool,
    /// Why, in a sentence that gives nothing away.
    pub(crate) reason: String,
    /// The value of `WWW-Authenticate`.
    pub(crate) challenge: HeaderValue,
}

impl Credentials {
    /// Refuses what could never work. `option` is named in errors.
    pub(crate) fn check(&self, option: &str) -> Result<(), ConnectorError> {
        match self {
            Self::Bearer(token) if token.expose().is_empty() => {
                Err(ConnectorError::configuration(format!("{option}.bearer"), "the token is empty"))
            }
            Self::Basic(basic) => basic.check(option),
            Self::Bearer(_) => self.header(option).map(|_| ()),
        }
    }

    /// The `Authorization` header that a client sends; marked sensitive, so that no log shows it.
    pub(crate) fn header(&self, option: &str) -> Result<HeaderValue, ConnectorError> {
        let text = match self {
            Self::Bearer(token) => format!("Bearer {}", token.expose()),
            Self::Basic(basic) => format!("Basic {}", basic.encoded()),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            ConnectorError::configuration(option, "the token has characters that no HTTP header may have (a line end?)")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Whether `headers` show these credentials.
    pub(crate) fn verify(&self, headers: &HeaderMap) -> Result<(), Denied> {
        match self {
            Self::Bearer(token) => verify_authorization(headers, "Bearer", token.expose()),
            Self::Basic(basic) => verify_authorization(headers, "Basic", &basic.encoded()),
        }
    }
}

impl BasicAuth {
    fn check(&self, option: &str) -> Result<(), ConnectorError> {
        if self.username.contains(':') {
            return Err(ConnectorError::configuration(
                format!("{option}.basic.username"),
                "a name in basic authentication may not have a colon",
            ));
        }
        if self.password.expose().is_empty() {
            return Err(ConnectorError::configuration(format!("{option}.basic.password"), "the password is empty"));
        }
        Ok(())
    }

    fn encoded(&self) -> String {
        STANDARD.encode(format!("{}:{}", self.username, self.password.expose()))
    }
}

impl SourceAuth {
    /// Refuses what could never work.
    pub(crate) fn check(&self) -> Result<(), ConnectorError> {
        match self.credentials() {
            Some(credentials) => credentials.check("auth"),
            None => Ok(()),
        }?;
        let Self::Hmac(hmac) = self else { return Ok(()) };
        if hmac.secret.expose().is_empty() {
            return Err(ConnectorError::configuration("auth.hmac.secret", "the secret is empty: anybody could sign"));
        }
        HeaderName::from_bytes(hmac.header.as_bytes()).map(|_| ()).map_err(|_| {
            ConnectorError::configuration("auth.hmac.header", format!("`{}` is no name of a header", hmac.header))
        })
    }

    fn credentials(&self) -> Option<Credentials> {
        match self {
            Self::Bearer(token) => Some(Credentials::Bearer(token.clone())),
            Self::Basic(basic) => Some(Credentials::Basic(basic.clone())),
            Self::Hmac(_) => None,
        }
    }

    /// The headers that carry secrets and must not become metadata.
    pub(crate) fn secret_header(&self) -> Option<&str> {
        match self {
            Self::Hmac(hmac) => Some(&hmac.header),
            Self::Bearer(_) | Self::Basic(_) => None,
        }
    }

    /// What can be said before the body is read; spares reading the bodies of strangers.
    pub(crate) fn verify_headers(&self, headers: &HeaderMap) -> Result<(), Denied> {
        match self {
            Self::Bearer(token) => verify_authorization(headers, "Bearer", token.expose()),
            Self::Basic(basic) => verify_authorization(headers, "Basic", &basic.encoded()),
            Self::Hmac(hmac) if !headers.contains_key(&hmac.header) => {
                Err(hmac.denied(true, format!("the header {} with the signature is missing", hmac.header)))
            }
            Self::Hmac(_) => Ok(()),
        }
    }

    /// What can be said once the body is there, as it was sent.
    pub(crate) fn verify_body(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), Denied> {
        let Self::Hmac(hmac) = self else { return Ok(()) };
        let wrong = || hmac.denied(false, format!("the signature in {} does not fit the body", hmac.header));
        let shown = headers.get(&hmac.header).and_then(|value| value.to_str().ok()).ok_or_else(wrong)?;
        let digits = shown.trim().strip_prefix(&hmac.prefix).ok_or_else(wrong)?;
        let signature = match hmac.encoding {
            SignatureEncoding::Hex => from_hex(digits),
            SignatureEncoding::Base64 => STANDARD.decode(digits).ok(),
        };
        let signature = signature.ok_or_else(wrong)?;
        // HMAC takes keys of any length, so the error arm is never taken; it must not let anybody in all the same.
        let mut mac = Hmac::<Sha256>::new_from_slice(hmac.secret.expose().as_bytes()).map_err(|_| wrong())?;
        mac.update(body);
        mac.verify_slice(&signature).map_err(|_| wrong())
    }
}

impl HmacAuth {
    fn denied(&self, unauthenticated: bool, reason: String) -> Denied {
        let challenge = HeaderValue::from_str(&format!("HMAC-SHA256 header=\"{}\"", self.header));
        let challenge = challenge.unwrap_or(HeaderValue::from_static("HMAC-SHA256"));
        Denied { unauthenticated, reason, challenge }
    }
}

fn verify_authorization(headers: &HeaderMap, scheme: &'static str, expected: &str) -> Result<(), Denied> {
    let denied = |reason: String| Denied {
        unauthenticated: true,
        reason,
        challenge: match scheme {
            "Basic" => HeaderValue::from_static("Basic realm=\"millstream\", charset=\"UTF-8\""),
            _ => HeaderValue::from_static("Bearer realm=\"millstream\""),
        },
    };
    let Some(value) = headers.get(AUTHORIZATION) else {
        return Err(denied(format!("the header Authorization: {scheme} … is missing")));
    };
    let bytes = value.as_bytes();
    let (shown_scheme, shown) = match bytes.iter().position(|byte| *byte == b' ') {
        Some(space) => (&bytes[..space], bytes[space..].trim_ascii()),
        None => (bytes, &[][..]),
    };
    if !shown_scheme.eq_ignore_ascii_case(scheme.as_bytes()) {
        return Err(denied(format!("the header Authorization must have the scheme {scheme}")));
    }
    if bool::from(shown.ct_eq(expected.as_bytes())) {
        Ok(())
    } else {
        Err(denied("the token or password is wrong".into()))
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn only_the_right_token_or_password_is_let_in() {
        let bearer = SourceAuth::Bearer(Secret::from("s3cret".to_owned()));
        assert!(bearer.verify_headers(&headers("authorization", "Bearer s3cret")).is_ok());
        assert!(bearer.verify_headers(&headers("authorization", "bearer  s3cret")).is_ok());
        for wrong in ["Bearer s3cre", "Bearer s3cretx", "Bearer", "Bearer ", "Basic s3cret", "s3cret", ""] {
            assert!(bearer.verify_headers(&headers("authorization", wrong)).is_err(), "{wrong}");
        }
        assert!(bearer.verify_headers(&HeaderMap::new()).unwrap_err().unauthenticated);
        let basic =
            SourceAuth::Basic(BasicAuth { username: "ann".into(), password: Secret::from("pass:word".to_owned()) });
        assert!(basic.verify_headers(&headers("authorization", "Basic YW5uOnBhc3M6d29yZA==")).is_ok());
        assert!(basic.verify_headers(&headers("authorization", "Basic YW5uOnBhc3M=")).is_err());
    }

    #[test]
    fn a_signature_as_github_writes_it_is_verified() {
        // The example of GitHub's documentation of webhooks.
        let auth = SourceAuth::Hmac(HmacAuth {
            header: "X-Hub-Signature-256".into(),
            secret: Secret::from("It's a Secret to Everybody".to_owned()),
            algorithm: HmacAlgorithm::Sha256,
            prefix: "sha256=".into(),
            encoding: SignatureEncoding::Hex,
        });
        let right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert!(auth.verify_body(&headers("x-hub-signature-256", right), b"Hello, World!").is_ok());
        assert!(auth.verify_body(&headers("x-hub-signature-256", right), b"Hello, World?").is_err());
        for wrong in ["", "sha256=", "sha256=75", "sha256=xyz", &right[7..]] {
            let denied = auth.verify_body(&headers("x-hub-signature-256", wrong), b"Hello, World!").unwrap_err();
            assert!(!denied.unauthenticated, "{wrong}");
        }
    }

    #[test]
    fn empty_secrets_are_refused() {
        let empty = || Secret::from(String::new());
        assert!(SourceAuth::Bearer(empty()).check().is_err());
        assert!(SourceAuth::Basic(BasicAuth { username: "a".into(), password: empty() }).check().is_err());
        let newline = Credentials::Bearer(Secret::from("token\n".to_owned())).check("auth").unwrap_err();
        assert!(!newline.to_string().contains("token\n"));
    }
}
