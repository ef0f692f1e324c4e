//! What is wrong with text that is no JSON, and where. The words and places are those of serde_json.

use std::fmt;

/// The first thing that is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed {
    /// The index of the byte that cannot be there; the text's end where one is missing.
    pub(super) at: usize,
    pub(super) what: What,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    EofInArray,
    EofInObject,
    EofInString,
    EofInValue,
    NoColon,
    NoCommaOrBracket,
    NoCommaOrBrace,
    NoLiteral,
    NoValue,
    Escape,
    Number,
    ControlCharacter,
    KeyNotText,
    LoneSurrogate,
    TrailingComma,
    TrailingCharacters,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EofInArray => "EOF while parsing a list",
            Self::EofInObject => "EOF while parsing an object",
            Self::EofInString => "EOF while parsing a string",
            Self::EofInValue => "EOF while parsing a value",
            Self::NoColon => "expected `:`",
            Self::NoCommaOrBracket => "expected `,` or `]`",
            Self::NoCommaOrBrace => "expected `,` or `}`",
            Self::NoLiteral => "expected ident",
            Self::NoValue => "expected value",
            Self::Escape => "invalid escape",
            Self::Number => "invalid number",
            Self::ControlCharacter => "control character (\\u0000-\\u001F) found while parsing a string",
            Self::KeyNotText => "key must be a string",
            Self::LoneSurrogate => "lone surrogate in hex escape",
            Self::TrailingComma => "trailing comma",
            Self::TrailingCharacters => "trailing characters",
        })
    }
}

impl Malformed {
    /// This for the user; `text` is what was read, and began at `start`.
    pub(super) fn describe(self, text: &[u8], start: usize) -> String {
        if text.trim_ascii().is_empty() {
            return "the message is empty; expected a JSON object".into();
        }
        // A column counts up to and with the byte that is wrong, or to the end where there is no more.
        let read = text.get(..(self.at - start + 1)).unwrap_or(text);
        let line_start = memchr::memrchr(b'\n', read).map_or(0, |line_break| line_break + 1);
        let line = 1 + memchr::memchr_iter(b'\n', read).count();
        format!("not valid JSON: {} at line {line} column {}", self.what, read.len() - line_start)
    }
}
