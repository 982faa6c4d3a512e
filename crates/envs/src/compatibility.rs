//! Breaks that packages do not declare, so that no resolver sees them (measured; see docs/errors/ENV0005.md).
//!
//! A rule is applied to what was resolved, hence also to packages that came in as dependencies. It never
//! contradicts the user: when their own version excludes what the rule wants, theirs is taken.

use std::collections::BTreeMap;

use crate::version::{Requirement, is_below};

/// If `package` is older than `below`, then `needs` must be older than `needs_below`.
struct Rule {
    package: &'static str,
    below: &'static str,
    needs: &'static str,
    needs_below: &'static str,
    /// Versions that meet the rule: what the user asked for must admit one of them.
    good: &'static [&'static str],
}

/// Order matters: a rule sees what the ones before it asked for.
const RULES: [Rule; 2] = [
    // "numpy.dtype size changed": built against the C interface of numpy 1.
    Rule {
        package: "pandas",
        below: "2.2.2",
        needs: "numpy",
        needs_below: "2",
        good: &["1.26.4", "1.25.2", "1.24.4", "1.23.5", "1.22.4", "1.21.6", "1.20.3"],
    },
    // "pyarrow requires NumPy 2.0 or newer".
    Rule {
        package: "numpy",
        below: "2",
        needs: "pyarrow",
        needs_below: "26",
        good: &[
            "25.0.0", "24.0.0", "23.0.0", "22.0.0", "21.0.0", "20.0.0", "19.0.1", "18.1.0", "17.0.0", "16.1.0", "15.0.2",
            "14.0.2", "12.0.1",
        ],
    },
];

/// Packages whose sources take minutes to build, or need compilers: wheels only, so that a Python without one is told early.
pub const WHEELS_ONLY: [&str; 8] = ["numpy", "pandas", "pyarrow", "polars", "duckdb", "scipy", "scikit-learn", "pydantic-core"];

/// Newest Python each old pandas has a wheel for, oldest first: `(first version without that limit, Python)`.
const PANDAS_PYTHON: [(&str, &str); 4] = [("1.5.0", "3.10"), ("2.1.1", "3.11"), ("2.2.3", "3.12"), ("2.3.3", "3.13")];

/// Constraints (`numpy<2`) that `resolved` violates, in the order they were found.
pub fn missing_constraints(resolved: &BTreeMap<String, String>, asked: &[Requirement]) -> Vec<String> {
    let mut constraints = Vec::new();
    let mut resolved = resolved.clone();
    for rule in &RULES {
        let applies = resolved.get(rule.package).is_some_and(|version| is_below(version, rule.below));
        let broken = resolved.get(rule.needs).is_some_and(|version| !is_below(version, rule.needs_below));
        let allowed = asked.iter().filter(|r| r.name == rule.needs).all(|r| r.admits_one_of(rule.good));
        if applies && broken && allowed {
            constraints.push(format!("{}<{}", rule.needs, rule.needs_below));
            // What the next rule would see.
            resolved.insert(rule.needs.to_owned(), rule.good[0].to_owned());
        }
    }
    constraints
}

/// Advice for a resolution that failed: an old pandas on a Python it has no wheels for.
pub fn python_advice(asked: &[Requirement], python: &str) -> Option<String> {
    let pandas = asked.iter().find(|r| r.name == "pandas")?;
    let minor = |text: &str| text.split('.').nth(1).and_then(|m| m.parse::<u32>().ok());
    let probes: [&[&str]; 4] = [
        &["1.0.5", "1.1.5", "1.2.5", "1.3.5", "1.4.4"],
        &["1.5.0", "1.5.1", "1.5.2", "1.5.3", "2.0.0", "2.0.1", "2.0.2", "2.0.3", "2.1.0"],
        &["2.1.1", "2.1.2", "2.1.3", "2.1.4", "2.2.0", "2.2.1", "2.2.2"],
        &["2.2.3", "2.3.0", "2.3.1", "2.3.2"],
    ];
    let newer = ["2.3.3", "3.0.0", "3.1.1", "4.0.0"];
    if pandas.admits_one_of(&newer) {
        return None;
    }
    let (_, newest) = PANDAS_PYTHON.iter().zip(probes).rev().find(|(_, versions)| pandas.admits_one_of(versions))?.0;
    (minor(python)? > minor(newest)?)
        .then(|| format!("`{pandas}` has wheels up to Python {newest}: use `@forebay.python(\"{newest}\")`, or a newer pandas"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(resolved: &[(&str, &str)], asked: &[(&str, &str)], expect: &[&str]) {
        let resolved = resolved.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let asked: Vec<Requirement> = asked.iter().map(|(n, v)| Requirement::parse(n, v).unwrap()).collect();
        assert_eq!(missing_constraints(&resolved, &asked), expect);
    }

    #[test]
    fn old_pandas_wants_numpy_1_and_numpy_1_wants_an_older_pyarrow() {
        let modern = [("pandas", "2.0.3"), ("numpy", "2.4.6"), ("pyarrow", "26.0.1")];
        check(&modern, &[("pandas", "2.0")], &["numpy<2", "pyarrow<26"]);
        check(&modern, &[("pandas", "2.0"), ("numpy", ">=1.20")], &["numpy<2", "pyarrow<26"]);
        check(&[("numpy", "1.26.4"), ("pyarrow", "26.0.1")], &[("numpy", "1.26.4")], &["pyarrow<26"]);
        check(&[("pandas", "2.2.2"), ("numpy", "2.4.6"), ("pyarrow", "26.0.1")], &[("pandas", "2.2")], &[]);
        check(&[("pandas", "2.0.3"), ("numpy", "1.26.4"), ("pyarrow", "25.0.0")], &[("pandas", "2.0")], &[]);
        check(&[("polars", "2.1.0")], &[("polars", "")], &[]);
    }

    #[test]
    fn the_users_own_version_wins() {
        let modern = [("pandas", "2.0.3"), ("numpy", "2.4.6"), ("pyarrow", "26.0.1")];
        check(&modern, &[("pandas", "2.0"), ("numpy", "2.4.6")], &[]);
        check(&modern, &[("pandas", "2.0"), ("pyarrow", "26.0.1")], &["numpy<2"]);
    }

    #[test]
    fn advice_names_the_newest_python() {
        let asked = |version| [Requirement::parse("pandas", version).unwrap()];
        let advice = python_advice(&asked("1.5.3"), "3.12").unwrap();
        assert!(advice.contains("`pandas==1.5.3` has wheels up to Python 3.11"), "{advice}");
        assert_eq!(python_advice(&asked("1.5.3"), "3.11"), None);
        assert_eq!(python_advice(&asked(""), "3.14"), None);
        assert!(python_advice(&asked("2.2.2"), "3.13").unwrap().contains("3.12"));
    }
}
