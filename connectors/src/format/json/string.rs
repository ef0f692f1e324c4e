//! What strings are made of: the bytes that end or interrupt them, and escapes.

use super::malformed::{Malformed, What};

/// True of the bytes that a string cannot just go on with.
#[inline]
pub(super) fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < 0x20
}

/// Where the first special byte is in `chunk`; its length where there is none.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(
    unsafe_code,
    reason = "SSE2 finds the end of a short string in one step, and Rust has no safe name for it yet"
)]
pub(super) fn special(chunk: &[u8; 16]) -> usize {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };

    // SAFETY: SSE2 is part of every x86-64, and the load, which needs no alignment, reads the 16 bytes of `chunk`.
    let found = unsafe {
        let bytes = _mm_loadu_si128(chunk.as_ptr().cast::<__m128i>());
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control))
    };
    // A bit behind the last byte's, for none.
    (found | 0x1_0000).trailing_zeros() as usize
}

/// Where the first special byte is in `chunk`; its length where there is none.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn special(chunk: &[u8; 16]) -> usize {
    const ONES: u128 = u128::from_ne_bytes([0x01; 16]);
    const HIGHS: u128 = u128::from_ne_bytes([0x80; 16]);
    let whole = u128::from_le_bytes(*chunk);
    // The high bit of a byte becomes 1 where it is 0 (below 1) or below 0x20. A borrow may spoil bytes behind the first
    // that is found, which does not matter.
    let below = |bytes: u128, limit: u128| bytes.wrapping_sub(ONES * limit) & !bytes & HIGHS;
    let equal = |byte: u8| below(whole ^ (ONES * u128::from(byte)), 1);
    let found = equal(b'"') | equal(b'\\') | below(whole, 0x20);
    found.trailing_zeros() as usize / 8
}

/// True where no byte of `text` is special.
#[inline]
pub(super) fn is_plain(text: &[u8]) -> bool {
    let (chunks, rest) = text.as_chunks::<16>();
    chunks.iter().all(|chunk| special(chunk) == chunk.len()) && !rest.iter().any(|&byte| is_special(byte))
}

/// Checks the escape whose backslash is at `at`, and returns where it ends.
#[cold]
pub(super) fn skip_escape(text: &[u8], at: usize) -> Result<usize, Malformed> {
    let eof = Malformed { at: text.len(), what: What::EofInString };
    match text.get(at + 1) {
        None => Err(eof),
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match text.get(at + 2..at + 6) {
            None => Err(eof),
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(at + 6),
            Some(_) => Err(Malformed { at: at + 5, what: What::Escape }),
        },
        Some(_) => Err(Malformed { at: at + 1, what: What::Escape }),
    }
}

/// Appends what the inside of a string means to `out`. Its escapes have been checked; half a surrogate pair, which is no
/// text, has not, and `None` says that there is one.
pub(super) fn unescape(inside: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = inside;
    while let Some(backslash) = memchr::memchr(b'\\', rest) {
        let (plain, escape) = rest.split_at(backslash);
        out.extend_from_slice(plain);
        let (&letter, after) = escape.get(1..)?.split_first()?;
        rest = after;
        out.push(match letter {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (character, after) = character(rest)?;
                rest = after;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            itself => itself,
        });
    }
    out.extend_from_slice(rest);
    Some(())
}

/// The character whose first `\u` has been read, and what follows it.
fn character(text: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = unit(text)?;
    if !(0xd800..0xdc00).contains(&first) {
        // The second half of a pair alone is no character.
        return Some((char::from_u32(first)?, rest));
    }
    let (second, rest) = unit(rest.strip_prefix(b"\\u")?)?;
    let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x1_0000 + ((first - 0xd800) << 10 | low))?, rest))
}

fn unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_first_chunk::<4>()?;
    let digit = |unit: u32, &digit: &u8| Some(unit << 4 | char::from(digit).to_digit(16)?);
    Some((digits.iter().try_fold(0, digit)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_found_at_every_place() {
        for byte in 0..=255 {
            for place in 0..16 {
                for around in [b'a', 0x80, 0xff, 0x20, 0x21, 0x23, 0x5b, 0x5d] {
                    let mut chunk = [around; 16];
                    chunk[place] = byte;
                    assert_eq!(special(&chunk), if is_special(byte) { place } else { 16 }, "{byte} at {place}");
                }
            }
        }
    }
}
