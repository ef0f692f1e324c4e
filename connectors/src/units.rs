//! Durations and sizes as people write them: `5s`, `250ms`, `64MiB`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time: a number and `ms`, `s`, `m`, `h` or `d` (`250ms`, `1m30s`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    /// `n` milliseconds.
    pub const fn from_millis(n: u64) -> Self {
        Self(std::time::Duration::from_millis(n))
    }

    /// `n` seconds.
    pub const fn from_secs(n: u64) -> Self {
        Self(std::time::Duration::from_secs(n))
    }
}

/// A number of bytes: a number and `B`, `KB`, `MB`, `GB` (powers of 1000) or `KiB`, `MiB`, `GiB` (powers of 1024).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

/// Text that is no duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

const DURATION_HINT: &str = "write a number and a unit: 250ms, 5s, 1m, 2h, 1d";
const SIZE_HINT: &str = "write a number and a unit: 512B, 64KiB, 16MiB, 1GB";

/// Splits `text` into (number, unit) pairs.
fn parts(text: &str) -> Option<Vec<(f64, &str)>> {
    let mut rest = text.trim();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..number_end].parse().ok()?;
        rest = rest[number_end..].trim_start();
        let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
        if unit_end == 0 {
            return None;
        }
        found.push((number, &rest[..unit_end]));
        rest = rest[unit_end..].trim_start();
    }
    (!found.is_empty()).then_some(found)
}

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError(format!("`{text}` is not a duration: {DURATION_HINT}"));
        let mut seconds = 0.0;
        for (number, unit) in parts(text).ok_or_else(wrong)? {
            seconds += number
                * match unit {
                    "us" | "µs" => 1e-6,
                    "ms" => 1e-3,
                    "s" => 1.0,
                    "m" | "min" => 60.0,
                    "h" => 3600.0,
                    "d" => 86_400.0,
                    _ => return Err(wrong()),
                };
        }
        // Microseconds are exact in an f64 up to 285 years; finer parts are not offered.
        let micros = (seconds * 1e6).round();
        if !(0.0..=9e15).contains(&micros) {
            return Err(UnitError(format!("`{text}` is longer than 285 years")));
        }
        Ok(Self(std::time::Duration::from_micros(micros as u64)))
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError(format!("`{text}` is not a size: {SIZE_HINT}"));
        let [(number, unit)] = parts(text).ok_or_else(wrong)?[..] else { return Err(wrong()) };
        let factor: u64 = match unit.to_ascii_lowercase().as_str() {
            "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        let bytes = number * factor as f64;
        if !(0.0..=9e15).contains(&bytes) {
            return Err(UnitError(format!("`{text}` is more than 9 PB")));
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        match micros {
            0 => f.write_str("0s"),
            n if n % 86_400_000_000 == 0 => write!(f, "{}d", n / 86_400_000_000),
            n if n % 3_600_000_000 == 0 => write!(f, "{}h", n / 3_600_000_000),
            n if n % 60_000_000 == 0 => write!(f, "{}m", n / 60_000_000),
            n if n % 1_000_000 == 0 => write!(f, "{}s", n / 1_000_000),
            n if n % 1_000 == 0 => write!(f, "{}ms", n / 1_000),
            n => write!(f, "{n}us"),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 && n.is_multiple_of(1 << 30) => write!(f, "{}GiB", n >> 30),
            n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => write!(f, "{}MiB", n >> 20),
            n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => write!(f, "{}KiB", n >> 10),
            n => write!(f, "{n}B"),
        }
    }
}

macro_rules! text_unit {
    ($type:ident, $name:literal, $pattern:literal, $description:literal) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $name, "pattern": $pattern, "description": $description })
            }
        }
    };
}

text_unit!(
    Duration,
    "duration",
    r"^\s*([0-9.]+\s*(us|µs|ms|s|m|min|h|d)\s*)+$",
    "A length of time: a number and ms, s, m, h or d (250ms, 5s, 1m30s)."
);
text_unit!(
    ByteSize,
    "size",
    r"^\s*[0-9.]+\s*([bB]|[kKmMgGtT]([iI]?[bB])?)\s*$",
    "A number of bytes: a number and B, KB, MB, GB, KiB, MiB or GiB (64MiB)."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_people_write_them() {
        assert_eq!("1m30s".parse::<Duration>().unwrap(), Duration::from_secs(90));
        assert_eq!("250ms".parse::<Duration>().unwrap(), Duration::from_millis(250));
        assert_eq!("64MiB".parse::<ByteSize>().unwrap(), ByteSize::mib(64));
        assert_eq!("1.5KB".parse::<ByteSize>().unwrap(), ByteSize(1500));
        for wrong in ["", "5", "s", "5 parsecs", "-1s", "1e400s"] {
            assert!(wrong.parse::<Duration>().is_err(), "{wrong}");
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["0s", "250ms", "5s", "2h", "3d", "90s"] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration);
        }
    }
}
