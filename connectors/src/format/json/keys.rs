//! What stands between two values, remembered: messages of one kind have the same keys in the same order, so that a key
//! is mostly recognised by one comparison of `, "key": ` as a whole, with its comma, quotes, colon and white space.

use super::scan::Scan;

/// The longest text that is remembered.
const TEXT_BYTES_MAX: usize = 64;

/// The most texts that are remembered for one object.
const LINKS_MAX: usize = 512;

/// How far ahead a text is looked for where an object leaves out fields that others had.
const AHEAD_MAX: usize = 8;

/// The keys of one object, in the order in which they came, and those of the objects within.
#[derive(Debug, Default)]
pub(in crate::format) struct Keys {
    links: Vec<Link>,
    nested: Vec<Keys>,
}

/// A text between two values of an object.
#[derive(Debug)]
struct Link {
    /// Its first sixteen bytes, and a mask of those that there are.
    head: u128,
    mask: u128,
    text: Box<[u8]>,
    /// True where it stands before the first value: then it has no comma.
    first: bool,
    /// The column of its key, if any.
    column: Option<usize>,
}

/// A key that was recognised.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// The column, if any wants it.
    pub(super) column: Option<usize>,
    /// The place of the link that probably follows.
    pub(super) next: usize,
}

impl Keys {
    /// The keys within column `column`.
    pub(super) fn nested(&mut self, column: usize) -> &mut Self {
        if self.nested.len() <= column {
            self.nested.resize_with(column + 1, Self::default);
        }
        &mut self.nested[column]
    }

    /// Takes the text of the link at `place`, if it is next.
    #[inline(always)]
    pub(super) fn follow(&self, scan: &mut Scan<'_>, place: usize, first: bool) -> Option<Found> {
        let link = self.links.get(place)?;
        link.take(scan, first).then(|| Found { column: link.column, next: place + 1 })
    }

    /// Takes the text of a link behind `place`, if it is next.
    pub(super) fn follow_ahead(&self, scan: &mut Scan<'_>, place: usize, first: bool) -> Option<Found> {
        (place + 1..=place + AHEAD_MAX).find_map(|place| self.follow(scan, place, first))
    }

    /// Remembers `text`, which was found at `place`; it is correct, and leads to `column`.
    pub(super) fn learn(&mut self, place: usize, text: &[u8], first: bool, column: Option<usize>) {
        if text.len() > TEXT_BYTES_MAX {
            return;
        }
        let link = Link::new(text, first, column);
        if self.links.len() < LINKS_MAX {
            self.links.insert(place.min(self.links.len()), link);
        } else if let Some(old) = self.links.get_mut(place) {
            *old = link;
        }
    }
}

impl Link {
    fn new(text: &[u8], first: bool, column: Option<usize>) -> Self {
        let (mut head, mut mask) = ([0; 16], [0; 16]);
        for ((head, mask), &byte) in head.iter_mut().zip(&mut mask).zip(text) {
            (*head, *mask) = (byte, 0xff);
        }
        let (head, mask) = (u128::from_le_bytes(head), u128::from_le_bytes(mask));
        Self { head, mask, text: text.into(), first, column }
    }

    #[inline(always)]
    fn take(&self, scan: &mut Scan<'_>, first: bool) -> bool {
        let end = scan.at + self.text.len();
        let same = first == self.first
            && end <= scan.limit
            && match scan.chunk(scan.at) {
                Some(chunk) if (u128::from_le_bytes(*chunk) ^ self.head) & self.mask != 0 => false,
                Some(_) if self.text.len() <= 16 => true,
                _ => *scan.slice(scan.at, end) == *self.text,
            };
        if same {
            scan.at = end;
        }
        same
    }
}
