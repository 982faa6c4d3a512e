//! Branches and tags: names that point to commits, moved by compare-and-swap.

use crate::error::{Error, Result};
use crate::limits::{NEAREST_NAMES_MAX, SWAP_ATTEMPTS_MAX};
use crate::object::{self, RefObject};
use crate::store::Store;
use forebay_types::{BranchName, CommitHash};
use std::sync::Arc;

/// The branch every lake has.
pub const MAIN: &str = "main";

/// What kind of name a ref is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefKind {
    /// Moves with each commit.
    Branch,
    /// Stays.
    Tag,
    /// A commit written as `@hash` or `name@hash`.
    Detached,
}

/// A name and the commit it means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// The name; of a detached ref the part before the `@`, maybe empty.
    pub name: String,
    /// The commit.
    pub hash: CommitHash,
    /// Branch, tag or detached.
    pub kind: RefKind,
    /// The job, if the commit was left by a failed run.
    pub failed_job: Option<String>,
}

/// The two kinds that are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    Branch,
    Tag,
}

impl Stored {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Branch => "branch",
            Self::Tag => "tag",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Branch => "refs/branches",
            Self::Tag => "refs/tags",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Branch => Self::Tag,
            Self::Tag => Self::Branch,
        }
    }

    fn key(self, name: &BranchName) -> String {
        format!("{}/{name}", self.folder())
    }
}

/// Refs in a store.
pub(crate) struct Refs {
    pub(crate) store: Arc<dyn Store>,
}

impl Refs {
    pub(crate) fn get(&self, kind: Stored, name: &BranchName) -> Result<Option<CommitHash>> {
        let key = kind.key(name);
        let Some(bytes) = self.store.read(&key)? else { return Ok(None) };
        let object: RefObject = object::decode(&bytes).map_err(|why| Error::Corrupt { key: key.clone(), why })?;
        let hash = object.commit.parse().map_err(|_| Error::Corrupt { key, why: "it names no commit".to_owned() })?;
        Ok(Some(hash))
    }

    /// The head of a branch that is about to be written to.
    pub(crate) fn head(&self, branch: &BranchName) -> Result<CommitHash> {
        match self.get(Stored::Branch, branch)? {
            Some(hash) => Ok(hash),
            None if self.get(Stored::Tag, branch)?.is_some() => Err(Error::NotABranch { name: branch.clone() }),
            None => Err(self.unknown(branch.as_str())),
        }
    }

    pub(crate) fn list(&self, kind: Stored) -> Result<Vec<(BranchName, CommitHash)>> {
        let mut refs = Vec::new();
        for name in self.store.list(kind.folder())? {
            let name: BranchName = name.parse().map_err(|error| Error::Corrupt {
                key: format!("{}/{name}", kind.folder()),
                why: format!("{error}; the file is not the catalog's"),
            })?;
            // A ref deleted since it was listed is not an error.
            if let Some(hash) = self.get(kind, &name)? {
                refs.push((name, hash));
            }
        }
        Ok(refs)
    }

    /// Moves a ref; `None` stands for "no such ref". Says whether it was still where the caller saw it.
    pub(crate) fn swap(
        &self,
        kind: Stored,
        name: &BranchName,
        from: Option<&CommitHash>,
        to: Option<&CommitHash>,
    ) -> Result<bool> {
        let bytes = |hash: &CommitHash| object::encode(&RefObject { commit: hash.to_string() });
        Ok(self.store.swap(&kind.key(name), from.map(bytes).as_deref(), to.map(bytes).as_deref())?)
    }

    pub(crate) fn create(&self, kind: Stored, name: &BranchName, hash: &CommitHash) -> Result<()> {
        let exists = |existing: Stored| Error::Exists { what: kind.word(), name: name.to_string(), existing: existing.word() };
        if self.get(kind.other(), name)?.is_some() {
            return Err(exists(kind.other()));
        }
        if self.swap(kind, name, None, Some(hash))? { Ok(()) } else { Err(exists(kind)) }
    }

    pub(crate) fn delete(&self, kind: Stored, name: &BranchName) -> Result<()> {
        refuse_main("delete", kind, name)?;
        for _ in 0..SWAP_ATTEMPTS_MAX {
            let Some(hash) = self.get(kind, name)? else { return Err(self.unknown(name.as_str())) };
            if self.swap(kind, name, Some(&hash), None)? {
                return Ok(());
            }
        }
        Err(Error::Contention { name: name.clone(), attempts: SWAP_ATTEMPTS_MAX })
    }

    /// Creates the new name, then deletes the old. A crash in between leaves both; a commit in between moves the new
    /// name after it, so that none is lost.
    pub(crate) fn rename(&self, kind: Stored, old: &BranchName, new: &BranchName) -> Result<CommitHash> {
        refuse_main("rename", kind, old)?;
        let mut hash = self.get(kind, old)?.ok_or_else(|| self.unknown(old.as_str()))?;
        self.create(kind, new, &hash)?;
        for _ in 0..SWAP_ATTEMPTS_MAX {
            if self.swap(kind, old, Some(&hash), None)? {
                return Ok(hash);
            }
            // Deleted by another: the new name keeps the commits.
            let Some(moved) = self.get(kind, old)? else { return Ok(hash) };
            if !self.swap(kind, new, Some(&hash), Some(&moved))? {
                // Both names were written to. Both stay.
                return Err(Error::Contention { name: old.clone(), attempts: 1 });
            }
            hash = moved;
        }
        Err(Error::Contention { name: old.clone(), attempts: SWAP_ATTEMPTS_MAX })
    }

    /// The error for a name that is neither branch nor tag. Failing to find alternatives does not hide it.
    pub(crate) fn unknown(&self, name: &str) -> Error {
        let names = |kind: Stored| self.store.list(kind.folder()).unwrap_or_default();
        let candidates = names(Stored::Branch).into_iter().chain(names(Stored::Tag));
        Error::UnknownRef { name: name.to_owned(), nearest: nearest(name, candidates) }
    }
}

fn refuse_main(verb: &'static str, kind: Stored, name: &BranchName) -> Result<()> {
    if kind == Stored::Branch && name.as_str() == MAIN {
        return Err(Error::Protected { verb, what: "branch", name: MAIN.to_owned() });
    }
    Ok(())
}

/// The candidates most like `name`, best first; those nothing like it are left out.
pub(crate) fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Vec<String> {
    const LIKENESS_MIN: f64 = 0.75;
    let mut scored: Vec<(f64, String)> =
        candidates.map(|candidate| (strsim::jaro_winkler(name, &candidate), candidate)).collect();
    scored.retain(|(likeness, _)| *likeness >= LIKENESS_MIN);
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.into_iter().take(NEAREST_NAMES_MAX).map(|(_, candidate)| candidate).collect()
}
