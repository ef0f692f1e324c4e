//! Why a pipeline's run ended.

use std::sync::Arc;

use millstream_connectors::{ConnectorError, ErrorKind};

/// An error that ends a run of a pipeline. The supervisor restarts it from its last snapshot.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{component}: {message}")]
pub(crate) struct RunError {
    /// Where: `source readings`, `step warm`, `sink alarms`, `checkpoint`.
    pub(crate) component: String,
    /// What happened, in a sentence.
    pub(crate) message: String,
    /// The reaction it needs.
    pub(crate) kind: ErrorKind,
}

impl RunError {
    /// An error that a restart may mend.
    pub(crate) fn retry(component: impl Into<String>, message: impl ToString) -> Self {
        Self { component: component.into(), message: message.to_string(), kind: ErrorKind::Retry }
    }

    /// An error that a restart will not mend.
    pub(crate) fn fatal(component: impl Into<String>, message: impl ToString) -> Self {
        Self { component: component.into(), message: message.to_string(), kind: ErrorKind::Fatal }
    }

    /// A connector's error.
    pub(crate) fn connector(component: impl Into<String>, error: &ConnectorError) -> Self {
        Self { component: component.into(), message: error.to_string(), kind: error.kind }
    }
}

/// A task's channel partner is gone: the run is being torn down, and the task that knows why will say so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Closed;

/// How a task ends early.
#[derive(Debug, Clone)]
pub(crate) enum Interrupt {
    /// Its neighbour is gone.
    Closed,
    /// An error of its own.
    Failed(Arc<RunError>),
}

impl From<Closed> for Interrupt {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<RunError> for Interrupt {
    fn from(error: RunError) -> Self {
        Self::Failed(Arc::new(error))
    }
}
