//! How long keys are kept that no window frees: until none of their rows has come for the time-to-live.
//!
//! Time is event time where the stream has one, else the clock on the wall since the operator was made. Keys lie in
//! buckets by the newest time that they had when they were put there; a bucket whose time is over is looked through,
//! and what has had rows since moves on. So a key costs little, and nothing is searched.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// A key is freed at most this share of the time-to-live after its time is over.
const BUCKETS_PER_TTL: i64 = 64;
/// Stands for a key that is not kept.
const FREE: i64 = i64::MIN;

/// Which keys are kept, by number.
pub(super) struct Retention {
    ttl: Option<i64>,
    width: i64,
    /// By key: the newest time of its rows in nanoseconds.
    newest: Vec<i64>,
    live: usize,
    buckets: BTreeMap<i64, Vec<u32>>,
    /// Where processing time begins; `None` where event time counts.
    start: Option<Instant>,
}

impl Retention {
    /// Keeps keys for `ttl` nanoseconds, or for ever.
    pub(super) fn new(ttl: Option<i64>, event_time: bool) -> Self {
        Self {
            ttl,
            width: (ttl.unwrap_or(1) / BUCKETS_PER_TTL).max(1),
            newest: Vec::new(),
            live: 0,
            buckets: BTreeMap::new(),
            start: (!event_time).then(Instant::now),
        }
    }

    /// Forgets all keys.
    pub(super) fn clear(&mut self) {
        self.newest.clear();
        self.buckets.clear();
        self.live = 0;
    }

    /// How many keys are kept.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// How many keys have a number.
    pub(super) fn numbered(&self) -> usize {
        self.newest.len()
    }

    pub(super) fn is_live(&self, key: u32) -> bool {
        self.newest.get(key as usize).is_some_and(|newest| *newest != FREE)
    }

    /// The newest time of a key that is kept.
    pub(super) fn newest(&self, key: u32) -> i64 {
        self.newest.get(key as usize).copied().unwrap_or(FREE)
    }

    /// The clock on the wall as a time of ours; `None` where event time counts.
    pub(super) fn clock(&self, now: Instant) -> Option<i64> {
        self.start.map(|start| i64::try_from(now.duration_since(start).as_nanos()).unwrap_or(i64::MAX))
    }

    /// True where a row of `key` at `time` does not belong to those before it: it is further behind them than the
    /// time-to-live, or `watermark` has freed them.
    #[inline]
    pub(super) fn is_over(&self, key: u32, time: i64, watermark: i64) -> bool {
        let newest = self.newest(key);
        let Some(last) = self.ttl.map(|ttl| newest.saturating_add(ttl)).filter(|_| newest != FREE) else {
            return false;
        };
        // Where late rows are all that comes, the watermark is not said anew.
        time > last || (watermark > last && self.over(newest.div_euclid(self.width)).is_some_and(|o| o < watermark))
    }

    /// A row of `key` has come with this time.
    #[inline]
    pub(super) fn touch(&mut self, key: u32, time: i64) {
        let (index, time) = (key as usize, time.max(FREE + 1));
        if index >= self.newest.len() {
            self.newest.resize(index + 1, FREE);
        }
        let newest = self.newest[index];
        if newest == FREE {
            self.live += 1;
            if self.ttl.is_some() {
                self.buckets.entry(time.div_euclid(self.width)).or_default().push(key);
            }
        }
        if time > newest {
            self.newest[index] = time;
        }
    }

    /// Frees `key`, which is in its bucket still and found to be free there.
    pub(super) fn free(&mut self, key: u32) {
        if let Some(newest) = self.newest.get_mut(key as usize).filter(|newest| **newest != FREE) {
            *newest = FREE;
            self.live -= 1;
        }
    }

    /// When the last time in `bucket` is over.
    fn over(&self, bucket: i64) -> Option<i64> {
        Some(bucket.saturating_add(1).saturating_mul(self.width).saturating_add(self.ttl?))
    }

    /// The keys whose time is over at `time`; they are freed. In the order of their numbers.
    pub(super) fn expire(&mut self, time: i64) -> Vec<u32> {
        let mut expired = Vec::new();
        while let Some((&bucket, _)) = self.buckets.first_key_value()
            && self.over(bucket).is_some_and(|over| over < time)
        {
            for key in self.buckets.remove(&bucket).unwrap_or_default() {
                let newest = self.newest(key);
                if newest == FREE {
                    continue;
                }
                let now_in = newest.div_euclid(self.width);
                if now_in > bucket {
                    self.buckets.entry(now_in).or_default().push(key);
                } else {
                    expired.push(key);
                    self.free(key);
                }
            }
        }
        expired.sort_unstable();
        expired
    }

    /// When the clock on the wall frees the next keys.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let (start, (&bucket, _)) = (self.start?, self.buckets.first_key_value()?);
        let over = u64::try_from(self.over(bucket)?.saturating_add(1)).ok()?;
        // Timers go by milliseconds.
        start.checked_add(Duration::from_nanos(over) + Duration::from_millis(1))
    }

    pub(super) fn bytes(&self) -> usize {
        self.newest.capacity() * size_of::<i64>() + self.live * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_freed_when_its_newest_row_is_older_than_the_time_to_live_and_never_before() {
        let mut kept = Retention::new(Some(640), true);
        kept.touch(0, 5);
        kept.touch(1, 700);
        kept.touch(0, 300);
        assert_eq!(kept.expire(940), Vec::<u32>::new());
        assert_eq!((kept.is_over(0, 940, 0), kept.is_over(0, 941, 0)), (false, true));
        assert_eq!((kept.is_over(0, 300, 950), kept.is_over(0, 300, 951)), (false, true));
        assert_eq!(kept.expire(951), [0]);
        assert_eq!((kept.live(), kept.is_live(0), kept.is_live(1)), (1, false, true));
        kept.touch(0, 960);
        kept.free(0);
        kept.touch(0, 965);
        assert_eq!(kept.expire(i64::MAX), [0, 1]);
        assert_eq!(kept.live(), 0);
    }
}
