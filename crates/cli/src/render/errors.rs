//! The one place where errors become text: the user's traceback, then each error, then its hint.

use forebay_control::api;

use super::style::Style;

/// Everything an error carries, for stderr.
#[must_use]
pub fn error(style: Style, error: &api::Error) -> String {
    let mut blocks = Vec::new();
    if let Some(traceback) = &error.traceback {
        blocks.push(traceback.trim_end().to_owned());
    }
    blocks.push(report(style, error));
    blocks.extend(error.others.iter().map(|other| self::error(style, other)));
    if !error.others.is_empty() {
        blocks.push(format!("{} errors", count(error)));
    }
    blocks.join("\n\n")
}

/// Errors in the tree, itself included.
fn count(error: &api::Error) -> usize {
    1 + error.others.iter().map(count).sum::<usize>()
}

/// The shape is [`forebay_types::Report`]'s; colours are put on its marks afterwards.
fn report(style: Style, error: &api::Error) -> String {
    let text = error.to_report().to_string();
    if !style.colour {
        return text;
    }
    let paint = |(number, line): (usize, &str)| match line.split_once(": ") {
        Some((head, rest)) if number == 0 => format!("{}: {}", style.bad(head), style.strong(rest)),
        Some(("hint", rest)) => format!("{}: {rest}", style.good("hint")),
        _ if line.starts_with("  --> ") || line.starts_with("   | ") => style.faint(line),
        _ => line.to_owned(),
    };
    text.lines().enumerate().map(paint).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use forebay_types::{Fault, Location, Report};

    use super::*;

    fn simple(code: &str, message: &str) -> api::Error {
        Report::new(code, Fault::Request, message).into()
    }

    #[test]
    fn the_users_traceback_comes_first() {
        let mut raised = simple("RUN0001", "model `delays` raised `ValueError`");
        raised.traceback =
            Some("Traceback (most recent call last):\n  File \"models.py\", line 3, in delays\nValueError: no\n".into());
        raised.hint = Some("the run's branch is kept".into());
        assert_eq!(
            error(Style::PLAIN, &raised),
            "Traceback (most recent call last):\n  File \"models.py\", line 3, in delays\nValueError: no\n\n\
             error[RUN0001]: model `delays` raised `ValueError`\n\nhint: the run's branch is kept"
        );
    }

    #[test]
    fn every_error_of_a_plan_is_told() {
        let mut first = simple("PLN0001", "one");
        first.others = vec![simple("PLN0002", "two"), simple("PLN0003", "three")];
        assert_eq!(
            error(Style::PLAIN, &first),
            "error[PLN0001]: one\n\nerror[PLN0002]: two\n\nerror[PLN0003]: three\n\n3 errors"
        );
    }

    #[test]
    fn colours_change_no_word() {
        let located: api::Error = Report::new("PLN0004", Fault::Usage, "could not find: `x`")
            .with_location(Location { file: "a.py".into(), line: 1, column: 2, excerpt: Some("hint: x".into()) })
            .with_cause("gone")
            .with_hint("look: there")
            .into();
        let coloured = error(Style { colour: true }, &located);
        let stripped = coloured.split("\x1b[").map(|part| {
            part.split_once('m')
                .filter(|_| true)
                .map_or(part, |(code, rest)| if code.chars().all(|c| c.is_ascii_digit() || c == ';') { rest } else { part })
        });
        assert_eq!(stripped.collect::<String>(), error(Style::PLAIN, &located));
    }
}
