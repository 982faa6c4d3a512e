//! How the tables of a run got from function to function: bytes per node, and why some were copied.

use forebay_control::api::{Bytes, NodeResult};
use serde::Serialize;

use super::style::Style;
use super::table::columns;
use super::text::{bytes, count, duration};

/// What a run moved.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Account {
    /// Bytes of all tables.
    pub bytes: Bytes,
    /// Share of them that needed no copy, from 0 to 1; `None` if no table was made.
    pub uncopied_share: Option<f64>,
    /// Copied bytes by reason, most first.
    pub copies: Vec<Reason>,
    /// Bytes of input columns that readers made anew, in the layout of their library.
    pub converted: u64,
}

/// Bytes that were copied for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    /// `elsewhere rewritten rebased compacted`, or `unknown` if the record does not say.
    pub reason: String,
    /// How many.
    pub bytes: u64,
    /// Nodes whose tables they belong to.
    pub nodes: Vec<String>,
    /// In plain words.
    pub meaning: &'static str,
    /// What to do about it; `None`: nothing needs to be done.
    pub advice: Option<&'static str>,
}

/// Not a reason: none was recorded.
const UNKNOWN: &str = "unknown";

/// Meaning and advice of each reason.
const WORDS: [(&str, &str, Option<&str>); 4] = [
    (
        "elsewhere",
        "not born in shared memory: blocks below 64 KiB, or memory no allocator gave",
        Some(
            "many small chunks: join them with `combine_chunks()` or `rechunk()`; a memory-mapped file: read it into memory; \
             a table that is small as a whole: leave it",
        ),
    ),
    (
        "rewritten",
        "written to after the function had forked",
        Some("make the table after the child processes have ended, or start them with `multiprocessing.get_context(\"spawn\")`"),
    ),
    ("rebased", "a slice of an array of lists, whose offsets had to be counted from zero", None),
    ("compacted", "a small part of a large table, copied so that the rest can be freed", None),
];

/// Adds up what the nodes of a run moved.
#[must_use]
pub fn account(nodes: &[NodeResult]) -> Account {
    let total: Bytes = nodes.iter().map(NodeResult::moved).sum();
    let mut copies: Vec<Reason> = Vec::new();
    for node in nodes {
        for copied in &node.copies {
            add(&mut copies, &copied.reason, copied.bytes, &node.name);
        }
        // Runs of older versions say how much, and not why.
        let told: u64 = node.copies.iter().map(|copied| copied.bytes).sum();
        add(&mut copies, UNKNOWN, node.bytes_copied.saturating_sub(told), &node.name);
    }
    copies.sort_by_key(|reason| std::cmp::Reverse(reason.bytes));
    #[expect(clippy::cast_precision_loss, reason = "a share is shown with three digits")]
    let share = |part: u64, whole: u64| (whole > 0).then(|| 1.0 - part as f64 / whole as f64);
    let converted = nodes.iter().map(|node| node.bytes_converted).sum();
    Account { bytes: total, uncopied_share: share(total.copied, total.total()), copies, converted }
}

fn add(copies: &mut Vec<Reason>, reason: &str, bytes: u64, node: &str) {
    if bytes == 0 {
        return;
    }
    if let Some(known) = copies.iter_mut().find(|known| known.reason == reason) {
        known.bytes += bytes;
        known.nodes.push(node.to_owned());
        return;
    }
    let words = WORDS.iter().find(|(word, ..)| *word == reason);
    let (meaning, advice) = match words {
        Some((_, meaning, advice)) => (*meaning, *advice),
        None if reason == UNKNOWN => ("the record of the run does not say why", None),
        None => ("for a reason that only newer versions know", None),
    };
    copies.push(Reason { reason: reason.to_owned(), bytes, nodes: vec![node.to_owned()], meaning, advice });
}

/// The table of nodes, the share that needed no copy, and the reasons for copies.
#[must_use]
pub fn explanation(style: Style, nodes: &[NodeResult], account: &Account) -> String {
    let mut rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    if nodes.len() > 1 {
        let start = ["total", "", "", ""].map(str::to_owned);
        rows.push(start.into_iter().chain(cells(account.bytes)).collect());
    }
    let headings = ["NODE", "KIND", "ROWS", "TIME", "REFERENCED", "RESHARED", "COPIED", "INLINE"];
    let mut text = columns(style, &headings, &headings[2..], &rows);
    text.push_str("\n\n");
    text.push_str(&share(style, account));
    text.extend(slowest("receiving its inputs", nodes, |node| node.receive_seconds));
    text.extend(slowest("publishing its table", nodes, |node| node.publish_seconds));
    if account.converted > 0 {
        let readers = nodes.iter().filter(|node| node.bytes_converted > 0).map(|node| node.name.clone());
        let text_bytes = style.strong(&bytes(account.converted));
        text.push_str(&format!(
            "\n\n{text_bytes} made anew by who reads them: texts as their library takes them, or dictionaries asked for"
        ));
        text.push_str(&format!("\n  in:       {}", listed(&readers.collect::<Vec<_>>())));
    }
    for reason in &account.copies {
        text.push_str(&format!("\n\n{} copied: {}", style.strong(&bytes(reason.bytes)), reason.meaning));
        text.push_str(&format!("\n  in:       {}", listed(&reason.nodes)));
        if let Some(advice) = reason.advice {
            text.push_str(&format!("\n  to do:    {advice}"));
        }
    }
    text
}

fn row(node: &NodeResult) -> Vec<String> {
    let mut row = vec![
        node.name.clone(),
        node.kind.clone(),
        node.rows.map(count).unwrap_or_default(),
        node.seconds.map_or_else(|| node.status.clone(), duration),
    ];
    row.extend(cells(node.moved()));
    row
}

/// Nothing for what makes no table: a write, an expectation.
fn cells(moved: Bytes) -> [String; 4] {
    let numbers = [moved.referenced, moved.reshared, moved.copied, moved.inline];
    numbers.map(|number| if moved.total() == 0 { String::new() } else { bytes(number) })
}

fn share(style: Style, account: &Account) -> String {
    match account.uncopied_share {
        None => "no table was passed on".to_owned(),
        Some(share) => {
            let percent = percent(share);
            let percent = if account.bytes.copied == 0 { style.good(&percent) } else { style.strong(&percent) };
            format!("{percent} of {} needed no copy", bytes(account.bytes.total()))
        }
    }
}

/// Rounded down, so that only nothing copied reads as 100 %.
fn percent(share: f64) -> String {
    let tenths = (share * 1000.0).floor();
    if tenths >= 1000.0 { "100 %".to_owned() } else { format!("{:.1} %", tenths / 10.0) }
}

fn slowest(what: &str, nodes: &[NodeResult], seconds: impl Fn(&NodeResult) -> Option<f64>) -> Option<String> {
    let timed = nodes.iter().filter_map(|node| Some((seconds(node).filter(|seconds| *seconds > 0.0)?, &node.name)));
    let (seconds, name) = timed.max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!("\nslowest in {what}: `{name}`, {}", duration(seconds)))
}

fn listed(names: &[String]) -> String {
    const SHOWN_MAX: usize = 8;
    let mut text = names.iter().take(SHOWN_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN_MAX {
        text.push_str(&format!(" and {} more", names.len() - SHOWN_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use forebay_control::api::Copied;

    use super::*;

    fn node(name: &str, kind: &str, moved: [u64; 4], copies: &[(&str, u64)]) -> NodeResult {
        let [bytes_referenced, bytes_reshared, bytes_copied, bytes_inline] = moved;
        NodeResult {
            name: name.into(),
            kind: kind.into(),
            status: "done".into(),
            rows: Some(336_776),
            seconds: Some(0.31),
            bytes_referenced,
            bytes_reshared,
            bytes_copied,
            bytes_inline,
            copies: copies.iter().map(|(reason, bytes)| Copied { reason: (*reason).into(), bytes: *bytes }).collect(),
            ..NodeResult::default()
        }
    }

    #[test]
    fn a_run_is_accounted_for() {
        let mut nodes = vec![
            node("scan:flights", "scan", [24_100_000, 0, 0, 120], &[]),
            node("late", "python", [1_000_000, 20_000_000, 1_300_000, 64], &[("elsewhere", 1_200_000), ("compacted", 100_000)]),
            node("write:late", "write", [0; 4], &[]),
        ];
        nodes[1].receive_seconds = Some(0.0012);
        nodes[1].publish_seconds = Some(0.034);
        let text = explanation(Style::PLAIN, &nodes, &account(&nodes));
        let expected = "\
NODE          KIND       ROWS    TIME  REFERENCED  RESHARED   COPIED  INLINE
scan:flights  scan    336,776  0.31 s     24.1 MB       0 B      0 B   120 B
late          python  336,776  0.31 s     1.00 MB   20.0 MB  1.30 MB    64 B
write:late    write   336,776  0.31 s
total                                     25.1 MB   20.0 MB  1.30 MB   184 B

97.1 % of 46.4 MB needed no copy
slowest in receiving its inputs: `late`, 1 ms
slowest in publishing its table: `late`, 34 ms

1.20 MB copied: not born in shared memory: blocks below 64 KiB, or memory no allocator gave
  in:       `late`
  to do:    many small chunks: join them with `combine_chunks()` or `rechunk()`; a memory-mapped file: read it into memory; \
a table that is small as a whole: leave it

100 kB copied: a small part of a large table, copied so that the rest can be freed
  in:       `late`";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_known_is_said() {
        let old = [node("m", "python", [0, 0, 5, 0], &[]), node("n", "sql", [0, 0, 7, 0], &[("rewritten", 3), ("newer", 4)])];
        let account = account(&old);
        let reasons: Vec<(&str, u64)> = account.copies.iter().map(|reason| (reason.reason.as_str(), reason.bytes)).collect();
        assert_eq!(reasons, [("unknown", 5), ("newer", 4), ("rewritten", 3)]);
        assert_eq!(account.copies[0].meaning, "the record of the run does not say why");
        assert_eq!(account.copies[1].meaning, "for a reason that only newer versions know");
        assert_eq!(account.uncopied_share, Some(0.0));
        assert!(explanation(Style::PLAIN, &[], &super::account(&[])).ends_with("no table was passed on"));
    }

    #[test]
    fn only_nothing_copied_is_all() {
        assert_eq!([1.0, 0.999_99, 0.5, 0.0].map(percent), ["100 %", "99.9 %", "50.0 %", "0.0 %"]);
    }

    #[test]
    fn every_reason_of_the_protocol_has_words() {
        use forebay_control::api::COPY_REASONS;
        assert_eq!(WORDS.map(|(word, ..)| word), COPY_REASONS);
    }
}
