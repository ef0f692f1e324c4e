//! Values in PostgreSQL's binary form. None of them is trusted: what is not as long or as it should be is an error.

use std::borrow::Cow;

use arrow::datatypes::TimeUnit;

/// The most digits of a decimal of 128 bits.
pub(super) const DECIMAL_DIGITS: u8 = 38;
/// From 1970 to 2000, from where PostgreSQL counts.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], String> {
    value.try_into().map_err(|_| format!("a value of {} bytes, where {N} were expected", value.len()))
}

pub(super) fn boolean(value: &[u8]) -> Result<bool, String> {
    Ok(array::<1>(value)? != [0])
}

pub(super) fn int2(value: &[u8]) -> Result<i16, String> {
    Ok(i16::from_be_bytes(array(value)?))
}

pub(super) fn int4(value: &[u8]) -> Result<i32, String> {
    Ok(i32::from_be_bytes(array(value)?))
}

pub(super) fn int8(value: &[u8]) -> Result<i64, String> {
    Ok(i64::from_be_bytes(array(value)?))
}

pub(super) fn float4(value: &[u8]) -> Result<f32, String> {
    Ok(f32::from_be_bytes(array(value)?))
}

pub(super) fn float8(value: &[u8]) -> Result<f64, String> {
    Ok(f64::from_be_bytes(array(value)?))
}

/// Days since 1970.
pub(super) fn date(value: &[u8]) -> Result<i32, String> {
    match int4(value)? {
        i32::MAX | i32::MIN => Err("infinity is no day; write a query with NULLIF".to_owned()),
        days => days.checked_add(EPOCH_DAYS).ok_or_else(|| format!("the day {days} after 2000 is out of range")),
    }
}

/// The time since 1970 in `unit`, rounded down.
pub(super) fn timestamp(value: &[u8], unit: TimeUnit) -> Result<i64, String> {
    let micros = match int8(value)? {
        i64::MAX | i64::MIN => return Err("infinity is no time; write a query with NULLIF".to_owned()),
        micros => micros.checked_add(EPOCH_MICROS),
    };
    let in_unit = micros.and_then(|micros| match unit {
        TimeUnit::Second => Some(micros.div_euclid(1_000_000)),
        TimeUnit::Millisecond => Some(micros.div_euclid(1_000)),
        TimeUnit::Microsecond => Some(micros),
        TimeUnit::Nanosecond => micros.checked_mul(1_000),
    });
    in_unit.ok_or_else(|| "the time is beyond what a timestamp holds; declare the column as timestamp(6)".to_owned())
}

pub(super) fn text(value: &[u8]) -> Result<Cow<'_, str>, String> {
    std::str::from_utf8(value).map(Cow::Borrowed).map_err(|_| "a text that is not UTF-8".to_owned())
}

/// A `char(n)`, whose blanks at the end mean nothing.
pub(super) fn padded_text(value: &[u8]) -> Result<Cow<'_, str>, String> {
    text(value.trim_ascii_end())
}

/// The text behind the number of jsonb's version.
pub(super) fn jsonb(value: &[u8]) -> Result<Cow<'_, str>, String> {
    match value.split_first() {
        Some((1, json)) => text(json),
        _ => Err("a jsonb of another version than 1".to_owned()),
    }
}

pub(super) fn uuid(value: &[u8]) -> Result<Cow<'_, str>, String> {
    let number = u128::from_be_bytes(array(value)?);
    let hex = format!("{number:032x}");
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(Cow::Owned(parts.join("-")))
}

/// A `numeric` as it would be written: `-12.50`, `NaN`, `Infinity`.
fn numeric(value: &[u8]) -> Result<String, String> {
    const POSITIVE: u16 = 0x0000;
    const NEGATIVE: u16 = 0x4000;
    let wrong = || "a numeric that is none".to_owned();
    let (header, digits) = value.split_first_chunk::<8>().ok_or_else(wrong)?;
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (count, weight, scale) = (field(0), field(2).cast_signed(), usize::from(field(6)));
    let negative = match field(4) {
        POSITIVE => false,
        NEGATIVE => true,
        0xc000 => return Ok("NaN".to_owned()),
        0xd000 => return Ok("Infinity".to_owned()),
        0xf000 => return Ok("-Infinity".to_owned()),
        _ => return Err(wrong()),
    };
    let (groups, rest) = digits.as_chunks::<2>();
    if groups.len() != usize::from(count) || !rest.is_empty() {
        return Err(wrong());
    }
    // Groups of four decimal digits; the first has the worth 10000 to the power `weight`.
    let group = |power: i32| {
        let index = usize::try_from(i32::from(weight) - power).ok();
        index.and_then(|index| groups.get(index)).map_or(0, |group| u16::from_be_bytes(*group))
    };
    if groups.iter().any(|group| u16::from_be_bytes(*group) > 9_999) {
        return Err(wrong());
    }
    let mut whole = String::new();
    for power in (0..=i32::from(weight).max(0)).rev() {
        whole.push_str(&format!("{:04}", group(power)));
    }
    let whole = whole.trim_start_matches('0');
    let mut text = if negative { "-".to_owned() } else { String::new() };
    text.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        let mut fraction = String::new();
        for place in 1..=scale.div_ceil(4) {
            fraction.push_str(&format!("{:04}", group(-(place as i32))));
        }
        text.push('.');
        text.push_str(&fraction[..scale]);
    }
    Ok(text)
}

/// A `numeric` as the nearest double.
pub(super) fn numeric_as_double(value: &[u8]) -> Result<f64, String> {
    let text = numeric(value)?;
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// A `numeric` as the digits of a decimal, exactly.
pub(super) fn numeric_as_decimal(value: &[u8], precision: u8, scale: i8) -> Result<i128, String> {
    decimal(&numeric(value)?, precision, scale)
}

/// The number in `text` times 10 to the power `scale`, exactly.
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let places = usize::try_from(scale).unwrap_or(0);
    let (kept, cut) = fraction.split_at(places.min(fraction.len()));
    if cut.bytes().any(|digit| digit != b'0') {
        return Err(match places {
            0 => format!("{text} is no whole number"),
            places => format!("{text} has more than {places} digits behind the point"),
        });
    }
    let digits = format!("{whole}{kept:0<places$}");
    let out_of_range = || format!("{text} is out of range");
    if digits.trim_start_matches('-').trim_start_matches('0').len() > usize::from(precision) {
        return Err(out_of_range());
    }
    digits.parse().map_err(|_| out_of_range())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the database writes it: groups of four digits.
    fn binary(weight: i16, sign: u16, scale: u16, groups: &[u16]) -> Vec<u8> {
        let header = [groups.len() as u16, weight.cast_unsigned(), sign, scale];
        header.iter().chain(groups).flat_map(|field| field.to_be_bytes()).collect()
    }

    #[test]
    fn numerics_are_what_they_are_written_as() {
        for (bytes, text) in [
            (binary(0, 0, 0, &[]), "0"),
            (binary(0, 0, 2, &[]), "0.00"),
            (binary(0, 0, 2, &[12, 5000]), "12.50"),
            (binary(0, 0x4000, 1, &[12, 5000]), "-12.5"),
            (binary(2, 0, 0, &[1]), "100000000"),
            (binary(1, 0, 0, &[1, 2]), "10002"),
            (binary(-1, 0, 4, &[1]), "0.0001"),
            (binary(-2, 0, 8, &[1]), "0.00000001"),
            (binary(-2, 0, 5, &[1000]), "0.00001"),
            (binary(1, 0, 9, &[9999, 9999, 9999, 9999, 9000]), "99999999.999999999"),
            (binary(0, 0xc000, 0, &[]), "NaN"),
            (binary(0, 0xf000, 0, &[]), "-Infinity"),
        ] {
            assert_eq!(numeric(&bytes).as_deref(), Ok(text));
        }
        for bytes in
            [vec![], vec![0; 7], binary(0, 0, 0, &[10_000]), binary(0, 1, 0, &[]), vec![0, 1, 0, 0, 0, 0, 0, 0, 1]]
        {
            assert!(numeric(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        assert_eq!(decimal("12.50", 4, 2), Ok(1250));
        assert_eq!(decimal("12.5", 4, 2), Ok(1250));
        assert_eq!(decimal("-0.05", 4, 2), Ok(-5));
        assert_eq!(decimal("12.500", 4, 2), Ok(1250));
        assert_eq!(decimal("9223372036854775808", 38, 0), Ok(9_223_372_036_854_775_808));
        assert!(decimal("12.505", 5, 2).unwrap_err().contains("more than 2 digits"));
        assert!(decimal("1.5", 5, 0).unwrap_err().contains("no whole number"));
        assert!(decimal("123.45", 4, 2).unwrap_err().contains("out of range"));
        assert!(decimal("NaN", 4, 2).is_err());
        assert!(decimal("Infinity", 38, 0).is_err());
        // More digits than 128 bits have together, but not in what is kept.
        let long = format!("{}.{}", "9".repeat(28), "1234567890".to_owned() + "00");
        assert_eq!(decimal(&long, 38, 10).map(|n| n.to_string()), Ok("9".repeat(28) + "1234567890"));
    }

    #[test]
    fn times_count_from_1970() {
        assert_eq!(date(&0_i32.to_be_bytes()), Ok(10_957));
        assert!(date(&i32::MAX.to_be_bytes()).is_err());
        let at = (-1_i64).to_be_bytes();
        assert_eq!(timestamp(&at, TimeUnit::Microsecond), Ok(946_684_799_999_999));
        assert_eq!(timestamp(&at, TimeUnit::Millisecond), Ok(946_684_799_999));
        assert_eq!(timestamp(&at, TimeUnit::Nanosecond), Ok(946_684_799_999_999_000));
        assert!(timestamp(&i64::MIN.to_be_bytes(), TimeUnit::Second).is_err());
        let far = (300_i64 * 365 * 86_400_000_000).to_be_bytes();
        assert!(timestamp(&far, TimeUnit::Nanosecond).unwrap_err().contains("timestamp(6)"));
        assert!(timestamp(&far, TimeUnit::Microsecond).is_ok());
    }

    #[test]
    fn texts_of_all_kinds() {
        let bytes = 0x0123_4567_89ab_cdef_0011_2233_4455_6677_u128.to_be_bytes();
        assert_eq!(uuid(&bytes).unwrap(), "01234567-89ab-cdef-0011-223344556677");
        assert_eq!(jsonb(b"\x01{\"a\": 1}").unwrap(), r#"{"a": 1}"#);
        assert!(jsonb(b"").is_err() && jsonb(b"\x02{}").is_err());
        assert_eq!(padded_text("é  ".as_bytes()).unwrap(), "é");
        assert!(text(b"\xff").is_err());
        assert!(int4(b"\0\0\0").is_err());
    }
}
