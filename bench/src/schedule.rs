//! An open-loop schedule: when each message should be sent, whatever became of those before it.
//!
//! Latency is counted from that moment and not from when a message was sent in the end: a driver that is held up by a
//! slow daemon would otherwise leave out just the messages that had to wait (coordinated omission).

use std::time::{Duration, Instant};

/// Messages at a fixed rate from a moment on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    start: Instant,
    rate: u32,
}

impl Schedule {
    pub(crate) fn new(start: Instant, rate: u32) -> Self {
        Self { start, rate: rate.max(1) }
    }

    /// When message `number` (from 0) should be sent.
    pub(crate) fn due(&self, number: u64) -> Instant {
        self.start + Duration::from_nanos((u128::from(number) * 1_000_000_000 / u128::from(self.rate)) as u64)
    }

    /// How long after it should have been sent message `number` was somewhere at `at`; nothing where that was before.
    pub(crate) fn since_due(&self, number: u64, at: Instant) -> Duration {
        at.saturating_duration_since(self.due(number))
    }

    /// Calls `send` for messages `0..count` when they are due. One that is late is sent at once, and no one is left out.
    pub(crate) fn run<E>(&self, count: u64, mut send: impl FnMut(u64) -> Result<(), E>) -> Result<(), E> {
        for number in 0..count {
            let wait = self.due(number).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            send(number)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_the_rate_without_drift() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 3);
        assert_eq!(schedule.due(0), start);
        assert_eq!(schedule.due(3), start + Duration::from_secs(1));
        assert_eq!(schedule.due(3_000_000), start + Duration::from_secs(1_000_000));
    }

    #[test]
    fn what_is_late_counts_from_when_it_was_due() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 1_000);
        assert_eq!(schedule.since_due(10, start + Duration::from_millis(25)), Duration::from_millis(15));
        assert_eq!(schedule.since_due(10, start), Duration::ZERO);
    }

    #[test]
    fn a_sender_that_is_held_up_leaves_nothing_out() {
        let mut sent = Vec::new();
        let schedule = Schedule::new(Instant::now() - Duration::from_secs(1), 1_000_000);
        schedule
            .run(100, |number| {
                sent.push(number);
                Ok::<_, ()>(())
            })
            .unwrap();
        assert_eq!(sent, (0..100).collect::<Vec<_>>());
    }
}
