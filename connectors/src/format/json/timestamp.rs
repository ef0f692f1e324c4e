//! Timestamps as text, without a calendar's work for every row: rows that follow each other mostly share their day.

use arrow::datatypes::TimeUnit;
use chrono::{DateTime, Datelike, SecondsFormat};

const SECONDS_PER_DAY: i64 = 86_400;

/// Writes timestamps of one unit as RFC 3339 in UTC.
pub(super) struct Rfc3339 {
    per_second: i64,
    /// The day whose text is kept, as days since 1970.
    day: i64,
    /// Its text: `2026-01-31T`.
    text: [u8; 11],
}

impl Rfc3339 {
    pub(super) fn new(unit: TimeUnit) -> Self {
        let per_second = match unit {
            TimeUnit::Second => 1,
            TimeUnit::Millisecond => 1_000,
            TimeUnit::Microsecond => 1_000_000,
            TimeUnit::Nanosecond => 1_000_000_000,
        };
        Self { per_second, day: 0, text: *b"1970-01-01T" }
    }

    /// Appends `value` in quotes, with as many digits behind the point as it needs: none, 3, 6 or 9. False where the
    /// calendar does not have it.
    #[inline]
    pub(super) fn write(&mut self, value: i64, out: &mut Vec<u8>) -> bool {
        let (seconds, part) = (value.div_euclid(self.per_second), value.rem_euclid(self.per_second));
        let (day, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let nanos = part * (1_000_000_000 / self.per_second);
        if day != self.day && !self.turn_to(day) {
            return write_any(seconds, nanos, out);
        }
        let mut text = *b"\"2026-01-31T00:00:00.000000000Z\"";
        text[1..12].copy_from_slice(&self.text);
        two_digits(&mut text[12..14], second / 3600);
        two_digits(&mut text[15..17], second / 60 % 60);
        two_digits(&mut text[18..20], second % 60);
        let digits = match nanos {
            0 => 0,
            nanos if nanos % 1_000_000 == 0 => 3,
            nanos if nanos % 1_000 == 0 => 6,
            _ => 9,
        };
        let mut rest = nanos;
        for group in [27..30, 24..27, 21..24] {
            let (place, value) = (group.start, rest % 1000);
            text[place] = b'0' + (value / 100) as u8;
            two_digits(&mut text[place + 1..place + 3], value % 100);
            rest /= 1000;
        }
        let end = if digits == 0 { 20 } else { 21 + digits };
        text[end] = b'Z';
        text[end + 1] = b'"';
        let length = out.len() + end + 2;
        out.extend_from_slice(&text);
        out.truncate(length);
        true
    }

    /// Makes `day` the day that is kept; false where it has no plain text.
    #[cold]
    fn turn_to(&mut self, day: i64) -> bool {
        let date = day.checked_mul(SECONDS_PER_DAY).and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        let Some(date) = date.filter(|date| (0..=9999).contains(&date.year())) else { return false };
        two_digits(&mut self.text[0..2], i64::from(date.year() / 100));
        two_digits(&mut self.text[2..4], i64::from(date.year() % 100));
        two_digits(&mut self.text[5..7], i64::from(date.month()));
        two_digits(&mut self.text[8..10], i64::from(date.day()));
        self.day = day;
        true
    }
}

/// A value below 100.
#[inline]
fn two_digits(out: &mut [u8], value: i64) {
    out[0] = b'0' + (value / 10) as u8;
    out[1] = b'0' + (value % 10) as u8;
}

/// Times of years before 0 and after 9999.
#[cold]
fn write_any(seconds: i64, nanos: i64, out: &mut Vec<u8>) -> bool {
    let time = u32::try_from(nanos).ok().and_then(|nanos| DateTime::from_timestamp(seconds, nanos));
    let Some(time) = time else { return false };
    out.push(b'"');
    out.extend_from_slice(time.to_rfc3339_opts(SecondsFormat::AutoSi, true).as_bytes());
    out.push(b'"');
    true
}
