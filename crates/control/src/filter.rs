//! Filters of lists: exact text, or a regular expression, which begins with `^` (`^dev`, `^dev-[0-9]+$`).

use crate::error::{Error, Result};

/// One filter.
#[derive(Debug)]
pub enum Filter {
    /// Everything passes.
    All,
    /// This text passes.
    Exact(String),
    /// What the expression matches passes.
    Pattern(Box<regex::Regex>),
}

impl Filter {
    /// Reads a filter; no text lets everything pass.
    pub fn new(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Self::All) };
        if !text.starts_with('^') {
            return Ok(Self::Exact(text.to_owned()));
        }
        match regex::Regex::new(text) {
            Ok(pattern) => Ok(Self::Pattern(Box::new(pattern))),
            Err(error) => Err(Error::BadPattern { pattern: text.to_owned(), why: error.to_string() }),
        }
    }

    /// Whether `text` passes.
    #[must_use]
    pub fn passes(&self, text: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(wanted) => wanted == text,
            Self::Pattern(pattern) => pattern.is_match(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_types::Coded;

    use super::*;

    #[test]
    fn exact_or_pattern() {
        assert!(Filter::new(None).unwrap().passes("x"));
        let exact = Filter::new(Some("ann.")).unwrap();
        assert!(exact.passes("ann.") && !exact.passes("annx"));
        let pattern = Filter::new(Some("^ann\\..*$")).unwrap();
        assert!(pattern.passes("ann.x") && !pattern.passes("an.x"));
        assert!(Filter::new(Some("^ann")).unwrap().passes("anna"));
        assert_eq!(Filter::new(Some("^($")).unwrap_err().report().code.0, "CTL0021");
    }
}
