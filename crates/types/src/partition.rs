//! Partition fields as a user writes them: `country`, `day(ts)`.

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

/// Partition transforms (a subset of Iceberg's: `bucket` and `truncate` are refused).
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
}

impl Transform {
    /// The Iceberg name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Year => "year",
            Self::Month => "month",
            Self::Day => "day",
            Self::Hour => "hour",
        }
    }
}

impl FromStr for Transform {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Identity, Self::Year, Self::Month, Self::Day, Self::Hour]
            .into_iter()
            .find(|t| t.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("`{text}` is not a partition transform: use a column, or year(), month(), day(), hour()"))
    }
}

impl fmt::Display for PartitionField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transform {
            Transform::Identity => f.write_str(&self.column),
            transform => write!(f, "{}({})", transform.as_str(), self.column),
        }
    }
}

impl FromStr for PartitionField {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (transform, column) = match text.split_once('(') {
            Some((name, rest)) => {
                let column = rest.strip_suffix(')').ok_or_else(|| format!("`{text}` lacks its closing parenthesis"))?;
                (name.trim().parse()?, column.trim())
            }
            None => (Transform::Identity, text),
        };
        if column.is_empty() || column.contains(['(', ')', ',']) {
            return Err(format!("`{text}` is not a partition field: use `column` or `day(column)`"));
        }
        Ok(Self { column: column.to_owned(), transform })
    }
}

/// Reads a comma-separated list: `day(ts), country`. Empty text is an empty list.
pub fn parse_partition_fields(text: &str) -> Result<Vec<PartitionField>, String> {
    text.split(',').map(str::trim).filter(|field| !field.is_empty()).map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip() {
        let fields = parse_partition_fields("day(ts), country,HOUR( t )").unwrap();
        assert_eq!(fields.iter().map(ToString::to_string).collect::<Vec<_>>(), ["day(ts)", "country", "hour(t)"]);
        assert!(parse_partition_fields("bucket(ts)").is_err());
        assert!(parse_partition_fields("day(ts").is_err());
        assert!(parse_partition_fields("day(hour(ts))").is_err());
        assert!(parse_partition_fields("").unwrap().is_empty());
    }
}
