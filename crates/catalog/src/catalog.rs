//! The catalog's operations. Each is one request of a user: it reads refs and objects, decides through the pure
//! modules, writes objects, and moves at most one ref by compare-and-swap, starting over when another writer was first.

use crate::apply::apply;
use crate::change::{Changes, DEFAULT_NAMESPACE, Diff, Difference, TableEntry, Tree};
use crate::error::{Error, Result};
use crate::history::{Log, meeting};
use crate::limits::SWAP_ATTEMPTS_MAX;
use crate::merge;
use crate::object::{self, Author, Commit, CommitObject, FormatObject, TreeObject};
use crate::objects::Objects;
use crate::refs::{MAIN, Ref, RefKind, Refs, State, Stored};
use crate::store::{LocalStore, Store};
use chrono::{DateTime, SecondsFormat, Utc};
use forebay_types::{BranchName, CommitHash, TableName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Name of the marker file: a folder with it is a catalog.
const FORMAT_KEY: &str = "format";

/// Where commits get their time from.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    fn now_millis(&self) -> i64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_millis(&self) -> i64 {
        Utc::now().timestamp_millis()
    }
}

/// Words of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitInfo {
    /// Who.
    pub author_name: String,
    /// Mail address, may be empty.
    pub author_email: String,
    /// What and why.
    pub message: String,
    /// Anything else, for programs.
    pub properties: BTreeMap<String, String>,
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// The target's head afterwards.
    pub hash: CommitHash,
    /// How.
    pub kind: MergeKind,
}

/// How a merge was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeKind {
    /// The target already contained the source; nothing changed.
    AlreadyMerged,
    /// The target was contained in the source and moved to it; no commit was made.
    FastForward,
    /// A commit with two parents was made.
    ThreeWay,
}

/// Whether a merge may move the target to the source's commit when nothing else is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FastForward {
    /// Then no commit is made, and nothing is left of the merge's words.
    #[default]
    Allowed,
    /// The merge is always a commit of its own.
    Never,
}

/// What a branch is moved to.
pub(crate) enum Next {
    /// It is where it should be.
    Stay,
    /// A commit made upon its head.
    Commit(CommitHash),
    /// A descendant of its head that was there before.
    Forward(CommitHash),
}

/// A handle to the catalog of one lake. Cheap to clone; every method blocks and may be called from any thread, and
/// any number of processes may work on the same lake.
#[derive(Clone)]
pub struct Catalog {
    pub(crate) objects: Arc<Objects>,
    pub(crate) refs: Arc<Refs>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Catalog {
    /// Opens the catalog in the folder `root` (of a lake: `<lake>/catalog`), creating it with a branch `main` if it
    /// is not there. Processes may do this at the same time.
    pub fn open(root: &Path) -> Result<Self> {
        let store = LocalStore::open(root, FORMAT_KEY).map_err(|error| {
            if error.is_foreign() {
                return Error::Format { place: error.place, why: error.source.to_string() };
            }
            Error::Storage(error)
        })?;
        Self::with(Arc::new(store), Arc::new(SystemClock))
    }

    /// The catalog in any store, with any clock.
    pub fn with(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self> {
        check_format(store.as_ref())?;
        let objects = Arc::new(Objects::new(Arc::clone(&store)));
        let refs = Arc::new(Refs { store, objects: Arc::clone(&objects) });
        let catalog = Self { objects, refs, clock };
        catalog.ensure_main()?;
        Ok(catalog)
    }

    /// Creates `main` at the root commit, which is the same in every lake. Only a catalog that is just being created
    /// lacks it: losing `main` must not look like an empty lake.
    fn ensure_main(&self) -> Result<()> {
        let main: BranchName = MAIN.parse().expect("a valid name");
        if self.refs.get(Stored::Branch, &main)?.is_some() {
            return Ok(());
        }
        let others = !self.refs.names(Stored::Branch)?.is_empty() || !self.refs.names(Stored::Tag)?.is_empty();
        if others && self.refs.get(Stored::Branch, &main)?.is_none() {
            return Err(Error::Missing { key: format!("refs/branches/{MAIN}") });
        }
        let info = CommitInfo { author_name: "forebay".into(), message: "Create the lake".into(), ..CommitInfo::default() };
        let root = self.write_commit(&TreeObject::default(), &[], &info, None, 0)?;
        // Whoever comes second finds the same commit there, or one upon it.
        self.refs.swap(Stored::Branch, &main, None, Some(&State::at(root)))?;
        Ok(())
    }

    /// All branches by name.
    pub fn branches(&self) -> Result<Vec<Ref>> {
        self.branches_where(&|_| true, usize::MAX)
    }

    /// All tags by name.
    pub fn tags(&self) -> Result<Vec<Ref>> {
        self.tags_where(&|_| true, usize::MAX)
    }

    /// The first branches whose names are wanted. Names are listed at once; only those wanted are read.
    pub fn branches_where(&self, wanted: &dyn Fn(&str) -> bool, limit: usize) -> Result<Vec<Ref>> {
        self.all(Stored::Branch, RefKind::Branch, wanted, limit)
    }

    /// The first tags whose names are wanted.
    pub fn tags_where(&self, wanted: &dyn Fn(&str) -> bool, limit: usize) -> Result<Vec<Ref>> {
        self.all(Stored::Tag, RefKind::Tag, wanted, limit)
    }

    fn all(&self, stored: Stored, kind: RefKind, wanted: &dyn Fn(&str) -> bool, limit: usize) -> Result<Vec<Ref>> {
        let refs = self.refs.list(stored, wanted, limit)?;
        refs.into_iter().map(|(name, state)| self.described(name.to_string(), &state, kind)).collect()
    }

    pub(crate) fn described(&self, name: String, state: &State, kind: RefKind) -> Result<Ref> {
        let failed_job = self.objects.commit(&state.hash)?.tainted.clone();
        Ok(Ref { name, hash: state.hash.clone(), kind, failed_job, protected: state.protected })
    }

    /// Creates a branch at a commit. Cost: one small write, whatever the size of the lake. Results of failed runs
    /// stay on the branch their run left: there is no second one for them.
    pub fn create_branch(&self, name: &BranchName, at: &CommitHash) -> Result<Ref> {
        self.create(Stored::Branch, RefKind::Branch, name, at)
    }

    /// Creates a tag at a commit. Results of failed runs are refused.
    pub fn create_tag(&self, name: &BranchName, at: &CommitHash) -> Result<Ref> {
        self.create(Stored::Tag, RefKind::Tag, name, at)
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.objects.store()
    }

    /// Keeps a commit that may hang on nothing from being collected while it is named anew.
    fn pin(&self, commit: &CommitHash) -> Result<()> {
        if self.objects.pin(commit)? {
            return Ok(());
        }
        Err(Error::UnknownRef { name: format!("@{commit}"), nearest: Vec::new() })
    }

    fn create(&self, stored: Stored, kind: RefKind, name: &BranchName, at: &CommitHash) -> Result<Ref> {
        self.pin(at)?;
        let commit = self.objects.commit(at)?;
        refuse_tainted(&format!("create the {} `{name}`", stored.word()), &short(at), &commit)?;
        let state = State::at(at.clone());
        self.refs.create(stored, name, &state)?;
        self.described(name.to_string(), &state, kind)
    }

    /// Protects a branch: only merges move it, and it can neither be deleted nor renamed. Or takes that back.
    pub fn protect_branch(&self, name: &BranchName, protected: bool) -> Result<Ref> {
        let state = self.refs.protect(name, protected)?;
        self.described(name.to_string(), &state, RefKind::Branch)
    }

    /// Deletes a branch; its commits stay. `main` cannot be deleted.
    pub fn delete_branch(&self, name: &BranchName) -> Result<()> {
        self.refs.delete(Stored::Branch, name)
    }

    /// Deletes a tag; its commit stays.
    pub fn delete_tag(&self, name: &BranchName) -> Result<()> {
        self.refs.delete(Stored::Tag, name)
    }

    /// Renames a branch; `main` keeps its name.
    pub fn rename_branch(&self, old: &BranchName, new: &BranchName) -> Result<Ref> {
        let hash = self.refs.rename(Stored::Branch, old, new)?;
        self.described(new.to_string(), &State::at(hash), RefKind::Branch)
    }

    /// Renames a tag.
    pub fn rename_tag(&self, old: &BranchName, new: &BranchName) -> Result<Ref> {
        let hash = self.refs.rename(Stored::Tag, old, new)?;
        self.described(new.to_string(), &State::at(hash), RefKind::Tag)
    }

    /// All tables at a commit.
    pub fn tree(&self, at: &CommitHash) -> Result<Tree> {
        self.objects.whole_tree(&self.objects.commit(at)?.tree)
    }

    /// All namespaces at a commit, `default` among them; their tables are not read.
    pub fn namespaces(&self, at: &CommitHash) -> Result<BTreeSet<String>> {
        let tree = self.objects.tree(&self.objects.commit(at)?.tree)?;
        Ok(tree.namespaces.keys().cloned().chain([DEFAULT_NAMESPACE.to_owned()]).collect())
    }

    /// A table at a commit, if it is there. Reads its namespace only.
    pub fn entry(&self, at: &CommitHash, table: &TableName) -> Result<Option<TableEntry>> {
        let tree = self.objects.tree(&self.objects.commit(at)?.tree)?;
        self.objects.entry(&tree, table)
    }

    /// The tables of a namespace at a commit by their short names, or `None` if there is no such namespace.
    pub fn tables_of(&self, at: &CommitHash, namespace: &str) -> Result<Option<BTreeSet<String>>> {
        let tree = self.objects.tree(&self.objects.commit(at)?.tree)?;
        if namespace != DEFAULT_NAMESPACE && !tree.namespaces.contains_key(namespace) {
            return Ok(None);
        }
        Ok(Some(self.objects.namespace(&tree, namespace)?.keys().cloned().collect()))
    }

    /// The commit itself.
    pub fn get_commit(&self, hash: &CommitHash) -> Result<Commit> {
        Ok(Commit::clone(&*self.objects.commit(hash)?))
    }

    /// The history of a commit, newest first; each commit comes before its parents.
    #[must_use]
    pub fn log(&self, from: &CommitHash) -> Log {
        Log::new(Arc::clone(&self.objects), from)
    }

    /// The tables that differ, from `a` to `b`, with their states there. Namespaces that do not differ are not read.
    pub fn differences(&self, a: &CommitHash, b: &CommitHash) -> Result<Vec<Difference>> {
        let [a, b] = [self.objects.commit(a)?, self.objects.commit(b)?];
        self.objects.differences(&*self.objects.tree(&a.tree)?, &*self.objects.tree(&b.tree)?)
    }

    /// Which tables differ, from `a` to `b`.
    pub fn diff(&self, a: &CommitHash, b: &CommitHash) -> Result<Diff> {
        Ok(Diff::between(&self.tree(a)?, &self.tree(b)?))
    }

    /// Puts one commit on `branch` and returns it.
    ///
    /// `base` is the commit the writer looked at. If the branch moved since, but none of the tables the change is
    /// based on did, the change is applied to the new head; otherwise the error names these tables.
    /// `tainted` marks the results of a failed job; an ordinary commit upon a tainted one is refused.
    pub fn commit(
        &self,
        branch: &BranchName,
        base: &CommitHash,
        changes: &Changes,
        info: &CommitInfo,
        tainted: Option<&str>,
    ) -> Result<CommitHash> {
        let base_tree = self.objects.tree(&self.objects.commit(base)?.tree)?;
        let action = format!("commit to `{branch}`");
        self.moving(branch, &action, Protected::Refused, |head, now| {
            if tainted.is_none() {
                refuse_tainted(&action, branch.as_str(), head)?;
            }
            let head_tree = self.objects.tree(&head.tree)?;
            let tree = apply(&self.objects, branch, &base_tree, &head_tree, changes)?;
            Ok(Next::Commit(self.write_commit(&tree, &[head], info, tainted, now)?))
        })
    }

    /// Merges a commit into a branch: nothing if it is contained there, else a fast-forward, else a three-way merge
    /// per table. `info` is for the commit of a merge that makes one. Results of failed runs are refused.
    pub fn merge(&self, source: &CommitHash, into: &BranchName, info: &CommitInfo, fast_forward: FastForward) -> Result<Merge> {
        self.pin(source)?;
        let source_commit = self.objects.commit(source)?;
        let mut kind = MergeKind::AlreadyMerged;
        let action = format!("merge into `{into}`");
        let hash = self.moving(into, &action, Protected::Allowed, |head, now| {
            let meeting = meeting(&self.objects, source, &head.hash)?;
            if meeting.bases.contains(source) {
                kind = MergeKind::AlreadyMerged;
                return Ok(Next::Stay);
            }
            refuse_tainted(&action, into.as_str(), head)?;
            if let Some(commit) = &meeting.tainted {
                refuse_tainted(&action, &short(&commit.hash), commit)?;
            }
            if meeting.bases.contains(&head.hash) && fast_forward == FastForward::Allowed {
                kind = MergeKind::FastForward;
                return Ok(Next::Forward(source.clone()));
            }
            kind = MergeKind::ThreeWay;
            let tree = self.merged_tree(&meeting.bases, into, head, &source_commit)?;
            Ok(Next::Commit(self.write_commit(&tree, &[head, &source_commit], info, None, now)?))
        })?;
        Ok(Merge { hash, kind })
    }

    fn merged_tree(&self, bases: &[CommitHash], into: &BranchName, head: &Commit, source: &Commit) -> Result<TreeObject> {
        let mut trees = Vec::new();
        for base in bases {
            trees.push(self.objects.tree(&self.objects.commit(base)?.tree)?);
        }
        if trees.is_empty() {
            trees.push(Arc::default()); // lakes that were put together: nothing in common
        }
        let [target, source] = [self.objects.tree(&head.tree)?, self.objects.tree(&source.tree)?];
        let outcome = merge::trees(&self.objects, &trees, &target, &source)?;
        outcome.map_err(|tables| Error::MergeConflict { into: into.clone(), tables })
    }

    /// Moves `branch` to what `decide` makes of its head at a time, again from the new head if another writer moved
    /// it meanwhile. `action` is for messages.
    pub(crate) fn moving(
        &self,
        branch: &BranchName,
        action: &str,
        protected: Protected,
        mut decide: impl FnMut(&Commit, i64) -> Result<Next>,
    ) -> Result<CommitHash> {
        for _ in 0..SWAP_ATTEMPTS_MAX {
            let state = self.refs.head(branch)?;
            let now = self.clock.now_millis();
            let next = decide(&*self.objects.commit(&state.hash)?, now)?;
            if state.protected && protected == Protected::Refused {
                return Err(Error::ProtectedBranch { action: action.to_owned(), branch: branch.clone() });
            }
            let next = match next {
                Next::Stay => return Ok(state.hash),
                Next::Commit(hash) => state.moved(hash),
                Next::Forward(hash) => state.forwarded(hash, now),
            };
            if self.refs.swap(Stored::Branch, branch, Some(&state), Some(&next))? {
                return Ok(next.hash);
            }
        }
        Err(Error::Contention { name: branch.clone(), attempts: SWAP_ATTEMPTS_MAX })
    }

    pub(crate) fn write_commit(
        &self,
        tree: &TreeObject,
        parents: &[&Commit],
        info: &CommitInfo,
        tainted: Option<&str>,
        now_millis: i64,
    ) -> Result<CommitHash> {
        let tree = self.objects.write(tree)?;
        let time = DateTime::<Utc>::from_timestamp_millis(now_millis).unwrap_or_default();
        let hash = self.objects.write(&CommitObject {
            author: Author { email: info.author_email.clone(), name: info.author_name.clone() },
            authored_at: time.to_rfc3339_opts(SecondsFormat::Millis, true),
            generation: parents.iter().map(|parent| parent.generation + 1).max().unwrap_or(0),
            message: info.message.clone(),
            parents: parents.iter().map(|parent| parent.hash.to_string()).collect(),
            properties: info.properties.clone(),
            tainted: tainted.map(str::to_owned),
            tree,
        })?;
        Ok(hash.parse().expect("a SHA-256 in hex"))
    }
}

/// What a protected branch says to a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protected {
    /// It may be moved so.
    Allowed,
    /// It may not.
    Refused,
}

/// A hash as messages write it.
pub(crate) fn short(hash: &CommitHash) -> String {
    format!("@{}", &hash.as_str()[..12])
}

pub(crate) fn refuse_tainted(action: &str, place: &str, commit: &Commit) -> Result<()> {
    match &commit.tainted {
        Some(job) => Err(Error::Tainted { action: action.to_owned(), branch_or_commit: place.to_owned(), job: job.clone() }),
        None => Ok(()),
    }
}

fn check_format(store: &dyn Store) -> Result<()> {
    let place = store.location();
    let bytes = match store.read(FORMAT_KEY)? {
        Some(bytes) => bytes,
        None => {
            let bytes = object::encode(&FormatObject {});
            store.create(FORMAT_KEY, &bytes)?;
            return Ok(());
        }
    };
    object::decode::<FormatObject>(&bytes).map(|_| ()).map_err(|why| Error::Format { place, why: format!("`format`: {why}") })
}
