//! One value of JSON into one column, and one object into a row.
//!
//! A value that does not fit is noted and reading goes on, so that only text that is not JSON ends a message early.

use super::keys::Keys;
use super::malformed::{Malformed, What};
use super::scan::{Open, Scan, StringAt};
use super::string;
use crate::format::columns::{Column, Columns, Kind, Problem, Scalar};

/// Reads one text. What it needs beside is kept from text to text.
pub(super) struct Reader<'t, 'a> {
    pub(super) scan: Scan<'t>,
    pub(super) room: &'a mut Room,
    /// The first value that did not fit.
    pub(super) problem: &'a mut Problem,
}

/// Memory that is used again and again.
#[derive(Debug, Default)]
pub(super) struct Room {
    open: Open,
    text: Vec<u8>,
}

impl Reader<'_, '_> {
    /// Reads an object into the columns, as row `row`.
    pub(super) fn row(&mut self, columns: &mut Columns, keys: &mut Keys, row: usize) -> Result<(), Malformed> {
        match self.scan.skip_space() {
            b'{' => {
                self.fields(columns, keys, row)?;
                columns.end_row(row, self.problem);
                Ok(())
            }
            b'[' => {
                self.problem.set(|| {
                    "expected an object, found an array; where a message is an array of objects, set `format: {json: {layout: array}}`".into()
                });
                self.skip()
            }
            _ => {
                let start = self.scan.at;
                self.skip()?;
                self.with_scalar(start, |found, problem| {
                    problem.set(|| format!("expected an object, found {}", found.describe()));
                });
                Ok(())
            }
        }
    }

    /// Takes one value and the end, and keeps nothing.
    pub(super) fn skip_whole(&mut self) -> Result<(), Malformed> {
        self.skip()?;
        self.scan.end()
    }

    #[inline(always)]
    fn skip(&mut self) -> Result<(), Malformed> {
        self.scan.skip(&mut self.room.open)
    }

    /// Reads the fields of an object, whose brace is next, into `columns`, which have `row` values so far.
    fn fields(&mut self, columns: &mut Columns, keys: &mut Keys, row: usize) -> Result<(), Malformed> {
        self.scan.at += 1;
        let (mut place, mut first) = (0, true);
        loop {
            let column = match keys.follow(&mut self.scan, place, first) {
                Some(found) => {
                    place = found.next;
                    found.column
                }
                None => match self.other_key(columns, keys, &mut place, first)? {
                    Some(column) => column,
                    None => return Ok(()),
                },
            };
            first = false;
            match column.and_then(|i| Some((i, columns.list.get_mut(i)?))) {
                Some((i, column)) => {
                    if column.len() > row {
                        // A key that comes twice: the last one wins.
                        column.truncate(row);
                    }
                    self.value(column, keys, i)?;
                }
                None => self.skip()?,
            }
        }
    }

    /// Reads a key that was not expected at `place`: the column that it is of, if any. `None` at the object's end.
    #[inline(never)]
    fn other_key(
        &mut self,
        columns: &Columns,
        keys: &mut Keys,
        place: &mut usize,
        first: bool,
    ) -> Result<Option<Option<usize>>, Malformed> {
        let start = self.scan.at;
        match self.scan.skip_space() {
            b'}' => {
                self.scan.at += 1;
                return Ok(None);
            }
            b',' if !first => {}
            b'"' if first => {}
            _ if first => return self.scan.wrong(What::EofInObject, What::KeyNotText),
            _ => return self.scan.wrong(What::EofInObject, What::NoCommaOrBrace),
        }
        self.scan.at = start;
        if let Some(found) = keys.follow_ahead(&mut self.scan, *place, first) {
            *place = found.next;
            return Ok(Some(found.column));
        }
        if !first {
            self.scan.skip_space();
            self.scan.at += 1;
            if self.scan.skip_space() == b'}' {
                return self.scan.wrong(What::EofInObject, What::TrailingComma);
            }
        }
        let key = self.scan.key()?;
        let column = self.column_of(columns, key, *place)?;
        self.scan.skip_space();
        keys.learn(*place, self.scan.slice(start, self.scan.at), first, column);
        *place += 1;
        Ok(Some(column))
    }

    fn column_of(&mut self, columns: &Columns, key: StringAt, place: usize) -> Result<Option<usize>, Malformed> {
        let mut name = self.scan.slice(key.start, key.end);
        if key.escaped {
            self.room.text.clear();
            string::unescape(name, &mut self.room.text)
                .ok_or(Malformed { at: key.start, what: What::LoneSurrogate })?;
            name = &self.room.text;
        }
        // The text was checked, so this never fails.
        Ok(std::str::from_utf8(name).ok().and_then(|name| columns.find(name, place)))
    }

    /// Reads a value into `column`, the `i`th of those that `keys` are of.
    #[inline(always)]
    fn value(&mut self, column: &mut Column, keys: &mut Keys, i: usize) -> Result<(), Malformed> {
        match self.scan.skip_space() {
            b'"' => {
                let text = self.scan.string()?;
                if text.escaped || !column.push_text(self.scan.prefix(text.start, text.end)) {
                    self.push_text(column, text);
                }
                Ok(())
            }
            b'-' | b'0'..=b'9' => {
                let start = self.scan.at;
                let number = self.scan.number()?;
                if !column.push_number(number) {
                    self.push_scalar(column, start);
                }
                Ok(())
            }
            first => self.other_value(first, column, keys, i),
        }
    }

    /// Reads a value that is neither a string nor a number.
    #[inline(never)]
    fn other_value(&mut self, first: u8, column: &mut Column, keys: &mut Keys, i: usize) -> Result<(), Malformed> {
        let (start, row) = (self.scan.at, column.len());
        match (first, &mut column.kind) {
            (b'{', Kind::Struct(fields)) => {
                self.fields(&mut fields.columns, keys.nested(i), row)?;
                column.end_struct(self.problem);
                Ok(())
            }
            (b'[', Kind::List(list)) => {
                self.elements(&mut list.child, keys.nested(i))?;
                column.end_list(self.problem);
                Ok(())
            }
            (b'{' | b'[', _) => {
                self.skip()?;
                let what = if first == b'{' { "an object" } else { "an array" };
                column.push(Scalar::Nested(what), self.problem);
                Ok(())
            }
            _ => {
                self.skip()?;
                self.push_scalar(column, start);
                Ok(())
            }
        }
    }

    /// Reads the elements of an array, whose bracket is next, into a list's child.
    fn elements(&mut self, child: &mut Column, keys: &mut Keys) -> Result<(), Malformed> {
        self.scan.at += 1;
        if self.scan.skip_space() == b']' {
            self.scan.at += 1;
            return Ok(());
        }
        if self.scan.at >= self.scan.limit {
            return self.scan.wrong(What::EofInArray, What::EofInArray);
        }
        loop {
            self.value(child, keys, 0)?;
            match self.scan.skip_space() {
                b']' => {
                    self.scan.at += 1;
                    return Ok(());
                }
                b',' => self.scan.at += 1,
                _ => return self.scan.wrong(What::EofInArray, What::NoCommaOrBracket),
            }
            if self.scan.skip_space() == b']' {
                return self.scan.wrong(What::EofInValue, What::TrailingComma);
            }
        }
    }

    /// Reads a whole text into `column`.
    pub(super) fn whole(&mut self, column: &mut Column, keys: &mut Keys) -> Result<(), Malformed> {
        self.value(column, keys, 0)?;
        self.scan.end()
    }

    /// Appends the number or word that began at `start` and has been checked.
    #[cold]
    fn push_scalar(&mut self, column: &mut Column, start: usize) {
        self.with_scalar(start, |value, problem| match value {
            Scalar::Nested(null) => column.push_null(null, problem),
            value => column.push(value, problem),
        });
    }

    /// Appends text with escapes, or to a column that is not simply of text.
    #[inline(never)]
    fn push_text(&mut self, column: &mut Column, text: StringAt) {
        self.with_text(text, |value, problem| column.push(value, problem));
    }

    /// What began at `start` and ends here, which is no array or object, as a scalar.
    fn with_scalar(&mut self, start: usize, then: impl FnOnce(Scalar<'_>, &mut Problem)) {
        let raw = self.scan.slice(start, self.scan.at);
        let scalar = match raw.first() {
            Some(b'n') => Scalar::Nested("null"),
            Some(b't') => Scalar::Bool(true),
            Some(b'f') => Scalar::Bool(false),
            Some(b'"') => {
                let text = StringAt { start: start + 1, end: self.scan.at - 1, escaped: raw.contains(&b'\\') };
                return self.with_text(text, then);
            }
            // A number has been checked, so it is ASCII.
            _ => Scalar::Number(std::str::from_utf8(raw).unwrap_or_default()),
        };
        then(scalar, self.problem);
    }

    fn with_text(&mut self, text: StringAt, then: impl FnOnce(Scalar<'_>, &mut Problem)) {
        let inside = self.scan.slice(text.start, text.end);
        let bytes = if text.escaped {
            self.room.text.clear();
            if string::unescape(inside, &mut self.room.text).is_none() {
                // The only thing that is JSON and no text.
                return self.problem.set(|| {
                    format!(
                        "not valid JSON: {} in the string {:?}",
                        What::LoneSurrogate,
                        String::from_utf8_lossy(inside)
                    )
                });
            }
            &self.room.text
        } else {
            inside
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => then(Scalar::Text(text), self.problem),
            // The message has been checked, so this is a fault of ours.
            Err(error) => self.problem.set(|| format!("not valid UTF-8: {error}")),
        }
    }
}
