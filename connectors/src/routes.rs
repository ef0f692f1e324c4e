//! Paths of the daemon's one HTTP listener that connectors may claim.
//!
//! The listener belongs to the daemon and stays open over reloads. A route lives as long as its [`RouteGuard`]. While a
//! pipeline is being reloaded its paths may be unclaimed for a moment: the daemon's fallback handler then waits up to
//! [`HANDOVER_WAIT`] for a known path to come back before it answers.
//!
//! A path that ends in `/*` is claimed with all that lies below it; of several that fit a request the longest answers.
//! Methods are the handlers' business: they know best what to answer with 405.

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
    /// Paths that the daemon serves itself.
    reserved: Vec<String>,
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

/// Refuses what cannot be a path of the listener. Errors name the option `path`.
pub fn check_path(path: &str) -> Result<(), ConnectorError> {
    let wrong = |message: &str| Err(ConnectorError::configuration("path", format!("`{path}` {message}")));
    if !path.starts_with('/') {
        return wrong("must begin with a slash");
    }
    if path.contains(|c: char| matches!(c, '?' | '#') || c.is_whitespace() || c.is_control()) {
        return wrong("is more than a path: ?, # and white space may not be in it");
    }
    if !path.is_ascii() {
        return wrong("must be written as it is sent: other characters than ASCII percent-encoded");
    }
    if path.strip_suffix("/*").unwrap_or(path).contains('*') {
        return wrong("may have a star only as `/*` at its end");
    }
    if path.contains("//") || path.split('/').any(|segment| segment == "." || segment == "..") {
        return wrong("has an empty, `.` or `..` part, which clients do not send");
    }
    Ok(())
}

/// The claims that may answer a request for `path`, the most exact first.
fn candidates(path: &str) -> impl Iterator<Item = String> {
    let above = path.rmatch_indices('/').map(|(slash, _)| format!("{}/*", &path[..slash]));
    std::iter::once(path.to_owned()).chain(above)
}

impl Routes {
    /// A table in which the daemon keeps `reserved` for itself: paths, and with `/*` at the end all below them.
    pub fn reserving(reserved: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { reserved: reserved.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Claims `path` (which starts with `/`) for `owner` (`pipeline/source`). The same owner may claim again, which
    /// replaces the handler; another owner is refused.
    pub fn claim(self: &Arc<Self>, path: &str, owner: &str, handler: Handler) -> Result<RouteGuard, ConnectorError> {
        check_path(path)?;
        if candidates(path).any(|candidate| self.reserved.contains(&candidate)) {
            return Err(ConnectorError::configuration(
                "path",
                format!("the path {path} belongs to the daemon itself; choose another"),
            ));
        }
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
            match self.look(path) {
                None => return None,
                Some(Some(handler)) => return Some(handler),
                Some(None) => {}
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return None;
            }
        }
    }

    /// Whether somebody claims `path`, be it that the owner is just being reloaded. Where [`Routes::find`] has nothing
    /// for such a path, the right answer is 503, not 404.
    pub fn is_claimed(&self, path: &str) -> bool {
        self.look(path).is_some()
    }

    /// `None` where nobody claims the path, `Some(None)` while its owner is being reloaded.
    fn look(&self, path: &str) -> Option<Option<Handler>> {
        let claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        // Most paths are claimed as they are.
        if let Some(claim) = claimed.get(path) {
            return Some(claim.handler.clone());
        }
        candidates(path).find_map(|candidate| claimed.get(&candidate)).map(|claim| claim.handler.clone())
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

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    fn handler(text: &'static str) -> Handler {
        Arc::new(move |_| Box::pin(async move { text.into_response() }))
    }

    async fn answer(routes: &Routes, path: &str) -> Option<String> {
        let handler = routes.find(path).await?;
        let response = handler(Request::new(Body::empty())).await;
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        Some(String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_longest_claim_answers() {
        let routes = Arc::new(Routes::default());
        let _all = routes.claim("/*", "a/all", handler("all")).unwrap();
        let _below = routes.claim("/fleet/*", "a/below", handler("below")).unwrap();
        let _exact = routes.claim("/fleet/one", "a/exact", handler("exact")).unwrap();
        for (path, expected) in [
            ("/fleet/one", "exact"),
            ("/fleet/two", "below"),
            ("/fleet/one/deep", "below"),
            ("/fleet/", "below"),
            ("/fleet", "all"),
            ("/", "all"),
        ] {
            assert_eq!(answer(&routes, path).await.as_deref(), Some(expected), "{path}");
        }
    }

    #[tokio::test]
    async fn a_request_waits_while_its_path_is_handed_over() {
        let routes = Arc::new(Routes::default());
        drop(routes.claim("/in", "p/s", handler("old")).unwrap());
        assert!(routes.is_claimed("/in"));
        let (found, guard) = tokio::join!(answer(&routes, "/in"), async {
            tokio::task::yield_now().await;
            routes.claim("/in", "p/s", handler("new")).unwrap()
        });
        assert_eq!(found.as_deref(), Some("new"));
        drop(guard);
        assert!(routes.is_claimed("/in"));
        routes.forget("p");
        assert!(!routes.is_claimed("/in"));
        assert_eq!(answer(&routes, "/other").await, None);
    }

    #[tokio::test]
    async fn another_owner_and_the_daemons_own_paths_are_refused() {
        let routes = Arc::new(Routes::reserving(["/metrics", "/v1/*", "/"]));
        let _guard = routes.claim("/in", "p/s", handler("p")).unwrap();
        let taken = routes.claim("/in", "q/s", handler("q")).err().unwrap();
        assert!(taken.message.contains("already served by p/s"), "{taken}");
        for path in ["/metrics", "/v1/pipelines", "/v1/*", "/"] {
            let reserved = routes.claim(path, "p/s", handler("p")).err().unwrap();
            assert!(reserved.message.contains("belongs to the daemon"), "{path}: {reserved}");
        }
        assert!(routes.claim("/metrics/mine", "p/s", handler("p")).is_ok());
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for wrong in ["", "in", "/in?x", "/a b", "/a*", "/*/b", "/a//b", "/a/../b", "/é"] {
            assert_eq!(check_path(wrong).unwrap_err().option.as_deref(), Some("path"), "{wrong}");
        }
        for right in ["/", "/in", "/in/", "/*", "/a/%20/*"] {
            check_path(right).unwrap();
        }
    }
}
