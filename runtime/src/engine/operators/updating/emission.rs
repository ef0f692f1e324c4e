//! When results are given out.

use std::time::Duration;

use tokio::time::Instant;

/// When results are given out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Emit {
    /// Once they cannot change any more.
    #[default]
    Final,
    /// With every batch of rows that changes them.
    Changes,
    /// So long after the first change that was not given out.
    Every(Duration),
}

impl Emit {
    /// True where rows come that later ones replace.
    pub(crate) fn updates(self) -> bool {
        self != Self::Final
    }

    /// For people: what is given out in addition to final rows.
    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::Final => "",
            Self::Changes => "; gives out what has changed with every batch",
            Self::Every(_) => "; gives out what has changed from time to time",
        }
    }
}

/// Knows when what has changed is due.
pub(super) struct Emission {
    emit: Emit,
    due: Option<Instant>,
}

impl Emission {
    pub(super) fn new(emit: Emit) -> Self {
        Self { emit, due: None }
    }

    /// A result has changed. True where changes are to be given out at once.
    pub(super) fn changed(&mut self) -> bool {
        match self.emit {
            Emit::Final => false,
            Emit::Changes => true,
            Emit::Every(every) => {
                self.due = self.due.or_else(|| Instant::now().checked_add(every));
                false
            }
        }
    }

    /// When [`Emission::tick`] has something to say.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.due
    }

    /// True where changes are to be given out now.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.due = None;
        }
        due
    }
}
