//! Branches and tags: names that point to commits, moved by compare-and-swap.

use crate::error::{Error, Result};
use crate::history;
use crate::limits::{FORWARDS_MAX, NEAREST_NAMES_MAX, SWAP_ATTEMPTS_MAX, UNKNOWN_ATTEMPTS_MAX};
use crate::object::{self, ForwardObject, RefObject};
use crate::objects::Objects;
use crate::store::Store;
use chrono::{DateTime, SecondsFormat, Utc};
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
    /// A commit written as `@hash`, `name@hash`, or by a walk from another ref.
    Detached,
}

/// A name and the commit it means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// The name; of a detached ref the name its text began with, maybe empty.
    pub name: String,
    /// The commit.
    pub hash: CommitHash,
    /// Branch, tag or detached.
    pub kind: RefKind,
    /// The job, if the commit was left by a failed run.
    pub failed_job: Option<String>,
    /// A branch that only merges may move, and that stays.
    pub protected: bool,
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

/// What a ref holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) hash: CommitHash,
    pub(crate) protected: bool,
    /// Fast-forwards, oldest first: the only moves of a branch that no commit tells of.
    pub(crate) forwards: Vec<Forward>,
}

/// A move from `from` to its descendant `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Milliseconds since 1970.
    pub(crate) at: i64,
    pub(crate) from: CommitHash,
    pub(crate) to: CommitHash,
}

impl State {
    /// A new ref.
    pub(crate) fn at(hash: CommitHash) -> Self {
        Self { hash, protected: false, forwards: Vec::new() }
    }

    /// Moved by a commit made for it.
    pub(crate) fn moved(&self, hash: CommitHash) -> Self {
        Self { hash, ..self.clone() }
    }

    /// Moved to a commit that was there before.
    pub(crate) fn forwarded(&self, to: CommitHash, at: i64) -> Self {
        let mut next = self.moved(to.clone());
        next.forwards.push(Forward { at, from: self.hash.clone(), to });
        let surplus = next.forwards.len().saturating_sub(FORWARDS_MAX);
        next.forwards.drain(..surplus);
        next
    }

    fn encode(&self) -> Vec<u8> {
        let time = |millis| DateTime::<Utc>::from_timestamp_millis(millis).unwrap_or_default();
        let forward = |forward: &Forward| ForwardObject {
            at: time(forward.at).to_rfc3339_opts(SecondsFormat::Millis, true),
            from: forward.from.to_string(),
            to: forward.to.to_string(),
        };
        object::encode(&RefObject {
            commit: self.hash.to_string(),
            forwards: self.forwards.iter().map(forward).collect(),
            protected: self.protected,
        })
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        let object: RefObject = object::decode(bytes)?;
        let hash = |text: &str| text.parse().map_err(|_| "it names no commit".to_owned());
        let forward = |forward: &ForwardObject| {
            let at = history::millis(&forward.at).ok_or("a time in it is not one")?;
            Ok(Forward { at, from: hash(&forward.from)?, to: hash(&forward.to)? })
        };
        let forwards: std::result::Result<Vec<Forward>, String> = object.forwards.iter().map(forward).collect();
        Ok(Self { hash: hash(&object.commit)?, protected: object.protected, forwards: forwards? })
    }
}

/// Refs in a store.
pub(crate) struct Refs {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) objects: Arc<Objects>,
}

impl Refs {
    pub(crate) fn get(&self, kind: Stored, name: &BranchName) -> Result<Option<State>> {
        let key = kind.key(name);
        let Some(bytes) = self.store.read(&key)? else { return Ok(None) };
        State::decode(&bytes).map(Some).map_err(|why| Error::Corrupt { key, why })
    }

    /// A branch that is about to be written to.
    pub(crate) fn head(&self, branch: &BranchName) -> Result<State> {
        match self.get(Stored::Branch, branch)? {
            Some(state) => Ok(state),
            None if self.get(Stored::Tag, branch)?.is_some() => Err(Error::NotABranch { name: branch.clone() }),
            None => Err(self.unknown(branch.as_str())),
        }
    }

    /// The first refs whose names are wanted.
    pub(crate) fn list(&self, kind: Stored, wanted: &dyn Fn(&str) -> bool, limit: usize) -> Result<Vec<(BranchName, State)>> {
        let names: Vec<BranchName> = self.names(kind)?.into_iter().filter(|name| wanted(name.as_str())).take(limit).collect();
        let keys: Vec<String> = names.iter().map(|name| kind.key(name)).collect();
        let mut refs = Vec::new();
        for ((name, key), bytes) in names.into_iter().zip(keys.iter()).zip(self.store.read_all(&keys)?) {
            // A ref deleted since it was listed is not an error.
            if let Some(bytes) = bytes {
                let state = State::decode(&bytes).map_err(|why| Error::Corrupt { key: key.clone(), why })?;
                refs.push((name, state));
            }
        }
        self.objects.fetch_commits(refs.iter().map(|(_, state)| &state.hash))?;
        Ok(refs)
    }

    /// Names alone, in order: one listing, whatever is read of them later.
    pub(crate) fn names(&self, kind: Stored) -> Result<Vec<BranchName>> {
        let parse = |name: String| {
            name.parse().map_err(|error| Error::Corrupt {
                key: format!("{}/{name}", kind.folder()),
                why: format!("{error}; the file is not the catalog's"),
            })
        };
        self.store.list(kind.folder())?.into_iter().map(parse).collect()
    }

    /// Moves a ref; `None` stands for "no such ref". Says whether it was still as the caller saw it. When the store
    /// cannot tell what became of the move, the ref is read back until that is known.
    pub(crate) fn swap(&self, kind: Stored, name: &BranchName, from: Option<&State>, to: Option<&State>) -> Result<bool> {
        let [old, new] = [from, to].map(|state| state.map(State::encode));
        let key = kind.key(name);
        let mut lost = false;
        for attempt in 0..UNKNOWN_ATTEMPTS_MAX {
            if attempt > 0 {
                self.store.contended(attempt);
            }
            match self.store.swap(&key, old.as_deref(), new.as_deref()) {
                Ok(true) => return Ok(true),
                Ok(false) if !lost => return Ok(false),
                Err(error) if !error.unknown => return Err(error.into()),
                _ => lost = true,
            }
            let Ok(now) = self.get(kind, name) else { continue };
            if now.as_ref() == to {
                return Ok(true);
            }
            if now.as_ref() != from {
                // Others moved it since: either from ours, or before ours came.
                return match (&now, to) {
                    (Some(now), Some(to)) => history::contains(&self.objects, &now.hash, &to.hash),
                    _ => Ok(false),
                };
            }
            // Not moved, so far: the same move again, which also ends the chance of the lost one.
        }
        Err(Error::UnknownOutcome { name: name.clone() })
    }

    pub(crate) fn create(&self, kind: Stored, name: &BranchName, state: &State) -> Result<()> {
        let exists = |existing: Stored| Error::Exists { what: kind.word(), name: name.to_string(), existing: existing.word() };
        if self.get(kind.other(), name)?.is_some() {
            return Err(exists(kind.other()));
        }
        if self.swap(kind, name, None, Some(state))? { Ok(()) } else { Err(exists(kind)) }
    }

    pub(crate) fn delete(&self, kind: Stored, name: &BranchName) -> Result<()> {
        refuse_main("delete", kind, name)?;
        for attempt in 0..SWAP_ATTEMPTS_MAX {
            if attempt > 0 {
                self.store.contended(attempt);
            }
            let Some(state) = self.get(kind, name)? else { return Err(self.unknown(name.as_str())) };
            refuse_protected("delete", name, &state)?;
            self.objects.left(&state.hash)?;
            if self.swap(kind, name, Some(&state), None)? {
                return Ok(());
            }
        }
        Err(Error::Contention { name: name.clone(), attempts: SWAP_ATTEMPTS_MAX })
    }

    /// Creates the new name, then deletes the old. A crash in between leaves both; a commit in between moves the new
    /// name after it, so that none is lost.
    pub(crate) fn rename(&self, kind: Stored, old: &BranchName, new: &BranchName) -> Result<CommitHash> {
        refuse_main("rename", kind, old)?;
        let mut state = self.get(kind, old)?.ok_or_else(|| self.unknown(old.as_str()))?;
        refuse_protected("rename", old, &state)?;
        self.create(kind, new, &state)?;
        for _ in 0..SWAP_ATTEMPTS_MAX {
            self.objects.left(&state.hash)?;
            if self.swap(kind, old, Some(&state), None)? {
                return Ok(state.hash);
            }
            // Deleted by another: the new name keeps the commits.
            let Some(moved) = self.get(kind, old)? else { return Ok(state.hash) };
            if !self.swap(kind, new, Some(&state), Some(&moved))? {
                // Both names were written to. Both stay.
                return Err(Error::Contention { name: old.clone(), attempts: 1 });
            }
            state = moved;
        }
        Err(Error::Contention { name: old.clone(), attempts: SWAP_ATTEMPTS_MAX })
    }

    /// Protects a branch, or lets it go.
    pub(crate) fn protect(&self, branch: &BranchName, protected: bool) -> Result<State> {
        for _ in 0..SWAP_ATTEMPTS_MAX {
            let state = self.head(branch)?;
            let next = State { protected, ..state.clone() };
            if next == state || self.swap(Stored::Branch, branch, Some(&state), Some(&next))? {
                return Ok(next);
            }
        }
        Err(Error::Contention { name: branch.clone(), attempts: SWAP_ATTEMPTS_MAX })
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

fn refuse_protected(verb: &'static str, name: &BranchName, state: &State) -> Result<()> {
    if state.protected {
        return Err(Error::ProtectedBranch { action: format!("{verb} the branch `{name}`"), branch: name.clone() });
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
