//! A place in a text of JSON, and the ways to move it on: over white space, words, numbers, strings and whole values.
//!
//! What is skipped is checked as strictly as what is read.

use super::malformed::{Malformed, What};
use super::string;
use crate::format::columns::{Number, Prefix};

/// A text that is being read. The bytes may go on behind its end: they are looked at in whole words, and never taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan<'a> {
    bytes: &'a [u8],
    pub(super) limit: usize,
    pub(super) at: usize,
}

/// A string: what is between its quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct StringAt {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) escaped: bool,
}

impl<'a> Scan<'a> {
    /// The text `bytes[start..end]`.
    pub(super) fn new(bytes: &'a [u8], start: usize, end: usize) -> Self {
        Self { bytes, limit: end.min(bytes.len()), at: start }
    }

    /// The next byte; 0, which is allowed nowhere, at the end.
    #[inline(always)]
    pub(super) fn peek(&self) -> u8 {
        self.byte(self.at)
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        if at < self.limit { self.bytes.get(at).copied().unwrap_or(0) } else { 0 }
    }

    /// The sixteen bytes from `at` on, be they of this text or not.
    #[inline(always)]
    pub(super) fn chunk(&self, at: usize) -> Option<&'a [u8; 16]> {
        self.bytes.get(at..)?.first_chunk()
    }

    /// Eight bytes from `at` on; zeros where there are no more.
    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        match self.bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            Some(word) => u64::from_le_bytes(*word),
            None => self.last_word(at),
        }
    }

    #[cold]
    fn last_word(&self, at: usize) -> u64 {
        let rest = self.bytes.get(at..).unwrap_or_default();
        rest.iter().take(8).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
    }

    /// The bytes of a range of this text.
    pub(super) fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// A range of this text, as text that goes on behind it.
    #[inline(always)]
    pub(super) fn prefix(&self, start: usize, end: usize) -> Prefix<'a> {
        Prefix { bytes: self.bytes.get(start..).unwrap_or_default(), len: end - start }
    }

    /// That `at` is wrong: as `eof` says where the text ends there, else as `what` says.
    #[cold]
    pub(super) fn wrong<T>(&self, eof: What, what: What) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, what: if self.at >= self.limit { eof } else { what } })
    }

    /// Goes on to the next byte that is no white space, and returns it.
    #[inline(always)]
    pub(super) fn skip_space(&mut self) -> u8 {
        loop {
            let byte = self.peek();
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return byte;
            }
            self.at += 1;
        }
    }

    /// That nothing but white space follows.
    #[inline(always)]
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        self.skip_space();
        if self.at < self.limit {
            return self.wrong(What::TrailingCharacters, What::TrailingCharacters);
        }
        Ok(())
    }

    /// Takes the rest of a word whose first letter is the next byte.
    #[inline(always)]
    pub(super) fn word_of(&mut self, word: &'static [u8]) -> Result<(), Malformed> {
        if self.slice(self.at, (self.at + word.len()).min(self.limit)) == word {
            self.at += word.len();
            return Ok(());
        }
        let same = word.iter().zip(self.slice(self.at, self.limit)).take_while(|(a, b)| a == b).count();
        self.at += same;
        self.wrong(What::EofInValue, What::NoLiteral)
    }

    /// Counts the digits from `at` on, and adds them to `mantissa`.
    #[inline(always)]
    fn digits(&mut self, mantissa: &mut u64) -> usize {
        const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
        let start = self.at;
        loop {
            // Digits are 0 to 9 now. Adding makes the high bit of the first other byte 1; what it does to bytes behind
            // that one does not matter.
            let word = self.word(self.at) ^ 0x3030_3030_3030_3030;
            let others = (word.wrapping_add(0x7676_7676_7676_7676) | word) & 0x8080_8080_8080_8080;
            let count = (others.trailing_zeros() as usize / 8).min(self.limit - self.at);
            if count == 0 {
                break;
            }
            // The last digit comes to the word's end, with zeros before the first.
            let worth = eight_digits(word << (64 - 8 * count));
            *mantissa = mantissa.wrapping_mul(POWERS[count]).wrapping_add(worth);
            self.at += count;
            if count < 8 {
                break;
            }
        }
        self.at - start
    }

    /// Takes a number.
    #[inline(always)]
    pub(super) fn number(&mut self) -> Result<Number, Malformed> {
        let negative = self.peek() == b'-';
        self.at += usize::from(negative);
        let (mut mantissa, mut exponent, start) = (0, 0, self.at);
        let mut digits = self.digits(&mut mantissa);
        if digits != 1 && (digits == 0 || self.byte(start) == b'0') {
            self.at = start + digits.min(1);
            return self.wrong(What::Number, What::Number);
        }
        let mut next = self.peek();
        if next == b'.' {
            self.at += 1;
            let fraction = self.digits(&mut mantissa);
            if fraction == 0 {
                return self.wrong(What::Number, What::Number);
            }
            exponent = -i32::try_from(fraction).unwrap_or(i32::MAX);
            digits += fraction;
            next = self.peek();
        }
        let mut exact = digits <= 19;
        if next | 0x20 == b'e' {
            exact &= self.exponent(&mut exponent)?;
        }
        Ok(Number { mantissa, exponent, negative, exact })
    }

    /// Takes the exponent of a number and adds it to `exponent`. False where it is beyond counting.
    fn exponent(&mut self, exponent: &mut i32) -> Result<bool, Malformed> {
        self.at += 1;
        let negative = self.peek() == b'-';
        self.at += usize::from(matches!(self.peek(), b'-' | b'+'));
        let mut value = 0;
        let digits = self.digits(&mut value);
        if digits == 0 {
            return self.wrong(What::Number, What::Number);
        }
        let value = i32::try_from(value).ok().filter(|_| digits <= 9);
        let sum = value.and_then(|value| exponent.checked_add(if negative { -value } else { value }));
        *exponent = sum.unwrap_or(0);
        Ok(sum.is_some())
    }

    /// Takes a string whose opening quote is the next byte.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<StringAt, Malformed> {
        let start = self.at + 1;
        let mut escaped = false;
        self.at = start;
        loop {
            self.find_special();
            match self.peek() {
                b'"' => {
                    let end = self.at;
                    self.at += 1;
                    return Ok(StringAt { start, end, escaped });
                }
                b'\\' => {
                    escaped = true;
                    self.at = string::skip_escape(self.slice(0, self.limit), self.at)?;
                }
                _ => return self.wrong(What::EofInString, What::ControlCharacter),
            }
        }
    }

    /// Goes on to the next quote, backslash or control character, or to the end.
    #[inline(always)]
    fn find_special(&mut self) {
        while let Some(chunk) = self.chunk(self.at) {
            let found = string::special(chunk);
            self.at += found;
            if found < chunk.len() || self.at >= self.limit {
                self.at = self.at.min(self.limit);
                return;
            }
        }
        let rest = self.slice(self.at, self.limit);
        self.at += rest.iter().position(|&byte| string::is_special(byte)).unwrap_or(rest.len());
    }

    /// Takes any value. `open` is room for the brackets that are open.
    #[inline(always)]
    pub(super) fn skip(&mut self, open: &mut Open) -> Result<(), Malformed> {
        match self.skip_space() {
            b'[' | b'{' => self.skip_nested(open),
            first => self.skip_scalar(first),
        }
    }

    /// Takes the number, string or word that starts with `first`.
    #[inline(always)]
    fn skip_scalar(&mut self, first: u8) -> Result<(), Malformed> {
        match first {
            b'"' => self.string().map(drop),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            b'n' => self.word_of(b"null"),
            b't' => self.word_of(b"true"),
            b'f' => self.word_of(b"false"),
            _ => self.wrong(What::EofInValue, What::NoValue),
        }
    }

    /// Takes an array or object with all that is in it. Depth costs a bit a level, and no stack.
    fn skip_nested(&mut self, open: &mut Open) -> Result<(), Malformed> {
        open.clear();
        loop {
            // A value starts here.
            match self.skip_space() {
                bracket @ (b'[' | b'{') => {
                    self.at += 1;
                    open.push(bracket == b'{');
                    if !self.closes(open) {
                        self.skip_key(open.in_object())?;
                        continue;
                    }
                }
                first => self.skip_scalar(first)?,
            }
            // And has ended here, maybe with those that it was the last of.
            loop {
                if open.is_empty() {
                    return Ok(());
                }
                if self.skip_space() == b',' {
                    self.at += 1;
                    if matches!(self.skip_space(), b']' | b'}') {
                        return self.wrong(What::EofInValue, What::TrailingComma);
                    }
                    self.skip_key(open.in_object())?;
                    break;
                }
                if !self.closes(open) {
                    return match open.in_object() {
                        true => self.wrong(What::EofInObject, What::NoCommaOrBrace),
                        false => self.wrong(What::EofInArray, What::NoCommaOrBracket),
                    };
                }
            }
        }
    }

    /// Takes the bracket that closes the innermost, if it is next.
    fn closes(&mut self, open: &mut Open) -> bool {
        let closes = self.skip_space() == if open.in_object() { b'}' } else { b']' };
        if closes {
            self.at += 1;
            open.pop();
        }
        closes
    }

    fn skip_key(&mut self, in_object: bool) -> Result<(), Malformed> {
        if in_object {
            self.key()?;
        } else if self.skip_space() == 0 && self.at >= self.limit {
            return self.wrong(What::EofInArray, What::NoValue);
        }
        Ok(())
    }

    /// Takes a key and its colon.
    pub(super) fn key(&mut self) -> Result<StringAt, Malformed> {
        if self.skip_space() != b'"' {
            return self.wrong(What::EofInObject, What::KeyNotText);
        }
        let key = self.string()?;
        if self.skip_space() != b':' {
            return self.wrong(What::EofInObject, What::NoColon);
        }
        self.at += 1;
        Ok(key)
    }
}

/// The worth of eight digits, each in a byte of its own, the first in the lowest.
#[inline(always)]
fn eight_digits(word: u64) -> u64 {
    const PAIRS: u64 = 0x0000_00FF_0000_00FF;
    let word = word.wrapping_mul(10).wrapping_add(word >> 8);
    let high = (word & PAIRS).wrapping_mul(0x000F_4240_0000_0064);
    let low = ((word >> 16) & PAIRS).wrapping_mul(0x0000_2710_0000_0001);
    high.wrapping_add(low) >> 32
}

/// Which brackets are open: a bit for each, 1 for an object.
#[derive(Debug, Default)]
pub(super) struct Open {
    bits: Vec<u64>,
    depth: usize,
}

impl Open {
    fn clear(&mut self) {
        self.depth = 0;
    }

    fn is_empty(&self) -> bool {
        self.depth == 0
    }

    fn push(&mut self, object: bool) {
        let (word, bit) = (self.depth / 64, self.depth % 64);
        if word == self.bits.len() {
            self.bits.push(0);
        }
        self.bits[word] = self.bits[word] & !(1 << bit) | u64::from(object) << bit;
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
    }

    fn in_object(&self) -> bool {
        let last = self.depth - 1;
        self.bits[last / 64] >> (last % 64) & 1 == 1
    }
}
