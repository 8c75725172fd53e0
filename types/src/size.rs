//! Sizes in bytes, written as people write them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A number of bytes. Read from `"4G"`, `"512M"`, `"1.5G"` or a bare number of bytes; units are powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = u64))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
#[serde(from = "u64", into = "u64")]
pub struct ByteSize(pub u64);

/// A size that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write a number with a unit of 1024, as in `512M` or `4G`")]
pub struct InvalidSize(pub String);

impl ByteSize {
    /// That many mebibytes.
    #[must_use]
    pub const fn mebibytes(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }
    /// That many gibibytes.
    #[must_use]
    pub const fn gibibytes(n: u64) -> Self {
        Self(n * 1024 * 1024 * 1024)
    }
    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}
impl From<u64> for ByteSize {
    fn from(n: u64) -> Self {
        Self(n)
    }
}
impl From<ByteSize> for u64 {
    fn from(n: ByteSize) -> u64 {
        n.0
    }
}
impl FromStr for ByteSize {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let bad = || InvalidSize(text.chars().take(40).collect());
        let trimmed = text.trim();
        let lower = trimmed.to_ascii_lowercase();
        let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
        let (number, shift) = match lower.chars().last() {
            Some('k') => (&lower[..lower.len() - 1], 10),
            Some('m') => (&lower[..lower.len() - 1], 20),
            Some('g') => (&lower[..lower.len() - 1], 30),
            Some('t') => (&lower[..lower.len() - 1], 40),
            _ => (lower, 0),
        };
        let number = number.trim();
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Self).ok_or_else(bad);
        }
        let value = number.parse::<f64>().map_err(|_| bad())? * (1u64 << shift) as f64;
        // 2^53: past it a fraction of a unit would no longer be exact.
        if shift > 0 && value.is_finite() && (0.0..9_007_199_254_740_992.0).contains(&value) {
            Ok(Self(value as u64))
        } else {
            Err(bad())
        }
    }
}
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        let (value, unit) = match self.0 {
            0..1024 => return f.pad(&format!("{} B", self.0)),
            1024..1_048_576 => (n / 1024.0, "KiB"),
            1_048_576..1_073_741_824 => (n / 1_048_576.0, "MiB"),
            1_073_741_824..1_099_511_627_776 => (n / 1_073_741_824.0, "GiB"),
            _ => (n / 1_099_511_627_776.0, "TiB"),
        };
        f.pad(&if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("4G", 4u64 << 30),
            ("512M", 512 << 20),
            ("1.5g", 3 << 29),
            ("10 GiB", 10 << 30),
            ("64KB", 64 << 10),
            ("7", 7),
            ("0", 0),
            ("2T", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "G", "-1G", "4X", "1e400G", "99999999999T", "nan", "1.5"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        let shown = [0, 1023, 1024, 6_549_825_126, 412 << 30].map(|n| ByteSize(n).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "6.1 GiB", "412 GiB"]);
    }
}
