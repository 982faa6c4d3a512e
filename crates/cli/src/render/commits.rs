//! The history of a ref, in the five lengths git has.

use forebay_control::api::{Actor, Commit};

use super::style::Style;
use super::text::{one_line, short_hash, time};
use crate::args::CommitFormat;

/// A commit in the wanted length. [`CommitFormat::Oneline`] is one line; the others end in an empty line.
#[must_use]
pub fn commit(style: Style, format: CommitFormat, commit: &Commit) -> String {
    let subject = commit.message.lines().next().unwrap_or_default();
    // UTC, so that it can be pasted into a ref.
    let date = time(&commit.authored_date, true);
    if format == CommitFormat::Oneline {
        let hash = style.warn(short_hash(&commit.hash));
        return format!("{hash}  {}  {}  {}", style.faint(&date), one_line(&commit.author.name), one_line(subject));
    }
    let mut lines = vec![style.warn(&format!("commit {}", commit.hash))];
    if format >= CommitFormat::Fuller {
        lines.extend(commit.parent_hashes.iter().map(|parent| format!("Parent:  {parent}")));
    }
    lines.push(format!("Author:  {}", actor(&commit.author)));
    if format >= CommitFormat::Medium {
        lines.push(format!("Date:    {date}"));
    }
    if format >= CommitFormat::Fuller {
        lines.extend(commit.properties.iter().map(|(name, value)| format!("         {name}={}", one_line(value))));
    }
    lines.push(String::new());
    let shown = if format >= CommitFormat::Full { commit.message.trim_end() } else { subject };
    lines.extend(shown.lines().map(|line| format!("    {line}").trim_end().to_owned()));
    lines.push(String::new());
    lines.join("\n")
}

/// `ann <ann@example.org>`
#[must_use]
pub fn actor(actor: &Actor) -> String {
    if actor.email.is_empty() { one_line(&actor.name) } else { format!("{} <{}>", one_line(&actor.name), one_line(&actor.email)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Commit {
        Commit {
            hash: "0123456789abcdef".repeat(4),
            message: "Run delays\n\nWith a body.\n".into(),
            author: Actor { name: "ann".into(), email: "ann@example.org".into() },
            authored_date: "not a date".into(),
            parent_hashes: vec!["fedc".into()],
            properties: [("job".to_owned(), "42".to_owned())].into(),
            failed_job: None,
        }
    }

    #[test]
    fn one_line() {
        let text = commit(Style::PLAIN, CommitFormat::Oneline, &example());
        assert_eq!(text, "0123456789ab  not a date  ann  Run delays");
    }

    #[test]
    fn longer_forms_hold_the_shorter() {
        let hash = "0123456789abcdef".repeat(4);
        let short = commit(Style::PLAIN, CommitFormat::Short, &example());
        assert_eq!(short, format!("commit {hash}\nAuthor:  ann <ann@example.org>\n\n    Run delays\n"));
        let fuller = commit(Style::PLAIN, CommitFormat::Fuller, &example());
        assert_eq!(
            fuller,
            format!(
                "commit {hash}\nParent:  fedc\nAuthor:  ann <ann@example.org>\nDate:    not a date\n         job=42\n\n    \
                 Run delays\n\n    With a body.\n"
            )
        );
    }
}
