//! Typed access to content-addressed objects in a store, and the trees made of them.

use crate::change::{DEFAULT_NAMESPACE, Difference, TableEntry, Tree};
use crate::error::{Error, Result};
use crate::limits::{CACHED_COMMITS_MAX, CACHED_TABLES_MAX};
use crate::object::{self, Commit, CommitObject, Kind, NamespaceObject, TreeObject};
use crate::store::Store;
use forebay_types::{CommitHash, TableName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tables of one namespace by their short name, and what is said of the namespace itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tables {
    entries: BTreeMap<String, TableEntry>,
    pub(crate) properties: BTreeMap<String, String>,
}

impl std::ops::Deref for Tables {
    type Target = BTreeMap<String, TableEntry>;
    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

impl std::ops::DerefMut for Tables {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.entries
    }
}

/// Reads and writes objects. Whatever it returns was checked against its name.
pub(crate) struct Objects {
    store: Arc<dyn Store>,
    /// Commits already decoded: histories are walked again and again.
    commits: Mutex<HashMap<CommitHash, Arc<Commit>>>,
    /// Trees and namespaces already decoded: one commit reads what the last one wrote.
    trees: Mutex<Trees>,
}

/// Decoded parts of trees, by hash.
#[derive(Default)]
struct Trees {
    trees: HashMap<String, Arc<TreeObject>>,
    namespaces: HashMap<String, Arc<Tables>>,
    /// Entries of all of them, which is what they cost.
    entries: usize,
}

impl Trees {
    fn make_room(&mut self, entries: usize) {
        self.entries += entries + 1;
        if self.entries > CACHED_TABLES_MAX {
            *self = Self { entries: entries + 1, ..Self::default() };
        }
    }
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, commits: Mutex::default(), trees: Mutex::default() }
    }

    /// Writes an object; it is durable, and readable, when this returns.
    pub(crate) fn write<T: Kind>(&self, body: &T) -> Result<String> {
        let bytes = object::encode(body);
        let hash = object::hash(&bytes);
        let key = key(&hash);
        if !self.store.create(&key, &bytes)? && self.read_bytes(&hash)? != bytes {
            return Err(Error::Corrupt { key, why: "another object has this name".to_owned() });
        }
        Ok(hash)
    }

    fn read_bytes(&self, hash: &str) -> Result<Vec<u8>> {
        let key = key(hash);
        let Some(bytes) = self.store.read(&key)? else { return Err(Error::Missing { key }) };
        if object::hash(&bytes) != hash {
            return Err(Error::Corrupt { key, why: "its content does not fit its name".to_owned() });
        }
        Ok(bytes)
    }

    fn read<T: Kind>(&self, hash: &str) -> Result<T> {
        object::decode(&self.read_bytes(hash)?).map_err(|why| Error::Corrupt { key: key(hash), why })
    }

    pub(crate) fn commit(&self, hash: &CommitHash) -> Result<Arc<Commit>> {
        let cached = self.commits.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned();
        if let Some(commit) = cached {
            return Ok(commit);
        }
        let object: CommitObject = self.read(hash.as_str())?;
        let commit = Arc::new(self.checked_commit(hash, object)?);
        self.keep_commit(hash, Arc::clone(&commit));
        Ok(commit)
    }

    /// Reads commits that are about to be looked at, all at once.
    pub(crate) fn fetch_commits<'h>(&self, hashes: impl Iterator<Item = &'h CommitHash>) -> Result<()> {
        let unknown: BTreeSet<&CommitHash> = {
            let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
            hashes.filter(|hash| !commits.contains_key(*hash)).collect()
        };
        if unknown.len() < 2 {
            return Ok(());
        }
        let keys: Vec<String> = unknown.iter().map(|hash| key(hash.as_str())).collect();
        for (hash, bytes) in unknown.into_iter().zip(self.store.read_all(&keys)?) {
            // What is missing or damaged is told when it is looked at.
            let Some(bytes) = bytes.filter(|bytes| object::hash(bytes) == hash.as_str()) else { continue };
            let Ok(object) = object::decode::<CommitObject>(&bytes) else { continue };
            let Ok(commit) = self.checked_commit(hash, object) else { continue };
            self.keep_commit(hash, Arc::new(commit));
        }
        Ok(())
    }

    /// Keeps a commit, and all it leads to, from being collected while it is about to be named. `false`: it is gone.
    pub(crate) fn pin(&self, hash: &CommitHash) -> Result<bool> {
        Ok(self.store.touch(&key(hash.as_str()))?)
    }

    /// A ref leaves a commit, which others may have seen it lead to.
    pub(crate) fn left(&self, hash: &CommitHash) -> Result<()> {
        Ok(self.store.left(&key(hash.as_str()))?)
    }

    /// Where the tables of a namespace are, by its hash.
    pub(crate) fn locations(&self, namespace: &str) -> Result<Vec<String>> {
        let object: NamespaceObject = self.read(namespace)?;
        Ok(object.tables.into_values().map(|entry| entry.metadata_location).collect())
    }

    /// Empties the caches: what they hold may have been collected.
    pub(crate) fn forget(&self) {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.trees() = Trees::default();
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn keep_commit(&self, hash: &CommitHash, commit: Arc<Commit>) {
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if commits.len() >= CACHED_COMMITS_MAX {
            commits.clear();
        }
        commits.insert(hash.clone(), commit);
    }

    fn checked_commit(&self, hash: &CommitHash, object: CommitObject) -> Result<Commit> {
        let corrupt = |why: &str| Error::Corrupt { key: key(hash.as_str()), why: why.to_owned() };
        let parents: Option<Vec<CommitHash>> = object.parents.iter().map(|parent| parent.parse().ok()).collect();
        let parents = parents.ok_or_else(|| corrupt("a parent is not a commit hash"))?;
        if !is_hash(&object.tree) {
            return Err(corrupt("its tree is not a hash"));
        }
        if (object.generation == 0) != parents.is_empty() {
            return Err(corrupt("its generation does not fit its parents"));
        }
        Ok(Commit {
            hash: hash.clone(),
            parents,
            author_name: object.author.name,
            author_email: object.author.email,
            message: object.message,
            properties: object.properties,
            authored_at: object.authored_at,
            tree: object.tree,
            tainted: object.tainted,
            generation: object.generation,
        })
    }

    /// Commits whose hash starts with `prefix` (at least two digits), sorted.
    pub(crate) fn commits_with_prefix(&self, prefix: &str) -> Result<Vec<CommitHash>> {
        let mut found = Vec::new();
        for name in self.store.list(&format!("objects/{}", &prefix[..2]))? {
            let Ok(hash) = name.parse::<CommitHash>() else { continue };
            if !name.starts_with(prefix) {
                continue;
            }
            if object::kind_of(&self.read_bytes(&name)?).as_deref() == Some(CommitObject::NAME) {
                found.push(hash);
            }
        }
        Ok(found)
    }

    fn trees(&self) -> MutexGuard<'_, Trees> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tree(&self, hash: &str) -> Result<Arc<TreeObject>> {
        if let Some(tree) = self.trees().trees.get(hash).cloned() {
            return Ok(tree);
        }
        let tree: TreeObject = self.read(hash)?;
        let named = |name: &str| TableName::new(name, "t").is_ok();
        if let Some((name, _)) = tree.namespaces.iter().find(|(name, object)| !named(name) || !is_hash(object)) {
            return Err(Error::Corrupt { key: key(hash), why: format!("`{name}` is not a valid namespace") });
        }
        let tree = Arc::new(tree);
        let mut trees = self.trees();
        trees.make_room(tree.namespaces.len());
        trees.trees.insert(hash.to_owned(), Arc::clone(&tree));
        Ok(tree)
    }

    /// The tables of `namespace` in `tree`; a namespace that is not there has none.
    pub(crate) fn namespace(&self, tree: &TreeObject, namespace: &str) -> Result<Arc<Tables>> {
        let Some(hash) = tree.namespaces.get(namespace) else { return Ok(Arc::default()) };
        if let Some(tables) = self.trees().namespaces.get(hash).cloned() {
            return Ok(tables);
        }
        let object: NamespaceObject = self.read(hash)?;
        if let Some(name) = object.tables.keys().find(|name| TableName::new(namespace, name).is_err()) {
            return Err(Error::Corrupt { key: key(hash), why: format!("`{name}` is not a valid table name") });
        }
        let entries = object.tables.into_iter().map(|(name, entry)| (name, entry.into())).collect();
        Ok(self.keep(hash.clone(), Arc::new(Tables { entries, properties: object.properties })))
    }

    fn keep(&self, hash: String, tables: Arc<Tables>) -> Arc<Tables> {
        let mut trees = self.trees();
        trees.make_room(tables.len() + tables.properties.len());
        trees.namespaces.insert(hash, Arc::clone(&tables));
        tables
    }

    pub(crate) fn write_namespace(&self, tables: &Tables) -> Result<String> {
        let written = tables.iter().map(|(name, entry)| (name.clone(), entry.into())).collect();
        let hash = self.write(&NamespaceObject { tables: written, properties: tables.properties.clone() })?;
        self.keep(hash.clone(), Arc::new(tables.clone()));
        Ok(hash)
    }

    /// The tables in which two trees differ, with their states there. Namespaces with equal objects are not read.
    pub(crate) fn differences(&self, a: &TreeObject, b: &TreeObject) -> Result<Vec<Difference>> {
        let mut found = Vec::new();
        for namespace in a.namespaces.keys().chain(b.namespaces.keys()).collect::<BTreeSet<_>>() {
            if a.namespaces.get(namespace) == b.namespaces.get(namespace) {
                continue;
            }
            let [old, new] = [self.namespace(a, namespace)?, self.namespace(b, namespace)?];
            for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                if old.get(name) != new.get(name) {
                    let table = TableName::new(namespace, name).expect("checked by `namespace`");
                    found.push(Difference { table, before: old.get(name).cloned(), after: new.get(name).cloned() });
                }
            }
        }
        Ok(found)
    }

    /// The entry of a table in a tree.
    pub(crate) fn entry(&self, tree: &TreeObject, table: &TableName) -> Result<Option<TableEntry>> {
        Ok(self.namespace(tree, table.namespace())?.get(table.name()).cloned())
    }

    pub(crate) fn whole_tree(&self, hash: &str) -> Result<Tree> {
        let object = self.tree(hash)?;
        let mut tree = Tree::default();
        for namespace in object.namespaces.keys() {
            for (name, entry) in self.namespace(&object, namespace)?.iter() {
                let table = TableName::new(namespace, name).expect("checked by `namespace`");
                tree.tables.insert(table, entry.clone());
            }
            tree.namespaces.insert(namespace.clone());
        }
        Ok(tree)
    }

    /// Sets a namespace of `tree`: `None` removes it. An empty `default` is not written down, so that an empty lake
    /// has one form only.
    pub(crate) fn set_namespace(&self, tree: &mut TreeObject, namespace: &str, tables: Option<&Tables>) -> Result<()> {
        match tables {
            Some(tables) if namespace != DEFAULT_NAMESPACE || !tables.is_empty() || !tables.properties.is_empty() => {
                tree.namespaces.insert(namespace.to_owned(), self.write_namespace(tables)?);
            }
            _ => {
                tree.namespaces.remove(namespace);
            }
        }
        Ok(())
    }
}

fn key(hash: &str) -> String {
    format!("objects/{}/{hash}", &hash[..2])
}

fn is_hash(text: &str) -> bool {
    text.parse::<CommitHash>().is_ok()
}
