//! Random work of several writers, compared step by step with a model that keeps whole trees and walks whole graphs.
//!
//! A writer acts on what it saw last, which may be long out of date, so all interleavings of "look" and "write" occur.

use super::*;
use crate::{MAIN, Replace, Sweep, Tree};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const WRITERS: usize = 3;
const BRANCHES: [&str; 4] = [MAIN, "b1", "b2", "b3"];
const TABLES: [&str; 4] = ["a", "b", "x.a", "y.a"];
const NAMESPACES: [&str; 3] = ["x", "y", "default"];

#[derive(Debug, Clone)]
enum Step {
    Look { writer: usize, branch: usize },
    Commit { writer: usize, branch: usize, edits: Vec<Edit>, tainted: bool },
    Merge { writer: usize, into: usize },
    Create { writer: usize, branch: usize },
    Delete { branch: usize },
    Rename { from: usize, to: usize },
    Revert { writer: usize, branch: usize },
    RevertTables { writer: usize, branch: usize, tables: Vec<usize>, replace: bool },
    Protect { branch: usize, protected: bool },
    Collect,
}

#[derive(Debug, Clone)]
enum Edit {
    Put(usize, u8),
    Delete(usize),
    CreateNamespace(usize),
    DeleteNamespace(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (writer, branch) = (0..WRITERS, 0..BRANCHES.len());
    let edit = prop_oneof![
        6 => (0..TABLES.len(), 0..4_u8).prop_map(|(table, value)| Edit::Put(table, value)),
        2 => (0..TABLES.len()).prop_map(Edit::Delete),
        1 => (0..NAMESPACES.len()).prop_map(Edit::CreateNamespace),
        1 => (0..NAMESPACES.len()).prop_map(Edit::DeleteNamespace),
    ];
    let edits = prop::collection::vec(edit, 0..4);
    let some = prop::collection::vec(0..TABLES.len(), 1..3);
    prop_oneof![
        4 => (writer.clone(), branch.clone()).prop_map(|(writer, branch)| Step::Look { writer, branch }),
        8 => (writer.clone(), branch.clone(), edits, prop::bool::weighted(0.05))
            .prop_map(|(writer, branch, edits, tainted)| Step::Commit { writer, branch, edits, tainted }),
        5 => (writer.clone(), branch.clone()).prop_map(|(writer, into)| Step::Merge { writer, into }),
        3 => (writer, branch.clone()).prop_map(|(writer, branch)| Step::Create { writer, branch }),
        1 => branch.clone().prop_map(|branch| Step::Delete { branch }),
        1 => (branch.clone(), branch.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        2 => (0..WRITERS, branch.clone()).prop_map(|(writer, branch)| Step::Revert { writer, branch }),
        3 => (0..WRITERS, branch.clone(), some, prop::bool::weighted(0.8))
            .prop_map(|(writer, branch, tables, replace)| Step::RevertTables { writer, branch, tables, replace }),
        1 => (branch, prop::bool::weighted(0.3)).prop_map(|(branch, protected)| Step::Protect { branch, protected }),
        1 => Just(Step::Collect),
    ]
}

/// A commit of the model; commits are numbered.
struct Node {
    parents: Vec<usize>,
    tree: Tree,
    tainted: bool,
    hash: CommitHash,
}

struct Model {
    nodes: Vec<Node>,
    branches: BTreeMap<&'static str, usize>,
    protected: BTreeSet<&'static str>,
    /// Commits that were collected. Writers may still have seen them.
    gone: BTreeSet<usize>,
    seen: [usize; WRITERS],
}

type Refusal = &'static str;

impl Model {
    fn ancestors(&self, of: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::from([of]);
        let mut todo = vec![of];
        while let Some(node) = todo.pop() {
            todo.extend(self.nodes[node].parents.iter().filter(|parent| all.insert(**parent)));
        }
        all
    }

    fn head(&self, branch: usize) -> Result<usize, Refusal> {
        self.branches.get(BRANCHES[branch]).copied().ok_or("CAT0001")
    }

    /// What a protected branch makes of a move that would else succeed.
    fn unprotected<T>(&self, branch: usize, outcome: Result<T, Refusal>) -> Result<T, Refusal> {
        outcome.and_then(|made| if self.protected.contains(BRANCHES[branch]) { Err("CAT0019") } else { Ok(made) })
    }

    fn collect(&mut self) {
        let live: BTreeSet<usize> = self.branches.values().flat_map(|head| self.ancestors(*head)).collect();
        self.gone = (0..self.nodes.len()).filter(|node| !live.contains(node)).collect();
    }

    /// Where the tables of all commits are that a branch leads to.
    fn tables(&self) -> BTreeSet<String> {
        let live = (0..self.nodes.len()).filter(|node| !self.gone.contains(node));
        live.flat_map(|node| self.nodes[node].tree.tables.values().map(|entry| entry.metadata_location.clone())).collect()
    }

    fn before(&self, node: usize) -> Tree {
        self.nodes[node].parents.first().map(|parent| self.nodes[*parent].tree.clone()).unwrap_or_default()
    }

    /// The tree of `branch` without what `undone` did.
    fn revert(&self, undone: usize, branch: usize) -> Result<Tree, Refusal> {
        let head = self.head(branch)?;
        if self.nodes[head].tainted {
            return Err("CAT0006");
        }
        if self.gone.contains(&undone) {
            return Err("CAT0010");
        }
        if !self.ancestors(head).contains(&undone) {
            return Err("CAT0024");
        }
        let [before, after, now] = [&self.before(undone), &self.nodes[undone].tree, &self.nodes[head].tree];
        let mut reverted = Tree::default();
        for name in TABLES.map(table) {
            let [b, t, s] = [after, now, before].map(|tree| tree.tables.get(&name));
            reverted.tables.extend(merge_value(b, t, s).ok_or("CAT0020")?.map(|entry| (name, entry.clone())));
        }
        for name in NAMESPACES {
            let [b, t, s] = [after, now, before].map(|tree| tree.namespaces.contains(name));
            let used = reverted.tables.keys().any(|table| table.namespace() == name);
            if used || merge_value(b, t, s).expect("three values of two kinds") {
                reverted.namespaces.insert(name.to_owned());
            }
        }
        if reverted == *now { Err("CAT0022") } else { Ok(reverted) }
    }

    fn revert_tables(&self, source: usize, branch: usize, tables: &BTreeSet<TableName>, replace: bool) -> Result<Tree, Refusal> {
        if self.gone.contains(&source) {
            return Err("CAT0001");
        }
        let from = &self.nodes[source].tree;
        if tables.iter().any(|table| !from.tables.contains_key(table)) {
            return Err("CAT0015");
        }
        let head = self.head(branch)?;
        if self.nodes[head].tainted {
            return Err("CAT0006");
        }
        let now = &self.nodes[head].tree;
        let differs = |table: &TableName| now.tables.get(table) != from.tables.get(table);
        if !tables.iter().any(differs) {
            return Err("CAT0022");
        }
        if !replace && tables.iter().any(|table| differs(table) && now.tables.contains_key(table)) {
            return Err("CAT0023");
        }
        let [ours, theirs] = [self.ancestors(head), self.ancestors(source)];
        if theirs.difference(&ours).any(|node| self.nodes[*node].tainted) {
            return Err("CAT0006");
        }
        for node in ours.symmetric_difference(&theirs).filter(|node| self.nodes[**node].parents.len() == 1) {
            let [old, new] = [&self.before(*node), &self.nodes[*node].tree];
            let changed: Vec<TableName> =
                TABLES.map(table).into_iter().filter(|table| old.tables.get(table) != new.tables.get(table)).collect();
            let outside = |table: &TableName| !tables.contains(table) && differs(table);
            if changed.iter().any(|table| tables.contains(table)) && changed.iter().any(outside) {
                return Err("CAT0021");
            }
        }
        let mut tree = now.clone();
        for table in tables {
            tree.tables.insert(table.clone(), from.tables[table].clone());
            tree.namespaces.insert(table.namespace().to_owned());
        }
        Ok(tree)
    }

    fn commit(&self, base: usize, branch: usize, changes: &Changes, tainted: bool) -> Result<Tree, Refusal> {
        if self.gone.contains(&base) {
            return Err("CAT0010");
        }
        let head = self.head(branch)?;
        if self.nodes[head].tainted && !tainted {
            return Err("CAT0006");
        }
        if changes.delete_namespaces.contains("default") {
            return Err("CAT0007");
        }
        let [base, mut tree] = [base, head].map(|node| self.nodes[node].tree.clone());
        if changes.put.keys().chain(&changes.delete).any(|table| base.tables.get(table) != tree.tables.get(table)) {
            return Err("CAT0004");
        }
        if changes.create_namespaces.iter().any(|name| tree.namespaces.contains(name)) {
            return Err("CAT0003");
        }
        if changes.delete_namespaces.iter().any(|name| !tree.namespaces.contains(name)) {
            return Err("CAT0015");
        }
        if changes.delete.iter().any(|table| tree.tables.remove(table).is_none()) {
            return Err("CAT0015");
        }
        tree.tables.extend(changes.put.clone());
        tree.namespaces.extend(changes.create_namespaces.iter().cloned());
        tree.namespaces.extend(changes.put.keys().map(|table| table.namespace().to_owned()));
        for name in &changes.delete_namespaces {
            if tree.tables.keys().any(|table| table.namespace() == name) {
                return Err("CAT0014");
            }
            tree.namespaces.remove(name);
        }
        Ok(tree)
    }

    /// The new head, or the tree of a merge commit.
    fn merge(&self, source: usize, into: usize) -> Result<Result<usize, Tree>, Refusal> {
        if self.gone.contains(&source) {
            return Err("CAT0001");
        }
        let target = self.head(into)?;
        let [ours, theirs] = [self.ancestors(target), self.ancestors(source)];
        if ours.contains(&source) {
            return Ok(Ok(target));
        }
        if self.nodes[target].tainted || theirs.difference(&ours).any(|node| self.nodes[*node].tainted) {
            return Err("CAT0006");
        }
        if theirs.contains(&target) {
            return Ok(Ok(source));
        }
        let common: BTreeSet<usize> = ours.intersection(&theirs).copied().collect();
        let best =
            common.iter().filter(|node| !common.iter().any(|other| other != *node && self.ancestors(*other).contains(node)));
        let merged: Option<Vec<Tree>> =
            best.map(|base| merge_trees([*base, target, source].map(|node| &self.nodes[node].tree))).collect();
        let merged = merged.ok_or("CAT0005")?;
        if merged.iter().any(|tree| tree.tables != merged[0].tables) {
            return Err("CAT0005");
        }
        let namespaces = merged.iter().flat_map(|tree| tree.namespaces.clone()).collect();
        Ok(Err(Tree { namespaces, tables: merged[0].tables.clone() }))
    }

    fn add(&mut self, parents: Vec<usize>, tree: Tree, tainted: bool, hash: CommitHash) -> usize {
        self.nodes.push(Node { parents, tree, tainted, hash });
        self.nodes.len() - 1
    }
}

fn merge_value<T: PartialEq>(base: T, target: T, source: T) -> Option<T> {
    if target == source || base == source {
        Some(target)
    } else if base == target {
        Some(source)
    } else {
        None
    }
}

fn merge_trees([base, target, source]: [&Tree; 3]) -> Option<Tree> {
    let mut merged = Tree::default();
    for name in TABLES.map(table) {
        let [b, t, s] = [base, target, source].map(|tree| tree.tables.get(&name));
        merged.tables.extend(merge_value(b, t, s)?.map(|entry| (name, entry.clone())));
    }
    for name in NAMESPACES {
        let [b, t, s] = [base, target, source].map(|tree| tree.namespaces.contains(name));
        if merge_value(b, t, s).expect("three values of two kinds") {
            merged.namespaces.insert(name.to_owned());
        } else if merged.tables.keys().any(|table| table.namespace() == name) {
            return None;
        }
    }
    Some(merged)
}

fn as_changes(edits: &[Edit]) -> Changes {
    let mut changes = Changes::default();
    for edit in edits {
        match edit {
            Edit::Put(name, value) => drop(changes.put.insert(table(TABLES[*name]), TableEntry::new(value.to_string()))),
            Edit::Delete(name) => drop(changes.delete.insert(table(TABLES[*name]))),
            Edit::CreateNamespace(name) => drop(changes.create_namespaces.insert(NAMESPACES[*name].into())),
            Edit::DeleteNamespace(name) => drop(changes.delete_namespaces.insert(NAMESPACES[*name].into())),
        }
    }
    changes
}

/// Does one step on both; they must agree on success, or on the error.
fn play(catalog: &Catalog, model: &mut Model, step: &Step) {
    match step {
        Step::Look { writer, branch } => {
            if let Ok(head) = model.head(*branch) {
                model.seen[*writer] = head;
            }
        }
        Step::Commit { writer, branch: to, edits, tainted } => {
            let changes = as_changes(edits);
            let expected = model.unprotected(*to, model.commit(model.seen[*writer], *to, &changes, *tainted));
            let base = &model.nodes[model.seen[*writer]].hash;
            let job = tainted.then_some("job");
            let got = catalog.commit(&branch(BRANCHES[*to]), base, &changes, &info(""), job);
            if let Some((tree, hash)) = agree(step, expected, got) {
                let parent = model.branches[BRANCHES[*to]];
                let node = model.add(vec![parent], tree, *tainted, hash);
                model.branches.insert(BRANCHES[*to], node);
            }
        }
        Step::Merge { writer, into } => {
            let source = model.seen[*writer];
            let expected = model.merge(source, *into);
            let got = catalog.merge(&model.nodes[source].hash, &branch(BRANCHES[*into]), &info(""), FastForward::Allowed);
            if let Some((result, merge)) = agree(step, expected, got) {
                let target = model.branches[BRANCHES[*into]];
                let node = match result {
                    Ok(node) => node,
                    Err(tree) => model.add(vec![target, source], tree, false, merge.hash.clone()),
                };
                assert_eq!(model.nodes[node].hash, merge.hash);
                model.branches.insert(BRANCHES[*into], node);
            }
        }
        Step::Create { writer, branch: name } => {
            let at = model.seen[*writer];
            let expected = match model.head(*name) {
                _ if model.gone.contains(&at) => Err("CAT0001"),
                _ if model.nodes[at].tainted => Err("CAT0006"),
                Ok(_) => Err("CAT0003"),
                Err(_) => Ok(()),
            };
            if agree(step, expected, catalog.create_branch(&branch(BRANCHES[*name]), &model.nodes[at].hash)).is_some() {
                model.branches.insert(BRANCHES[*name], at);
            }
        }
        Step::Delete { branch: name } => {
            let expected = if *name == 0 { Err("CAT0007") } else { model.unprotected(*name, model.head(*name)) };
            if agree(step, expected, catalog.delete_branch(&branch(BRANCHES[*name]))).is_some() {
                model.branches.remove(BRANCHES[*name]);
            }
        }
        Step::Rename { from, to } => {
            let taken = model.head(*to).is_ok();
            let expected = match (*from, model.head(*from)) {
                (0, _) => Err("CAT0007"),
                (_, Ok(_)) if model.protected.contains(BRANCHES[*from]) => Err("CAT0019"),
                (_, Ok(_)) if taken => Err("CAT0003"),
                (_, head) => head,
            };
            if let Some((head, _)) =
                agree(step, expected, catalog.rename_branch(&branch(BRANCHES[*from]), &branch(BRANCHES[*to])))
            {
                model.branches.remove(BRANCHES[*from]);
                model.branches.insert(BRANCHES[*to], head);
            }
        }
        _ => play_more(catalog, model, step),
    }
}

fn play_more(catalog: &Catalog, model: &mut Model, step: &Step) {
    let (to, tree, hash) = match step {
        Step::Revert { writer, branch: to } => {
            let undone = model.seen[*writer];
            let expected = model.unprotected(*to, model.revert(undone, *to));
            let got = catalog.revert_commit(&branch(BRANCHES[*to]), &model.nodes[undone].hash, &info(""));
            let Some((tree, hash)) = agree(step, expected, got) else { return };
            (*to, tree, hash)
        }
        Step::RevertTables { writer, branch: to, tables, replace } => {
            let tables: BTreeSet<TableName> = tables.iter().map(|name| table(TABLES[*name])).collect();
            let source = model.seen[*writer];
            let expected = model.unprotected(*to, model.revert_tables(source, *to, &tables, *replace));
            let how = if *replace { Replace::Allowed } else { Replace::Refused };
            let got = catalog.revert_tables(&branch(BRANCHES[*to]), &tables, &model.nodes[source].hash, how, &info(""));
            let Some((tree, hash)) = agree(step, expected, got) else { return };
            (*to, tree, hash)
        }
        Step::Protect { branch: name, protected } => {
            let expected = model.head(*name);
            if agree(step, expected, catalog.protect_branch(&branch(BRANCHES[*name]), *protected)).is_some() {
                if *protected {
                    model.protected.insert(BRANCHES[*name])
                } else {
                    model.protected.remove(BRANCHES[*name])
                };
            }
            return;
        }
        Step::Collect => {
            model.collect();
            let (_, live) = catalog.collect_and_list(std::time::Duration::ZERO, Sweep::Remove).unwrap();
            // Files of tables that are left alone: those of every commit that a branch leads to, and no others.
            assert_eq!((live.tables, live.doubtful), (model.tables(), BTreeSet::new()));
            return;
        }
        other => unreachable!("{other:?}"),
    };
    let parent = model.branches[BRANCHES[to]];
    let node = model.add(vec![parent], tree, false, hash);
    model.branches.insert(BRANCHES[to], node);
}

fn agree<A, B>(step: &Step, expected: Result<A, Refusal>, got: Result<B, Error>) -> Option<(A, B)> {
    match (expected, got) {
        (Ok(a), Ok(b)) => Some((a, b)),
        (Err(wanted), Err(error)) => {
            assert_eq!(error.report().code.to_string(), wanted, "{step:?}: {error}");
            None
        }
        (Ok(_), Err(error)) => panic!("{step:?} was refused: {}", error.report()),
        (Err(wanted), Ok(_)) => panic!("{step:?} succeeded; the model says {wanted}"),
    }
}

fn compare(catalog: &Catalog, model: &Model) {
    let branches: BTreeMap<String, CommitHash> = catalog.branches().unwrap().into_iter().map(|r| (r.name, r.hash)).collect();
    let expected = model.branches.iter().map(|(name, node)| ((*name).to_owned(), model.nodes[*node].hash.clone())).collect();
    assert_eq!(branches, expected);
    for node in model.branches.values() {
        assert_eq!(catalog.tree(&model.nodes[*node].hash).unwrap(), model.nodes[*node].tree);
        let log: Vec<CommitHash> = catalog.log(&model.nodes[*node].hash).map(|commit| commit.unwrap().hash).collect();
        let expected: BTreeSet<CommitHash> = model.ancestors(*node).into_iter().map(|n| model.nodes[n].hash.clone()).collect();
        assert_eq!(log.len(), expected.len());
        assert_eq!(log.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn writers_agree_with_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let catalog = on(Arc::clone(&store));
        let root = Node { parents: vec![], tree: Tree::default(), tainted: false, hash: head(&catalog, MAIN) };
        let mut model = Model { nodes: vec![root], branches: [(MAIN, 0)].into(), protected: BTreeSet::new(), gone: BTreeSet::new(), seen: [0; WRITERS] };
        for step in &steps {
            play(&catalog, &mut model, step);
        }
        compare(&catalog, &model);
        // The same again by a handle that remembers nothing.
        compare(&on(store), &model);
    }
}
