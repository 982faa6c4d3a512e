//! Topological order of a graph, or the cycles that prevent one.

/// Orders `0..parents.len()` so that parents come before children, and otherwise as numbered.
///
/// Returns the order, and cycles as paths `a, b, …, a` where each reads the next. Nodes on a cycle are put in the order anyway, after
/// one edge of the cycle has been ignored, so that work can go on to find more mistakes.
pub(crate) fn topological(parents: &[Vec<usize>]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut placed = vec![false; parents.len()];
    let (mut order, mut cycles) = (Vec::with_capacity(parents.len()), Vec::new());
    while order.len() < parents.len() {
        let ready = (0..parents.len()).find(|node| !placed[*node] && parents[*node].iter().all(|parent| placed[*parent]));
        let next = ready.unwrap_or_else(|| {
            let cycle = cycle(parents, &placed);
            let broken = cycle[0];
            cycles.push(cycle);
            broken
        });
        placed[next] = true;
        order.push(next);
    }
    (order, cycles)
}

/// A cycle among nodes not placed. Every one of them has a parent not placed, so walking up must come back.
fn cycle(parents: &[Vec<usize>], placed: &[bool]) -> Vec<usize> {
    let mut path: Vec<usize> = placed.iter().position(|placed| !placed).into_iter().collect();
    loop {
        let last = *path.last().expect("some node is not placed");
        let up = *parents[last].iter().find(|parent| !placed[**parent]).expect("no node is ready");
        if let Some(start) = path.iter().position(|node| *node == up) {
            let mut cycle = path.split_off(start);
            let smallest = cycle.iter().enumerate().min_by_key(|(_, node)| **node).map_or(0, |(index, _)| index);
            cycle.rotate_left(smallest);
            cycle.push(cycle[0]);
            return cycle;
        }
        path.push(up);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graphs() -> impl Strategy<Value = Vec<Vec<usize>>> {
        (1usize..8).prop_flat_map(|size| proptest::collection::vec(proptest::collection::vec(0..size, 0..3), size))
    }

    /// Whether a walk along parents of at least one step leads from `from` to `to`, by trying all walks.
    fn reaches(parents: &[Vec<usize>], from: usize, to: usize) -> bool {
        let mut reached = vec![false; parents.len()];
        for _ in 0..parents.len() {
            for node in 0..parents.len() {
                if node == from || reached[node] {
                    for parent in &parents[node] {
                        reached[*parent] = true;
                    }
                }
            }
        }
        reached[to]
    }

    proptest! {
        #[test]
        fn order_and_cycles_agree_with_reachability(parents in graphs()) {
            let (order, cycles) = topological(&parents);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..parents.len()).collect::<Vec<_>>());
            let cyclic = (0..parents.len()).any(|node| reaches(&parents, node, node));
            prop_assert_eq!(cyclic, !cycles.is_empty());
            for cycle in &cycles {
                prop_assert_eq!(cycle.first(), cycle.last());
                prop_assert!(cycle.windows(2).all(|edge| parents[edge[0]].contains(&edge[1])));
            }
            if cycles.is_empty() {
                let place = |node: usize| order.iter().position(|other| *other == node);
                for (child, parents) in parents.iter().enumerate() {
                    prop_assert!(parents.iter().all(|parent| place(*parent) < place(child)));
                }
                // Stable: numbers go up, except from a node to one that had to wait for it.
                for pair in order.windows(2) {
                    prop_assert!(pair[0] < pair[1] || parents[pair[1]].contains(&pair[0]));
                }
            }
        }
    }
}
