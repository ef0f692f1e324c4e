//! Paths of the daemon's one HTTP listener that connectors may claim.
//!
//! The listener belongs to the daemon and stays open over reloads. A route lives as long as its [`RouteGuard`]. While a
//! pipeline is being reloaded its paths may be unclaimed for a moment: the daemon's fallback handler then waits up to
//! [`HANDOVER_WAIT`] for a known path to come back before it answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::future::BoxFuture;
use http::Request;

use crate::error::ConnectorError;

/// How long a request waits for a path that was claimed a moment ago.
pub const HANDOVER_WAIT: Duration = Duration::from_secs(5);

/// Answers requests on a claimed path.
pub type Handler = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response> + Send + Sync>;

/// The table of claimed paths. Cheap to look up; changed only when pipelines start and stop.
#[derive(Default)]
pub struct Routes {
    claimed: Mutex<HashMap<String, Claim>>,
    changed: tokio::sync::Notify,
}

struct Claim {
    owner: String,
    /// `None` while the owner is being reloaded.
    handler: Option<Handler>,
}

/// Holds a path; dropping it gives the path up.
pub struct RouteGuard {
    routes: Weak<Routes>,
    path: String,
    handler: Handler,
}

impl Routes {
    /// Claims `path` (which starts with `/`) for `owner` (`pipeline/source`). The same owner may claim again, which
    /// replaces the handler; another owner is refused.
    pub fn claim(self: &Arc<Self>, path: &str, owner: &str, handler: Handler) -> Result<RouteGuard, ConnectorError> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = claimed.get(path).filter(|claim| claim.owner != owner && claim.handler.is_some()) {
            return Err(ConnectorError::configuration(
                "path",
                format!("the path {path} is already served by {}; choose another", other.owner),
            ));
        }
        claimed.insert(path.to_owned(), Claim { owner: owner.to_owned(), handler: Some(handler.clone()) });
        drop(claimed);
        self.changed.notify_waiters();
        Ok(RouteGuard { routes: Arc::downgrade(self), path: path.to_owned(), handler })
    }

    /// The handler of `path`; waits a moment where the path's owner is just being reloaded.
    pub async fn find(&self, path: &str) -> Option<Handler> {
        let deadline = tokio::time::Instant::now() + HANDOVER_WAIT;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that a claim in between is not missed.
            changed.as_mut().enable();
            match self.claimed.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
                None => return None,
                Some(Claim { handler: Some(handler), .. }) => return Some(handler.clone()),
                Some(Claim { handler: None, .. }) => {}
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return None;
            }
        }
    }

    /// Forgets the paths of `pipeline` that nobody serves any more (the pipeline was removed, not reloaded).
    pub fn forget(&self, pipeline: &str) {
        let prefix = format!("{pipeline}/");
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.retain(|_, claim| claim.handler.is_some() || !claim.owner.starts_with(&prefix));
        drop(claimed);
        self.changed.notify_waiters();
    }

    /// All claimed paths with their owners.
    pub fn list(&self) -> Vec<(String, String)> {
        let claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        claimed.iter().map(|(path, claim)| (path.clone(), claim.owner.clone())).collect()
    }
}

impl Drop for RouteGuard {
    fn drop(&mut self) {
        let Some(routes) = self.routes.upgrade() else { return };
        let mut claimed = routes.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        // A newer claim of the same owner is left alone.
        if let Some(claim) = claimed.get_mut(&self.path)
            && claim.handler.as_ref().is_some_and(|handler| Arc::ptr_eq(handler, &self.handler))
        {
            claim.handler = None;
        }
    }
}
