//! Where each character of a scalar's text stands in the file: SQL errors inside a `|` block point at the SQL itself.
//!
//! The parser gives the text and its span only; here the two are walked side by side. Characters that folding or
//! escapes made map to what made them.

use super::node::{Filled, Kind, Node, Style, Text};

/// For every character of the node's text (as filled in), and for its end, the byte of the file where it stands.
pub(super) fn positions(file_text: &str, node: &Node) -> Vec<usize> {
    let Kind::Text(text) = &node.kind else { return vec![node.span.start] };
    match &text.filled {
        None => written_positions(file_text, node, &text.text, text.style),
        Some(filled) => {
            let written = written_positions(file_text, node, &filled.written, text.style);
            through_filling(&written, filled)
        }
    }
}

/// The byte of the file for the place `line`, `column` (characters, both from 1) of the node's text.
pub(super) fn locate(file_text: &str, node: &Node, line: u64, column: u64) -> usize {
    let Kind::Text(Text { text, .. }) = &node.kind else { return node.span.start };
    let positions = positions(file_text, node);
    let mut at = 0;
    let mut left = line.saturating_sub(1);
    let mut left_columns = column.saturating_sub(1);
    for c in text.chars() {
        if left == 0 && (left_columns == 0 || c == '\n') {
            break;
        }
        if left == 0 {
            left_columns -= 1;
        } else if c == '\n' {
            left -= 1;
        }
        at += 1;
    }
    positions.get(at).or(positions.last()).copied().unwrap_or(node.span.start)
}

/// The same positions for the text after its `${…}` were filled in: what was filled in stands where its `${` stands.
fn through_filling(written: &[usize], filled: &Filled) -> Vec<usize> {
    let mut positions = Vec::with_capacity(written.len());
    let mut next = 0;
    for place in &filled.places {
        positions.extend(written.get(next..place.written_start).unwrap_or_default());
        let at = written.get(place.written_start).or(written.last()).copied().unwrap_or(0);
        positions.extend(std::iter::repeat_n(at, place.length));
        next = place.written_start + place.written_length;
    }
    positions.extend(written.get(next..).unwrap_or_default());
    positions
}

/// Walks the text and its source side by side.
pub(super) fn written_positions(file_text: &str, node: &Node, text: &str, style: Style) -> Vec<usize> {
    let (start, end) = (node.span.start, node.span.end.min(file_text.len()));
    let Some(source) = file_text.get(start..end) else { return vec![start] };
    let line_start = file_text[..start].rfind('\n').map_or(0, |at| at + 1);
    let block = matches!(style, Style::Literal | Style::Folded);
    let walk = Walk {
        source,
        at: usize::from(matches!(style, Style::SingleQuoted | Style::DoubleQuoted)),
        style,
        // The span of a block starts behind the indentation of its first line with text.
        indent: if block { start - line_start } else { 0 },
    };
    walk.run(text, start)
}

struct Walk<'a> {
    source: &'a str,
    at: usize,
    style: Style,
    indent: usize,
}

impl Walk<'_> {
    fn run(mut self, text: &str, base: usize) -> Vec<usize> {
        let mut positions = Vec::with_capacity(text.len() + 1);
        let block = matches!(self.style, Style::Literal | Style::Folded);
        let mut leading = block;
        for c in text.chars() {
            // Empty lines before the first line with text lie before the span.
            leading &= c == '\n';
            if leading {
                positions.push(base);
            } else {
                self.find(c);
                positions.push(base + self.at);
                self.step(c);
            }
        }
        positions.push(base + self.at.min(self.source.len()));
        positions
    }

    fn peek(&self) -> Option<char> {
        self.source.get(self.at..)?.chars().next()
    }

    /// Skips what folding and escaped line ends left out, up to where `wanted` stands.
    fn find(&mut self, wanted: char) {
        loop {
            match self.peek() {
                Some('\\') if self.style == Style::DoubleQuoted => {
                    // An escaped line end is nothing; the indentation after it is skipped as whitespace below.
                    let rest = &self.source[self.at + 1..];
                    if !rest.starts_with(['\n', '\r']) {
                        return;
                    }
                    self.at += 1 + if rest.starts_with("\r\n") { 2 } else { 1 };
                    self.skip_blanks();
                }
                Some('\r' | '\n') if matches!(wanted, '\n' | ' ') => return,
                Some(c) if c == wanted => return,
                Some(c @ (' ' | '\t' | '\r' | '\n')) => {
                    self.at += 1;
                    if c == '\n' {
                        self.skip_indent();
                    }
                }
                // What should not happen: stay, so that the place is near.
                _ => return,
            }
        }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.at += 1;
        }
    }

    fn skip_indent(&mut self) {
        if self.indent == 0 {
            // Quoted and plain texts lose all indentation.
            return self.skip_blanks();
        }
        let spaces = self.source[self.at..].bytes().take(self.indent).take_while(|b| *b == b' ').count();
        self.at += spaces;
    }

    /// Steps over the source of the character `c`, which stands here.
    fn step(&mut self, c: char) {
        match self.peek() {
            Some('\\') if self.style == Style::DoubleQuoted => self.at += escape_length(&self.source[self.at..]),
            Some('\'') if self.style == Style::SingleQuoted => self.at += 2,
            Some('\r') => {
                self.at += 1 + usize::from(self.source[self.at..].starts_with("\r\n"));
                self.skip_indent();
            }
            Some('\n') => {
                self.at += 1;
                self.skip_indent();
            }
            Some(found) if found == c => self.at += found.len_utf8(),
            _ => {}
        }
    }
}

/// The length of the escape that `source` starts with.
fn escape_length(source: &str) -> usize {
    let digits = match source.as_bytes().get(1) {
        Some(b'x') => 2,
        Some(b'u') => 4,
        Some(b'U') => 8,
        _ => return 1 + source[1..].chars().next().map_or(0, char::len_utf8),
    };
    let length = 2 + digits;
    // A pair of surrogates is one character.
    let high =
        source.get(2..length).is_some_and(|hex| matches!(hex.to_ascii_lowercase().as_bytes(), [b'd', b'8'..=b'b', ..]));
    if digits == 4 && high { length * 2 } else { length }
}
