//! Problems as text for people, as JSON for programs, and as annotations for GitHub.
//!
//! Everything here writes to a `String`; printing is the command line's business.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::problem::Severity;
use super::source_map::Located;

/// The widest piece of a source line that is shown; longer lines are cut around the place.
const LINE_WIDTH_MAX: usize = 110;

/// Styles of the terminal; all empty without colours.
struct Colours {
    error: &'static str,
    warning: &'static str,
    frame: &'static str,
    hint: &'static str,
    bold: &'static str,
    off: &'static str,
}

const PLAIN: Colours = Colours { error: "", warning: "", frame: "", hint: "", bold: "", off: "" };
const COLOURED: Colours = Colours {
    error: "\x1b[1;31m",
    warning: "\x1b[1;33m",
    frame: "\x1b[1;34m",
    hint: "\x1b[1;36m",
    bold: "\x1b[1m",
    off: "\x1b[0m",
};

/// For people: each problem with its line of the file, one empty line between them, and a summary.
pub fn human(problems: &[Located], colours: bool) -> String {
    let colours = if colours { &COLOURED } else { &PLAIN };
    let mut text = String::new();
    for problem in problems {
        one(&mut text, problem, colours);
        text.push('\n');
    }
    if !problems.is_empty() {
        text.push_str(&summary(problems));
        text.push('\n');
    }
    text
}

/// `2 errors, 1 warning`
pub fn summary(problems: &[Located]) -> String {
    let (errors, warnings) = counts(problems);
    let said = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match (errors, warnings) {
        (errors, 0) => said(errors, "error"),
        (0, warnings) => said(warnings, "warning"),
        (errors, warnings) => format!("{}, {}", said(errors, "error"), said(warnings, "warning")),
    }
}

fn counts(problems: &[Located]) -> (usize, usize) {
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    (errors, problems.len() - errors)
}

fn one(out: &mut String, problem: &Located, c: &Colours) {
    let (name, colour) = match problem.severity {
        Severity::Error => ("error", c.error),
        Severity::Warning => ("warning", c.warning),
    };
    let place = &problem.location;
    let margin = " ".repeat(place.line.to_string().len());
    let mut line = |text: String| {
        out.push_str(text.trim_end_matches(' '));
        out.push('\n');
    };
    line(format!("{colour}{name}{}{}: {}{}", c.off, c.bold, clean(&problem.message), c.off));
    let file = clean(&place.file.display().to_string());
    line(format!("{margin}{}-->{} {file}:{}:{}", c.frame, c.off, place.line, place.column));
    if let Some(source) = &problem.source_line {
        let (shown, before, width) = window(source, place.column, place.end_column);
        line(format!("{margin} {}|{}", c.frame, c.off));
        line(format!("{}{} |{} {shown}", c.frame, place.line, c.off));
        let carets = "^".repeat(width.max(1));
        line(format!("{margin} {}|{} {}{colour}{carets}{}", c.frame, c.off, " ".repeat(before), c.off));
    }
    if !problem.path.is_empty() {
        line(format!("{margin} {}={} at {}", c.frame, c.off, clean(&problem.path)));
    }
    if let Some(hint) = &problem.hint {
        line(format!("{margin} {}={} {}help:{} {}", c.frame, c.off, c.hint, c.off, clean(hint)));
    }
}

/// The part of a line around the columns `from..to`, the width before the place, and the width of the place.
fn window(line: &str, from: usize, to: usize) -> (String, usize, usize) {
    let cells: Vec<String> = line.chars().map(cell).collect();
    let width = |cells: &[String]| cells.iter().map(|cell| cell.width()).sum::<usize>();
    let from = (from - 1).min(cells.len());
    let to = (to - 1).clamp(from, cells.len());
    let mut start = 0;
    if width(&cells) > LINE_WIDTH_MAX && width(&cells[..to]) > LINE_WIDTH_MAX * 2 / 3 {
        start = from;
        while start > 0 && width(&cells[start - 1..from]) <= LINE_WIDTH_MAX / 3 {
            start -= 1;
        }
    }
    let mut end = start;
    let mut used = 0;
    while end < cells.len() && used + cells[end].width() <= LINE_WIDTH_MAX {
        used += cells[end].width();
        end += 1;
    }
    let left = if start > 0 { "…" } else { "" };
    let right = if end < cells.len() { "…" } else { "" };
    let shown = format!("{left}{}{right}", cells[start..end].concat());
    (shown, left.width() + width(&cells[start..from.min(end)]), width(&cells[from.min(end)..to.min(end)]))
}

/// How a character is shown: tabs as two spaces, what would disturb the terminal as a sign.
fn cell(c: char) -> String {
    match c {
        '\t' => "  ".to_owned(),
        c if c.is_control() || is_invisible(c) => "\u{fffd}".to_owned(),
        c if c.width() == Some(0) => format!("\u{25cc}{c}"),
        c => c.to_string(),
    }
}

/// Characters that turn the direction of text or are nothing at all: source lines could lie with them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_invisible(c) { '\u{fffd}' } else { c }).collect()
}

/// For programs: `{"errors": 1, "warnings": 0, "problems": [{"file", "line", "column", "end_column", "path", "severity",
/// "message", "hint"}]}`. Lines and columns are numbers from 1, columns in characters; `hint` may be null.
pub fn json(problems: &[Located]) -> String {
    let (errors, warnings) = counts(problems);
    serde_json::json!({ "errors": errors, "warnings": warnings, "problems": problems }).to_string()
}

/// For GitHub Actions: one workflow command a problem, which annotates the line in a pull request.
pub fn github(problems: &[Located]) -> String {
    let mut text = String::new();
    for problem in problems {
        let name = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let place = &problem.location;
        let message = match &problem.hint {
            Some(hint) => format!("{}\nhelp: {hint}", problem.message),
            None => problem.message.clone(),
        };
        let end = if place.end_column > place.column {
            format!(",endColumn={}", place.end_column - 1)
        } else {
            String::new()
        };
        text.push_str(&format!(
            "::{name} file={},line={},col={}{end},title={}::{}\n",
            escape(&place.file.display().to_string(), true),
            place.line,
            place.column,
            escape(&format!("millstream: {}", problem.path), true),
            escape(&message, false),
        ));
    }
    text
}

/// Escapes as the runner of GitHub Actions reads it back.
fn escape(text: &str, property: bool) -> String {
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    if property { text.replace(':', "%3A").replace(',', "%2C") } else { text }
}
