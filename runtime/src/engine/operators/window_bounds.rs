//! Which windows a time is in. All times are nanoseconds since the epoch.

use chrono::{DateTime, Datelike, NaiveDate};

use crate::sql::windows::panes::greatest_divisor;
use crate::sql::windows::{Length, WindowKind};

/// From its start to just before its end.
pub(crate) type Span = (i64, i64);

/// Windows that are known from a time alone.
#[derive(Debug, Clone)]
pub(crate) enum Windows {
    /// Windows of `size` that follow each other.
    Tumble { size: i64, offset: i64 },
    /// Calendar months of UTC, `months` at a time, from the month `phase` after January 1970 on.
    Months { months: i32, phase: i32, offset: i64 },
    /// Windows of `size` every `slide`. `pane` divides both.
    Hop { slide: i64, size: i64, offset: i64, pane: i64 },
    /// Windows of `step`, `2 * step` and so on up to `max`, which start together every `max`.
    Cumulate { step: i64, max: i64, offset: i64 },
}

impl Windows {
    /// The windows of `kind`; `None` for sessions, which need more than a time.
    pub(crate) fn new(kind: &WindowKind) -> Option<Self> {
        Some(match *kind {
            WindowKind::Tumble { length: Length::Fixed(size), offset_ns: offset } => Self::Tumble { size, offset },
            WindowKind::Tumble { length: Length::Months { months, phase }, offset_ns: offset } => {
                Self::Months { months, phase, offset }
            }
            WindowKind::Hop { slide_ns: slide, size_ns: size, offset_ns: offset } => {
                Self::Hop { slide, size, offset, pane: greatest_divisor(slide, size) }
            }
            WindowKind::Cumulate { step_ns: step, max_ns: max, offset_ns: offset } => {
                Self::Cumulate { step, max, offset }
            }
            WindowKind::Session { .. } => return None,
        })
    }

    /// The span around `time` all of whose times are in the same windows; `None` where the bounds of one of them cannot
    /// be represented.
    pub(crate) fn pane(&self, time: i64) -> Option<Span> {
        match *self {
            Self::Tumble { size, offset } => aligned(time, size, offset),
            Self::Months { months, phase, offset } => months_of(time, months, phase, offset),
            Self::Hop { slide, size, offset, pane } => {
                let reach = size.checked_add(slide)?;
                time.checked_sub(reach)?.checked_sub(offset)?;
                time.checked_add(reach)?;
                aligned(time, pane, offset)
            }
            Self::Cumulate { step, max, offset } => {
                aligned(time, max, offset)?;
                // The step divides the longest window.
                aligned(time, step, offset)
            }
        }
    }

    /// The first window of the pane `pane` that ends after `after`.
    pub(crate) fn next(&self, pane: Span, after: i64) -> Option<Span> {
        match *self {
            Self::Tumble { .. } | Self::Months { .. } => (pane.1 > after).then_some(pane),
            Self::Hop { slide, size, offset, .. } => {
                let (first, last) = hops(pane, slide, size, offset);
                let start = match first + size > after {
                    true => first,
                    false => (after - size - offset).div_euclid(slide) * slide + offset + slide,
                };
                (start <= last).then_some((start, start + size))
            }
            Self::Cumulate { step, max, offset } => {
                let start = (pane.0 - offset).div_euclid(max) * max + offset;
                let end = match pane.1 > after {
                    true => pane.1,
                    false => start + ((after - start).div_euclid(step) + 1) * step,
                };
                (end <= start + max).then_some((start, end))
            }
        }
    }

    /// When the last window of the pane `pane` ends; `None` where it is in none.
    pub(crate) fn last_end(&self, pane: Span) -> Option<i64> {
        match *self {
            Self::Tumble { .. } | Self::Months { .. } => Some(pane.1),
            Self::Hop { slide, size, offset, .. } => {
                let (first, last) = hops(pane, slide, size, offset);
                (first <= last).then_some(last + size)
            }
            Self::Cumulate { max, offset, .. } => Some((pane.0 - offset).div_euclid(max) * max + offset + max),
        }
    }

    /// The first pane of `window`, where all later windows with that pane hold all of `window`.
    pub(crate) fn first_pane(&self, window: Span) -> Option<Span> {
        match *self {
            Self::Cumulate { step, .. } => Some((window.0, window.0 + step)),
            Self::Tumble { .. } | Self::Months { .. } | Self::Hop { .. } => None,
        }
    }

    /// True where a time is in one window at most, and that is its pane.
    pub(crate) fn is_partition(&self) -> bool {
        matches!(self, Self::Tumble { .. } | Self::Months { .. })
    }
}

/// The first and the last start of the hopping windows that hold the pane; the first is the later one where none does.
fn hops(pane: Span, slide: i64, size: i64, offset: i64) -> Span {
    let last = (pane.0 - offset).div_euclid(slide) * slide + offset;
    // Rounded up to the next start.
    let first = -(size + offset - pane.1).div_euclid(slide) * slide + offset;
    (first, last)
}

/// The span of `size` that `time` is in, of those that are aligned to the epoch plus the offset.
pub(crate) fn aligned(time: i64, size: i64, offset: i64) -> Option<Span> {
    let shifted = time.checked_sub(offset)?;
    let start = shifted.div_euclid(size).checked_mul(size)?.checked_add(offset)?;
    Some((start, start.checked_add(size)?))
}

/// The calendar months that `time` is in.
fn months_of(time: i64, months: i32, phase: i32, offset: i64) -> Option<Span> {
    let date = DateTime::from_timestamp_nanos(time.checked_sub(offset)?);
    let month = (date.year() - 1970) * 12 + date.month0() as i32;
    let first = (month - phase).div_euclid(months) * months + phase;
    let starts = |month: i32| {
        let date = NaiveDate::from_ymd_opt(1970 + month.div_euclid(12), month.rem_euclid(12) as u32 + 1, 1)?;
        date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_nanos_opt()?.checked_add(offset)
    };
    Some((starts(first)?, starts(first.checked_add(months)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All windows of the pane that holds `time`, as `start-end`.
    fn shown(windows: &Windows, time: i64) -> String {
        let pane = windows.pane(time).unwrap();
        let (mut after, mut all) = (i64::MIN, Vec::new());
        while let Some(window) = windows.next(pane, after) {
            assert!(window.1 > after && window.0 <= pane.0 && pane.1 <= window.1);
            after = window.1;
            all.push(format!("{}-{}", window.0, window.1));
        }
        assert_eq!(windows.last_end(pane), (!all.is_empty()).then_some(after));
        all.join(" ")
    }

    #[test]
    fn windows_are_aligned_to_the_epoch_also_before_1970() {
        assert_eq!(aligned(25, 10, 0), Some((20, 30)));
        assert_eq!(aligned(30, 10, 0), Some((30, 40)));
        assert_eq!(aligned(-1, 10, 0), Some((-10, 0)));
        assert_eq!(aligned(25, 10, 7), Some((17, 27)));
        assert_eq!(aligned(25, 10, -3), Some((17, 27)));
        assert_eq!(aligned(i64::MAX, 10, 0), None);
    }

    #[test]
    fn hopping_windows_are_those_that_hold_the_time() {
        for (slide, size, offset) in [(3, 10, 0), (3, 10, -2), (10, 3, 1), (5, 5, 2), (4, 6, 1), (1, 4, 0), (6, 4, 0)] {
            let pane = greatest_divisor(slide, size);
            let windows = Windows::Hop { slide, size, offset, pane };
            for time in -40..40 {
                let starts = (-100..100).map(|number| number * slide + offset);
                let starts = starts.filter(|start| *start <= time && time < start + size);
                let expected: Vec<String> = starts.map(|start| format!("{start}-{}", start + size)).collect();
                assert_eq!(shown(&windows, time), expected.join(" "), "{slide} {size} {offset} {time}");
            }
        }
        let (slide, size) = (3, 10);
        assert_eq!(Windows::Hop { slide, size, offset: 0, pane: 1 }.pane(i64::MAX - 9), None);
    }

    #[test]
    fn cumulating_windows_grow_and_start_again() {
        let windows = Windows::Cumulate { step: 2, max: 6, offset: 1 };
        assert_eq!(shown(&windows, 1), "1-3 1-5 1-7");
        assert_eq!(shown(&windows, 4), "1-5 1-7");
        assert_eq!(shown(&windows, 6), "1-7");
        assert_eq!(shown(&windows, 0), "-5-1");
    }

    #[test]
    fn months_have_their_own_lengths() {
        const DAY: i64 = 86_400_000_000_000;
        let month = |months, phase| Windows::Months { months, phase, offset: 0 };
        assert_eq!(month(1, 0).pane(DAY), Some((0, 31 * DAY)));
        assert_eq!(month(1, 0).pane(31 * DAY), Some((31 * DAY, 59 * DAY)));
        assert_eq!(month(3, 0).pane(-1), Some((-92 * DAY, 0)));
        assert_eq!(month(3, 1).pane(DAY), Some((-61 * DAY, 31 * DAY)));
        assert_eq!(month(12, 0).pane(400 * DAY), Some((365 * DAY, 730 * DAY)));
        assert_eq!(month(1, 0).pane(i64::MAX), None);
    }
}
