//! Numbers read exactly: never by way of a float.

use std::str::FromStr;

use super::{Scalar, Wrong};

/// The worth of a number: `mantissa` times 10 to the power `exponent`.
#[derive(Debug, Clone, Copy)]
pub(in crate::format) struct Number {
    /// All of its digits, the point left out.
    pub(in crate::format) mantissa: u64,
    pub(in crate::format) exponent: i32,
    pub(in crate::format) negative: bool,
    /// False where the digits are more than `mantissa` can hold. What it holds then is worth nothing.
    pub(in crate::format) exact: bool,
}

/// The powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The powers of ten that a float holds exactly.
const POWERS_32: [f32; 11] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];

impl Number {
    /// The number as an integer, where it is written as one and 63 bits hold it.
    #[inline]
    pub(super) fn integer(self) -> Option<i64> {
        let value = i64::try_from(self.mantissa).ok().filter(|_| self.exact && self.exponent == 0)?;
        Some(if self.negative { -value } else { value })
    }

    /// The double that is nearest. Where mantissa and power are doubles themselves, one multiplication or division
    /// rounds once and so is exact (Clinger's fast path); other numbers are not for here.
    #[inline]
    pub(super) fn double(self) -> Option<f64> {
        if !self.exact || self.mantissa > 1 << f64::MANTISSA_DIGITS {
            return None;
        }
        let power = *POWERS.get(self.exponent.unsigned_abs() as usize)?;
        let mantissa = self.mantissa as f64;
        let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
        Some(if self.negative { -value } else { value })
    }

    /// The same for a float of 32 bits.
    #[inline]
    pub(super) fn float(self) -> Option<f32> {
        if !self.exact || self.mantissa > 1 << f32::MANTISSA_DIGITS {
            return None;
        }
        let power = *POWERS_32.get(self.exponent.unsigned_abs() as usize)?;
        let mantissa = self.mantissa as f32;
        let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
        Some(if self.negative { -value } else { value })
    }

    /// The unscaled value of a decimal with at most 18 digits.
    #[inline]
    pub(super) fn decimal(self, precision: u8, scale: i8) -> Option<i64> {
        let shift = usize::try_from(self.exponent.checked_add(i32::from(scale))?).ok()?;
        let value = i64::try_from(self.mantissa).ok()?.checked_mul(*INTEGER_POWERS.get(shift)?)?;
        // What has more digits than the column is not for here, nor is what has more than 18.
        let limit = INTEGER_POWERS.get(usize::from(precision)).copied().unwrap_or(INTEGER_POWERS[18]);
        (self.exact && value < limit).then_some(if self.negative { -value } else { value })
    }
}

/// The powers of ten that 63 bits hold.
const INTEGER_POWERS: [i64; 19] = {
    let mut powers = [1; 19];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// More digits than any column can hold (a decimal of 256 bits has 76).
const DIGITS_MAX: usize = 80;

/// The text of a number, if `value` is one (or may be read as one).
pub(super) fn text<'a>(value: Scalar<'a>, coerce: bool) -> Result<&'a str, Wrong> {
    match value {
        Scalar::Number(text) => Ok(text),
        Scalar::Text(text) if coerce => Ok(text.trim()),
        _ => Err(Wrong::Type),
    }
}

/// An integer. `1.0` and `1e3` are integers too: JSON has one kind of number.
pub(super) fn integer<T: FromStr>(text: &str) -> Result<T, Wrong> {
    match text.parse() {
        Ok(value) => Ok(value),
        Err(_) => scaled(text, 0)?.parse().map_err(|_| Wrong::Range),
    }
}

/// A float; infinity and NaN are refused, also by overflow.
pub(super) fn float<T: FromStr + Copy + Into<f64>>(text: &str) -> Result<T, Wrong> {
    // Rust's grammar allows `inf`, `nan` and `1.`, the last of which does no harm.
    let starts = text.trim_start_matches(['-', '+']);
    if !starts.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err(Wrong::Type);
    }
    let value: T = text.parse().map_err(|_| Wrong::Type)?;
    if value.into().is_finite() { Ok(value) } else { Err(Wrong::Range) }
}

/// `text` times 10 to the power `scale`, as the digits of an integer; [`Wrong::Inexact`] where it is none.
pub(super) fn scaled(text: &str, scale: i64) -> Result<String, Wrong> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (rest, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
        return Err(Wrong::Type);
    }
    let mut digits = format!("{whole}{fraction}").trim_start_matches('0').to_owned();
    let exponent_value = match exponent {
        None => 0,
        Some(exponent) => {
            let bare = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            if bare.is_empty() || !all_digits(bare) {
                return Err(Wrong::Type);
            }
            // An exponent beyond an i64 is out of range whatever the digits are, unless they are all 0.
            exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN / 4 } else { i64::MAX / 4 })
        }
    };
    if digits.is_empty() {
        return Ok("0".into());
    }
    let shift = exponent_value.saturating_sub(fraction.len() as i64).saturating_add(scale);
    if shift >= 0 {
        let zeros = usize::try_from(shift).unwrap_or(usize::MAX);
        if digits.len().saturating_add(zeros) > DIGITS_MAX {
            return Err(Wrong::Range);
        }
        digits.extend(std::iter::repeat_n('0', zeros));
    } else {
        let cut = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
        let kept = digits.len().checked_sub(cut).ok_or(Wrong::Inexact)?;
        if digits[kept..].bytes().any(|b| b != b'0') {
            return Err(Wrong::Inexact);
        }
        digits.truncate(kept);
    }
    if negative {
        digits.insert(0, '-');
    }
    Ok(digits)
}

/// The digits of a decimal of `precision` and `scale`.
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Result<String, Wrong> {
    let digits = scaled(text, i64::from(scale))?;
    if digits.trim_start_matches('-').len() > usize::from(precision) {
        return Err(Wrong::Range);
    }
    Ok(digits)
}

/// A boolean in text, as PostgreSQL reads them.
pub(super) fn boolean(text: &str) -> Option<bool> {
    let text = text.trim();
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(&["true", "t", "yes", "y", "on", "1"]) {
        Some(true)
    } else if is(&["false", "f", "no", "n", "off", "0"]) {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_to_their_last_digit() {
        assert_eq!(integer::<i64>("9223372036854775807").ok(), Some(i64::MAX));
        assert_eq!(integer::<u64>("18446744073709551615").ok(), Some(u64::MAX));
        assert!(matches!(integer::<i64>("9223372036854775808"), Err(Wrong::Range)));
        assert_eq!(integer::<i32>("1.50e2").ok(), Some(150));
        assert_eq!(integer::<u8>("-0").ok(), Some(0));
        assert!(matches!(integer::<i32>("1.5"), Err(Wrong::Inexact)));
        assert!(matches!(integer::<u8>("-1"), Err(Wrong::Range)));
        assert!(matches!(integer::<u8>("x"), Err(Wrong::Type)));
    }

    #[test]
    fn hostile_exponents_cost_nothing() {
        assert!(matches!(scaled("1e999999999999999999999", 2), Err(Wrong::Range)));
        assert!(matches!(scaled("1e-999999999999999999999", 2), Err(Wrong::Inexact)));
        assert_eq!(scaled("0e999999999999999999999", 2).ok().as_deref(), Some("0"));
    }

    #[test]
    fn decimals_are_never_rounded() {
        assert_eq!(decimal("12.50", 4, 2).ok().as_deref(), Some("1250"));
        assert_eq!(decimal("12.500", 4, 2).ok().as_deref(), Some("1250"));
        assert_eq!(decimal("-0.05", 4, 2).ok().as_deref(), Some("-5"));
        assert!(matches!(decimal("12.505", 5, 2), Err(Wrong::Inexact)));
        assert!(matches!(decimal("123.45", 4, 2), Err(Wrong::Range)));
    }

    #[test]
    fn not_a_number_is_refused() {
        for text in ["NaN", "inf", "-inf", "infinity", "", "-"] {
            assert!(matches!(float::<f64>(text), Err(Wrong::Type)), "{text}");
        }
        assert!(matches!(float::<f64>("1e999"), Err(Wrong::Range)));
        assert!(matches!(float::<f32>("1e39"), Err(Wrong::Range)));
    }
}
