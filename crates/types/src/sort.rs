//! Sort orders as a user writes them: `ts`, `ts desc`, `country asc nulls last`.

use std::fmt;
use std::str::FromStr;

use crate::partition::split_list;

/// One column of a sort order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortField {
    /// The column.
    pub column: String,
    /// Whether large values come first.
    pub descending: bool,
    /// Whether nulls come before all values. Without being asked: in front when ascending, at the end when descending.
    pub nulls_first: bool,
}

impl fmt::Display for SortField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.column)?;
        if self.descending {
            f.write_str(" desc")?;
        }
        match (self.nulls_first, self.descending) {
            (true, true) => f.write_str(" nulls first"),
            (false, false) => f.write_str(" nulls last"),
            _ => Ok(()),
        }
    }
}

impl FromStr for SortField {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not a sort field: use `column`, `column desc` or `column nulls last`", text.trim());
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let is = |word: Option<&&str>, what: &str| word.is_some_and(|word| word.eq_ignore_ascii_case(what));
        let mut nulls_first = None;
        if words.len() > 2 && is(words.get(words.len() - 2), "nulls") {
            nulls_first = match (is(words.last(), "first"), is(words.last(), "last")) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => return Err(wrong()),
            };
            words.truncate(words.len() - 2);
        }
        let descending = words.len() > 1 && is(words.last(), "desc");
        if descending || (words.len() > 1 && is(words.last(), "asc")) {
            words.pop();
        }
        match words.as_slice() {
            [column] if !column.contains(['(', ')', ',']) => {
                let column = (*column).to_owned();
                Ok(Self { column, descending, nulls_first: nulls_first.unwrap_or(!descending) })
            }
            _ => Err(wrong()),
        }
    }
}

/// Reads a comma-separated list: `country, ts desc`. Empty text is an empty list.
pub fn parse_sort_fields(text: &str) -> Result<Vec<SortField>, String> {
    split_list(text).map(str::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip() {
        let fields = parse_sort_fields("a, b DESC, c asc nulls last, d desc NULLS FIRST, desc, nulls").unwrap();
        let shown: Vec<String> = fields.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a", "b desc", "c nulls last", "d desc nulls first", "desc", "nulls"]);
        assert_eq!(parse_sort_fields(&shown.join(", ")).unwrap(), fields);
        for wrong in ["a b", "a desc asc", "a nulls", "a nulls middle", "day(a)", "a desc nulls last x"] {
            assert!(parse_sort_fields(wrong).is_err(), "{wrong}");
        }
    }
}
