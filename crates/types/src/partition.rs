//! Partition fields as a user writes them: `country`, `day(ts)`, `bucket(16, id)`, `truncate(3, zip)`.

use std::fmt;
use std::str::FromStr;

/// One field of a partition spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionField {
    /// Source column.
    pub column: String,
    /// How its value is made.
    pub transform: Transform,
}

/// Iceberg's partition transforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// The value itself.
    Identity,
    /// Years since 1970.
    Year,
    /// Months since 1970-01.
    Month,
    /// Days since 1970-01-01.
    Day,
    /// Hours since 1970-01-01T00.
    Hour,
    /// A hash of the value, modulo so many buckets (at least 1).
    Bucket(u32),
    /// The first so many characters, or the value rounded down to a multiple (at least 1).
    Truncate(u32),
}

/// Largest number of buckets and largest width: Iceberg keeps both as 32-bit numbers with a sign.
const PARAMETER_MAX: u32 = i32::MAX.unsigned_abs();

impl Transform {
    /// The name without its number: `day`, `bucket`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Year => "year",
            Self::Month => "month",
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Bucket(_) => "bucket",
            Self::Truncate(_) => "truncate",
        }
    }

    /// The number of buckets, or the width.
    #[must_use]
    pub fn parameter(self) -> Option<u32> {
        match self {
            Self::Bucket(number) | Self::Truncate(number) => Some(number),
            _ => None,
        }
    }

    fn with_number(word: &str, number: &str) -> Result<Self, String> {
        let wrong = || format!("`{number}` is not a number that {word}() takes: use a whole number from 1 to {PARAMETER_MAX}");
        let number = number.trim().parse::<u32>().ok().filter(|number| (1..=PARAMETER_MAX).contains(number)).ok_or_else(wrong)?;
        match word.trim().to_ascii_lowercase().as_str() {
            "bucket" => Ok(Self::Bucket(number)),
            "truncate" => Ok(Self::Truncate(number)),
            _ => Err(unknown(word)),
        }
    }
}

fn unknown(word: &str) -> String {
    format!(
        "`{word}` is not a partition transform: use a column, or year(), month(), day(), hour(), bucket(n, column), truncate(n, column)"
    )
}

impl fmt::Display for Transform {
    /// The Iceberg name: `day`, `bucket[16]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parameter() {
            Some(number) => write!(f, "{}[{number}]", self.word()),
            None => f.write_str(self.word()),
        }
    }
}

impl FromStr for Transform {
    type Err = String;
    /// Reads the Iceberg name.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((word, rest)) = text.split_once('[') {
            return Self::with_number(word, rest.strip_suffix(']').unwrap_or(rest));
        }
        [Self::Identity, Self::Year, Self::Month, Self::Day, Self::Hour]
            .into_iter()
            .find(|t| t.word().eq_ignore_ascii_case(text.trim()))
            .ok_or_else(|| unknown(text))
    }
}

impl fmt::Display for PartitionField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.transform, self.transform.parameter()) {
            (Transform::Identity, _) => f.write_str(&self.column),
            (transform, Some(number)) => write!(f, "{}({number}, {})", transform.word(), self.column),
            (transform, None) => write!(f, "{}({})", transform.word(), self.column),
        }
    }
}

impl FromStr for PartitionField {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || format!("`{text}` is not a partition field: use `column`, `day(column)` or `bucket(16, column)`");
        let Some((word, rest)) = text.split_once('(') else {
            return Self::of(Transform::Identity, text).ok_or_else(wrong);
        };
        let inner = rest.strip_suffix(')').ok_or_else(|| format!("`{text}` lacks its closing parenthesis"))?;
        let word = word.trim();
        match inner.split_once(',') {
            None if matches!(word.to_ascii_lowercase().as_str(), "bucket" | "truncate") => {
                Err(format!("`{text}` lacks its number: write `{word}(16, {})`", inner.trim()))
            }
            None => Self::of(word.parse()?, inner.trim()).ok_or_else(wrong),
            // The number comes first; DuckDB and old Iceberg examples have it last.
            Some((a, b)) => {
                let digits = |text: &str| text.trim().bytes().all(|byte| byte.is_ascii_digit());
                let (number, column) = if digits(a) || !digits(b) { (a, b) } else { (b, a) };
                Self::of(Transform::with_number(word, number)?, column.trim()).ok_or_else(wrong)
            }
        }
    }
}

impl PartitionField {
    fn of(transform: Transform, column: &str) -> Option<Self> {
        let fine = !column.is_empty() && !column.contains(['(', ')', ',']);
        fine.then(|| Self { column: column.to_owned(), transform })
    }
}

/// Reads a comma-separated list: `day(ts), bucket(16, id), country`. Empty text is an empty list.
pub fn parse_partition_fields(text: &str) -> Result<Vec<PartitionField>, String> {
    split_list(text).map(str::parse).collect()
}

/// The entries of a list, split at commas outside parentheses, without empty ones.
pub(crate) fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    let parts = text.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth <= 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip() {
        let text = "day(ts), country,HOUR( t ), bucket(16,id), Truncate( name , 4 )";
        let fields = parse_partition_fields(text).unwrap();
        let shown: Vec<String> = fields.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["day(ts)", "country", "hour(t)", "bucket(16, id)", "truncate(4, name)"]);
        assert_eq!(parse_partition_fields(&shown.join(",")).unwrap(), fields);
        for field in fields {
            assert_eq!(field.transform.to_string().parse(), Ok(field.transform));
        }
        for wrong in [
            "bucket(ts)",
            "day(ts",
            "day(hour(ts))",
            "bucket(0, a)",
            "bucket(-1, a)",
            "bucket(a, b)",
            "day(3, ts)",
            "truncate(99999999999, a)",
            "bucket(4, )",
            "void(a)",
            "bucket(2, 3, a)",
        ] {
            assert!(parse_partition_fields(wrong).is_err(), "{wrong}");
        }
        assert!(parse_partition_fields("").unwrap().is_empty());
        assert!("bucket[x]".parse::<Transform>().is_err() && "bucket".parse::<Transform>().is_err());
    }
}
