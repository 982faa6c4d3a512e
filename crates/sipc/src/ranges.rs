//! Sets of byte ranges: sorted, and apart from each other.

use std::ops::Range;

/// Adds a range at the end; one that continues the last is joined with it at once, which is the common case.
pub fn push(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// Sorts the ranges and joins those that touch or overlap. Empty ones go.
pub fn merge(ranges: &mut Vec<Range<usize>>) {
    ranges.retain(|range| range.start < range.end);
    if ranges.is_sorted_by(|a, b| a.end < b.start) {
        return;
    }
    ranges.sort_unstable_by_key(|range| range.start);
    let mut last = 0;
    for next in 1..ranges.len() {
        if ranges[next].start <= ranges[last].end {
            ranges[last].end = ranges[last].end.max(ranges[next].end);
        } else {
            last += 1;
            ranges[last] = ranges[next].clone();
        }
    }
    ranges.truncate(last + 1);
}

/// Bytes in merged ranges.
#[must_use]
pub fn total(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn merged_ranges_hold_the_same_bytes(given in proptest::collection::vec((0_usize..200, 0_usize..20), 0..40)) {
            let mut bytes = vec![false; 220];
            let mut ranges = Vec::new();
            for (start, length) in given {
                bytes[start..start + length].fill(true);
                push(&mut ranges, start..start + length);
            }
            merge(&mut ranges);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert!(ranges.iter().all(|range| range.start < range.end));
            let mut again = vec![false; 220];
            ranges.iter().for_each(|range| again[range.clone()].fill(true));
            prop_assert_eq!(total(&ranges), bytes.iter().filter(|byte| **byte).count());
            prop_assert_eq!(again, bytes);
        }
    }
}
