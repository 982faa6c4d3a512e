//! "Did you mean …?": the names nearest to one that was not found.
//!
//! Deterministic: equal distances keep the order of the candidates.

/// Most names a hint offers.
const SUGGESTIONS_MAX: usize = 3;
/// Longest list that is shown in full when nothing is near.
const LIST_MAX: usize = 12;

/// Up to three candidates a person may have meant, the nearest first.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = name.to_lowercase();
    let length = wanted.chars().count();
    let allowed = if length < 2 { 0 } else { (length / 3).clamp(1, 4) };
    let mut found: Vec<(usize, &str)> = Vec::new();
    for candidate in candidates {
        if let Some(rank) = rank(&wanted, &candidate.to_lowercase(), allowed)
            && !found.iter().any(|(_, known)| *known == candidate)
        {
            found.push((rank, candidate));
        }
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().take(SUGGESTIONS_MAX).map(|(_, candidate)| candidate).collect()
}

/// How far off a candidate is, if it is near at all. An abbreviation counts as one step beyond the last allowed one.
fn rank(wanted: &str, candidate: &str, allowed: usize) -> Option<usize> {
    let distance = strsim::damerau_levenshtein(wanted, candidate);
    if distance <= allowed {
        return Some(distance);
    }
    let contained = wanted.chars().count() >= 3 && (candidate.contains(wanted) || wanted.contains(candidate));
    (contained && candidate.chars().count() >= 3).then_some(allowed + 1)
}

/// ``did you mean `a`?``, or `None` if nothing is near.
pub(crate) fn hint<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let near: Vec<String> = nearest(name, candidates).into_iter().map(|name| format!("`{name}`")).collect();
    let (last, first) = near.split_last()?;
    Some(match first {
        [] => format!("did you mean {last}?"),
        first => format!("did you mean {} or {last}?", first.join(", ")),
    })
}

/// A hint in any case: the nearest names, else the whole list if it is short enough to read.
pub(crate) fn hint_or_list<'a>(name: &str, what: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    hint(name, candidates.clone()).or_else(|| {
        let mut all: Vec<&str> = Vec::new();
        for candidate in candidates {
            if !all.contains(&candidate) {
                all.push(candidate);
            }
        }
        let quoted: Vec<String> = all.iter().map(|name| format!("`{name}`")).collect();
        (1..=LIST_MAX).contains(&quoted.len()).then(|| format!("{what}: {}", quoted.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn near_names_come_nearest_first() {
        assert_eq!(nearest("flihgts", ["planes", "flights_raw", "flights"]), ["flights"]);
        assert_eq!(nearest("Flights", ["flight", "flights"]), ["flights", "flight"]);
        assert_eq!(nearest("delay", ["delays", "arr_delay", "x"]), ["delays", "arr_delay"]);
        assert_eq!(hint("zzz", ["abc"]), None);
        assert_eq!(hint("abd", ["abc", "abe"]).as_deref(), Some("did you mean `abc` or `abe`?"));
        assert_eq!(hint_or_list("zzzz", "known", ["abc", "def"]).as_deref(), Some("known: `abc`, `def`"));
        assert_eq!(hint_or_list("zzzz", "known", ["abc", "abc"]).as_deref(), Some("known: `abc`"));
    }

    /// Edit distance with transpositions, from its definition.
    fn naive_distance(a: &[char], b: &[char]) -> usize {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len(),
            ([x, a @ ..], [y, b @ ..]) if x == y => naive_distance(a, b),
            ([x, a1 @ ..], [y, b1 @ ..]) => {
                let edits = [naive_distance(a1, b), naive_distance(a, b1), naive_distance(a1, b1)];
                let mut best = 1 + edits.into_iter().min().expect("three of them");
                if let ([x2, a2 @ ..], [y2, b2 @ ..]) = (a1, b1)
                    && x == y2
                    && x2 == y
                {
                    best = best.min(1 + naive_distance(a2, b2));
                }
                best
            }
        }
    }

    proptest! {
        #[test]
        fn the_first_suggestion_is_the_nearest(name in "[ab]{2,5}", names in proptest::collection::vec("[ab]{2,5}", 1..6)) {
            let near = nearest(&name, names.iter().map(String::as_str));
            let distance = |other: &str| {
                naive_distance(&name.chars().collect::<Vec<_>>(), &other.chars().collect::<Vec<_>>())
            };
            let best = names.iter().map(|n| distance(n)).min().expect("not empty");
            match near.first() {
                Some(first) if best <= 1 => prop_assert_eq!(distance(first), best),
                Some(first) => prop_assert!(first.contains(&name) || name.contains(first)),
                None => prop_assert!(best > 1),
            }
        }
    }
}
