//! Typed access to content-addressed objects in a store, and the trees made of them.

use crate::change::{DEFAULT_NAMESPACE, TableEntry, Tree};
use crate::error::{Error, Result};
use crate::limits::CACHED_COMMITS_MAX;
use crate::object::{self, Commit, CommitObject, Kind, NamespaceObject, TreeObject};
use crate::store::Store;
use forebay_types::{CommitHash, TableName};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// Tables of one namespace by their short name.
pub(crate) type Tables = BTreeMap<String, TableEntry>;

/// Reads and writes objects. Whatever it returns was checked against its name.
pub(crate) struct Objects {
    store: Arc<dyn Store>,
    /// Commits already decoded: histories are walked again and again.
    commits: Mutex<HashMap<CommitHash, Arc<Commit>>>,
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, commits: Mutex::default() }
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
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if commits.len() >= CACHED_COMMITS_MAX {
            commits.clear();
        }
        commits.insert(hash.clone(), Arc::clone(&commit));
        Ok(commit)
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

    pub(crate) fn tree(&self, hash: &str) -> Result<TreeObject> {
        let tree: TreeObject = self.read(hash)?;
        let named = |name: &str| TableName::new(name, "t").is_ok();
        if let Some((name, _)) = tree.namespaces.iter().find(|(name, object)| !named(name) || !is_hash(object)) {
            return Err(Error::Corrupt { key: key(hash), why: format!("`{name}` is not a valid namespace") });
        }
        Ok(tree)
    }

    /// The tables of `namespace` in `tree`; a namespace that is not there has none.
    pub(crate) fn namespace(&self, tree: &TreeObject, namespace: &str) -> Result<Tables> {
        let Some(hash) = tree.namespaces.get(namespace) else { return Ok(Tables::new()) };
        let object: NamespaceObject = self.read(hash)?;
        if let Some(name) = object.tables.keys().find(|name| TableName::new(namespace, name).is_err()) {
            return Err(Error::Corrupt { key: key(hash), why: format!("`{name}` is not a valid table name") });
        }
        Ok(object.tables.into_iter().map(|(name, entry)| (name, entry.into())).collect())
    }

    pub(crate) fn write_namespace(&self, tables: &Tables) -> Result<String> {
        let tables = tables.iter().map(|(name, entry)| (name.clone(), entry.into())).collect();
        self.write(&NamespaceObject { tables })
    }

    pub(crate) fn whole_tree(&self, hash: &str) -> Result<Tree> {
        let object = self.tree(hash)?;
        let mut tree = Tree::default();
        for namespace in object.namespaces.keys() {
            for (name, entry) in self.namespace(&object, namespace)? {
                let table = TableName::new(namespace, &name).expect("checked by `namespace`");
                tree.tables.insert(table, entry);
            }
            tree.namespaces.insert(namespace.clone());
        }
        Ok(tree)
    }

    /// Sets a namespace of `tree`: `None` removes it. An empty `default` is not written down, so that an empty lake
    /// has one form only.
    pub(crate) fn set_namespace(&self, tree: &mut TreeObject, namespace: &str, tables: Option<&Tables>) -> Result<()> {
        match tables {
            Some(tables) if namespace != DEFAULT_NAMESPACE || !tables.is_empty() => {
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
