//! When a request is sent again, and after how long.

use std::time::{Duration as StdDuration, SystemTime};

use http::{HeaderMap, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::ConnectorError;
use crate::units::Duration;

/// When a request that failed is sent again. A request without an answer (connection refused, time-out) always is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryConfig {
    /// The pause after the first failure; it doubles with every further one. Default: `500ms`.
    pub initial: Duration,
    /// The longest pause. Default: `10s`.
    pub max: Duration,
    /// After so long the sink gives up, and the pipeline starts again from its last checkpoint; nothing is lost. Keep it
    /// below the pipeline's `checkpoint.timeout`. Default: `45s`.
    pub max_elapsed: Duration,
    /// After so many attempts the sink gives up as well. Default: no limit but `max_elapsed`.
    #[schemars(range(min = 1))]
    pub max_attempts: Option<u32>,
    /// By how much a pause is shortened at random, as a part of it, so that many clients do not come back at once: 0 to
    /// 1. Default: 0.2.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter: f64,
    /// The longest pause that a server may ask for with `Retry-After`. Default: `30s`.
    pub retry_after_max: Duration,
    /// The answers after which the request is sent again: codes (`503`) and classes (`5xx`). Rows with any other answer
    /// than 2xx go to the dead letter. Default: `[408, 425, 429, 5xx]`.
    pub statuses: Vec<StatusPattern>,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            max: Duration::from_secs(10),
            max_elapsed: Duration::from_secs(45),
            max_attempts: None,
            jitter: 0.2,
            retry_after_max: Duration::from_secs(30),
            statuses: vec![
                StatusPattern::Code(408),
                StatusPattern::Code(425),
                StatusPattern::Code(429),
                StatusPattern::Class("5xx".into()),
            ],
        }
    }
}

/// A status code (`503`) or a class of them (`5xx`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StatusPattern {
    /// One code: 400 to 599.
    Code(u16),
    /// `4xx`, `5xx`, or a code as text.
    Class(String),
}

impl StatusPattern {
    /// The codes from and to, if it is a pattern of failures.
    fn range(&self) -> Option<(u16, u16)> {
        let range = match self {
            Self::Code(code) => (*code, *code),
            Self::Class(text) => match text.to_ascii_lowercase().as_str() {
                "4xx" => (400, 499),
                "5xx" => (500, 599),
                code => code.parse().map(|code| (code, code)).ok()?,
            },
        };
        ((400..=599).contains(&range.0)).then_some(range)
    }
}

impl RetryConfig {
    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), ConnectorError> {
        let wrong = |option: &str, message: String| Err(ConnectorError::configuration(option, message));
        if !(0.0..=1.0).contains(&self.jitter) {
            return wrong("retry.jitter", format!("{} is not between 0 and 1", self.jitter));
        }
        if self.initial.0.is_zero() {
            return wrong("retry.initial", "0s would send again and again without a pause".into());
        }
        if self.max < self.initial {
            return wrong("retry.max", format!("{} is shorter than the first pause, {}", self.max, self.initial));
        }
        if self.max_attempts == Some(0) {
            return wrong("retry.max_attempts", "0 would send nothing; write 1 for no retry".into());
        }
        match self.statuses.iter().find(|pattern| pattern.range().is_none()) {
            Some(pattern) => {
                wrong("retry.statuses", format!("{pattern:?} is no failure; write codes from 400 to 599, 4xx or 5xx"))
            }
            None => Ok(()),
        }
    }

    /// Whether an answer with this status is sent again.
    pub(crate) fn applies_to(&self, status: StatusCode) -> bool {
        let fits = |(from, to): (u16, u16)| (from..=to).contains(&status.as_u16());
        self.statuses.iter().filter_map(StatusPattern::range).any(fits)
    }

    /// The pause after `failures` failed attempts; `random` is from 0 to 1; `asked` is what the server asked for.
    pub(crate) fn pause(&self, failures: u32, random: f64, asked: Option<StdDuration>) -> StdDuration {
        let doubled = self.initial.0.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let pause = doubled.min(self.max.0).mul_f64(1.0 - self.jitter * random.clamp(0.0, 1.0));
        asked.map_or(pause, |asked| asked.min(self.retry_after_max.0).max(pause))
    }
}

/// What `Retry-After` asks for: seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<StdDuration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(StdDuration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    // A date in the past asks for no pause.
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_shortened_at_random() {
        let retry = RetryConfig::default();
        let millis = |failures, random| retry.pause(failures, random, None).as_millis();
        assert_eq!([1, 2, 3, 6, 100].map(|failures| millis(failures, 0.0)), [500, 1000, 2000, 10_000, 10_000]);
        assert_eq!(millis(1, 1.0), 400);
    }

    #[test]
    fn what_a_server_asks_for_is_honoured_within_a_bound() {
        let retry = RetryConfig::default();
        let pause = |asked| retry.pause(1, 0.0, Some(StdDuration::from_secs(asked))).as_millis();
        assert_eq!([0, 3, 3600].map(pause), [500, 3000, 30_000]);
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + StdDuration::from_secs(784_111_777);
        let of = |text| {
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers, now).map(|duration| duration.as_secs())
        };
        assert_eq!(of("120"), Some(120));
        assert_eq!(of("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(of("Sat, 06 Nov 1993 08:50:37 GMT"), Some(0));
        assert_eq!(of("soon"), None);
        assert_eq!(of("-1"), None);
    }

    #[test]
    fn statuses_are_codes_and_classes() {
        let retry = RetryConfig::default();
        let applies = |code| retry.applies_to(StatusCode::from_u16(code).unwrap());
        assert!([408, 425, 429, 500, 503, 599].into_iter().all(applies));
        assert!(![400, 401, 404, 422].into_iter().any(applies));
        let statuses = vec![StatusPattern::Class("404".into()), StatusPattern::Class("6xx".into())];
        let wrong = RetryConfig { statuses, ..RetryConfig::default() };
        assert!(wrong.check().unwrap_err().to_string().contains("6xx"));
    }
}
