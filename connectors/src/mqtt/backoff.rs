//! The pauses between tries to connect.

use std::time::{Duration, Instant};

use rand::Rng;

use super::broker::Broker;
use super::config::ReconnectConfig;

/// A connection that held so long was a good one: the pauses start from the shortest again.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// The pauses between tries, and what is logged about them: a change is, another failure of the same kind is not.
pub(super) struct Backoff {
    config: ReconnectConfig,
    failures: u32,
    last: Option<String>,
    up_since: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(config: ReconnectConfig) -> Self {
        Self { config, failures: 0, last: None, up_since: None }
    }

    pub(super) fn connected(&mut self) {
        self.last = None;
        self.up_since = Some(Instant::now());
    }

    /// The pause before the next try.
    pub(super) fn lost(&mut self, broker: &Broker, owner: &str, message: &str) -> Duration {
        if self.up_since.take().is_some_and(|since| since.elapsed() >= HEALTHY_AFTER) {
            self.failures = 0;
        }
        let factor = 2u32.saturating_pow(self.failures.min(30));
        let pause = self.config.initial.0.saturating_mul(factor).min(self.config.max.0);
        let share = 1.0 - self.config.jitter * rand::rng().random::<f64>();
        let pause = pause.mul_f64(share);
        self.failures = self.failures.saturating_add(1);
        if self.last.as_deref() == Some(message) {
            tracing::debug!(owner, broker = broker.name(), reason = message, ?pause, "still not connected");
        } else {
            tracing::warn!(
                owner,
                broker = broker.name(),
                reason = message,
                "not connected to the broker; trying again"
            );
            self.last = Some(message.to_owned());
        }
        pause
    }
}
