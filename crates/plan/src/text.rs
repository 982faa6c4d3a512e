//! Places in files: byte offsets and SQL line/column pairs become [`Location`]s, and rewritten text can be
//! traced back to where it came from.

use std::ops::Range;

use datafusion::sql::sqlparser::tokenizer::Location as SqlLocation;
use forebay_types::Location;

/// Longest excerpt shown, in characters.
const EXCERPT_CHARS_MAX: usize = 160;

/// A file with its line starts.
#[derive(Debug, Clone)]
pub(crate) struct Text<'a> {
    pub(crate) path: &'a str,
    pub(crate) text: &'a str,
    lines: Vec<usize>,
}

impl<'a> Text<'a> {
    pub(crate) fn new(path: &'a str, text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path, text, lines }
    }

    /// The place of a byte offset; an offset past the end is the end.
    pub(crate) fn location(&self, offset: usize) -> Location {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= offset) - 1;
        let start = self.lines[line];
        let excerpt: String = self.text[start..].lines().next().unwrap_or("").chars().take(EXCERPT_CHARS_MAX).collect();
        Location {
            file: self.path.to_owned(),
            line: narrow(line + 1),
            column: narrow(self.text[start..offset].chars().count() + 1),
            excerpt: (!excerpt.trim().is_empty()).then(|| excerpt.trim_end().to_owned()),
        }
    }

    /// The byte offset of a line and column as the SQL tokenizer counts them (from 1, in characters).
    pub(crate) fn offset(&self, at: SqlLocation) -> usize {
        let line = usize::try_from(at.line).unwrap_or(usize::MAX).saturating_sub(1);
        let Some(start) = self.lines.get(line) else { return self.text.len() };
        let column = usize::try_from(at.column).unwrap_or(usize::MAX).saturating_sub(1);
        self.text[*start..].char_indices().nth(column).map_or(self.text.len(), |(index, _)| start + index)
    }
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Text after replacements, and the way back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edited {
    pub(crate) text: String,
    /// (place in the new text, place in the old text), sorted; `new` is as long as its replacement.
    edits: Vec<(Range<usize>, Range<usize>)>,
}

impl Edited {
    /// Replaces ranges of `text`. They must not overlap.
    pub(crate) fn new(text: &str, mut replacements: Vec<(Range<usize>, String)>) -> Self {
        replacements.sort_by_key(|(range, _)| range.start);
        let mut out = String::with_capacity(text.len());
        let mut edits = Vec::with_capacity(replacements.len());
        let mut done = 0;
        for (range, with) in replacements {
            assert!(done <= range.start, "replacements overlap");
            out.push_str(&text[done..range.start]);
            let start = out.len();
            out.push_str(&with);
            edits.push((start..out.len(), range.clone()));
            done = range.end;
        }
        out.push_str(&text[done..]);
        Self { text: out, edits }
    }

    /// Where in the old text an offset of the new text comes from. Inside a replacement: where it starts.
    pub(crate) fn original(&self, offset: usize) -> usize {
        let next = self.edits.partition_point(|(new, _)| new.start <= offset);
        match next.checked_sub(1).map(|last| &self.edits[last]) {
            None => offset,
            Some((new, old)) if offset < new.end => old.start,
            Some((new, old)) => old.end + (offset - new.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_count_from_one() {
        let text = Text::new("a.py", "ä = 1\n  b\n");
        let at = text.location("ä = 1\n  ".len());
        assert_eq!((at.line, at.column, at.excerpt.as_deref()), (2, 3, Some("  b")));
        assert_eq!(text.location(1).column, 1, "inside a character: its start");
        assert_eq!((text.location(999).line, text.location(999).column), (3, 1));
        assert_eq!(text.offset(SqlLocation { line: 2, column: 3 }), "ä = 1\n  ".len());
    }

    proptest! {
        #[test]
        fn unchanged_characters_are_traced_back(pieces in proptest::collection::vec(("[a-z]{1,4}", proptest::option::of("[A-Z]{0,5}")), 0..8)) {
            let (mut old, mut replacements, mut expected) = (String::new(), Vec::new(), Vec::new());
            let mut new_len = 0;
            for (piece, with) in &pieces {
                let start = old.len();
                old.push_str(piece);
                match with {
                    Some(with) => {
                        expected.extend((0..with.len()).map(|i| (new_len + i, start)));
                        new_len += with.len();
                        replacements.push((start..old.len(), with.clone()));
                    }
                    None => {
                        expected.extend((0..piece.len()).map(|i| (new_len + i, start + i)));
                        new_len += piece.len();
                    }
                }
            }
            let edited = Edited::new(&old, replacements);
            prop_assert_eq!(edited.text.len(), new_len);
            for (new, old) in expected {
                prop_assert_eq!(edited.original(new), old);
            }
        }
    }
}
