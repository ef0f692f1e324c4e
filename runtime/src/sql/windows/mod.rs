//! The window table functions: what they are, how they are written, and how their columns are marked.
//!
//! [`planner`] resolves and checks them in FROM, [`bins`] finds them in GROUP BY, [`panes`] says where rows can be
//! aggregated before their windows are known. Assigning rows to windows is the work of the operators
//! [`crate::engine::operators::window_assign`] and [`crate::engine::operators::session_assign`].

pub(crate) mod bins;
pub(crate) mod flink;
pub(crate) mod lower;
pub(crate) mod panes;
pub(crate) mod planner;

use std::collections::HashMap;

use arrow::datatypes::{Field, TimeUnit};

use crate::engine::times;
use crate::sql::marks;
use crate::sql::{WINDOW_BOUND, WINDOW_LENGTH, WINDOW_PAIR};

/// A window function over a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Window {
    /// The index of the event-time column in the stream's schema.
    pub(crate) time_column: usize,
    pub(crate) kind: WindowKind,
    /// Rows are given the bounds of their pane instead: the longest span all of whose times are in the same windows.
    pub(crate) panes: bool,
}

/// Which windows a row is in. All lengths are more than 0 and in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum WindowKind {
    /// Windows that follow each other.
    Tumble { length: Length, offset_ns: i64 },
    /// Windows of `size_ns` that start every `slide_ns`.
    Hop { slide_ns: i64, size_ns: i64, offset_ns: i64 },
    /// Windows that start together every `max_ns` and are longer by `step_ns` one after the other.
    Cumulate { step_ns: i64, max_ns: i64, offset_ns: i64 },
    /// Rows of the same keys (columns of the stream) that follow each other by less than `gap_ns`.
    Session { gap_ns: i64, keys: Vec<usize> },
}

/// How long a tumbling window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Length {
    /// In nanoseconds, aligned to the epoch.
    Fixed(i64),
    /// In calendar months of UTC; a window starts with the month that is `phase` after January 1970.
    Months { months: i32, phase: i32 },
}

/// The longest month.
const MONTH_NS_MAX: i64 = 31 * DAY_NS;
pub(crate) const DAY_NS: i64 = 86_400_000_000_000;

/// The names of the columns that a window function adds.
pub(crate) const BOUND_NAMES: [&str; 2] = ["window_start", "window_end"];

impl WindowKind {
    /// How long its longest window is, in nanoseconds; `None` where there is no such length.
    pub(crate) fn length_max(&self) -> Option<i64> {
        match self {
            Self::Tumble { length: Length::Fixed(size), .. } => Some(*size),
            Self::Tumble { length: Length::Months { months, .. }, .. } => {
                Some(i64::from(*months).saturating_mul(MONTH_NS_MAX))
            }
            Self::Hop { size_ns, .. } => Some(*size_ns),
            Self::Cumulate { max_ns, .. } => Some(*max_ns),
            Self::Session { .. } => None,
        }
    }

    /// What it is called in the names of nodes.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Tumble { .. } => "tumble",
            Self::Hop { .. } => "hop",
            Self::Cumulate { .. } => "cumulate",
            Self::Session { .. } => "session",
        }
    }

    /// All that tells it from other windows, for fingerprints.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Tumble { length: Length::Fixed(size), offset_ns } => format!("tumble {size} {offset_ns}"),
            Self::Tumble { length: Length::Months { months, phase }, offset_ns } => {
                format!("tumble {months} months {phase} {offset_ns}")
            }
            Self::Hop { slide_ns, size_ns, offset_ns } => format!("hop {slide_ns} {size_ns} {offset_ns}"),
            Self::Cumulate { step_ns, max_ns, offset_ns } => format!("cumulate {step_ns} {max_ns} {offset_ns}"),
            Self::Session { gap_ns, keys } => format!("session {gap_ns} {keys:?}"),
        }
    }

    /// What it is, for people: `hopping windows of 1h every 5m`.
    pub(crate) fn describe(&self) -> String {
        let shown = times::duration;
        match self {
            Self::Tumble { length: Length::Fixed(size), .. } => format!("tumbling windows of {}", shown(*size)),
            Self::Tumble { length: Length::Months { months: 1, .. }, .. } => "tumbling windows of 1 month".to_owned(),
            Self::Tumble { length: Length::Months { months, .. }, .. } => {
                format!("tumbling windows of {months} months")
            }
            Self::Hop { slide_ns, size_ns, .. } => {
                format!("hopping windows of {} every {}", shown(*size_ns), shown(*slide_ns))
            }
            Self::Cumulate { step_ns, max_ns, .. } => {
                format!("cumulating windows of up to {} in steps of {}", shown(*max_ns), shown(*step_ns))
            }
            Self::Session { gap_ns, .. } => format!("sessions with a gap of {}", shown(*gap_ns)),
        }
    }

    /// The marks of the columns window_start and window_end that it adds.
    pub(crate) fn marks(&self) -> [HashMap<String, String>; 2] {
        let bound = |bound: &str| HashMap::from([(WINDOW_BOUND.to_owned(), bound.to_owned())]);
        let (mut start, mut end) = (bound("start"), bound("end"));
        if let Some(length) = self.length_max() {
            start.insert(WINDOW_LENGTH.to_owned(), length.to_string());
        }
        let pair = || (WINDOW_PAIR.to_owned(), self.identity());
        match self {
            Self::Tumble { .. } | Self::Hop { .. } => {
                start.extend([pair()]);
                end.extend([pair()]);
            }
            // Windows of one start have many ends.
            Self::Cumulate { .. } => end.extend([pair()]),
            // A session is given out when the watermark comes to its end.
            Self::Session { .. } => end.extend(marks::event_time(0)),
        }
        [start, end]
    }
}

/// The window's bound that `field` is: `start` or `end`.
pub(crate) fn bound(field: &Field) -> Option<&str> {
    field.metadata().get(WINDOW_BOUND).map(String::as_str)
}

/// How long a window with the start `field` can be, in nanoseconds.
pub(crate) fn length_max(field: &Field) -> Option<i64> {
    field.metadata().get(WINDOW_LENGTH).and_then(|length| length.parse().ok())
}

/// How many nanoseconds one unit of a timestamp column has.
pub(crate) fn unit_ns(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}
