//! One error type for all connectors, with kinds named by the reaction they need.

use std::fmt;

/// What the caller should do about a [`ConnectorError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The outside world is not ready (broker down, connection cut, disk full): the pipeline is restarted from its
    /// last snapshot after a back-off, and nothing is lost.
    Retry,
    /// What the user wrote cannot work: report it at its place in the YAML; trying again does not help.
    Configuration,
    /// What was stored is damaged or an invariant broke: stop the pipeline, say so loudly, never go on silently.
    Fatal,
}

/// Why a connector could not do what it was asked.
#[derive(Debug)]
pub struct ConnectorError {
    /// The reaction this error needs.
    pub kind: ErrorKind,
    /// What went wrong, in a sentence for the user, with the address, topic or path concerned.
    pub message: String,
    /// For [`ErrorKind::Configuration`]: the option concerned, as a dotted path below the connector (`tls.ca`).
    pub option: Option<String>,
}

impl ConnectorError {
    /// The outside world is not ready; see [`ErrorKind::Retry`].
    pub fn retry(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Retry, message: message.into(), option: None }
    }

    /// The option `option` (a dotted path below the connector, `""` for the connector itself) cannot work.
    pub fn configuration(option: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Configuration, message: message.into(), option: Some(option.into()) }
    }

    /// Stored data is damaged or an invariant broke; see [`ErrorKind::Fatal`].
    pub fn fatal(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Fatal, message: message.into(), option: None }
    }
}

impl fmt::Display for ConnectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.option.as_deref() {
            Some(option) if !option.is_empty() => write!(f, "{option}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ConnectorError {}
