//! Syntax errors of YAML, said for people: where, what, and what was most likely meant.

use granit_parser::{ErrorKind, ScanError};

use super::limits::YamlLimits;
use super::problem::{Part, Problem};

/// A problem for a syntax error in `text`.
pub(super) fn explain(text: &str, error: &ScanError, limits: &YamlLimits) -> Problem {
    let start = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
    let start = (0..=start).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let line = &text[text[..start].rfind('\n').map_or(0, |at| at + 1)..];
    let line = line.split('\n').next().unwrap_or("");
    let (message, hint) = match error.kind() {
        ErrorKind::RecursionLimitExceeded => {
            return problem(
                format!("lists and maps are nested deeper than {} levels (depth_max)", limits.depth_max),
                None,
                text,
                start,
            );
        }
        kind => describe(kind, text, start, line),
    };
    problem(message, hint, text, start)
}

fn problem(message: String, hint: Option<String>, text: &str, start: usize) -> Problem {
    let end = text[start..].chars().next().filter(|c| *c != '\n').map_or(start, |c| start + c.len_utf8());
    let problem = Problem::new([""; 0], message).at(Part::Bytes { start, end });
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// Message and hint.
fn describe(kind: &ErrorKind, text: &str, start: usize, line: &str) -> (String, Option<String>) {
    use ErrorKind as E;
    let said = |message: &str, hint: &str| (message.to_owned(), Some(hint.to_owned()));
    let indented_by_tab = line.trim_start_matches(' ').starts_with('\t');
    match kind {
        _ if indented_by_tab => said("a tab cannot indent in YAML", "use spaces (two per level)"),
        E::TabNotAllowed
        | E::TabInBlockIndentation
        | E::TabInIndentation
        | E::TabAtBlockScalarStart
        | E::TabInPlainScalar => said("a tab cannot stand here in YAML", "use spaces"),
        E::UnclosedQuotedScalar | E::InvalidQuotedScalarIndent | E::DocumentIndicatorInQuotedScalar => said(
            "a quote that was opened above is not closed before this line",
            "close it; inside '…' write '' for a quote, inside \"…\" write \\\"",
        ),
        E::InvalidTrailingDoubleQuotedScalar | E::InvalidTrailingSingleQuotedScalar => {
            said("something stands behind the closing quote", "quote the whole value, or escape the quote inside it")
        }
        E::UnclosedFlowCollection { open } => {
            (format!("this `{open}` is not closed"), Some(format!("add the missing `{}`", closing(*open))))
        }
        E::MismatchedFlowCollectionEnd { open, close } => {
            (format!("`{open}` is closed by `{close}`"), Some(format!("write `{}`", closing(*open))))
        }
        E::MisplacedFlowCollectionEnd => said("there is no open bracket to close here", "remove it, or quote the text"),
        E::ExpectedFlowMappingSeparator | E::ExpectedFlowSequenceSeparator | E::InvalidColonPlacement
            if text[..start].ends_with('$') || line.contains("${") =>
        {
            said("`${…}` inside {…} or […] must be quoted", "write \"${NAME}\" with double quotes")
        }
        E::ExpectedFlowMappingSeparator => {
            said("a `,` or `}` is missing here", "separate entries by `, ` and close the `{`")
        }
        E::ExpectedFlowSequenceSeparator | E::InvalidColonPlacement => {
            said("a `,` or `]` is missing here", "separate items by `, ` and close the `[`")
        }
        E::MappingValueNotAllowed | E::SimpleKeyExpected | E::InvalidSimpleKey => colon(text, start, line),
        E::InvalidMappingValueWhitespace => said("a space is missing after the `:`", "write `key: value`"),
        E::ExpectedBlockMappingKey | E::InvalidIndentation => said(
            "this line does not fit the indentation of the lines above it",
            "indent keys of the same map by the same number of spaces",
        ),
        E::ExpectedBlockSequenceEntry => said(
            "a list goes on here with something that is no item",
            "start items by `- `, or indent the line less or more",
        ),
        E::BlockSequenceEntryNotAllowed => {
            said("a list cannot start on the line of its key", "put `- …` on the next line, or write [a, b]")
        }
        E::InvalidBlockScalarIndent | E::InvalidBlockScalarHeader => {
            said("this block text is indented wrongly", "indent every line of a `|` block by the same number of spaces")
        }
        E::UnknownQuotedScalarEscape | E::InvalidQuotedScalarHexEscape => {
            said("this is no escape that YAML knows in \"…\"", "write \\\\ for a backslash, or use '…' quotes")
        }
        E::UnexpectedCharacter { character } => {
            (format!("a value cannot start with `{}`", character.escape_debug()), Some("quote the value".to_owned()))
        }
        other => (format!("this is no YAML: {other}"), None),
    }
}

/// A `:` that cannot be: mostly a missing space above it, a missing quote around it, or a wrong indentation.
fn colon(text: &str, start: usize, line: &str) -> (String, Option<String>) {
    let before = text[..start].lines().rev().skip(1).find(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    if !line.contains(':') && !line.trim().is_empty() {
        return (
            "this line is no `key: value`".to_owned(),
            Some(format!("a `:` may be missing: write `{}:`", line.trim())),
        );
    }
    if let Some(before) = before.filter(|before| indent(before) == indent(line)) {
        let content = before.trim();
        if let Some((key, value)) =
            content.split_once(':').filter(|(_, value)| !value.starts_with([' ', '/']) && !value.is_empty())
        {
            return (
                "a `:` stands here, but the line above is no `key: value`".to_owned(),
                Some(format!("a space may be missing after a `:` above: write `{key}: {value}`")),
            );
        }
        if !content.contains(':') {
            return (
                "a `:` stands here, but the line above is no `key: value`".to_owned(),
                Some(format!("a `:` may be missing above: write `{content}:`")),
            );
        }
    }
    if line.matches(": ").count() + usize::from(line.ends_with(':')) > 1 {
        return (
            "a second `: ` on this line cannot be read".to_owned(),
            Some("quote the value if the `:` belongs to it".to_owned()),
        );
    }
    (
        "a key cannot stand here".to_owned(),
        Some("indent it like the other keys of its map, or put the value above it on a line of its own".to_owned()),
    )
}

fn closing(open: char) -> char {
    match open {
        '[' => ']',
        '{' => '}',
        other => other,
    }
}
