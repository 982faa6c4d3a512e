//! Versions as people write them, turned into what a resolver understands.
//!
//! ```text
//! "2.2.0"    three numbers: exactly this     ==2.2.0
//! "2.0"      a prefix: the newest 2.0.x      ==2.0.*
//! ">=2,<3"   a PEP 440 specifier, as it is   >=2,<3
//! ""         any
//! ```

use std::fmt;
use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifiers};

use crate::Error;

/// Longest package name with its extras, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// A package and which versions of it will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Normalised as PEP 503 says: lower case, runs of `-_.` are one `-`.
    pub name: String,
    /// `[sql,plot]`, or empty.
    extras: String,
    specifiers: VersionSpecifiers,
}

impl Requirement {
    /// Reads a package name and a version as a user writes them.
    pub fn parse(name: &str, version: &str) -> Result<Self, Error> {
        let (name, extras) = parse_name(name)?;
        let wrong = |why: String| Error::Version { package: name.clone(), version: version.to_owned(), why };
        let specifiers = VersionSpecifiers::from_str(&specifier_text(version.trim()).map_err(wrong)?);
        let specifiers = specifiers.map_err(|error| wrong(error.to_string().lines().next().unwrap_or_default().to_owned()))?;
        Ok(Self { name, extras, specifiers })
    }

    /// A requirement that any version meets.
    #[must_use]
    pub fn any(name: &str) -> Self {
        Self { name: normalise(name), extras: String::new(), specifiers: VersionSpecifiers::empty() }
    }

    /// Whether one of these versions will do.
    pub fn admits_one_of(&self, versions: &[&str]) -> bool {
        versions.iter().filter_map(|text| Version::from_str(text).ok()).any(|version| self.specifiers.contains(&version))
    }

    /// Whether exactly one version will do, so that a resolver has no choice.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.specifiers.iter().any(|specifier| specifier.operator() == &pep440_rs::Operator::Equal)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.extras)?;
        let specifiers: Vec<String> = self.specifiers.iter().map(|specifier| specifier.to_string()).collect();
        f.write_str(&specifiers.join(","))
    }
}

/// The specifier a version text stands for.
fn specifier_text(text: &str) -> Result<String, String> {
    if text.is_empty() || text == "*" {
        return Ok(String::new());
    }
    if text.starts_with(['<', '>', '=', '!', '~']) {
        return Ok(text.to_owned());
    }
    if text.ends_with(".*") {
        return Ok(format!("=={text}"));
    }
    let version = Version::from_str(text).map_err(|_| "it is neither a version nor a PEP 440 specifier".to_owned())?;
    let plain = !version.any_prerelease() && !version.is_post() && !version.is_local() && version.epoch() == 0;
    if plain && version.release().len() < 3 { Ok(format!("=={text}.*")) } else { Ok(format!("=={text}")) }
}

/// The newer of two versions wins; text that is no version is older than all.
#[must_use]
pub fn is_below(version: &str, bound: &str) -> bool {
    match (Version::from_str(version), Version::from_str(bound)) {
        (Ok(version), Ok(bound)) => version < bound,
        _ => false,
    }
}

fn parse_name(text: &str) -> Result<(String, String), Error> {
    let wrong = |why: &str| Error::Version { package: text.to_owned(), version: String::new(), why: why.to_owned() };
    let text_ = text.trim();
    let (name, extras) = match text_.split_once('[') {
        Some((name, rest)) => (name.trim(), Some(rest.strip_suffix(']').ok_or_else(|| wrong("its `[` is not closed"))?)),
        None => (text_, None),
    };
    // Nothing here may be taken for an option, a path or a URL by the resolver.
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.ends_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if !is_word(name) || text.len() > NAME_BYTES_MAX {
        return Err(wrong("it is not a package name"));
    }
    let extras = match extras {
        Some(extras) if extras.split(',').all(|extra| is_word(extra.trim())) => format!("[{}]", extras.replace(' ', "")),
        Some(_) => return Err(wrong("its extras are not names")),
        None => String::new(),
    };
    Ok((normalise(name), extras))
}

/// PEP 503.
#[must_use]
pub fn normalise(name: &str) -> String {
    let words: Vec<&str> = name.split(['-', '_', '.']).filter(|word| !word.is_empty()).collect();
    words.join("-").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, version: &str, expect: &str) {
        let got = Requirement::parse(name, version).map_or_else(|error| error.to_string(), |r| r.to_string());
        assert_eq!(got, expect);
    }

    #[test]
    fn versions_as_people_write_them() {
        check("pandas", "2.2.0", "pandas==2.2.0");
        check("pandas", "2.0", "pandas==2.0.*");
        check("pandas", "2", "pandas==2.*");
        check("pandas", "2.0.*", "pandas==2.0.*");
        check("pandas", ">=2,<3", "pandas>=2,<3");
        check("pandas", "~=2.1", "pandas~=2.1");
        check("pandas", " == 2.1.4 ", "pandas==2.1.4");
        check("pandas", "2.1rc1", "pandas==2.1rc1");
        check("pandas", "", "pandas");
        check("Scikit_Learn", "1.5.0", "scikit-learn==1.5.0");
        check("duckdb[all, fts]", "1.0", "duckdb[all,fts]==1.0.*");
    }

    #[test]
    fn what_is_no_version_is_refused() {
        check("pandas", "new", "could not read the version `new` of package `pandas`");
        check("pandas", ">>2", "could not read the version `>>2` of package `pandas`");
        check("-r x", "1", "could not read the package name `-r x`");
        check("a/b", "", "could not read the package name `a/b`");
        check("git+https://x", "", "could not read the package name `git+https://x`");
        check("x[", "", "could not read the package name `x[`");
        check("x @ file", "", "could not read the package name `x @ file`");
    }

    #[test]
    fn exactness_and_admission() {
        let r = |version| Requirement::parse("numpy", version).unwrap();
        assert!(r("1.26.4").is_exact() && !r("1.26").is_exact() && !r("").is_exact() && !r(">=1").is_exact());
        assert!(
            r(">=1.20").admits_one_of(&["1.26.4"]) && !r("2.0").admits_one_of(&["1.26.4"]) && r("").admits_one_of(&["1.26.4"])
        );
        assert!(is_below("2.0.3", "2.2.2") && !is_below("2.10.0", "2.2.2") && !is_below("2.2.2", "2.2.2"));
    }
}
