//! How messages become bytes in the ingest log, and back.
//!
//! A *group* is what one commit writes: the messages of all appends that share one `fdatasync`. Its body is
//!
//! ```text
//! sequence of the first message   u64, little endian
//! number of messages              u32, little endian
//! each message:  payload          varint 0 for a tombstone, else length + 1, then the bytes
//!                fields           varint how many, then each: name, kind (1 byte), value
//! ```
//!
//! A name is a varint index into the names seen so far in this group; an index one beyond the last defines a new name,
//! whose text follows. Decoding never panics: bytes that make no sense are [`Malformed`]. Checksums and framing are
//! `segment`'s business.

use bytes::Bytes;

use super::message::{FieldRef, IngestMessage};

/// Bytes before the first message of a group.
pub(super) const GROUP_HEADER_BYTES: usize = 12;

const TEXT: u8 = 1;
const INT: u8 = 2;
const FALSE: u8 = 3;
const TRUE: u8 = 4;
const TIMESTAMP: u8 = 5;
const BYTES: u8 = 6;
const PAIRS: u8 = 7;

/// Bytes that are no group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Writes a group's body.
#[derive(Debug, Default)]
pub(super) struct GroupEncoder {
    names: Vec<&'static str>,
    /// Where the next field's name is, if it follows the last one as it did before.
    expected: usize,
    count: u32,
}

impl GroupEncoder {
    /// Starts a group: leaves room for the header, which [`GroupEncoder::finish`] fills.
    pub(super) fn start(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&[0; GROUP_HEADER_BYTES]);
        Self::default()
    }

    pub(super) fn message(&mut self, message: &IngestMessage, out: &mut Vec<u8>) {
        // A field that is missing is null.
        let present = message.metadata.iter().filter_map(|(name, value)| Some((*name, value.field()?)));
        self.payload(message.payload.as_deref(), present.clone().count(), out);
        for (name, value) in present {
            self.field(name, value, out);
        }
    }

    /// Begins a message, which has so many fields: as many [`GroupEncoder::field`] follow.
    pub(super) fn payload(&mut self, payload: Option<&[u8]>, fields: usize, out: &mut Vec<u8>) {
        match payload {
            None => put_varint(0, out),
            Some(payload) => {
                put_varint(payload.len() as u64 + 1, out);
                out.extend_from_slice(payload);
            }
        }
        put_varint(fields as u64, out);
        self.expected = 0;
        self.count += 1;
    }

    pub(super) fn field(&mut self, name: &'static str, value: FieldRef<'_>, out: &mut Vec<u8>) {
        self.name(name, out);
        put_value(value, out);
    }

    /// How many messages there are so far.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    fn name(&mut self, name: &'static str, out: &mut Vec<u8>) {
        let index = match self.names.get(self.expected) {
            Some(known) if std::ptr::eq(*known, name) => Some(self.expected),
            _ => self.names.iter().position(|known| *known == name),
        };
        let index = match index {
            Some(index) => {
                put_varint(index as u64, out);
                index
            }
            None => {
                put_varint(self.names.len() as u64, out);
                put_bytes(name.as_bytes(), out);
                self.names.push(name);
                self.names.len() - 1
            }
        };
        self.expected = index + 1;
    }

    /// Fills the header of the group that starts at `start` and returns the number of its messages.
    pub(super) fn finish(self, first: u64, start: usize, out: &mut [u8]) -> u32 {
        if let Some(header) = out.get_mut(start..start + GROUP_HEADER_BYTES) {
            header[..8].copy_from_slice(&first.to_le_bytes());
            header[8..].copy_from_slice(&self.count.to_le_bytes());
        }
        self.count
    }
}

fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_int(n: i64, out: &mut Vec<u8>) {
    put_varint(((n << 1) ^ (n >> 63)) as u64, out);
}

fn put_value(value: FieldRef<'_>, out: &mut Vec<u8>) {
    match value {
        FieldRef::Text(text) => {
            out.push(TEXT);
            put_bytes(text.as_bytes(), out);
        }
        FieldRef::Int(n) => {
            out.push(INT);
            put_int(n, out);
        }
        FieldRef::Bool(yes) => out.push(if yes { TRUE } else { FALSE }),
        FieldRef::Timestamp(micros) => {
            out.push(TIMESTAMP);
            put_int(micros, out);
        }
        FieldRef::Bytes(bytes) => {
            out.push(BYTES);
            put_bytes(bytes, out);
        }
        FieldRef::Pairs(pairs) => {
            out.push(PAIRS);
            put_varint(pairs.len() as u64, out);
            for (key, value) in pairs {
                put_bytes(key.as_bytes(), out);
                put_bytes(value.as_bytes(), out);
            }
        }
    }
}

/// A metadata value in a group's bytes.
#[derive(Debug, PartialEq)]
pub(super) enum ValueRef<'a> {
    Text(&'a str),
    Int(i64),
    Bool(bool),
    Timestamp(i64),
    Bytes(&'a [u8]),
    Pairs(Vec<(&'a str, &'a str)>),
}

impl ValueRef<'_> {
    /// The bytes of its texts.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Pairs(pairs) => pairs.iter().map(|(key, value)| key.len() + value.len()).sum(),
            Self::Int(_) | Self::Bool(_) | Self::Timestamp(_) => 0,
        }
    }
}

/// Takes the parts of a message as they are decoded.
pub(super) trait Visitor {
    fn payload(&mut self, payload: Option<&[u8]>);
    /// Whether the value of the field with this name is to be decoded at all.
    fn wants(&self, name: usize) -> bool;
    /// A field of the message; `name` is an index into the names given to [`Visitor::name`] for this group.
    fn field(&mut self, name: usize, value: ValueRef<'_>);
    /// The group's next name.
    fn name(&mut self, name: &str);
}

/// Goes through the messages of a group.
#[derive(Debug)]
pub(super) struct GroupCursor {
    body: Bytes,
    at: usize,
    names: usize,
    next: u64,
    left: u32,
}

impl GroupCursor {
    pub(super) fn new(body: Bytes) -> Result<Self, Malformed> {
        let (first, count) = group_header(&body).ok_or(Malformed("it is shorter than a group's header"))?;
        if count == 0 {
            return Err(Malformed("it is a group without messages"));
        }
        first.checked_add(u64::from(count)).ok_or(Malformed("its sequence numbers overflow"))?;
        Ok(Self { body, at: GROUP_HEADER_BYTES, names: 0, next: first, left: count })
    }

    /// The sequence number of the next message.
    pub(super) fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Whether all messages were visited.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The payload bytes of the next message.
    pub(super) fn peek_payload_bytes(&self) -> usize {
        let mut input = Input { bytes: &self.body, at: self.at };
        input.varint().map_or(0, |tag| usize::try_from(tag.saturating_sub(1)).unwrap_or(usize::MAX))
    }

    /// Decodes the next message.
    pub(super) fn visit(&mut self, visitor: &mut impl Visitor) -> Result<(), Malformed> {
        let mut input = Input { bytes: &self.body, at: self.at };
        match input.varint()? {
            0 => visitor.payload(None),
            tag => visitor.payload(Some(input.take(tag - 1)?)),
        }
        for _ in 0..input.varint()? {
            let name = input.varint()? as usize;
            if name == self.names {
                visitor.name(input.text()?);
                self.names += 1;
            } else if name > self.names {
                return Err(Malformed("a field refers to a name that was not defined"));
            }
            match visitor.wants(name) {
                true => visitor.field(name, input.value()?),
                false => input.skip_value()?,
            }
        }
        self.at = input.at;
        self.next += 1;
        self.left -= 1;
        if self.left == 0 && self.at != self.body.len() {
            return Err(Malformed("bytes follow the last message of a group"));
        }
        Ok(())
    }
}

/// The first sequence number and the count of a group.
pub(super) fn group_header(body: &[u8]) -> Option<(u64, u32)> {
    let first = body.get(..8)?.try_into().ok()?;
    let count = body.get(8..GROUP_HEADER_BYTES)?.try_into().ok()?;
    Some((u64::from_le_bytes(first), u32::from_le_bytes(count)))
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

const SHORT: Malformed = Malformed("a message is longer than its group");
const UNKNOWN_KIND: Malformed = Malformed("a value has an unknown kind (written by a newer version?)");

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(SHORT)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(Malformed("a number is too long"))
    }

    fn int(&mut self) -> Result<i64, Malformed> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let end = usize::try_from(length).ok().and_then(|n| self.at.checked_add(n)).ok_or(SHORT)?;
        let taken = self.bytes.get(self.at..end).ok_or(SHORT)?;
        self.at = end;
        Ok(taken)
    }

    fn prefixed(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.varint()?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.prefixed()?).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// Goes past a value that nobody wants.
    fn skip_value(&mut self) -> Result<(), Malformed> {
        match self.byte()? {
            TEXT | BYTES => drop(self.prefixed()?),
            INT | TIMESTAMP => drop(self.varint()?),
            FALSE | TRUE => {}
            PAIRS => {
                for _ in 0..self.varint()? {
                    self.prefixed()?;
                    self.prefixed()?;
                }
            }
            _ => return Err(UNKNOWN_KIND),
        }
        Ok(())
    }

    fn value(&mut self) -> Result<ValueRef<'a>, Malformed> {
        Ok(match self.byte()? {
            TEXT => ValueRef::Text(self.text()?),
            INT => ValueRef::Int(self.int()?),
            FALSE => ValueRef::Bool(false),
            TRUE => ValueRef::Bool(true),
            TIMESTAMP => ValueRef::Timestamp(self.int()?),
            BYTES => ValueRef::Bytes(self.prefixed()?),
            PAIRS => {
                let mut pairs = Vec::new();
                // No capacity is taken from the count: a damaged one could ask for any amount of memory.
                for _ in 0..self.varint()? {
                    pairs.push((self.text()?, self.text()?));
                }
                ValueRef::Pairs(pairs)
            }
            _ => return Err(UNKNOWN_KIND),
        })
    }
}
