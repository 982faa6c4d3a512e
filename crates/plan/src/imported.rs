//! Which modules a Python file imports, wherever in it: what a warm interpreter of its project should have ready.

use std::collections::BTreeSet;

use ruff_python_ast::Stmt;
use ruff_python_ast::visitor::{self, Visitor};

/// Dotted names of all modules that a file imports by their own name, sorted; relative imports are not among them. None, if the
/// file is not Python.
#[must_use]
pub fn imported(text: &str) -> Vec<String> {
    let Ok(parsed) = ruff_python_parser::parse_module(text) else { return Vec::new() };
    let mut found = Found::default();
    visitor::walk_body(&mut found, parsed.suite());
    found.0.into_iter().collect()
}

#[derive(Default)]
struct Found(BTreeSet<String>);

impl Visitor<'_> for Found {
    fn visit_stmt(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Import(import) => self.0.extend(import.names.iter().map(|alias| alias.name.to_string())),
            Stmt::ImportFrom(import) if import.level == 0 => self.0.extend(import.module.iter().map(ToString::to_string)),
            other => visitor::walk_stmt(self, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::imported;

    #[test]
    fn imports_are_found_wherever_they_are() {
        let text = "import numpy as np, pandas.api.types\nfrom scipy import stats\nfrom . import own\nfrom .own import x\n\
                    def f():\n    try:\n        import polars\n    except ImportError:\n        from duckdb.typing import INTEGER\n\
                    class C:\n    import json\n";
        assert_eq!(imported(text), ["duckdb.typing", "json", "numpy", "pandas.api.types", "polars", "scipy"]);
        assert!(imported("def (").is_empty());
    }
}
