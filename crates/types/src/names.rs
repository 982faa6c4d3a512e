//! Names of tables, branches and commits.

use std::fmt;
use std::str::FromStr;

/// Longest namespace, table, branch or tag name, in bytes: it must fit a file name with a suffix.
pub const NAME_BYTES_MAX: usize = 200;

/// A name that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a valid {what}: {why}")]
pub struct InvalidName {
    what: &'static str,
    name: String,
    why: &'static str,
}

pub(crate) fn invalid(what: &'static str, name: &str, why: &'static str) -> InvalidName {
    InvalidName { what, name: name.to_owned(), why }
}

fn check(what: &'static str, name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(invalid(what, name, "it is empty"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(invalid(what, name, "it is longer than 200 bytes"));
    }
    if name.starts_with('.') || name.starts_with('-') {
        return Err(invalid(what, name, "it starts with `.` or `-`"));
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control() || "/\\@:*?\"'`<>|^~$#%&;,()[]{}".contains(c)) {
        return Err(invalid(what, name, "only letters, digits, `_`, `-`, `.`, `+` and `=` are allowed"));
    }
    Ok(())
}

/// A table's full name. Displays as `namespace.name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    namespace: String,
    name: String,
}

impl TableName {
    /// A checked name from its two parts; neither may hold a dot.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        check("namespace", namespace)?;
        check("table name", name)?;
        if namespace.contains('.') || name.contains('.') {
            return Err(invalid("table name", &format!("{namespace}.{name}"), "a table name is `name` or `namespace.name`"));
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// Reads `name` (in `default_namespace`) or `namespace.name`.
    pub fn parse(text: &str, default_namespace: &str) -> Result<Self, InvalidName> {
        match text.split_once('.') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::new(default_namespace, text),
        }
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name inside the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.name)
    }
}

/// A branch or tag name. Dots and dashes are fine (`ann.fix-3`); `/`, `@` and white space are not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchName(String);

impl BranchName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BranchName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        check("branch or tag name", text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SHA-256 of a commit object, 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitHash(String);

impl CommitHash {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CommitHash {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid("commit hash", text, "a commit hash is 64 lower-case hex digits"))
        }
    }
}

impl fmt::Display for CommitHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names() {
        assert_eq!(TableName::parse("t", "main").unwrap().to_string(), "main.t");
        assert_eq!(TableName::parse("ns.t", "main").unwrap().namespace(), "ns");
        assert_eq!(TableName::parse("größe", "main").unwrap().name(), "größe");
        for bad in ["", "a.b.c", "a b", "../x", "a/b", ".t", "x@y"] {
            assert!(TableName::parse(bad, "main").is_err(), "{bad}");
        }
    }
}
