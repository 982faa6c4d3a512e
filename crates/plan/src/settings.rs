//! A model as its file declares it, before names are resolved and parameters filled in. Python and SQL files both end up here.

use std::str::FromStr;

use forebay_types::{Location, PartitionField, SortField};

use crate::physical::{Argument, Resources, Returns};

/// A value and the place it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: Location,
}

/// One decorated function or SQL file.
#[derive(Debug, Clone)]
pub(crate) struct Declaration {
    /// As written: `name` or `namespace.name`.
    pub(crate) name: Spanned<String>,
    pub(crate) body: Body,
    pub(crate) inputs: Vec<DeclaredInput>,
    pub(crate) settings: Settings,
    pub(crate) comment: Option<String>,
    pub(crate) at: Location,
}

#[derive(Debug, Clone)]
pub(crate) enum Body {
    Python(PythonBody),
    /// The file's text, parameters not filled in.
    Sql(SqlBody),
}

#[derive(Debug, Clone)]
pub(crate) struct PythonBody {
    pub(crate) file: String,
    pub(crate) function: String,
    pub(crate) arguments: Vec<DeclaredArgument>,
    pub(crate) returns: Returns,
    pub(crate) python: Option<String>,
    pub(crate) packages: Vec<(String, String)>,
}

/// An argument: final, or a parameter whose value is not known yet.
#[derive(Debug, Clone)]
pub(crate) enum DeclaredArgument {
    Final(Argument),
    Parameter { argument: String, parameter: Spanned<String> },
}

#[derive(Debug, Clone)]
pub(crate) struct SqlBody {
    /// Text to run, parameters filled in, tables renamed to their input names.
    pub(crate) query: crate::sql_file::Query,
}

/// `forebay.Model(…)`, or a table of a SQL file.
#[derive(Debug, Clone)]
pub(crate) struct DeclaredInput {
    /// Name of the argument, or of the table in the query.
    pub(crate) name: String,
    pub(crate) table: Spanned<String>,
    pub(crate) reference: Option<Spanned<String>>,
    pub(crate) columns: Option<Vec<Spanned<String>>>,
    /// As written, parameters not filled in.
    pub(crate) filter: Option<Spanned<String>>,
    /// Columns wanted as dictionaries.
    pub(crate) dictionary: Vec<Spanned<String>>,
}

/// What decorators and headers set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) columns: Option<Vec<Spanned<String>>>,
    pub(crate) partitioned_by: Option<Spanned<Vec<PartitionField>>>,
    pub(crate) sorted_by: Option<Spanned<Vec<SortField>>>,
    pub(crate) strategy: Option<Spanned<StrategyWord>>,
    pub(crate) materialize: Option<Spanned<bool>>,
    /// As written, parameters not filled in.
    pub(crate) overwrite_filter: Option<Spanned<String>>,
    pub(crate) merge_keys: Vec<Spanned<String>>,
    /// As written, parameters not filled in.
    pub(crate) delete_when: Option<Spanned<String>>,
    /// Columns of the tables a SQL file reads that are wanted as dictionaries.
    pub(crate) dictionary: Vec<Spanned<String>>,
    pub(crate) cache_off: bool,
    pub(crate) internet_access: bool,
    pub(crate) resources: Resources,
}

/// The words for materialization strategies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StrategyWord {
    None,
    Replace,
    Append,
    OverwritePartitions,
    Merge,
}

/// The words as people write them.
pub(crate) const STRATEGIES: [&str; 5] = ["NONE", "REPLACE", "APPEND", "OVERWRITE_PARTITIONS", "MERGE"];
/// The words for `cache_strategy`.
pub(crate) const CACHE_STRATEGIES: [&str; 2] = ["DEFAULT", "NONE"];

impl FromStr for StrategyWord {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.trim().to_ascii_uppercase().as_str() {
            "NONE" => Ok(Self::None),
            "REPLACE" => Ok(Self::Replace),
            "APPEND" => Ok(Self::Append),
            "OVERWRITE_PARTITIONS" => Ok(Self::OverwritePartitions),
            "MERGE" => Ok(Self::Merge),
            _ => Err(()),
        }
    }
}

/// Bytes of `512M`, `1.5G`, `2GiB` (powers of 1024). A bare number counts mebibytes. `None`: it is no such text.
#[must_use]
pub fn memory_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let scale: u32 = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit.ends_with('b') => 0,
        "" | "m" => 2,
        "k" => 1,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    mebibytes(number.parse::<f64>().ok()? * 1024_f64.powi(i32::try_from(scale).ok()? - 2))
}

/// Whole bytes of a positive, sensible number of mebibytes.
pub(crate) fn mebibytes(number: f64) -> Option<u64> {
    let bytes = (number * 1024.0 * 1024.0).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within 1 and 2^60")]
    (bytes >= 1.0 && bytes <= 2_f64.powi(60)).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory() {
        assert_eq!(memory_bytes("1G"), Some(1 << 30));
        assert_eq!(memory_bytes("1.5GiB"), Some(3 << 29));
        assert_eq!(memory_bytes("512"), Some(512 << 20));
        assert_eq!(memory_bytes("512M"), Some(512 << 20));
        assert_eq!(memory_bytes("64 kb"), Some(64 << 10));
        assert_eq!(memory_bytes("1000b"), Some(1000));
        for bad in ["", "G", "-1G", "1X", "0", "1e3", "9999999T", "."] {
            assert_eq!(memory_bytes(bad), None, "{bad}");
        }
    }
}
