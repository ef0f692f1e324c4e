//! Says on standard error what is being done: a line that is written over on a terminal, a line per thing elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// A line that changes is written at most so often.
const EVERY: Duration = Duration::from_millis(250);
const CLEAR: &str = "\r\x1b[K";

/// The line at the bottom of the terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    terminal: bool,
    shown: Cell<Option<Instant>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: Cell::new(None) }
    }

    /// Something new begins.
    pub(crate) fn begin(&self, what: &str) {
        self.clear();
        eprintln!(">> {what}");
    }

    /// How far it is; only shown on a terminal.
    pub(crate) fn show(&self, text: impl FnOnce() -> String) {
        if !self.terminal || self.shown.get().is_some_and(|shown| shown.elapsed() < EVERY) {
            return;
        }
        self.shown.set(Some(Instant::now()));
        eprint!("{CLEAR}   {}", text());
        // Where standard error is gone nobody looks.
        std::io::stderr().flush().ok();
    }

    /// Removes the line that changes.
    pub(crate) fn clear(&self) {
        if self.terminal && self.shown.take().is_some() {
            eprint!("{CLEAR}");
        }
    }
}
