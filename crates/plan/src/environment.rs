//! Interpreter versions and package versions as people write them, checked but not resolved.

use std::collections::BTreeMap;
use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifiers};

use crate::physical::{Argument, ArgumentValue, EnvironmentSpec, TableForm};

/// The Python of a project that does not name one.
pub const DEFAULT_PYTHON: &str = "3.11";
/// Python 3 minor versions that are supported.
const PYTHON_MINORS: std::ops::RangeInclusive<u32> = 9..=14;

/// `major.minor` of a supported version. A patch level (`3.11.4`) is accepted and dropped: the interpreter at hand decides it.
pub(crate) fn python_version(text: &str) -> Option<String> {
    let mut parts = text.trim().split('.');
    let (major, minor, patch) = (parts.next()?, parts.next()?, parts.next());
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u32>().ok()).flatten();
    if parts.next().is_some() || patch.is_some_and(|patch| number(patch).is_none()) || number(major) != Some(3) {
        return None;
    }
    number(minor).filter(|minor| PYTHON_MINORS.contains(minor)).map(|minor| format!("3.{minor}"))
}

/// Checks one package as written: `2.2.0`, `2.0`, `>=2,<3`, `==2.0.*`, or nothing.
pub(crate) fn check_package(name: &str, version: &str) -> Result<(), String> {
    let base = name.split_once('[').map_or(name, |(base, _)| base).trim();
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !base.chars().all(fits) || !ends(base.chars().next()) || !ends(base.chars().last()) {
        return Err("this is not a package name".to_owned());
    }
    let extras = name[base.len()..].trim();
    if !extras.is_empty()
        && !(extras.starts_with('[') && extras.ends_with(']') && !extras[1..extras.len() - 1].contains(['[', ']']))
    {
        return Err("its extras must look like `[one,two]`".to_owned());
    }
    let version = version.trim();
    if version.is_empty() || version == "*" {
        return Ok(());
    }
    let specifier = if version.starts_with(['=', '<', '>', '!', '~']) { version.to_owned() } else { format!("=={version}") };
    let plain = Version::from_str(version).is_ok();
    if plain || VersionSpecifiers::from_str(&specifier).is_ok() { Ok(()) } else { Err(format!("`{version}` is not a version")) }
}

/// The environment of one model: its own packages over those of the project file, and these over those of its requirements.
pub(crate) fn spec(
    python: &str,
    requirements: &[(String, String)],
    defaults: &BTreeMap<String, String>,
    own: &[(String, String)],
) -> EnvironmentSpec {
    let mut packages: BTreeMap<String, (String, String)> = BTreeMap::new();
    let all = defaults.iter().map(|(name, version)| (name.clone(), version.clone())).chain(own.iter().cloned());
    for (name, version) in all {
        packages.insert(normalized(&name), (name, version));
    }
    let required = requirements.iter().filter(|(name, _)| !packages.contains_key(&normalized(name))).cloned();
    let mut packages: Vec<(String, String)> = required.chain(packages.values().cloned()).collect();
    packages.sort();
    EnvironmentSpec { python: python.to_owned(), packages, needs: Vec::new() }
}

/// Packages that make tables without pyarrow.
const ENOUGH: [&str; 3] = ["polars", "duckdb", "numpy"];

/// Whether a function must have pyarrow: it is handed over as such, converts through it, or its files import it. A function that
/// names none of the packages which do without gets it, too.
pub(crate) fn needs_pyarrow(spec: &EnvironmentSpec, arguments: &[Argument], imports_it: bool) -> bool {
    let has = |package: &str| spec.packages.iter().any(|(name, _)| normalized(name) == package);
    let is_handed_over = arguments.iter().any(|argument| {
        matches!(argument.value, ArgumentValue::Table(TableForm::PyArrow | TableForm::RecordBatchReader | TableForm::Pandas))
    });
    imports_it || is_handed_over || has("pandas") || !ENOUGH.iter().any(|package| has(package))
}

/// Package names that mean the same project are equal after this (PEP 503); extras do not make another package.
pub(crate) fn normalized(name: &str) -> String {
    let base = name.split_once('[').map_or(name, |(base, _)| base).trim();
    base.to_ascii_lowercase().split(['-', '_', '.']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_versions() {
        assert_eq!(python_version("3.11").as_deref(), Some("3.11"));
        assert_eq!(python_version("3.11.4").as_deref(), Some("3.11"));
        assert_eq!(python_version("3.14").as_deref(), Some("3.14"));
        for bad in ["", "3", "2.7", "3.8", "3.15", "3.11.x", "3.11.4.1", ">=3.9", "3.+9", "python3.11"] {
            assert_eq!(python_version(bad), None, "{bad}");
        }
    }

    #[test]
    fn packages() {
        for (name, version) in [
            ("pandas", "2.2.0"),
            ("pandas", "2"),
            ("a-b_c.d", ">=2,<3"),
            ("x", ""),
            ("x", "*"),
            ("x", "==2.0.*"),
            ("x", "~=1.4"),
            ("u[standard]", "1"),
            ("x", "2.0.*"),
        ] {
            assert_eq!(check_package(name, version), Ok(()), "{name} {version}");
        }
        for (name, version) in [
            ("pandas", "latest"),
            ("pan das", "2"),
            ("", "2"),
            ("-x", "1"),
            ("x", ">=2,<"),
            ("x", "=>2"),
            ("x[", "1"),
            ("x", "2.0; rm"),
        ] {
            assert!(check_package(name, version).is_err(), "{name} {version}");
        }
    }

    #[test]
    fn own_packages_win() {
        let defaults = BTreeMap::from([("Pandas".to_owned(), "1.5".to_owned()), ("numpy".to_owned(), String::new())]);
        let spec = spec("3.10", &[], &defaults, &[("pandas".to_owned(), "2.0".to_owned())]);
        assert_eq!(spec.packages, [("numpy".to_owned(), String::new()), ("pandas".to_owned(), "2.0".to_owned())]);
        let required =
            [("PANDAS", "==1"), ("six", "; python_version < '3'"), ("six", ">=1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let spec = super::spec("3.10", &required, &defaults, &[]);
        let packages: Vec<&str> = spec.packages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(packages, ["Pandas", "numpy", "six", "six"]);
    }

    #[test]
    fn pyarrow_where_it_is_needed() {
        let with = |packages: &[&str]| {
            let own: Vec<_> = packages.iter().map(|name| ((*name).to_owned(), String::new())).collect();
            spec("3.11", &[], &BTreeMap::new(), &own)
        };
        let table = |form| [Argument { name: "data".to_owned(), value: ArgumentValue::Table(form) }];
        let (polars, pyarrow) = (table(TableForm::Polars), table(TableForm::PyArrow));
        assert!(!needs_pyarrow(&with(&["polars"]), &polars, false) && !needs_pyarrow(&with(&["numpy"]), &[], false));
        assert!(needs_pyarrow(&with(&["polars"]), &pyarrow, false) && needs_pyarrow(&with(&["polars"]), &polars, true));
        assert!(needs_pyarrow(&with(&[]), &[], false) && needs_pyarrow(&with(&["polars", "pandas"]), &polars, false));
    }
}
