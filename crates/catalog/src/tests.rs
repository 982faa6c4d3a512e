//! Tests of the whole catalog: behaviour on a store in memory here, the rest by what goes wrong.

mod behaviour;
mod bucket;
mod burial;
mod codes;
mod cost;
pub(crate) mod crash;
mod faults;
mod gc;
mod model;
mod revert;
mod threads;
mod walks;

use crate::{Catalog, Changes, Clock, CommitInfo, Error, FastForward, MemoryStore, Store, TableEntry};
use forebay_types::{BranchName, Coded, CommitHash, RefSpec, TableName};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that goes on by a second each time it is read.
#[derive(Default)]
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now_millis(&self) -> i64 {
        self.0.fetch_add(1000, Ordering::Relaxed)
    }
}

fn in_memory() -> Catalog {
    on(Arc::new(MemoryStore::default()))
}

fn on(store: Arc<dyn Store>) -> Catalog {
    Catalog::with(store, Arc::new(Ticking::default())).unwrap()
}

fn branch(name: &str) -> BranchName {
    name.parse().unwrap()
}

fn table(name: &str) -> TableName {
    TableName::parse(name, "default").unwrap()
}

fn info(message: &str) -> CommitInfo {
    CommitInfo { author_name: "ann".into(), message: message.into(), ..CommitInfo::default() }
}

fn head(catalog: &Catalog, name: &str) -> CommitHash {
    catalog.resolve(&name.parse::<RefSpec>().unwrap()).unwrap().hash
}

/// `"a=1 -b +ns -ns/"`: put table `a`, delete table `b`, create namespace `ns`, delete it.
fn changes(text: &str) -> Changes {
    let mut changes = Changes::default();
    for word in text.split_whitespace() {
        if let Some((name, location)) = word.split_once('=') {
            changes.put.insert(table(name), TableEntry::new(location));
        } else if let Some(namespace) = word.strip_prefix('+') {
            changes.create_namespaces.insert(namespace.into());
        } else if let Some(namespace) = word.strip_prefix('-').and_then(|rest| rest.strip_suffix('/')) {
            changes.delete_namespaces.insert(namespace.into());
        } else {
            changes.delete.insert(table(word.strip_prefix('-').unwrap()));
        }
    }
    changes
}

/// Commits on the present head.
fn commit(catalog: &Catalog, to: &str, text: &str) -> Result<CommitHash, Error> {
    catalog.commit(&branch(to), &head(catalog, to), &changes(text), &info(text), None)
}

/// The tree as text: `"ns/ ns.t=1"`, without `default/`.
fn show(catalog: &Catalog, at: &str) -> String {
    let tree = catalog.tree(&head(catalog, at)).unwrap();
    let namespaces = tree.namespaces.iter().filter(|name| *name != "default").map(|name| format!("{name}/"));
    let tables = tree.tables.iter().map(|(table, entry)| format!("{table}={}", entry.metadata_location));
    namespaces.chain(tables).collect::<Vec<_>>().join(" ").replace("default.", "")
}

fn code<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "fine".into(),
        Err(error) => error.report().code.to_string(),
    }
}
