//! The `Columns:` section of a docstring or leading comment: what each column of the model's table means.
//!
//! ```text
//! Delays by carrier.
//!
//! Columns:
//!     carrier: Two-letter code
//!     delay (minutes): Mean arrival delay,
//!         negative if early
//! ```
//!
//! The section ends at an empty line, or where the text goes back to the heading's indentation. A name may stand in
//! backticks or quotes and have a remark in parentheses, which is not part of it.

/// Text without its section, and the section's entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Documented {
    pub(crate) text: Option<String>,
    /// Column and meaning, each column once.
    pub(crate) columns: Vec<(String, String)>,
}

/// Takes the section out of a text.
pub(crate) fn split(text: &str) -> Documented {
    let lines: Vec<&str> = text.lines().collect();
    let heading = |line: &&str| matches!(line.trim().to_ascii_lowercase().as_str(), "columns:" | "columns");
    let Some(start) = lines.iter().position(|line| heading(&line) && line.trim().ends_with(':')) else {
        return Documented { text: some(text.trim().to_owned()), columns: Vec::new() };
    };
    let indent = |line: &str| line.len() - line.trim_start().len();
    let outer = indent(lines[start]);
    let indented = lines.get(start + 1).is_some_and(|line| indent(line) > outer);
    let body = lines[start + 1..].iter().take_while(|line| !line.trim().is_empty() && (!indented || indent(line) > outer));
    let body: Vec<&str> = body.copied().collect();
    let inner = body.first().map_or(0, |line| indent(line));
    let mut columns: Vec<(String, String)> = Vec::new();
    for line in &body {
        match entry(line).filter(|_| indent(line) <= inner) {
            Some((name, meaning)) => match columns.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = meaning,
                None => columns.push((name, meaning)),
            },
            None => {
                if let Some((_, meaning)) = columns.last_mut() {
                    *meaning = format!("{meaning} {}", line.trim()).trim().to_owned();
                }
            }
        }
    }
    columns.retain(|(_, meaning)| !meaning.is_empty());
    let rest = lines[..start].iter().chain(&lines[start + 1 + body.len()..]);
    let rest = rest.copied().collect::<Vec<_>>().join("\n");
    Documented { text: some(rest.trim().to_owned()), columns }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// `name (remark): meaning`.
fn entry(line: &str) -> Option<(String, String)> {
    let line = line.trim().trim_start_matches(['-', '*']).trim_start();
    let quote = line.chars().next().filter(|c| matches!(c, '`' | '"' | '\''));
    let (name, rest) = match quote {
        Some(quote) => line[1..].split_once(quote)?,
        None => {
            let end = line.find(['(', ':'])?;
            (line[..end].trim(), &line[end..])
        }
    };
    let rest = rest.trim_start();
    let rest = if rest.starts_with('(') { rest.split_once(')')?.1 } else { rest };
    let meaning = rest.trim_start().strip_prefix(':')?.trim();
    (!name.is_empty()).then(|| (name.to_owned(), meaning.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str, columns: &[(&str, &str)]) {
        let found = split(text);
        assert_eq!(found.text.as_deref().unwrap_or_default(), expect);
        let shown: Vec<(&str, &str)> = found.columns.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(shown, columns);
    }

    #[test]
    fn sections_are_read() {
        check("Delays.\n\nNo columns here: none.", "Delays.\n\nNo columns here: none.", &[]);
        check(
            "Delays.\n\nColumns:\n    carrier: Two letters\n    delay (minutes): Mean,\n        late: if positive\n    `a b`: x\n\nMore.",
            "Delays.\n\n\nMore.",
            &[("carrier", "Two letters"), ("delay", "Mean, late: if positive"), ("a b", "x")],
        );
        // Leading comments of SQL lose their indentation.
        check(
            "Delays.\nColumns:\ncarrier: Two letters\nof the airline\n\nMore",
            "Delays.\n\nMore",
            &[("carrier", "Two letters of the airline")],
        );
        check("Columns:\n    a: 1\nNot: one", "Not: one", &[("a", "1")]);
        check("Columns:", "", &[]);
        check("Columns:\n  a:\n  a: 2\n  : 3\n  b", "", &[("a", "2 : 3 b")]);
    }
}
